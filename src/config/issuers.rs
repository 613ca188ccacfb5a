//! Flags of token issuers: a secret, key servers, or a file with rules for each issuer.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::{ArgGroup, Args};
use warden_connect::ShownPath;

use super::issuers_file::{self, IssuerDefaults};
use super::signing::{BACKEND_ISSUER, DEFAULT_AUDIENCE, check_verifying_secret};
use crate::auth::{IssuerConfig, IssuerRules, KeyServerUrl, VerifierConfig};

/// Longest name of an issuer, in bytes.
const ISSUER_BYTES_MAX: usize = 256;

/// Flags of the issuers whose tokens are accepted.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Token issuers (at least one)", group = ArgGroup::new("keys").required(true).multiple(true))]
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
    /// Former secret, which remains valid while its tokens are in use
    #[arg(long, env = "WARDEN_JWT_SECRET_PREVIOUS", hide_env_values = true, value_name = "SECRET")]
    jwt_secret_previous: Option<String>,
    /// Key servers: ISSUER=URL of its JWKS, separated by commas; or a single URL, for WARDEN_JWT_ISSUER
    #[arg(
        long,
        env = "WARDEN_JWKS_URLS",
        value_name = "WARDEN_JWKS_URLS",
        value_delimiter = ',',
        group = "keys"
    )]
    jwks_urls: Vec<String>,
    /// HS256 secret for tokens of back ends, which `warden token --backend` signs; they open no sockets
    #[arg(
        long,
        env = "WARDEN_BACKEND_SECRET",
        hide_env_values = true,
        value_name = "WARDEN_BACKEND_SECRET",
        group = "keys"
    )]
    backend_secret: Option<String>,
    /// Former secret of back ends, which remains valid while its tokens are in use
    #[arg(long, env = "WARDEN_BACKEND_SECRET_PREVIOUS", hide_env_values = true, value_name = "SECRET")]
    backend_secret_previous: Option<String>,
    /// TOML file of issuers, each with its own audience and rules; see docs/operations.md
    #[arg(long, env = "WARDEN_ISSUERS_FILE", value_name = "WARDEN_ISSUERS_FILE", group = "keys")]
    issuers_file: Option<PathBuf>,
    /// Fetch keys from other machines over plain http, because the network is secured otherwise
    #[arg(long, env = "WARDEN_JWKS_ALLOW_HTTP", value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    jwks_allow_http: bool,
    /// Accept tokens that are signed with a secret from documentation, because nobody else can reach the
    /// gateway
    #[arg(long, env = "WARDEN_ALLOW_GUESSABLE_SECRET", value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    allow_guessable_secret: bool,
    /// Claim `iss` that tokens must have, if they are signed with the secret or with keys of a single URL
    #[arg(long, env = "WARDEN_JWT_ISSUER", value_name = "ISS")]
    jwt_issuer: Option<String>,
    /// Claim `aud` that tokens must have
    #[arg(long, env = "WARDEN_JWT_AUDIENCE", value_name = "AUD", default_value = DEFAULT_AUDIENCE)]
    jwt_audience: String,
}

impl IssuerArgs {
    /// Checks everything that can be checked without a request to a key server.
    ///
    /// # Errors
    /// When a secret is too short, keys may not be fetched from an address, or two issuers have the same
    /// name. The message names the variable and a remedy.
    pub fn into_verifier_config(self) -> anyhow::Result<VerifierConfig> {
        let mut issuers: Vec<IssuerConfig> = Vec::new();
        // An empty variable counts as unset, unless no other is set: then its value is reported as invalid.
        let urls: Vec<_> =
            self.jwks_urls.iter().map(|url| url.trim()).filter(|url| !url.is_empty()).collect();
        let backends = self.backend_issuer()?;
        let has_others = !urls.is_empty() || self.issuers_file.is_some() || backends.is_some();
        let name = self.jwt_issuer.as_deref().filter(|name| !name.is_empty());
        let secret = self.jwt_secret.as_deref().filter(|secret| !secret.is_empty() || !has_others);
        let previous = self.jwt_secret_previous.as_deref().filter(|secret| !secret.is_empty());
        if let Some(secret) = secret {
            check_verifying_secret(secret, self.allow_guessable_secret).context("WARDEN_JWT_SECRET")?;
            ensure!(
                name.is_some() || !has_others,
                "WARDEN_JWT_SECRET together with other issuers needs WARDEN_JWT_ISSUER: the claim `iss` of a token selects the issuer"
            );
            let issuer = self.issuer_named(&mut issuers, name);
            issuer.secrets.push(secret.to_owned());
        }
        if let Some(previous) = previous {
            ensure!(
                secret.is_some(),
                "WARDEN_JWT_SECRET_PREVIOUS is only for rotating the secret: set WARDEN_JWT_SECRET to the new secret"
            );
            check_verifying_secret(previous, self.allow_guessable_secret)
                .context("WARDEN_JWT_SECRET_PREVIOUS")?;
            self.issuer_named(&mut issuers, name).secrets.push(previous.to_owned());
        }
        for (n, entry) in urls.iter().enumerate() {
            self.add_key_server(&mut issuers, name, entry, urls.len())
                .with_context(|| format!("WARDEN_JWKS_URLS, entry {}", n + 1))?;
        }
        if let Some(path) = &self.issuers_file {
            self.add_file(&mut issuers, path)
                .with_context(|| format!("WARDEN_ISSUERS_FILE: {}", ShownPath(path)))?;
        }
        if let Some(backends) = backends {
            let is_known = issuers.iter().any(|known| known.issuer == backends.issuer);
            ensure!(
                !is_known,
                "the issuer {BACKEND_ISSUER} is the one of WARDEN_BACKEND_SECRET: rename the other"
            );
            issuers.push(backends);
        }
        // `warden.revoke()` must be able to name them.
        let is_revocable = |name: &str| name.len() <= ISSUER_BYTES_MAX && !name.contains('\0');
        ensure!(
            issuers.iter().filter_map(|issuer| issuer.issuer.as_deref()).all(is_revocable),
            "the name of an issuer must have at most {ISSUER_BYTES_MAX} bytes, without U+0000"
        );
        // Names are labels of metrics and stand in the log.
        ensure!(
            issuers.iter().filter_map(|issuer| issuer.issuer.as_deref()).all(|name| !has_user(name)),
            "the name of an issuer contains a user or a password before @: write the claim `iss` of its tokens"
        );
        ensure!(
            !issuers.is_empty(),
            "no token issuer is configured: set WARDEN_JWT_SECRET, WARDEN_JWKS_URLS or WARDEN_BACKEND_SECRET"
        );
        Ok(VerifierConfig { issuers })
    }

