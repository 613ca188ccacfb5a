//! Issuers files, as an operator may mistype them. No error contains a value of the file, and an accepted
//! issuer prints no secret.

use warden::config::{IssuerDefaults, JWT_SECRET_BYTES_MIN, parse_issuers};

/// Part of every secret.
const MARKER: &str = "m4rker";

/// Texts before and after the input. The marker is before the input, so that it is in every file.
const PLACES: [(&str, &str); 6] = [
    ("", ""),
    ("[[issuer]]\nname = \"a\"\nsecrets = [\"m4rker-9137-5521-8411-7302-6648", "\"]\n"),
    ("[[issuer]]\nname = \"a\"\njwks_url = \"https://keys.example/jwks?key=m4rker", "\"\n"),
    ("[[issuer]]\nname = \"a\"\njwks_url = \"https://user:m4rker@", "\"\n"),
    ("[[issuer]]\nname = \"a\"\nsecrets = \"m4rker\"\n", "\n"),
    (
        "[[issuer]]\nname = \"a\"\nsecrets = [\"m4rker-9137-5521-8411-7302-6648\"]\nclaims = { m4rker = ",
        " }\n",
    ),
];

pub(crate) fn run(text: &str) {
    for (before, after) in PLACES {
        check(&format!("{before}{text}{after}"));
    }
}

fn check(text: &str) {
    let defaults =
        IssuerDefaults { audience: "authenticated", allow_http: false, allow_guessable_secret: false };
    let issuers = match parse_issuers(text, &defaults) {
        Ok(issuers) => issuers,
        Err(error) => {
            // The debug output of the whole error would resolve its backtrace, which takes longer than a
            // parse.
            let shown: String = error.chain().map(|cause| format!("{cause} {cause:?} ")).collect();
            return assert!(!shown.contains(MARKER), "{shown}");
        }
    };
    assert!(!issuers.is_empty(), "a file without an issuer was accepted");
    for issuer in issuers {
        assert!(issuer.issuer.is_some_and(|name| !name.is_empty()), "an issuer without a name was accepted");
        assert!(
            issuer.jwks_url.is_some() || !issuer.secrets.is_empty(),
            "an issuer without keys was accepted"
        );
        assert!(issuer.secrets.iter().all(|secret| secret.len() >= JWT_SECRET_BYTES_MIN));
        if let Some(url) = issuer.jwks_url {
            let shown = format!("{url:?}");
            let (_, location) = shown.split_once("://").expect("a URL has a scheme");
            let (authority, path) = location.split_once('/').expect("a URL has a path");
            assert!(!authority.contains('@'), "a user or a password was accepted");
            assert!(!path.strip_suffix("?***").unwrap_or(path).contains('?'), "a query is shown");
        }
    }
}
