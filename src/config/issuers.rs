//! Who may sign tokens: from a secret, from the addresses of key servers, or from a file that has more
//! to say about each issuer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::{ArgGroup, Args};
use serde::Deserialize;
use uuid::Uuid;

use crate::auth::{IssuerConfig, IssuerRules, KeyServerUrl, VerifierConfig};

/// Shortest HS256 secret, in bytes: as long as the hash (RFC 7518, section 3.2).
pub const JWT_SECRET_BYTES_MIN: usize = 32;

/// `aud` of tokens, where nothing else is said: what Supabase Auth issues.
pub const DEFAULT_AUDIENCE: &str = "authenticated";

/// How development tokens are signed.
#[derive(Args, Clone)]
pub struct SigningArgs {
    /// HS256 secret, at least 32 bytes (on Supabase: the JWT secret of the project)
    #[arg(long, env = "WARDEN_JWT_SECRET", hide_env_values = true, value_name = "WARDEN_JWT_SECRET")]
    pub jwt_secret: String,
    /// `iss` claim
    #[arg(long, env = "WARDEN_JWT_ISSUER", value_name = "ISS")]
    pub jwt_issuer: Option<String>,
    /// `aud` claim
    #[arg(long, env = "WARDEN_JWT_AUDIENCE", value_name = "AUD", default_value = DEFAULT_AUDIENCE)]
    pub jwt_audience: String,
}

impl SigningArgs {
    /// Checks the secret.
    ///
    /// # Errors
    /// When it is too short to be one.
    pub fn check(&self) -> anyhow::Result<()> {
        check_secret(&self.jwt_secret).context("WARDEN_JWT_SECRET")
    }
}

/// Whose tokens are taken.
#[derive(Args, Clone, Default)]
#[command(group = ArgGroup::new("keys").required(true).multiple(true))]
pub struct IssuerArgs {
    /// HS256 secret, at least 32 bytes (on Supabase: the JWT secret of the project)
    #[arg(
        long,
        env = "WARDEN_JWT_SECRET",
        hide_env_values = true,
        value_name = "WARDEN_JWT_SECRET",
        group = "keys"
    )]
    jwt_secret: Option<String>,
    /// The secret before it, which counts on while tokens signed with it are about
    #[arg(long, env = "WARDEN_JWT_SECRET_PREVIOUS", hide_env_values = true, value_name = "SECRET")]
    jwt_secret_previous: Option<String>,
    /// Key servers: ISSUER=URL of its JWKS, separated by commas; or one URL alone, for WARDEN_JWT_ISSUER
    #[arg(
        long,
        env = "WARDEN_JWKS_URLS",
        value_name = "WARDEN_JWKS_URLS",
        value_delimiter = ',',
        group = "keys"
    )]
    jwks_urls: Vec<String>,
    /// TOML file with issuers that have an audience or rules of their own; see docs/operations.md
    #[arg(long, env = "WARDEN_ISSUERS_FILE", value_name = "WARDEN_ISSUERS_FILE", group = "keys")]
    issuers_file: Option<PathBuf>,
    /// Let keys come over plain http from other machines, where the way there is secured otherwise
    #[arg(long, env = "WARDEN_JWKS_ALLOW_HTTP", value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    jwks_allow_http: bool,
    /// `iss` claim that tokens must have (those signed with the secret, and those of a URL alone)
    #[arg(long, env = "WARDEN_JWT_ISSUER", value_name = "ISS")]
    jwt_issuer: Option<String>,
    /// `aud` claim that tokens must have
    #[arg(long, env = "WARDEN_JWT_AUDIENCE", value_name = "AUD", default_value = DEFAULT_AUDIENCE)]
    jwt_audience: String,
}

