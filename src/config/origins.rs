//! Flags for browsers: allowed origins, and the cookie that may carry a token.

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use url::Url;

use crate::auth::CookieName;

/// Origins that pages of anybody can have: sandboxed frames and data URLs of any site, and local files.
const SHARED_ORIGINS: &[&str] = &["null", "file://"];

#[derive(Args, Clone)]
#[command(next_help_heading = "Browsers")]
pub(super) struct OriginArgs {
    /// Exact origins of pages and apps that may connect, such as https://app.example.com or
    /// capacitor://localhost; without any, browsers are rejected
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
        let Self { allowed_origins, auth_cookie } = self;
        let allowed = parse_origins(allowed_origins)?;
        ensure!(
            auth_cookie.is_none() || !allowed.is_empty(),
            "WARDEN_AUTH_COOKIE needs WARDEN_ALLOWED_ORIGINS, because browsers send cookies for any page"
        );
        if let Some(shared) = allowed.iter().find(|origin| SHARED_ORIGINS.contains(&origin.as_str())) {
            ensure!(
                auth_cookie.is_none(),
                "WARDEN_ALLOWED_ORIGINS: {shared:?} cannot be combined with WARDEN_AUTH_COOKIE, because pages of \
                 anybody can have this origin, and browsers send cookies for any page"
            );
        }
        Ok(Origins { allowed, auth_cookie })
    }
}

/// Checks a list of origins. Spaces around an entry are ignored, and so is an empty list.
///
/// # Errors
/// If an entry is not an origin as clients send it. The message names the variable and the remedy.
pub(crate) fn parse_origins(list: Vec<String>) -> anyhow::Result<Vec<String>> {
    if list.iter().all(|origin| origin.trim().is_empty()) {
        return Ok(Vec::new());
    }
    list.into_iter()
        .enumerate()
        .map(|(n, origin)| {
            let origin = origin.trim();
            check_origin(origin).with_context(|| format!("WARDEN_ALLOWED_ORIGINS, entry {}", n + 1))?;
            Ok(origin.to_owned())
        })
        .collect()
}

