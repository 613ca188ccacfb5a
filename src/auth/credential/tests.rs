//! Tests of how the token of a request is found, and which requests are rejected.

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::url::is_jwt_like;
use super::*;

const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln";

fn find_in(uri: &str, headers: &[(&'static str, &str)]) -> Result<Presented, CredentialError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).expect("a header"));
    }
    find(&uri.parse().expect("a URI"), &map, None)
}

#[test]
fn the_authorization_header_is_accepted() {
    let presented = find_in("/socket/websocket?vsn=2.0.0", &[("authorization", &format!("Bearer {JWT}"))]);
    assert_eq!(presented, Ok(Presented { token: Token::new(JWT), wants_phoenix: false, is_cookie: false }));
    let presented = find_in("/", &[("authorization", &format!("bearer  {JWT} "))]);
    assert_eq!(presented.map(|p| p.token), Ok(Token::new(JWT)));
}

#[test]
fn the_subprotocol_is_accepted_in_both_alphabets() {
    // The encodings of these bytes differ between the alphabets.
    let token = "??>>~~.a.b";
    for encoded in [STANDARD_NO_PAD.encode(token), URL_SAFE_NO_PAD.encode(token)] {
        let offer = format!("phoenix, {TOKEN_SUBPROTOCOL_PREFIX}{encoded}");
        let presented = find_in("/", &[("sec-websocket-protocol", &offer)]);
        let expected = Presented { token: Token::new(token), wants_phoenix: true, is_cookie: false };
        assert_eq!(presented, Ok(expected));
    }
}

#[test]
fn only_the_configured_cookie_is_accepted() {
    let name: CookieName = "__Host-warden".parse().expect("a name");
    let in_cookies = |lines: &[&[u8]]| {
        let mut map = HeaderMap::new();
        for line in lines {
            map.append(header::COOKIE, HeaderValue::from_bytes(line).expect("a header"));
        }
        let uri = Uri::from_static("/socket/websocket");
        assert_eq!(find(&uri, &map, None), Err(CredentialError::Missing), "cookies are disabled");
        find(&uri, &map, Some(&name))
    };
    let expected = Presented { token: Token::new("a.b.c"), wants_phoenix: false, is_cookie: true };
    for lines in [
        &[&b"__Host-warden=a.b.c"[..]][..],
        &[b"x=1; __Host-warden=a.b.c; y=2"],
        &[b"x=\xff\xfe;__Host-warden=\"a.b.c\""],
        &[b"x=1", b"__Host-warden=a.b.c"],
        &[b"x=\"; __Host-warden=a.b.c"],
        &[b" __Host-warden = a.b.c ;"],
    ] {
        assert_eq!(in_cookies(lines), Ok(expected.clone()), "{lines:?}");
    }
    for lines in [&[&b"__host-warden=a.b.c"[..]][..], &[b"x__Host-warden=a.b.c"], &[b"x=__Host-warden"]] {
        assert_eq!(in_cookies(lines), Err(CredentialError::Missing), "{lines:?}");
    }
    for lines in [
        &[&b"__Host-warden=a.b.c; __Host-warden=d.e.f"[..]][..],
        &[b"__Host-warden=a.b.c", b"__Host-warden=a.b.c"],
    ] {
        assert_eq!(in_cookies(lines), Err(CredentialError::Several), "{lines:?}");
    }
    for line in [
        &b"__Host-warden"[..],
        b"__Host-warden=",
        b"__Host-warden=\"\"",
        b"__Host-warden=a b",
        b"__Host-warden=\"a",
        b"__Host-warden=\xc3\xa9",
        b"__Host-warden=\xff",
    ] {
        assert!(matches!(in_cookies(&[line]), Err(CredentialError::Malformed(_))), "{line:?}");
    }
    for invalid in ["", "a b", "a=b", "a;b", "\u{e9}"] {
        assert!(invalid.parse::<CookieName>().is_err(), "{invalid}");
    }
}

#[test]
fn exactly_one_token_is_required() {
    let entry = format!("{TOKEN_SUBPROTOCOL_PREFIX}{}", STANDARD_NO_PAD.encode(JWT));
    let bearer = format!("Bearer {JWT}");
    assert_eq!(find_in("/", &[]), Err(CredentialError::Missing));
    assert_eq!(find_in("/", &[("sec-websocket-protocol", "phoenix")]), Err(CredentialError::Missing));
    assert_eq!(
        find_in("/", &[("authorization", &bearer), ("sec-websocket-protocol", &format!("phoenix, {entry}"))]),
        Err(CredentialError::Several)
    );
    assert_eq!(
        find_in("/", &[("sec-websocket-protocol", &format!("phoenix, {entry}, {entry}"))]),
        Err(CredentialError::Several)
    );
    assert_eq!(
        find_in("/", &[("authorization", &bearer), ("authorization", &bearer)]),
        Err(CredentialError::Several)
    );
    assert_eq!(find_in("/", &[("sec-websocket-protocol", &entry)]), Err(CredentialError::Subprotocol));
    for malformed in ["Basic eDp5", "Bearer", "Bearer ", JWT] {
        assert!(
            matches!(find_in("/", &[("authorization", malformed)]), Err(CredentialError::Malformed(_))),
            "{malformed}"
        );
    }
    let broken = format!("phoenix, {TOKEN_SUBPROTOCOL_PREFIX}***");
    assert!(matches!(
        find_in("/", &[("sec-websocket-protocol", &broken)]),
        Err(CredentialError::Malformed(_))
    ));
}

#[test]
fn every_url_with_a_credential_is_rejected() {
    let bearer = format!("Bearer {JWT}");
    for uri in [
        "/socket/websocket?token=abc".to_owned(),
        "/socket/websocket?vsn=2.0.0&access_token=abc".to_owned(),
        "/socket/websocket?ACCESS-TOKEN=abc".to_owned(),
        "/socket/websocket?%74oken=abc".to_owned(),
        "/socket/websocket?%2574oken=abc".to_owned(),
        "/socket/websocket?apikey=abc".to_owned(),
        "/socket/websocket?x-api-key=abc".to_owned(),
        "/socket/websocket?jwt".to_owned(),
        "/socket/websocket?auth=abc".to_owned(),
        "/socket/websocket?Authorization=abc".to_owned(),
        "/socket/websocket?a=1;token=abc".to_owned(),
        "/socket/websocket?params[token]=abc".to_owned(),
        format!("/socket/websocket?x={JWT}"),
        format!("/socket/websocket?x=Bearer%20{JWT}"),
        format!("/socket/websocket?{JWT}"),
        format!("/socket/websocket?x={}", JWT.replace('.', "%2E")),
        format!("/socket/{JWT}/websocket"),
        format!("/socket/websocket?x={TOKEN_SUBPROTOCOL_PREFIX}abc"),
        "/socket/websocket?abc-token=1".to_owned(),
        "http://abc@host/socket/websocket".to_owned(),
        "/socket/websocket?x=eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.".to_owned(),
    ] {
        let result = find_in(&uri, &[("authorization", &bearer)]);
        let Err(CredentialError::InUrl(shown)) = result else { panic!("{uri}: {result:?}") };
        assert!(!shown.contains("abc") && !shown.contains("eyJ"), "the error repeats the value: {shown}");
    }
    // The scan is linear, even if a token could begin at every second byte.
    assert!(!is_jwt_like(&"ey".repeat(1 << 20)));
    for harmless in
        ["/socket/websocket?vsn=2.0.0", "/socket/websocket?vsn=2.0.0&app=1.2.3&keyboard=x&they=a.b.c"]
    {
        assert!(find_in(harmless, &[("authorization", &bearer)]).is_ok(), "{harmless}");
    }
}
