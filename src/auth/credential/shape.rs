//! The decision whether a string is shaped like a credential, by its name or by its content.
//!
//! It knows every form of a token that the verifier accepts, and ignores every encoding of a URL. Nothing
//! here verifies a token.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::subprotocol::TOKEN_SUBPROTOCOL_PREFIX;

/// Names that carry a credential, in lower case and without separators: `api_key`, `apiKey` and `API-KEY` are
/// spellings of `apikey`. Only whole names match: `sid`, but not `business_id`.
const NAMES: &[&str] = &[
    "accesskey",
    "accesstoken",
    "anonkey",
    "apikey",
    "apisecret",
    "apitoken",
    "auth",
    "authkey",
    "authorization",
    "authorizationtoken",
    "authtoken",
    "bearer",
    "bearertoken",
    "clientsecret",
    "credential",
    "credentials",
    "csrftoken",
    "idtoken",
    "jid",
    "jsessionid",
    "jsonwebtoken",
    "jwe",
    "jws",
    "jwt",
    "jwttoken",
    "key",
    "oauthtoken",
    "passphrase",
    "passwd",
    "password",
    "phpsessid",
    "privatekey",
    "pwd",
    "refreshtoken",
    "secret",
    "secretkey",
    "secrettoken",
    "servicekey",
    "servicerolekey",
    "session",
    "sessionid",
    "sessionkey",
    "sessiontoken",
    "sessid",
    "sid",
    "signature",
    "sockettoken",
    "supabasekey",
    "token",
    "usertoken",
    "wardentoken",
    "webtoken",
    "wstoken",
];

/// Decodes base64url as tolerantly as any verifier: trailing bits do not matter.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// Characters that encode three bytes.
const GROUP_CHARS: usize = 4;

/// The name of a credential that this name spells. In a nested name (`params[token]`, `user.token`) each part
/// is a name. An `x` in front, as in `x-api-key`, does not matter.
pub(super) fn credential_name(name: &str) -> Option<&'static str> {
    name.split(['[', ']', '.', ':']).find_map(|part| {
        let joined: String =
            part.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        let is_spelled = |name: &&&str| joined == **name || joined.strip_prefix('x') == Some(**name);
        NAMES.iter().find(is_spelled).copied()
    })
}

/// Whether a string contains a JWT: parts of base64url with dots between them, of which one encodes the
/// beginning of a JSON object with a key, and at least two more follow. A token in the form of `phoenix`'s
/// subprotocol matches too.
pub(super) fn is_jwt_like(text: &str) -> bool {
    if text.to_ascii_lowercase().contains(TOKEN_SUBPROTOCOL_PREFIX) {
        return true;
    }
    let is_jwt_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut decoded = Vec::new();
    text.split(|c| !is_jwt_char(c)).any(|run| {
        // The second part is empty in an encrypted token without a key, the third one in a token without a
        // signature (`alg: none`), but their dots must be present.
        let parts = run.split('.');
        parts.clone().zip(parts.skip(2)).any(|(first, _)| contains_header(first, &mut decoded))
    })
}

/// Whether a token's header begins somewhere in this part. Something may stand before it without a separator,
/// so the part is decoded from each of four characters. The cost is linear: anyone may send a long URL.
fn contains_header(part: &str, decoded: &mut Vec<u8>) -> bool {
    (0..GROUP_CHARS.min(part.len())).any(|at| {
        let mut encoded = &part[at..];
        if encoded.len() % GROUP_CHARS == 1 {
            encoded = &encoded[..encoded.len() - 1];
        }
        decoded.clear();
        BASE64URL.decode_vec(encoded, decoded).is_ok() && contains_object(decoded)
    })
}

/// Whether the beginning of a JSON object with a key, such as `{ "alg" :`, is somewhere in these bytes. White
/// space is allowed wherever JSON allows it. The first key may be any string: verifiers ignore unknown
/// parameters of a header.
fn contains_object(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'{') {
        rest = &rest[at + 1..];
        let key = rest.trim_ascii_start().strip_prefix(b"\"").and_then(after_string);
        if key.is_some_and(|after| after.trim_ascii_start().starts_with(b":")) {
            return true;
        }
    }
    false
}

/// The bytes behind a JSON string, whose opening quote is left out. None if the string does not end.
fn after_string(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (byte, rest) = bytes.split_first()?;
        bytes = match byte {
            b'"' => return Some(rest),
            b'\\' => rest.get(1..)?,
            // Control characters are escaped within strings.
            0..b' ' => return None,
            _ => rest,
        };
    }
}

/// Percent-decodes until nothing is encoded any more. Each proxy on the way may decode a URL once more than
/// the client expects.
///
/// One pass suffices: a decoded character that completes another escape is decoded again.
pub(super) fn decode(text: &str) -> String {
    let mut decoded: Vec<u8> = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        decoded.push(byte);
        while let [.., b'%', high, low] = decoded[..]
            && let (Some(high), Some(low)) = (char::from(high).to_digit(16), char::from(low).to_digit(16))
        {
            decoded.truncate(decoded.len() - 3);
            decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_encodings_is_undone_in_one_pass() {
        for times in 0..100 {
            assert_eq!(
                decode(&format!("a%{}74oken%{}2Eb", "25".repeat(times), "25".repeat(times))),
                "atoken.b"
            );
        }
        for (encoded, decoded) in [
            ("", ""),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%2%35", "%"),
            ("%2541", "A"),
            ("%25%34%31", "A"),
        ] {
            assert_eq!(decode(encoded), decoded, "{encoded}");
        }
        let long = format!("%{}41", "25".repeat(1 << 18));
        assert_eq!(decode(&long), "A");
    }
}
