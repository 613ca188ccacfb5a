//! Where a token may stand in a request, and where none may.
//!
//! It comes from `Authorization: Bearer`, from the subprotocols as `phoenix` on npm sends it, or, where one
//! is configured, from a cookie: exactly one. Never from the URL, which ends in logs, histories and referrers: a request whose URL carries
//! anything like a credential is refused whatever else it holds, and the value is never repeated.

use std::str::FromStr;

use axum::http::{HeaderMap, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;

use super::Token;

/// The subprotocol that is answered.
pub const PHOENIX_SUBPROTOCOL: &str = "phoenix";

/// What precedes the token among the subprotocols. Despite the name `phoenix` encodes with the
/// standard alphabet, without padding; both alphabets are taken.
pub const TOKEN_SUBPROTOCOL_PREFIX: &str = "base64url.bearer.phx.";

/// Longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Names of query parameters that carry a credential, compared without case, `_` and `-`. A name that
/// ends in one of them counts too: `access_token`, `x-api-key`.
const CREDENTIAL_NAMES: &[&str] = &[
    "token",
    "jwt",
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "credential",
    "credentials",
    "password",
    "secret",
    "session",
    "sessionid",
    "sid",
    "jid",
    "key",
];

/// Shortest header or payload of a token, encoded.
const JWT_PART_BYTES_MIN: usize = 8;

/// The name of the cookie that carries a token, where cookies may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(String);

impl FromStr for CookieName {
    type Err = &'static str;

    /// A token of RFC 9110.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return Err("a cookie's name is letters, digits and !#$%&'*+-.^_`|~");
        }
        Ok(Self(name.to_owned()))
    }
}

/// What a request presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The one token.
    pub token: Token,
    /// Whether to answer `Sec-WebSocket-Protocol: phoenix`.
    pub wants_phoenix: bool,
    /// Whether the token is a cookie, which browsers send whoever asks them to: it counts only together
    /// with an allowed Origin.
    pub is_cookie: bool,
}

/// Why no token can be taken from a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The URL carries a credential, or what looks like one.
    #[error(
        "the URL carries a credential ({0}): URLs end in logs. Send the token in the Authorization header or as phoenix's authToken"
    )]
    InUrl(String),
    /// None.
    #[error("no token: send `Authorization: Bearer <token>`, or phoenix's authToken")]
    Missing,
    /// More than one.
    #[error("more than one token: send exactly one")]
    Several,
    /// A header or subprotocol entry that can't be read.
    #[error("{0}")]
    Malformed(&'static str),
    /// Subprotocols without one that the gateway speaks: a browser would fail the connection.
    #[error("none of the offered subprotocols is spoken here: offer `phoenix`")]
    Subprotocol,
}

/// Finds the one token of a request. Cookies are looked at only where one is named.
///
/// # Errors
/// When there is none, more than one, one that can't be read, or anything like one in the URL.
pub fn find(
    uri: &Uri,
    headers: &HeaderMap,
    cookie: Option<&CookieName>,
) -> Result<Presented, CredentialError> {
    refuse_in_url(uri)?;
    let mut tokens = Vec::new();
    for value in headers.get_all(header::AUTHORIZATION) {
        let text = value
            .to_str()
            .map_err(|_| CredentialError::Malformed("the Authorization header is not plain text"))?;
        let (scheme, token) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
            return Err(CredentialError::Malformed("the Authorization header is not `Bearer <token>`"));
        }
        tokens.push(token.trim().to_owned());
    }
    let mut offered_any = false;
    let mut wants_phoenix = false;
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        let text = value
            .to_str()
            .map_err(|_| CredentialError::Malformed("the Sec-WebSocket-Protocol header is not plain text"))?;
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            offered_any = true;
            if let Some(encoded) = entry.strip_prefix(TOKEN_SUBPROTOCOL_PREFIX) {
                tokens.push(decode_entry(encoded)?);
            } else if entry == PHOENIX_SUBPROTOCOL {
                wants_phoenix = true;
            }
        }
    }
    if offered_any && !wants_phoenix {
        return Err(CredentialError::Subprotocol);
    }
    let cookies = cookie.map_or(Ok(Vec::new()), |name| cookies(headers, name))?;
    let is_cookie = !cookies.is_empty();
    tokens.extend(cookies);
    let token = tokens.pop().ok_or(CredentialError::Missing)?;
    if !tokens.is_empty() {
        return Err(CredentialError::Several);
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(CredentialError::Malformed("the token is too long"));
    }
    Ok(Presented { token: Token::new(token), wants_phoenix, is_cookie })
}

fn decode_entry(encoded: &str) -> Result<String, CredentialError> {
    let trimmed = encoded.trim_end_matches('=');
    STANDARD_NO_PAD
        .decode(trimmed)
        .or_else(|_| URL_SAFE_NO_PAD.decode(trimmed))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or(CredentialError::Malformed("the token among the subprotocols is not base64"))
}

/// The values of all cookies of this name (RFC 6265, section 4.2.1). Two of one name are none to choose from:
/// a neighbouring subdomain can plant the second.
fn cookies(headers: &HeaderMap, name: &CookieName) -> Result<Vec<String>, CredentialError> {
    const UNREADABLE: CredentialError = CredentialError::Malformed("the cookie with the token can't be read");
    let mut values = Vec::new();
    for line in headers.get_all(header::COOKIE) {
        // Other cookies may hold any bytes.
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            if pair[..at].trim_ascii() != name.0.as_bytes() {
                continue;
            }
            let value = pair.get(at + 1..).unwrap_or_default().trim_ascii();
            let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            let value = std::str::from_utf8(inner.unwrap_or(value)).map_err(|_| UNREADABLE)?;
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic() && b != b'"') {
                return Err(UNREADABLE);
            }
            values.push(value.to_owned());
        }
    }
    Ok(values)
}

