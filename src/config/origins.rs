//! Flags for browsers: allowed origins, and the cookie that may carry a token.

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use crate::auth::CookieName;

#[derive(Args, Clone)]
#[command(next_help_heading = "Browsers")]
pub(super) struct OriginArgs {
    /// Exact origins of pages that may connect, such as https://app.example.com; without any, browsers are
    /// rejected
    #[arg(long, env = "WARDEN_ALLOWED_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    allowed_origins: Vec<String>,
    /// Name of an HttpOnly cookie that may carry the token; needs WARDEN_ALLOWED_ORIGINS
    #[arg(long, env = "WARDEN_AUTH_COOKIE", value_name = "NAME")]
    auth_cookie: Option<CookieName>,
}

/// Checked origins and cookie.
pub(super) struct Origins {
    pub(super) allowed: Vec<String>,
    pub(super) auth_cookie: Option<CookieName>,
}

impl OriginArgs {
    pub(super) fn into_origins(self) -> anyhow::Result<Origins> {
        let Self { allowed_origins: allowed, auth_cookie } = self;
        for origin in &allowed {
            check_origin(origin).with_context(|| format!("WARDEN_ALLOWED_ORIGINS: {origin:?}"))?;
        }
        ensure!(
            auth_cookie.is_none() || !allowed.is_empty(),
            "WARDEN_AUTH_COOKIE needs WARDEN_ALLOWED_ORIGINS, because browsers send cookies for any page"
        );
        Ok(Origins { allowed, auth_cookie })
    }
}

fn check_origin(origin: &str) -> anyhow::Result<()> {
    let Some((scheme, host)) = origin.split_once("://") else {
        bail!("an origin has the form scheme://host[:port], as browsers send it");
    };
    ensure!(matches!(scheme, "http" | "https"), "the scheme of an origin must be http or https");
    ensure!(
        !host.is_empty() && !host.contains(['/', '*', '?', '#', '@']),
        "an origin has no path and no wildcard: list each origin"
    );
    ensure!(
        origin.chars().all(|c| !c.is_ascii_uppercase() && !c.is_whitespace()),
        "an origin is in lower case, as browsers send it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact() {
        for good in ["http://localhost:3000", "https://app.example.com"] {
            check_origin(good).expect(good);
        }
        for bad in [
            "*",
            "https://*.example.com",
            "https://a.example/",
            "app.example.com",
            "HTTPS://a.example",
            "null",
        ] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cookie_needs_allowed_origins() {
        let origins = |allowed: &[&str]| {
            let allowed_origins = allowed.iter().map(ToString::to_string).collect();
            let auth_cookie = Some("__Host-token".parse().expect("a name"));
            OriginArgs { allowed_origins, auth_cookie }.into_origins()
        };
        assert!(origins(&["https://app.example"]).expect("is valid").auth_cookie.is_some());
        let error = origins(&[]).err().expect("is rejected").to_string();
        assert!(error.contains("WARDEN_ALLOWED_ORIGINS"), "{error}");
    }
}
