//! The one place where a stranger's URL and headers are searched for a token: it never panics, a URL
//! that carries a credential is refused whatever else the request holds, and no error repeats a value.
//!
//! A cookie of the one name that is planted beside whatever else there is makes two credentials of one, and
//! two such cookies are always refused.
//!
//! An input is lines: how a credential is put into the URL (a byte), the URL, a value, then headers
//! (`a...` Authorization, `p...` Sec-WebSocket-Protocol, `c...` Cookie).

use axum::http::{HeaderMap, HeaderValue, Uri, header};
use warden::auth::{CookieName, CredentialError, find};

const NAMES: [&str; 3] = ["token", "access_token", "apikey"];

pub(crate) fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let (Some(choice), Some(url), Some(value)) = (lines.next(), lines.next(), lines.next()) else { return };
    let headers = headers(lines);
    let Ok(url) = std::str::from_utf8(url) else { return };
    if let Ok(uri) = url.parse::<Uri>() {
        let result = find(&uri, &headers, None);
        cookies_are_counted(&uri, headers.clone());
        if names_a_credential(&uri) {
            assert!(matches!(result, Err(CredentialError::InUrl(_))), "{uri} was not refused: {result:?}");
        }
    }

    // The same URL with a credential put in, twice: once with the input's value, once with a plain one.
    // The texts of both refusals are equal, so nothing of the value is in them.
    let choice = choice.first().copied().unwrap_or_default();
    let (Some(refused), Some(plain)) =
        (refusal(choice, url, &escaped(value), &headers), refusal(choice, url, "x", &headers))
    else {
        return;
    };
    assert_eq!(refused, plain, "the refusal depends on the value");
}

/// Cookies that are planted count, beside whatever other cookies hold.
fn cookies_are_counted(uri: &Uri, mut headers: HeaderMap) {
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
    assert!(find(uri, &headers, Some(&name)).is_err(), "two cookies of one name were taken");
}

/// What is said of a URL with a credential in it; none where the text is no URL.
fn refusal(choice: u8, url: &str, value: &str, headers: &HeaderMap) -> Option<String> {
    let uri: Uri = with_credential(choice, url, value).parse().ok()?;
    let error = find(&uri, headers, None).expect_err("a URL with a credential is refused");
    assert!(matches!(error, CredentialError::InUrl(_)), "{uri}: {error}");
    Some(format!("{error} {error:?}"))
}

/// Puts a parameter into the URL's query, its name in a case that `choice` draws.
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

/// Whether a parameter of the query has one of the names, read as plainly as can be.
fn names_a_credential(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split(['&', ';']).any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        NAMES.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
    })
}

/// As a client would write the value: what has a meaning in a query is percent-encoded.
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
