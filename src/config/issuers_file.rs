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
    claims: BTreeMap<String, OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Settings outside the file that apply to all of its issuers.
pub(super) struct Defaults<'a> {
    /// Audience of issuers that have none of their own.
    pub(super) audience: &'a str,
    pub(super) allow_http: bool,
    pub(super) allow_guessable_secret: bool,
}

/// Reads the issuers of the file.
pub(super) fn read(path: &Path, defaults: &Defaults<'_>) -> anyhow::Result<Vec<IssuerConfig>> {
    // Only the message of the parser's error: its Display also shows the line, which may contain a secret.
    let file: IssuersFile =
        toml::from_str(&fs::read_to_string(path)?).map_err(|error| anyhow::anyhow!("{}", error.message()))?;
    ensure!(!file.issuer.is_empty(), "the file has no [[issuer]]");
    let mut issuers = Vec::new();
    for entry in file.issuer {
        let name = entry.name.clone();
        ensure!(!name.is_empty(), "an [[issuer]] needs a name: the claim `iss` of its tokens");
        let issuer = entry.into_config(defaults);
        issuers.push(issuer.with_context(|| format!("issuer {name:?}"))?);
    }
    Ok(issuers)
}

impl FileIssuer {
    fn into_config(self, defaults: &Defaults<'_>) -> anyhow::Result<IssuerConfig> {
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
            },
        })
    }
}
