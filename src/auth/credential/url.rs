//! Detection of credentials in a URL.

use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;

use super::error::CredentialError;
use super::subprotocol::TOKEN_SUBPROTOCOL_PREFIX;

/// Names of one word that carry a credential. Only the whole name matches: `sid`, but not `class_id`.
const WORDS: &[&str] = &[
    "token",
    "jwt",
    "auth",
    "authorization",
    "bearer",
    "credential",
    "credentials",
    "password",
    "passwd",
    "secret",
    "session",
    "sid",
    "jid",
    "key",
];

/// Names of several words that carry a credential, without what separates the words: `api_key`, `apiKey` and
/// `api-key` are all spellings of `apikey`.
const COMPOUNDS: &[&str] = &[
    "accesskey",
    "accesstoken",
    "apikey",
    "apisecret",
    "apitoken",
    "authkey",
    "authtoken",
    "bearertoken",
    "clientsecret",
    "idtoken",
    "jwttoken",
    "privatekey",
    "refreshtoken",
    "secretkey",
    "sessionid",
    "sessionkey",
    "sessiontoken",
    "sockettoken",
    "usertoken",
    "xaccesstoken",
    "xapikey",
    "xauthorization",
    "xauthtoken",
];

/// Times that a URL is percent-decoded at most. Each proxy on the way may decode it once more than the client
/// expects.
const DECODINGS_MAX: usize = 8;

/// Characters of a token's header that are decoded to recognise it, and the bytes that they encode. The
/// shortest header, `{"alg":"HS256"}`, is longer.
const HEADER_START_CHARS: usize = 8;
const HEADER_START_BYTES: usize = 6;

/// Fails if the URL contains a credential, or something that looks like one.
pub(super) fn reject_credential_in_url(uri: &Uri) -> Result<(), CredentialError> {
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(CredentialError::InUrl("a user before the host".to_owned()));
    }
    if is_jwt_like(&decode(uri.path())) {
        return Err(CredentialError::InUrl("a token in the path".to_owned()));
    }
    for pair in uri.query().unwrap_or_default().split(['&', ';']) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name), decode(value));
        if let Some(forbidden) = credential_name(&name) {
            // The error shows the entry of the list, because the sent name could itself be a secret.
            return Err(CredentialError::InUrl(format!("a parameter named {forbidden:?}")));
        }
        if is_jwt_like(&name) || is_jwt_like(&value) {
            return Err(CredentialError::InUrl("a value shaped like a token".to_owned()));
        }
    }
    Ok(())
}

/// The entry of the lists that a parameter's name equals. In a nested name (`params[token]`, `user.token`)
/// each part is a name.
fn credential_name(name: &str) -> Option<&'static str> {
    name.split(['[', ']', '.']).find_map(|part| {
        let part = part.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_ascii_lowercase();
        let joined: String = part.chars().filter(char::is_ascii_alphanumeric).collect();
        let word = WORDS.iter().find(|word| part == **word);
        word.or_else(|| COMPOUNDS.iter().find(|compound| joined == **compound)).copied()
    })
}

/// Percent-decodes until nothing is encoded any more, within [`DECODINGS_MAX`].
fn decode(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..DECODINGS_MAX {
        let decoded = percent_decode_str(&text).decode_utf8_lossy().into_owned();
        if decoded == text {
            break;
        }
        text = decoded;
    }
    text
}

/// Whether a string contains a JWT: parts of base64url with dots between them, of which one encodes the
/// beginning of a JSON object and is followed by at least two more. A token in the form of `phoenix`'s
/// subprotocol matches too.
pub(super) fn is_jwt_like(text: &str) -> bool {
    if text.contains(TOKEN_SUBPROTOCOL_PREFIX) {
        return true;
    }
    let is_jwt_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // Each character is decoded a bounded number of times, so the cost is linear: anyone may send a long URL.
    text.split(|c| !is_jwt_char(c)).any(|run| {
        // The second part is empty in an encrypted token without a key, the third one in a token without a
        // signature (`alg: none`), but their dots must be present.
        let parts = run.split('.');
        parts.clone().zip(parts.skip(2)).any(|(first, _)| contains_header(first))
    })
}

/// Whether a token's header begins somewhere in this part. Something may stand before it without a separator.
fn contains_header(part: &str) -> bool {
    // A header begins with `{`, so its first character is `e`, unless white space precedes the brace.
    let begins_with_brace = |at: usize| part.as_bytes()[at] == b'e';
    (0..part.len()).any(|at| (at == 0 || begins_with_brace(at)) && is_header_start(&part[at..]))
}

/// Whether base64url begins like a JSON object with a key: `{"`, perhaps with white space.
fn is_header_start(encoded: &str) -> bool {
    let mut decoded = [0; HEADER_START_BYTES];
    let start = encoded.get(..HEADER_START_CHARS);
    if start.is_none_or(|start| URL_SAFE_NO_PAD.decode_slice(start, &mut decoded).is_err()) {
        return false;
    }
    let Some(after_brace) = decoded.trim_ascii_start().strip_prefix(b"{") else { return false };
    match after_brace.trim_ascii_start() {
        [b'"', key @ ..] => key.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' '),
        [] => true,
        _ => false,
    }
}
