//! The search for a token in any URL and headers. For every input: no panic, a URL with a credential is
//! rejected whatever else the request holds, and no error repeats a value.
//!
//! A planted cookie of the configured name counts as one more credential, and two such cookies are always
//! rejected.
//!
//! An input consists of lines: a byte that selects how a credential is put into the URL, the URL, a value,
//! then headers (`a...` Authorization, `p...` Sec-WebSocket-Protocol, `c...` Cookie).

use axum::http::{HeaderMap, HeaderValue, Uri, header};
use warden::auth::{CookieName, CredentialError, find};

const NAMES: [&str; 3] = ["token", "access_token", "apikey"];
const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln";

pub(crate) fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let (Some(choice), Some(url), Some(value)) = (lines.next(), lines.next(), lines.next()) else { return };
    let headers = headers(lines);
    let Ok(url) = std::str::from_utf8(url) else { return };
    plant_token(choice, url);
    if let Ok(uri) = url.parse::<Uri>() {
        let result = find(&uri, &headers, None);
        plant_cookies(&uri, headers.clone());
        plant_other_scheme(&uri, headers.clone());
        if names_a_credential(&uri) {
            assert!(matches!(result, Err(CredentialError::InUrl(_))), "{uri} was not rejected: {result:?}");
        }
    }

    // The same URL is tried with two credentials: the input's value and a plain one. Both errors must be
    // equal, which shows that they do not contain the value.
    let choice = choice.first().copied().unwrap_or_default();
    let (Some(error), Some(plain)) =
        (rejection(choice, url, &escaped(value), &headers), rejection(choice, url, "x", &headers))
    else {
        return;
    };
    assert_eq!(error, plain, "the error depends on the value");
}

/// Adds a token as the value of a parameter that is not named like a credential.
fn plant_token(choice: &[u8], url: &str) {
    let name: String =
        choice.iter().filter(|byte| byte.is_ascii_alphanumeric()).copied().map(char::from).collect();
    let url = url.split('#').next().unwrap_or_default();
    let separator = if url.contains('?') { '&' } else { '?' };
    if let Ok(uri) = format!("{url}{separator}{name}={JWT}").parse::<Uri>() {
        let result = find(&uri, &HeaderMap::new(), None);
        assert!(matches!(result, Err(CredentialError::InUrl(_))), "{uri} was not rejected: {result:?}");
    }
}

/// Adds a cookie of the configured name, and then a second one.
fn plant_cookies(uri: &Uri, mut headers: HeaderMap) {
    let name: CookieName = "warden".parse().expect("a name");
    let without = find(uri, &headers, Some(&name));
    let planted = HeaderValue::from_static("theme=dark; warden=a.b.c");
    headers.append(header::COOKIE, planted.clone());
    let once = find(uri, &headers, Some(&name));
    match without {
        Ok(_) => assert_eq!(once, Err(CredentialError::Several)),
        Err(CredentialError::Missing) => assert!(once.is_ok_and(|presented| presented.is_cookie)),
        Err(_) => {}
    }
    headers.append(header::COOKIE, planted);
    assert!(find(uri, &headers, Some(&name)).is_err(), "two cookies of one name were accepted");
}

/// Adds the credential of a proxy, which changes nothing about a token that was found.
fn plant_other_scheme(uri: &Uri, mut headers: HeaderMap) {
    let without = find(uri, &headers, None);
    headers.append(header::AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
    let with = find(uri, &headers, None);
    match without {
        Err(CredentialError::Missing) => assert!(matches!(with, Err(CredentialError::Malformed(_)))),
        without => assert_eq!(with, without),
    }
}

/// The error for a URL with this credential. None if the string is not a URL.
fn rejection(choice: u8, url: &str, value: &str, headers: &HeaderMap) -> Option<String> {
    let uri: Uri = with_credential(choice, url, value).parse().ok()?;
    let error = find(&uri, headers, None).expect_err("a URL with a credential is rejected");
    assert!(matches!(error, CredentialError::InUrl(_)), "{uri}: {error}");
    Some(format!("{error} {error:?}"))
}

/// Adds a parameter to the URL's query. `choice` selects its name and the case of each letter.
fn with_credential(choice: u8, url: &str, value: &str) -> String {
    let name = NAMES[usize::from(choice) % NAMES.len()];
    let name: String = name
        .chars()
        .enumerate()
        .map(|(n, c)| if choice >> (n % 8) & 1 == 1 { c.to_ascii_uppercase() } else { c })
        .collect();
    let url = url.split('#').next().unwrap_or_default();
    let separator = match (url.contains('?'), choice & 1) {
        (false, _) => '?',
        (true, 0) => '&',
        (true, _) => ';',
    };
    format!("{url}{separator}{name}={value}")
}

/// Whether a parameter of the query has one of the names, found by the simplest possible parser.
fn names_a_credential(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split(['&', ';']).any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        NAMES.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
    })
}

/// Percent-encodes the characters that have a meaning in a query, as a client does.
fn escaped(value: &[u8]) -> String {
    value
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(*byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn headers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.take(8) {
        let (name, value) = match line {
            [b'a', value @ ..] => (header::AUTHORIZATION, value),
            [b'c', value @ ..] => (header::COOKIE, value),
            [b'p', value @ ..] => (header::SEC_WEBSOCKET_PROTOCOL, value),
            _ => continue,
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    headers
}
