//! One published key, bound to one algorithm by its type and its `alg`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::weak::{self, CheckBudget};
use crate::auth::alg::{Alg, KID_BYTES_MAX};
use crate::auth::json::is_object;

/// Shortest RSA modulus, in bits (RFC 7518, section 3.3).
pub(crate) const RSA_BITS_MIN: usize = 2048;

/// Longest RSA modulus, in bits. The cost of verification grows with it.
pub(crate) const RSA_BITS_MAX: usize = 8192;

/// Length of a coordinate on P-256, and of an Ed25519 key, in bytes.
const COORDINATE_BYTES: usize = 32;

/// Tag of an uncompressed point (SEC 1, section 2.3.3).
const UNCOMPRESSED_POINT: u8 = 4;

/// Public key, bound to one algorithm.
#[derive(Clone)]
pub struct PublicKey {
    /// The only algorithm that this key verifies.
    pub alg: Alg,
    /// Name among the issuer's keys.
    pub kid: Option<String>,
    pub(in crate::auth) key: DecodingKey,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicKey").field("alg", &self.alg).field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Reason for which a key is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A field is missing or has the wrong type.
    #[error("not a JSON Web Key: a field is missing or has the wrong type")]
    Malformed,
    /// The key has private fields, which everyone can read.
    #[error(
        "the published key contains PRIVATE key material, so anyone who reads the document can sign tokens: replace the key"
    )]
    Private,
    /// The key is a shared secret, which must not be published.
    #[error("a symmetric key (oct) must not be published: configure the secret at the gateway instead")]
    Symmetric,
    /// The key is not meant for verifying signatures.
    #[error("the key is not for verifying signatures (use, key_ops)")]
    Use,
    /// The key belongs to an algorithm that the gateway does not support.
    #[error("its algorithm, type or curve is not one of RS256, ES256 (P-256) and EdDSA (Ed25519)")]
    Algorithm,
    /// The RSA modulus is too short or too long.
    #[error("its RSA modulus has fewer than {RSA_BITS_MIN} or more than {RSA_BITS_MAX} bits")]
    RsaLength,
    /// Anyone can forge signatures that the key verifies.
    #[error("the key is weak, so anyone may be able to forge tokens: {0}; replace the key")]
    Weak(&'static str),
    /// The earlier RSA keys of the document have used up the time for checks.
    #[error("the document has too many long RSA keys: publish fewer, or keys of 2048 bits")]
    TooManyLong,
    /// An earlier key of the document has the same algorithm and `kid`.
    #[error("an earlier key has the same algorithm and kid")]
    Duplicate,
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
    // Only private keys have these fields.
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
    k: Option<IgnoredAny>,
}

impl PublicKey {
    /// Parses one key of a document.
    pub(super) fn parse(raw: &RawValue, budget: &mut CheckBudget) -> Result<Self, KeyError> {
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
            Alg::Rs256 => rsa(&decoded(jwk.n.as_deref())?, &decoded(jwk.e.as_deref())?, budget)?,
            Alg::Es256 => {
                let (x, y) = (coordinate(jwk.x.as_deref())?, coordinate(jwk.y.as_deref())?);
                let point = [&[UNCOMPRESSED_POINT], &x[..], &y[..]].concat();
                weak::check_p256(&x, &point)?;
                DecodingKey::from_ec_der(&point)
            }
            Alg::EdDsa => {
                let point = coordinate(jwk.x.as_deref())?;
                weak::check_ed25519(&point)?;
                DecodingKey::from_ed_der(&point)
            }
            Alg::Hs256 => return Err(KeyError::Symmetric),
        };
        Ok(Self { alg, kid: jwk.kid, key })
    }
}

fn decoded(field: Option<&str>) -> Result<Vec<u8>, KeyError> {
    field.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or(KeyError::Malformed)
}

fn coordinate(field: Option<&str>) -> Result<Vec<u8>, KeyError> {
    decoded(field)
        .and_then(|bytes| if bytes.len() == COORDINATE_BYTES { Ok(bytes) } else { Err(KeyError::Malformed) })
}

fn rsa(n: &[u8], e: &[u8], budget: &mut CheckBudget) -> Result<DecodingKey, KeyError> {
    let without_zeros = |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().skip_while(|b| *b == 0).collect() };
    let (n, e) = (without_zeros(n), without_zeros(e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeyError::RsaLength);
    }
    weak::check_rsa_exponent(&e)?;
    weak::check_rsa_modulus(&n, budget)?;
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}