/// What the file holds.
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
    claims: BTreeMap<String, OneOrMore>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl IssuerArgs {
    /// Checks everything that can be checked without asking a key server.
    ///
    /// # Errors
    /// When a secret is too short, an address is none that keys may come from, or issuers can't be told
    /// apart; the message names the variable and what to do.
    pub fn into_verifier_config(self) -> anyhow::Result<VerifierConfig> {
        let mut issuers: Vec<IssuerConfig> = Vec::new();
        // An empty variable is as good as none, unless it is all that there is.
        let urls: Vec<_> =
            self.jwks_urls.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect();
        let has_others = !urls.is_empty() || self.issuers_file.is_some();
        let name = self.jwt_issuer.as_deref().filter(|name| !name.is_empty());
        let secret = self.jwt_secret.as_deref().filter(|secret| !secret.is_empty() || !has_others);
        let previous = self.jwt_secret_previous.as_deref().filter(|secret| !secret.is_empty());
        if let Some(secret) = secret {
            check_secret(secret).context("WARDEN_JWT_SECRET")?;
            ensure!(
                name.is_some() || !has_others,
                "WARDEN_JWT_SECRET beside other issuers needs WARDEN_JWT_ISSUER: the `iss` claim of a token chooses whose keys it is verified with"
            );
            let issuer = self.issuer_named(&mut issuers, name);
            issuer.secrets.push(secret.to_owned());
        }
        if let Some(previous) = previous {
            ensure!(
                secret.is_some(),
                "WARDEN_JWT_SECRET_PREVIOUS is for the time of a change: set WARDEN_JWT_SECRET to the new secret"
            );
            check_secret(previous).context("WARDEN_JWT_SECRET_PREVIOUS")?;
            self.issuer_named(&mut issuers, name).secrets.push(previous.to_owned());
        }
        for entry in &urls {
            self.add_key_server(&mut issuers, name, entry, urls.len())
                .with_context(|| format!("WARDEN_JWKS_URLS: {entry:?}"))?;
        }
        if let Some(path) = &self.issuers_file {
            self.add_file(&mut issuers, path)
                .with_context(|| format!("WARDEN_ISSUERS_FILE: {}", path.display()))?;
        }
        ensure!(!issuers.is_empty(), "nobody's tokens are taken: set WARDEN_JWT_SECRET or WARDEN_JWKS_URLS");
        Ok(VerifierConfig { issuers })
    }

    /// The issuer of this name among those so far; a secret and a key server may be of the same.
    fn issuer_named<'a>(
        &self,
        issuers: &'a mut Vec<IssuerConfig>,
        name: Option<&str>,
    ) -> &'a mut IssuerConfig {
        let at = issuers.iter().position(|issuer| issuer.issuer.as_deref() == name).unwrap_or_else(|| {
            issuers.push(IssuerConfig {
                issuer: name.map(str::to_owned),
                audience: self.jwt_audience.clone(),
                ..IssuerConfig::default()
            });
            issuers.len() - 1
        });
        &mut issuers[at]
    }

    fn add_key_server(
        &self,
        issuers: &mut Vec<IssuerConfig>,
        default_name: Option<&str>,
        entry: &str,
        entries: usize,
    ) -> anyhow::Result<()> {
        // Issuers are often addresses themselves, so the URL begins behind the last `=http`.
        let (name, url) = match entry.rfind("=http") {
            Some(at) if at > 0 => (&entry[..at], &entry[at + 1..]),
            Some(_) => bail!("write ISSUER=URL"),
            None => match default_name {
                Some(name) if entries == 1 => (name, entry),
                _ => bail!(
                    "write ISSUER=URL, where ISSUER is the `iss` claim of its tokens (or set WARDEN_JWT_ISSUER, where it is the only one)"
                ),
            },
        };
        let url = KeyServerUrl::parse(url, self.jwks_allow_http).map_err(anyhow::Error::msg)?;
        let issuer = self.issuer_named(issuers, Some(name));
        ensure!(issuer.jwks_url.is_none(), "the issuer {name:?} is named twice");
        issuer.jwks_url = Some(url);
        Ok(())
    }

    fn add_file(&self, issuers: &mut Vec<IssuerConfig>, path: &Path) -> anyhow::Result<()> {
        // The parser's own error shows the line, which may hold a secret.
        let file: IssuersFile = toml::from_str(&fs::read_to_string(path)?)
            .map_err(|error| anyhow::anyhow!("{}", error.message()))?;
        ensure!(!file.issuer.is_empty(), "it has no [[issuer]]");
        for entry in file.issuer {
            let name = entry.name.clone();
            ensure!(!name.is_empty(), "an [[issuer]] needs a name: the `iss` claim of its tokens");
            ensure!(
                issuers.iter().all(|issuer| issuer.issuer.as_deref() != Some(name.as_str())),
                "the issuer {name:?} is named twice"
            );
            issuers.push(self.file_issuer(entry).with_context(|| format!("issuer {name:?}"))?);
        }
        Ok(())
    }

    fn file_issuer(&self, entry: FileIssuer) -> anyhow::Result<IssuerConfig> {
        ensure!(entry.jwks_url.is_some() || !entry.secrets.is_empty(), "it needs a jwks_url or secrets");
        for secret in &entry.secrets {
            check_secret(secret)?;
        }
        let url = entry.jwks_url.map(|url| KeyServerUrl::parse(&url, self.jwks_allow_http));
        let claims = entry.claims.into_iter().map(|(name, values)| match values {
            OneOrMore::One(value) => (name, vec![value]),
            OneOrMore::More(values) => (name, values),
        });
        Ok(IssuerConfig {
            issuer: Some(entry.name),
            audience: entry.audience.unwrap_or_else(|| self.jwt_audience.clone()),
            secrets: entry.secrets,
            jwks_url: url.transpose().map_err(anyhow::Error::msg)?,
            rules: IssuerRules {
                typ: entry.typ,
                claims: claims.collect(),
                orgs: entry.orgs,
                service_role: entry.service_role,
            },
        })
    }
}

