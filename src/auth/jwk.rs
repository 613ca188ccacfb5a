//! A JWKS document, and which of its keys are taken.
//!
//! A key is bound to one algorithm, by its type and by what it says of itself. What is not a public key
//! for one of the three algorithms is passed over with a reason, and never stops the others. Nothing here
//! does I/O, and no address within a document (`x5u`, `jku`) is looked at.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::parts::is_object;

/// Keys in one document; one with more is refused.
pub const JWKS_KEYS_MAX: usize = 64;

/// Longest `kid`, in bytes, of a key and of a token.
pub const KID_BYTES_MAX: usize = 256;

/// Shortest RSA modulus, in bits: RFC 7518, section 3.3.
const RSA_BITS_MIN: usize = 2048;

/// Longest RSA modulus, in bits: what verifying costs grows with it.
const RSA_BITS_MAX: usize = 8192;

/// Longest RSA exponent, in bytes; the usual 65,537 has three.
const RSA_EXPONENT_BYTES_MAX: usize = 4;

/// Smallest RSA exponent.
const RSA_EXPONENT_MIN: u32 = 3;

/// Length of a coordinate on P-256, and of an Ed25519 key, in bytes.
const COORDINATE_BYTES: usize = 32;

/// The tag of an uncompressed point.
const UNCOMPRESSED_POINT: u8 = 4;

/// The algorithms that are verified; everything else is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alg {
    /// HMAC with SHA-256, of a shared secret.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Alg {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// Reads the `alg` of a token's header, in its one spelling.
    #[must_use]
    pub fn of_token(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }

    /// Whether a key that names this algorithm is for ours; RFC 9864 calls EdDSA on this curve Ed25519.
    fn is_named(self, name: &str) -> bool {
        Self::of_token(name) == Some(self) || (self == Self::EdDsa && name == "Ed25519")
    }

    pub(super) fn for_library(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

/// A public key, bound to its algorithm.
#[derive(Clone)]
pub struct PublicKey {
    /// The only algorithm that it verifies.
    pub alg: Alg,
    /// Its name among the issuer's keys.
    pub kid: Option<String>,
    pub(super) key: DecodingKey,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicKey").field("alg", &self.alg).field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// What a document holds.
#[derive(Debug, Default)]
pub struct Jwks {
    /// The keys that are taken: no two of the same algorithm and `kid`.
    pub keys: Vec<PublicKey>,
    /// Of the others, why not, with their place in the document.
    pub passed_over: Vec<(usize, KeyError)>,
}

/// Why a document is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not `{"keys": [...]}`.
    #[error("the answer is no JSON Web Key Set ({{\"keys\": [...]}})")]
    NotAKeySet,
    /// More than [`JWKS_KEYS_MAX`].
    #[error("the key set holds {0} keys; at most {JWKS_KEYS_MAX} are taken")]
    TooMany(usize),
}

/// Why one key is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A field is missing or has the wrong type.
    #[error("not a JSON Web Key: a field is missing or has the wrong type")]
    Malformed,
    /// The world can read what must be secret.
    #[error("it holds PRIVATE key material: whoever reads the document can sign tokens; replace the key")]
    Private,
    /// A secret among public keys.
    #[error("a symmetric key (oct): a secret is configured at the gateway, not published")]
    Symmetric,
    /// For another kind of use or algorithm.
    #[error("it is not for verifying signatures (use, key_ops)")]
    Use,
    /// For an algorithm that is not verified here.
    #[error("its algorithm, type or curve is none of RS256, ES256 (P-256) and EdDSA (Ed25519)")]
    Algorithm,
    /// An RSA modulus of the wrong length.
    #[error("its RSA modulus has fewer than {RSA_BITS_MIN} or more than {RSA_BITS_MAX} bits")]
    RsaLength,
    /// Another key before it has the same name.
    #[error("another key of the same algorithm and kid comes before it")]
    Duplicate,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    // What only private keys have.
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

impl Jwks {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is no key set, or one beyond the limit. A single bad key is no error.
    pub fn parse(document: &[u8]) -> Result<Self, JwksError> {
        let text = std::str::from_utf8(document).map_err(|_| JwksError::NotAKeySet)?;
        if !is_object(text) {
            return Err(JwksError::NotAKeySet);
        }
        let document: Document<'_> = serde_json::from_str(text).map_err(|_| JwksError::NotAKeySet)?;
        if document.keys.len() > JWKS_KEYS_MAX {
            return Err(JwksError::TooMany(document.keys.len()));
        }
        let mut jwks = Self::default();
        for (n, raw) in document.keys.into_iter().enumerate() {
            match public_key(raw) {
                Ok(key)
                    if jwks.keys.iter().any(|k| (k.alg, &k.kid) == (key.alg, &key.kid))
                        && key.kid.is_some() =>
                {
                    jwks.passed_over.push((n, KeyError::Duplicate));
                }
                Ok(key) => jwks.keys.push(key),
                Err(error) => jwks.passed_over.push((n, error)),
            }
        }
        Ok(jwks)
    }
}

fn public_key(raw: &RawValue) -> Result<PublicKey, KeyError> {
    if !is_object(raw.get()) {
        return Err(KeyError::Malformed);
    }
    let jwk: Jwk = serde_json::from_str(raw.get()).map_err(|_| KeyError::Malformed)?;
    if jwk.kty == "oct" {
        return Err(KeyError::Symmetric);
    }
    let private = [&jwk.d, &jwk.p, &jwk.q, &jwk.dp, &jwk.dq, &jwk.qi, &jwk.oth, &jwk.k];
    if private.iter().any(|field| field.is_some()) {
        return Err(KeyError::Private);
    }
    if jwk.usage.as_deref().is_some_and(|usage| usage != "sig")
        || jwk.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
    {
        return Err(KeyError::Use);
    }
    if jwk.kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return Err(KeyError::Malformed);
    }
    let alg = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", None) => Alg::Rs256,
        ("EC", Some("P-256")) => Alg::Es256,
        ("OKP", Some("Ed25519")) => Alg::EdDsa,
        _ => return Err(KeyError::Algorithm),
    };
    if jwk.alg.as_deref().is_some_and(|name| !alg.is_named(name)) {
        return Err(KeyError::Algorithm);
    }
    let key = match alg {
        Alg::Rs256 => rsa(&decoded(jwk.n.as_deref())?, &decoded(jwk.e.as_deref())?)?,
        Alg::Es256 => {
            let (x, y) = (coordinate(jwk.x.as_deref())?, coordinate(jwk.y.as_deref())?);
            DecodingKey::from_ec_der(&[&[UNCOMPRESSED_POINT], &x[..], &y[..]].concat())
        }
        Alg::EdDsa => DecodingKey::from_ed_der(&coordinate(jwk.x.as_deref())?),
        Alg::Hs256 => return Err(KeyError::Symmetric),
    };
    Ok(PublicKey { alg, kid: jwk.kid, key })
}