    /// The issuer of back ends' tokens, if it has a secret.
    fn backend_issuer(&self) -> anyhow::Result<Option<IssuerConfig>> {
        let given = |secret: &Option<String>| secret.clone().filter(|secret| !secret.is_empty());
        let previous = given(&self.backend_secret_previous);
        let Some(secret) = given(&self.backend_secret) else {
            ensure!(
                previous.is_none(),
                "WARDEN_BACKEND_SECRET_PREVIOUS is only for rotating the secret: set WARDEN_BACKEND_SECRET to the new secret"
            );
            return Ok(None);
        };
        check_verifying_secret(&secret, self.allow_guessable_secret).context("WARDEN_BACKEND_SECRET")?;
        if let Some(previous) = &previous {
            check_verifying_secret(previous, self.allow_guessable_secret)
                .context("WARDEN_BACKEND_SECRET_PREVIOUS")?;
        }
        Ok(Some(IssuerConfig {
            issuer: Some(BACKEND_ISSUER.to_owned()),
            audience: BACKEND_ISSUER.to_owned(),
            secrets: [Some(secret), previous].into_iter().flatten().collect(),
            rules: IssuerRules { backends_only: true, ..IssuerRules::default() },
            ..IssuerConfig::default()
        }))
    }

    /// Finds or adds the issuer of this name. A secret and a key server may belong to the same issuer.
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
        // The name of an issuer is often a URL itself, so the key server's URL begins after the last `=http`.
        let (name, url) = match entry.rfind("=http") {
            Some(at) if at > 0 => (&entry[..at], &entry[at + 1..]),
            Some(_) => bail!("write ISSUER=URL"),
            None => match default_name {
                Some(name) if entries == 1 => (name, entry),
                _ => bail!(
                    "write ISSUER=URL, where ISSUER is the claim `iss` of its tokens (or set WARDEN_JWT_ISSUER, if it is the only one)"
                ),
            },
        };
        let url = KeyServerUrl::parse(url, self.jwks_allow_http).map_err(anyhow::Error::msg)?;
        let issuer = self.issuer_named(issuers, Some(name));
        ensure!(issuer.jwks_url.is_none(), "its issuer is configured twice");
        issuer.jwks_url = Some(url);
        Ok(())
    }

    fn add_file(&self, issuers: &mut Vec<IssuerConfig>, path: &Path) -> anyhow::Result<()> {
        let defaults = IssuerDefaults {
            audience: &self.jwt_audience,
            allow_http: self.jwks_allow_http,
            allow_guessable_secret: self.allow_guessable_secret,
        };
        for issuer in issuers_file::read(path, &defaults)? {
            let is_known = issuers.iter().any(|known| known.issuer == issuer.issuer);
            ensure!(!is_known, "one of its issuers is configured twice");
            issuers.push(issuer);
        }
        Ok(())
    }
}