fn refuse_in_url(uri: &Uri) -> Result<(), CredentialError> {
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(CredentialError::InUrl("a user before the host".to_owned()));
    }
    if is_jwt_like(&decoded(uri.path())) {
        return Err(CredentialError::InUrl("a token in the path".to_owned()));
    }
    for pair in uri.query().unwrap_or_default().split(['&', ';']) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name), decoded(value));
        let plain: String =
            name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        if let Some(forbidden) = CREDENTIAL_NAMES.iter().find(|forbidden| plain.ends_with(*forbidden)) {
            // What was sent is not shown, not even as a name: it could itself be a secret.
            return Err(CredentialError::InUrl(format!("a parameter named {forbidden:?} or like it")));
        }
        if is_jwt_like(&name) || is_jwt_like(&value) {
            return Err(CredentialError::InUrl("a value shaped like a token".to_owned()));
        }
    }
    Ok(())
}

/// Percent-decoding, twice, because a proxy may decode once more than the author of a URL thought.
fn decoded(text: &str) -> String {
    let once = percent_decode_str(text).decode_utf8_lossy().into_owned();
    percent_decode_str(&once).decode_utf8_lossy().into_owned()
}

/// Whether a text contains three base64url parts of which the first is a JSON object: a JWT. One that is
/// wrapped as `phoenix` wraps it counts too.
fn is_jwt_like(text: &str) -> bool {
    if text.contains(TOKEN_SUBPROTOCOL_PREFIX) {
        return true;
    }
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // Each run of such characters is looked at once, however long it is: this is done for anybody.
    text.split(|c| !is_of_token(c)).any(|run| {
        let mut parts = run.split('.');
        let mut first = parts.next().unwrap_or_default();
        // The third part may be empty (`alg: none`), but its dot is there.
        parts.clone().zip(parts.skip(1)).any(|(second, _)| {
            let is_header = first.find("ey").is_some_and(|at| first.len() - at >= JWT_PART_BYTES_MIN);
            let found = is_header && second.len() >= JWT_PART_BYTES_MIN;
            first = second;
            found
        })
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

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
    fn takes_the_header() {
        let presented =
            find_in("/socket/websocket?vsn=2.0.0", &[("authorization", &format!("Bearer {JWT}"))]);
        assert_eq!(
            presented,
            Ok(Presented { token: Token::new(JWT), wants_phoenix: false, is_cookie: false })
        );
        let presented = find_in("/", &[("authorization", &format!("bearer  {JWT} "))]);
        assert_eq!(presented.map(|p| p.token), Ok(Token::new(JWT)));
    }

    #[test]
    fn takes_the_subprotocol_in_both_alphabets() {
        // Bytes that differ between the alphabets.
        let token = "??>>~~.a.b";
        for encoded in [STANDARD_NO_PAD.encode(token), URL_SAFE_NO_PAD.encode(token)] {
            let offer = format!("phoenix, {TOKEN_SUBPROTOCOL_PREFIX}{encoded}");
            let presented = find_in("/", &[("sec-websocket-protocol", &offer)]);
            let expected = Presented { token: Token::new(token), wants_phoenix: true, is_cookie: false };
            assert_eq!(presented, Ok(expected));
        }
    }

    #[test]
    fn takes_a_cookie_of_the_one_name_where_there_is_one() {
        let name: CookieName = "__Host-warden".parse().expect("a name");
        let in_cookies = |lines: &[&[u8]]| {
            let mut map = HeaderMap::new();
            for line in lines {
                map.append(header::COOKIE, HeaderValue::from_bytes(line).expect("a header"));
            }
            let uri = Uri::from_static("/socket/websocket");
            assert_eq!(find(&uri, &map, None), Err(CredentialError::Missing), "cookies are not switched on");
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
        for bad in ["", "a b", "a=b", "a;b", "\u{e9}"] {
            assert!(bad.parse::<CookieName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn takes_exactly_one() {
        let entry = format!("{TOKEN_SUBPROTOCOL_PREFIX}{}", STANDARD_NO_PAD.encode(JWT));
        let bearer = format!("Bearer {JWT}");
        assert_eq!(find_in("/", &[]), Err(CredentialError::Missing));
        assert_eq!(find_in("/", &[("sec-websocket-protocol", "phoenix")]), Err(CredentialError::Missing));
        assert_eq!(
            find_in(
                "/",
                &[("authorization", &bearer), ("sec-websocket-protocol", &format!("phoenix, {entry}"))]
            ),
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
    fn refuses_every_url_that_carries_one() {
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
            assert!(!shown.contains("abc") && !shown.contains("eyJ"), "{shown} repeats the value");
        }
        // Looked at once, however often a token might begin in it.
        assert!(!is_jwt_like(&"ey".repeat(1 << 20)));
        for fine in
            ["/socket/websocket?vsn=2.0.0", "/socket/websocket?vsn=2.0.0&app=1.2.3&keyboard=x&they=a.b.c"]
        {
            assert!(find_in(fine, &[("authorization", &bearer)]).is_ok(), "{fine}");
        }
    }
}