fn check_secret(secret: &str) -> anyhow::Result<()> {
    ensure!(
        secret.len() >= JWT_SECRET_BYTES_MIN,
        "it has {} bytes; HS256 needs at least {JWT_SECRET_BYTES_MIN}: make one with `openssl rand -hex 32`",
        secret.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret of more than thirty-two bytes";
    const OTHER: &str = "another secret of more than 32 bytes";
    const A: &str = "https://a.example/auth/v1";

    fn args() -> IssuerArgs {
        IssuerArgs { jwt_audience: "authenticated".into(), ..IssuerArgs::default() }
    }

    fn urls(list: &[&str]) -> IssuerArgs {
        IssuerArgs { jwks_urls: list.iter().map(|&url| url.to_owned()).collect(), ..args() }
    }

    fn refused(args: IssuerArgs) -> String {
        let error = args.into_verifier_config().err().expect("refused");
        let text = format!("{error:#}");
        assert!(!text.contains("hunter2"), "{text}");
        text
    }

    #[test]
    fn a_short_secret_is_refused_without_being_shown() {
        for short in ["hunter2", ""] {
            let error = refused(IssuerArgs { jwt_secret: Some(short.into()), ..args() });
            assert!(error.contains("WARDEN_JWT_SECRET") && error.contains("32"), "{error}");
        }
        let previous = Some("hunter2".to_owned());
        let args = IssuerArgs { jwt_secret: Some(SECRET.into()), jwt_secret_previous: previous, ..args() };
        assert!(refused(args).contains("WARDEN_JWT_SECRET_PREVIOUS"));
        let alone =
            IssuerArgs { jwt_secret_previous: Some(SECRET.into()), ..urls(&["i=https://a.example/"]) };
        assert!(refused(alone).contains("set WARDEN_JWT_SECRET"));
    }

    #[test]
    fn a_secret_and_a_key_server_may_be_of_one_issuer() {
        let args = IssuerArgs {
            jwt_secret: Some(SECRET.into()),
            jwt_secret_previous: Some(OTHER.into()),
            jwt_issuer: Some(A.into()),
            ..urls(&["https://a.example/jwks"])
        };
        let config = args.into_verifier_config().expect("good");
        assert_eq!(config.issuers.len(), 1);
        let issuer = &config.issuers[0];
        assert_eq!((issuer.issuer.as_deref(), issuer.secrets.len()), (Some(A), 2));
        assert!(issuer.jwks_url.is_some());
    }

    #[test]
    fn each_issuer_has_its_address() {
        let config =
            urls(&["https://a.example/?x=1=https://a.example/jwks?y=2", " b=http://127.0.0.1:1/jwks", ""])
                .into_verifier_config()
                .expect("good");
        let shown: Vec<_> = config
            .issuers
            .iter()
            .map(|issuer| (issuer.issuer.clone().unwrap_or_default(), format!("{:?}", issuer.jwks_url)))
            .collect();
        assert_eq!(shown[0].0, "https://a.example/?x=1");
        assert!(shown[0].1.contains("https://a.example/jwks?y=2"), "{shown:?}");
        assert_eq!(shown[1].0, "b");
        for (wrong, says) in [
            (&["https://a.example/jwks"][..], "ISSUER=URL"),
            (&["=https://a.example/jwks"], "ISSUER=URL"),
            (&["a=https://a.example/jwks", "https://a.example/jwks"], "ISSUER=URL"),
            (&["a=https://a.example/1", "a=https://a.example/2"], "twice"),
            (&["a=http://keys.example/jwks"], "use https"),
            (&["a=ftp://keys.example/jwks"], "ISSUER=URL"),
        ] {
            let error = refused(urls(wrong));
            assert!(error.contains("WARDEN_JWKS_URLS") && error.contains(says), "{error}");
        }
        let beside = IssuerArgs { jwt_secret: Some(SECRET.into()), ..urls(&["a=https://a.example/1"]) };
        assert!(refused(beside).contains("WARDEN_JWT_ISSUER"));
        assert!(refused(urls(&[""])).contains("WARDEN_JWKS_URLS"));
        let allowed = IssuerArgs { jwks_allow_http: true, ..urls(&["a=http://keys.example/jwks"]) };
        assert!(allowed.into_verifier_config().is_ok());
    }

    #[test]
    fn a_file_says_more_about_each() {
        let path = std::env::temp_dir().join(format!("warden-issuers-{}.toml", Uuid::new_v4()));
        let config = |text: &str| {
            fs::write(&path, text).expect("writes");
            IssuerArgs { issuers_file: Some(path.clone()), ..args() }
        };
        let org = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
        let good = format!(
            "[[issuer]]\nname = \"a\"\njwks_url = \"https://a.example/jwks\"\naudience = \"calls\"\ntyp = \"at+jwt\"\n\
             orgs = [\"{org}\"]\nclaims = {{ role = [\"x\", \"y\"], tier = \"gold\" }}\n\
             [[issuer]]\nname = \"b\"\nsecrets = [\"{SECRET}\", \"{OTHER}\"]\n"
        );
        let issuers = config(&good).into_verifier_config().expect("good").issuers;
        assert_eq!(issuers.len(), 2);
        assert_eq!((issuers[0].audience.as_str(), issuers[1].audience.as_str()), ("calls", "authenticated"));
        assert_eq!(issuers[0].rules.claims["tier"], ["gold"]);
        assert_eq!(issuers[0].rules.orgs.as_ref().expect("some").len(), 1);
        assert_eq!(issuers[1].secrets.len(), 2);
        for (wrong, says) in [
            ("", "[[issuer]]"),
            ("[[issuer]]\njwks_url = \"https://a.example/\"", "name"),
            ("[[issuer]]\nname = \"a\"", "jwks_url or secrets"),
            ("[[issuer]]\nname = \"a\"\nsecrets = [\"hunter2\"]", "at least 32"),
            ("[[issuer]]\nname = \"a\"\nsecret = \"hunter2\"", "secret"),
            ("[[issuer]]\nname = \"a\"\nsecrets = \"hunter2", "string"),
            ("[[issuer]]\nname = \"a\"\njwks_url = \"http://keys.example/\"", "use https"),
            ("[[issuer]]\nname = \"a\"\njwks_url = \"https://a.example/\"\norgs = [\"acme\"]", "orgs"),
            (
                "[[issuer]]\nname = \"a\"\njwks_url = \"https://a.example/\"\n[[issuer]]\nname = \"a\"\njwks_url = \"https://a.example/\"",
                "twice",
            ),
        ] {
            let error = refused(config(wrong));
            assert!(error.contains("WARDEN_ISSUERS_FILE"), "{error}");
            assert!(error.contains(says) || says == "orgs" || says == "string", "{wrong}: {error}");
        }
        fs::remove_file(&path).expect("removes");
        let missing = IssuerArgs { issuers_file: Some(path), ..args() };
        assert!(refused(missing).contains("WARDEN_ISSUERS_FILE"));
    }
}