fn decoded(field: Option<&str>) -> Result<Vec<u8>, KeyError> {
    field.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or(KeyError::Malformed)
}

fn coordinate(field: Option<&str>) -> Result<Vec<u8>, KeyError> {
    decoded(field)
        .and_then(|bytes| if bytes.len() == COORDINATE_BYTES { Ok(bytes) } else { Err(KeyError::Malformed) })
}

fn rsa(n: &[u8], e: &[u8]) -> Result<DecodingKey, KeyError> {
    let without_zeros = |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().skip_while(|b| *b == 0).collect() };
    let (n, e) = (without_zeros(n), without_zeros(e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeyError::RsaLength);
    }
    if e.len() > RSA_EXPONENT_BYTES_MAX {
        return Err(KeyError::Malformed);
    }
    let exponent = e.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
    if exponent < RSA_EXPONENT_MIN || exponent % 2 == 0 {
        return Err(KeyError::Malformed);
    }
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn encoded(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": encoded(&[1; 32]), "y": encoded(&[2; 32]), "kid": "1"})
    }

    fn rsa_of(bits: usize) -> Value {
        let mut n = vec![0xff; bits / 8];
        if !bits.is_multiple_of(8) {
            n.insert(0, (1 << (bits % 8)) - 1);
        }
        json!({"kty": "RSA", "n": encoded(&n), "e": "AQAB", "kid": "1"})
    }

    fn ed() -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(&[3; 32]), "kid": "1"})
    }

    fn with(mut key: Value, changes: &Value) -> Value {
        for (name, value) in changes.as_object().expect("an object") {
            key[name] = value.clone();
        }
        key
    }

    fn parsed(keys: &[Value]) -> Jwks {
        Jwks::parse(json!({"keys": keys, "other": 1}).to_string().as_bytes()).expect("a key set")
    }

    /// What becomes of one key.
    fn verdict(key: Value) -> Result<Alg, KeyError> {
        let jwks = parsed(&[key]);
        match (jwks.keys.first(), jwks.passed_over.first()) {
            (Some(key), None) => Ok(key.alg),
            (None, Some((0, error))) => Err(*error),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn takes_public_keys_of_the_three_algorithms() {
        for (key, alg) in [(ec(), Alg::Es256), (rsa_of(2048), Alg::Rs256), (ed(), Alg::EdDsa)] {
            assert_eq!(verdict(key.clone()), Ok(alg));
            let more = json!({"use": "sig", "key_ops": ["verify", "x"], "x5u": "http://x", "x5c": ["y"]});
            assert_eq!(verdict(with(key.clone(), &more)), Ok(alg));
            let none = json!({"use": null, "key_ops": null, "alg": null, "kid": null, "d": null});
            assert_eq!(verdict(with(key, &none)), Ok(alg));
        }
        for (key, name) in [(ec(), "ES256"), (rsa_of(2048), "RS256"), (ed(), "EdDSA"), (ed(), "Ed25519")] {
            assert!(verdict(with(key, &json!({"alg": name}))).is_ok(), "{name}");
        }
    }

    #[test]
    fn passes_over_what_is_for_something_else() {
        for key in [ec(), rsa_of(2048), ed()] {
            for (changes, error) in [
                (json!({"use": "enc"}), KeyError::Use),
                (json!({"use": ""}), KeyError::Use),
                (json!({"key_ops": []}), KeyError::Use),
                (json!({"key_ops": ["sign", "encrypt"]}), KeyError::Use),
                (json!({"alg": "HS256"}), KeyError::Algorithm),
                (json!({"alg": "none"}), KeyError::Algorithm),
                (json!({"alg": "PS256"}), KeyError::Algorithm),
                (json!({"kty": "rsa"}), KeyError::Algorithm),
                (json!({"kty": "oct"}), KeyError::Symmetric),
                (json!({"crv": "P-384"}), KeyError::Algorithm),
                (json!({"d": "AQAB"}), KeyError::Private),
                (json!({"k": "AQAB"}), KeyError::Private),
                (json!({"kid": 7}), KeyError::Malformed),
                (json!({"alg": 7}), KeyError::Malformed),
                (json!({"use": ["sig"]}), KeyError::Malformed),
                (json!({"key_ops": "verify"}), KeyError::Malformed),
                (json!({"kid": "x".repeat(257)}), KeyError::Malformed),
            ] {
                assert_eq!(verdict(with(key.clone(), &changes)), Err(error), "{changes}");
            }
        }
        for field in ["p", "q", "dp", "dq", "qi", "oth"] {
            assert_eq!(verdict(with(rsa_of(2048), &json!({field: "AQAB"}))), Err(KeyError::Private));
        }
        // The algorithm is the key's own, whatever it says of itself.
        assert_eq!(verdict(with(ec(), &json!({"alg": "RS256"}))), Err(KeyError::Algorithm));
        assert_eq!(verdict(with(rsa_of(2048), &json!({"alg": "ES256"}))), Err(KeyError::Algorithm));
    }

    #[test]
    fn the_material_has_the_right_length() {
        for (bits, taken) in
            [(1024, false), (2047, false), (2048, true), (4096, true), (8192, true), (8193, false)]
        {
            assert_eq!(verdict(rsa_of(bits)).is_ok(), taken, "{bits}");
        }
        // Leading zeros make no key longer.
        let padded = encoded(&[vec![0; 128], vec![0xff; 128]].concat());
        assert_eq!(verdict(with(rsa_of(2048), &json!({"n": padded}))), Err(KeyError::RsaLength));
        for e in ["", "AA", "AQ", "Ag", "AQAA", "AQAAAAE", "*"] {
            assert_eq!(verdict(with(rsa_of(2048), &json!({"e": e}))), Err(KeyError::Malformed), "{e}");
        }
        for short in
            [encoded(&[1; 31]), encoded(&[1; 33]), String::new(), "*".into(), encoded(&[1; 32]) + "="]
        {
            assert_eq!(verdict(with(ec(), &json!({"x": short}))), Err(KeyError::Malformed), "{short}");
            assert_eq!(verdict(with(ed(), &json!({"x": short}))), Err(KeyError::Malformed), "{short}");
        }
        assert_eq!(verdict(with(ec(), &json!({"y": null}))), Err(KeyError::Malformed));
    }

    #[test]
    fn one_bad_key_does_not_stop_the_others() {
        let jwks = parsed(&[json!(7), json!({}), ec(), with(ec(), &json!({"x": encoded(&[9; 32])})), ed()]);
        let taken: Vec<_> = jwks.keys.iter().map(|key| key.alg).collect();
        assert_eq!(taken, [Alg::Es256, Alg::EdDsa]);
        assert_eq!(
            jwks.passed_over,
            [(0, KeyError::Malformed), (1, KeyError::Malformed), (3, KeyError::Duplicate)]
        );
    }

    #[test]
    fn a_document_is_a_key_set_of_limited_size() {
        for wrong in
            ["", "[]", "[[]]", "{}", "null", "<html>", "{\"keys\":{}}", "{\"keys\":null}", "{\"keys\":[]} x"]
        {
            assert_eq!(Jwks::parse(wrong.as_bytes()).err(), Some(JwksError::NotAKeySet), "{wrong}");
        }
        assert!(Jwks::parse(b"{\"keys\":[]}").expect("a key set").keys.is_empty());
        let many = |n| json!({"keys": vec![7; n]}).to_string();
        assert_eq!(Jwks::parse(many(65).as_bytes()).err(), Some(JwksError::TooMany(65)));
        assert!(Jwks::parse(many(64).as_bytes()).is_ok());
    }
}
