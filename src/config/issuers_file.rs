//! The TOML file of token issuers, with an audience and rules for each issuer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use uuid::Uuid;

use super::signing::check_verifying_secret;
use crate::auth::{IssuerConfig, IssuerRules, KeyServerUrl};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuersFile {
    #[serde(default)]
    issuer: Vec<FileIssuer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIssuer {
    name: String,
    jwks_url: Option<String>,
    #[serde(default)]
    secrets: Vec<String>,
    audience: Option<String>,
    typ: Option<String>,
    orgs: Option<Vec<Uuid>>,
    service_role: Option<String>,
    #[serde(default)]
    backends_only: bool,
    #[serde(default)]
    claims: BTreeMap<String, OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Form of the file, for errors.
const FORM: &str = "each [[issuer]] has a name and a jwks_url or secrets, and may have audience, typ, service_role, \
                    backends_only, orgs and claims; secrets is a list of strings, orgs a list of UUIDs, claims a table \
                    of strings or lists of strings, backends_only true or false, and everything else is a string";

/// Settings outside the file that apply to all of its issuers.
#[derive(Clone, Copy, Debug)]
pub struct IssuerDefaults<'a> {
    /// Audience of issuers that have none of their own.
    pub audience: &'a str,
    /// Whether keys may be fetched from other machines over plain http.
    pub allow_http: bool,
    /// Whether secrets from documentation are accepted.
    pub allow_guessable_secret: bool,
}

/// Reads the issuers of the file.
pub(super) fn read(path: &Path, defaults: &IssuerDefaults<'_>) -> anyhow::Result<Vec<IssuerConfig>> {
    parse_issuers(&fs::read_to_string(path)?, defaults)
}

/// Parses a file's content.
///
/// # Errors
/// If the file is not valid. The message contains no value of the file, which may be a secret.
pub fn parse_issuers(text: &str, defaults: &IssuerDefaults<'_>) -> anyhow::Result<Vec<IssuerConfig>> {
    let file: IssuersFile = toml::from_str(text).map_err(|error| describe(text, &error))?;
    ensure!(!file.issuer.is_empty(), "the file has no [[issuer]]");
    let mut issuers = Vec::new();
    for (n, entry) in file.issuer.into_iter().enumerate() {
        let which = || format!("[[issuer]] {}", n + 1);
        let issuer = entry.into_config(defaults).with_context(which)?;
        issuers.push(issuer);
    }
    Ok(issuers)
}

/// Describes an error of the parser by its position. The parser's own message repeats values, and the line
/// may contain a secret.
fn describe(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let place = match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!("line {line}, column {column}")
        }
        None => "the file".to_owned(),
    };
    if toml::from_str::<toml::Table>(text).is_err() {
        anyhow::anyhow!("{place} is not valid TOML: check quotes, brackets and repeated names")
    } else {
        anyhow::anyhow!("{place} does not fit: {FORM}")
    }
}

impl FileIssuer {
    fn into_config(self, defaults: &IssuerDefaults<'_>) -> anyhow::Result<IssuerConfig> {
        ensure!(!self.name.is_empty(), "it needs a name: the claim `iss` of its tokens");
        ensure!(self.jwks_url.is_some() || !self.secrets.is_empty(), "an issuer needs a jwks_url or secrets");
        for secret in &self.secrets {
            check_verifying_secret(secret, defaults.allow_guessable_secret)?;
        }
        let url = self.jwks_url.map(|url| KeyServerUrl::parse(&url, defaults.allow_http));
        let claims = self.claims.into_iter().map(|(name, values)| match values {
            OneOrMany::One(value) => (name, vec![value]),
            OneOrMany::Many(values) => (name, values),
        });
        Ok(IssuerConfig {
            issuer: Some(self.name),
            audience: self.audience.unwrap_or_else(|| defaults.audience.to_owned()),
            secrets: self.secrets,
            jwks_url: url.transpose().map_err(anyhow::Error::msg)?,
            rules: IssuerRules {
                typ: self.typ,
                claims: claims.collect(),
                orgs: self.orgs,
                service_role: self.service_role,
                backends_only: self.backends_only,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "m4rker";

    const GOOD: &str = r#"
[[issuer]]
name = "a"
jwks_url = "https://a.example/jwks?key=m4rker"
secrets = ["m4rker-m4rker-9137-m4rker-5521-m4rker", 'm4rker-m4rker-8411-m4rker-7302-m4rker']
audience = "calls"
typ = "at+jwt"
orgs = ["6f9619ff-8b86-4d01-b42d-00cf4fc964ff"]
service_role = "service"
claims = { role = ["x", "y"], tier = "gold" }
"#;

    fn error(text: &str) -> Option<String> {
        let defaults = IssuerDefaults { audience: "calls", allow_http: false, allow_guessable_secret: false };
        parse_issuers(text, &defaults).err().map(|error| format!("{error:#} {error:?}"))
    }

    fn assert_discreet(text: &str) {
        if let Some(error) = error(text) {
            assert!(!error.contains(MARKER), "{text}: {error}");
        }
    }

    #[test]
    fn no_error_shows_a_value_whatever_is_wrong_and_wherever() {
        assert_eq!(error(GOOD), None);
        for at in (0..=GOOD.len()).filter(|at| GOOD.is_char_boundary(*at)) {
            let (before, after) = GOOD.split_at(at);
            assert_discreet(before);
            assert_discreet(after);
            let mut rest = after.chars();
            rest.next();
            assert_discreet(&format!("{before}{}", rest.as_str()));
            for inserted in [
                "\"", "'", "[", "]", "{", "}", "=", ".", ",", "\n", "#", "\\", "\\x", "\"\"\"", "m4rker",
                "\u{0}",
            ] {
                assert_discreet(&format!("{before}{inserted}{after}"));
            }
        }
    }

    #[test]
    fn no_error_shows_a_value_of_the_wrong_type() {
        let values = [
            "\"m4rker\"",
            "[\"m4rker\"]",
            "{ m4rker = 1 }",
            "[[\"m4rker\"]]",
            "[{ m4rker = \"m4rker\" }]",
            "7",
            "1.5",
            "true",
            "1979-05-27",
            "m4rker",
            "\"m4rker\\q\"",
        ];
        for name in [
            "name",
            "jwks_url",
            "secrets",
            "audience",
            "typ",
            "orgs",
            "service_role",
            "backends_only",
            "claims",
            "m4rker",
            "secret",
        ] {
            for value in values {
                assert_discreet(&format!("[[issuer]]\n{name} = {value}\n"));
                assert_discreet(&format!("{GOOD}{name} = {value}\n"));
                assert_discreet(&format!("{name} = {value}\n{GOOD}"));
                assert_discreet(&format!("[issuer]\n{name} = {value}\n"));
                assert_discreet(&format!("[[issuer]]\nname = \"a\"\nclaims = {{ {name} = {value} }}\n"));
            }
        }
        let wrong = error("[[issuer]]\nname = \"a\"\nsecrets = \"m4rker\"\n").expect("is wrong");
        assert!(wrong.contains("line 3, column 11") && wrong.contains("secrets is a list"), "{wrong}");
    }
}