/// Whether a URL has a user before its host.
fn has_user(url: &str) -> bool {
    let authority = url.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    authority.is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use uuid::Uuid;

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

    fn rejected(args: IssuerArgs) -> String {
        let error = args.into_verifier_config().err().expect("is rejected");
        let text = format!("{error:#}");
        assert!(!text.contains("hunter2"), "{text}");
        text
    }

    #[test]
    fn a_short_secret_is_rejected_without_being_shown() {
        for short in ["hunter2", ""] {
            let error = rejected(IssuerArgs { jwt_secret: Some(short.into()), ..args() });
            assert!(error.contains("WARDEN_JWT_SECRET") && error.contains("32"), "{error}");
        }
        let previous = Some("hunter2".to_owned());
        let args = IssuerArgs { jwt_secret: Some(SECRET.into()), jwt_secret_previous: previous, ..args() };
        assert!(rejected(args).contains("WARDEN_JWT_SECRET_PREVIOUS"));
        let alone =
            IssuerArgs { jwt_secret_previous: Some(SECRET.into()), ..urls(&["i=https://a.example/"]) };
        assert!(rejected(alone).contains("set WARDEN_JWT_SECRET"));
    }

    #[test]
    fn back_ends_have_a_secret_of_their_own() {
        let both = IssuerArgs {
            backend_secret: Some(SECRET.into()),
            backend_secret_previous: Some(OTHER.into()),
            ..urls(&["a=https://a.example/jwks"])
        };
        let issuers = both.clone().into_verifier_config().expect("good").issuers;
        assert_eq!(issuers.len(), 2);
        assert_eq!((issuers[1].issuer.as_deref(), issuers[1].secrets.len()), (Some("warden-backends"), 2));
        assert!(issuers[1].rules.backends_only && !issuers[0].rules.backends_only);
        let short = Some("hunter2".to_owned());
        let wrong = IssuerArgs { backend_secret: short.clone(), ..both.clone() };
        assert!(rejected(wrong).contains("WARDEN_BACKEND_SECRET"));
        let wrong = IssuerArgs { backend_secret_previous: short, ..both.clone() };
        assert!(rejected(wrong).contains("WARDEN_BACKEND_SECRET_PREVIOUS"));
        let wrong = IssuerArgs { backend_secret: None, ..both.clone() };
        assert!(rejected(wrong).contains("set WARDEN_BACKEND_SECRET"));
        // The claim `iss` selects the issuer, so the other one needs a name too.
        let unnamed =
            IssuerArgs { jwt_secret: Some(SECRET.into()), backend_secret: Some(OTHER.into()), ..args() };
        assert!(rejected(unnamed).contains("WARDEN_JWT_ISSUER"));
        let taken = IssuerArgs { jwks_urls: vec!["warden-backends=https://a.example/jwks".into()], ..both };
        assert!(rejected(taken).contains("rename the other"));
    }

    #[test]
    fn a_secret_and_a_key_server_may_belong_to_one_issuer() {
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
    fn each_key_server_url_belongs_to_its_issuer() {
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
        assert!(shown[0].1.contains("https://a.example/jwks?***"), "{shown:?}");
        assert_eq!(shown[1].0, "b");
        for (wrong, expected) in [
            (&["https://a.example/jwks"][..], "ISSUER=URL"),
            (&["=https://a.example/jwks"], "ISSUER=URL"),
            (&["a=https://a.example/jwks", "https://a.example/jwks"], "ISSUER=URL"),
            (&["a=https://a.example/1", "a=https://a.example/2"], "twice"),
            (&["a=http://keys.example/jwks"], "use https"),
            (&["a=ftp://keys.example/jwks"], "ISSUER=URL"),
        ] {
            let error = rejected(urls(wrong));
            assert!(error.contains("WARDEN_JWKS_URLS") && error.contains(expected), "{error}");
        }
        let beside = IssuerArgs { jwt_secret: Some(SECRET.into()), ..urls(&["a=https://a.example/1"]) };
        assert!(rejected(beside).contains("WARDEN_JWT_ISSUER"));
        assert!(rejected(urls(&[""])).contains("WARDEN_JWKS_URLS"));
        for name in ["x".repeat(257), "a\0b".to_owned()] {
            let long = IssuerArgs { jwt_secret: Some(SECRET.into()), jwt_issuer: Some(name), ..args() };
            assert!(rejected(long).contains("at most 256 bytes"));
        }
        let allowed = IssuerArgs { jwks_allow_http: true, ..urls(&["a=http://keys.example/jwks"]) };
        assert!(allowed.into_verifier_config().is_ok());
    }

    #[test]
    fn a_file_configures_audience_and_rules_of_each_issuer() {
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
        for (wrong, expected) in [
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
            let error = rejected(config(wrong));
            assert!(error.contains("WARDEN_ISSUERS_FILE"), "{error}");
            assert!(
                error.contains(expected) || expected == "orgs" || expected == "string",
                "{wrong}: {error}"
            );
        }
        fs::remove_file(&path).expect("removes");
        let missing = IssuerArgs { issuers_file: Some(path), ..args() };
        assert!(rejected(missing).contains("WARDEN_ISSUERS_FILE"));
    }
}