/// Checks that this is exactly what a client would send as its `Origin`.
///
/// Origins of any scheme are accepted. Web views and extensions have their own, such as
/// `capacitor://localhost` and `chrome-extension://<id>`.
fn check_origin(origin: &str) -> anyhow::Result<()> {
    if SHARED_ORIGINS.contains(&origin) {
        return Ok(());
    }
    ensure!(!origin.contains('*'), "wildcards are not supported: list each origin");
    let Some((scheme, _)) = origin.split_once("://") else {
        bail!("an origin has the form scheme://host[:port], as browsers send it");
    };
    ensure!(
        !matches!(scheme, "ws" | "wss"),
        "an origin is the address of the page, not of the socket: write http or https"
    );
    ensure!(scheme != "file", "pages from files send \"file://\" or \"null\": write what yours send");
    let url =
        Url::parse(origin).context("an origin has the form scheme://host[:port], as browsers send it")?;
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.context("an origin has a host: scheme://host[:port]")?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let sent = format!("{}://{host}{port}", url.scheme());
    ensure!(origin == sent, "browsers send it as {sent:?}: write that");
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn origins_of_any_scheme_are_accepted() {
        for good in [
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:3000",
            "https://app.example.com",
            "https://app.example.com:8443",
            "https://xn--bcher-kva.example",
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "http://tauri.localhost",
            "app://-",
            "app://localhost:1",
            "chrome-extension://mdnleldcmiljblolnjhpnblkcekpdkpa",
            "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
            // Safari does not change the letters of this identifier.
            "safari-web-extension://E6D1C0A2-4B1D-4C53-9B65-0C7E3F8E1F00",
            "com.example.app+web://main",
            "file://",
            "null",
        ] {
            check_origin(good).expect(good);
        }
    }

    #[test]
    fn an_entry_that_no_client_sends_is_rejected_with_the_remedy() {
        for (bad, hint) in [
            ("*", "list each origin"),
            ("https://*.example.com", "list each origin"),
            ("chrome-extension://*", "list each origin"),
            ("app.example.com", "scheme://host"),
            ("localhost:3000", "scheme://host"),
            ("", "scheme://host"),
            ("Null", "scheme://host"),
            ("http://", "scheme://host"),
            ("capacitor://", "scheme://host"),
            ("1app://localhost", "scheme://host"),
            ("my_app://localhost", "scheme://host"),
            ("http://a b", "scheme://host"),
            ("http://app.example:99999", "scheme://host"),
            ("app://a b", "scheme://host"),
            ("wss://app.example.com", "http or https"),
            ("file:///android_asset/index.html", "file://"),
            ("https://a.example/", "\"https://a.example\""),
            ("https://a.example/index.html?x#y", "\"https://a.example\""),
            ("https://user@a.example", "\"https://a.example\""),
            ("HTTPS://a.example", "\"https://a.example\""),
            ("https://A.example", "\"https://a.example\""),
            ("https://a.example:443", "\"https://a.example\""),
            ("http://a.example:080", "\"http://a.example\""),
            ("https://b\u{fc}cher.example", "\"https://xn--bcher-kva.example\""),
            ("http://[0:0::1]", "\"http://[::1]\""),
            ("http://127.1", "\"http://127.0.0.1\""),
            ("Capacitor://localhost", "\"capacitor://localhost\""),
            ("capacitor://localhost/", "\"capacitor://localhost\""),
            ("capacitor://localhost?x", "\"capacitor://localhost\""),
            ("app://host:01", "\"app://host:1\""),
        ] {
            let error = format!("{:#}", check_origin(bad).expect_err(bad));
            assert!(error.contains(hint), "{bad}: {error}");
        }
    }

    #[test]
    fn a_list_may_have_spaces_or_be_empty() {
        let list = |text: &str| parse_origins(text.split(',').map(str::to_owned).collect());
        assert_eq!(list("null, app://-").expect("is valid"), ["null", "app://-"]);
        assert!(list("").expect("is valid").is_empty());
        let error = format!("{:#}", list("app://-,").expect_err("has an empty entry"));
        assert!(error.contains("WARDEN_ALLOWED_ORIGINS"), "{error}");
    }

    #[test]
    fn a_cookie_needs_origins_that_belong_to_one_application() {
        let origins = |allowed: &[&str]| {
            let allowed_origins = allowed.iter().map(ToString::to_string).collect();
            let auth_cookie = Some("__Host-token".parse().expect("a name"));
            OriginArgs { allowed_origins, auth_cookie }.into_origins()
        };
        for good in ["https://app.example", "chrome-extension://mdnleldcmiljblolnjhpnblkcekpdkpa"] {
            assert!(origins(&[good]).expect("is valid").auth_cookie.is_some());
        }
        for bad in [&[][..], &[""], &["null"], &["https://app.example", "file://"]] {
            let error = origins(bad).err().expect("is rejected").to_string();
            assert!(error.contains("WARDEN_ALLOWED_ORIGINS"), "{error}");
            assert!(error.contains("WARDEN_AUTH_COOKIE"), "{error}");
        }
    }

    /// Hosts as clients send them.
    fn host() -> impl Strategy<Value = String> {
        let ipv6 =
            prop::sample::select(vec!["[::1]", "[2001:db8::1]", "[fdaa:0:1::2]"]).prop_map(str::to_owned);
        let ipv4 = any::<[u8; 4]>().prop_map(|ip| std::net::Ipv4Addr::from(ip).to_string());
        prop_oneof!["[a-w][a-w0-9]{0,8}(\\.[a-w]{2,5}){0,3}", ipv6, ipv4]
    }

    proptest! {
        #[test]
        fn only_the_form_that_clients_send_is_accepted(
            scheme in "(http|https|capacitor|tauri|x[a-w0-9+.-]{0,9})",
            host in host(),
            port in prop::option::of(1_u16..),
        ) {
            let default = match scheme.as_str() { "http" => Some(80), "https" => Some(443), _ => None };
            let port_text = port.filter(|port| Some(*port) != default).map_or(String::new(), |port| format!(":{port}"));
            let sent = format!("{scheme}://{host}{port_text}");
            prop_assert!(check_origin(&sent).is_ok(), "{}", sent);
            let upper = scheme.to_ascii_uppercase();
            for other in [
                format!("{sent}/"),
                format!("{sent}/index.html"),
                format!("{sent}?x"),
                format!("{sent}#x"),
                format!("{sent}:{}", default.unwrap_or(0)),
                format!("{upper}://{host}{port_text}"),
                format!("{scheme}://user@{host}{port_text}"),
                format!("{scheme}://*.{host}{port_text}"),
                format!("{scheme}:{host}{port_text}"),
                format!("//{host}{port_text}"),
                format!("{host}{port_text}"),
                format!("{sent} {sent}"),
                format!("{sent},{sent}"),
            ] {
                // `scheme://host:0` is an origin if the scheme has no default port.
                let is_port_0 = other == format!("{scheme}://{host}:0");
                prop_assert!(is_port_0 || check_origin(&other).is_err(), "{}", other);
            }
        }

        #[test]
        fn an_accepted_entry_has_no_other_spelling(text in "[a-zA-Z:/.@*\\[\\]0-9?# -]{0,24}") {
            if check_origin(&text).is_ok() {
                prop_assert!(SHARED_ORIGINS.contains(&text.as_str()) || text.parse::<Url>().is_ok());
                prop_assert!(!text.contains(['*', ' ', '?', '#', '@']) && !text[8.min(text.len())..].ends_with('/'));
            }
        }
    }
}
