//! Responses of a key server. For every input: no panic, all limits hold, no secret and no private key is
//! accepted, and parsing twice gives the same result.

use serde_json::Value;
use warden::auth::{Alg, JWKS_KEYS_MAX, Jwks, KID_BYTES_MAX};

pub(crate) fn run(data: &[u8]) {
    let Ok(jwks) = Jwks::parse(data) else { return };
    // Some valid JSON (huge numbers, lone surrogates) cannot be parsed into a Value.
    let Ok(document) = serde_json::from_slice::<Value>(data) else { return };
    assert!(document.is_object(), "{document}");
    let listed = document["keys"].as_array().expect("a list of keys");
    assert!(listed.len() <= JWKS_KEYS_MAX);
    assert_eq!(jwks.keys.len() + jwks.skipped.len(), listed.len(), "each key is accepted or skipped");
    let accepted = listed
        .iter()
        .enumerate()
        .filter(|(n, _)| jwks.skipped.iter().all(|(at, _)| at != n))
        .map(|(_, key)| key);
    for (key, jwk) in jwks.keys.iter().zip(accepted) {
        let expected = match jwk["kty"].as_str() {
            Some("RSA") => Alg::Rs256,
            Some("EC") => Alg::Es256,
            Some("OKP") => Alg::EdDsa,
            other => panic!("a key of type {other:?} was accepted"),
        };
        assert_eq!(key.alg, expected);
        assert_eq!(key.kid.as_deref(), jwk["kid"].as_str());
        assert!(key.kid.as_ref().is_none_or(|kid| kid.len() <= KID_BYTES_MAX));
        for private in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            assert!(jwk.get(private).is_none_or(Value::is_null), "{jwk}");
        }
        assert!(jwk.get("use").is_none_or(|usage| usage.is_null() || usage == "sig"), "{jwk}");
    }
    for (n, key) in jwks.keys.iter().enumerate() {
        let is_same = |other: &&warden::auth::PublicKey| other.alg == key.alg && other.kid == key.kid;
        assert!(
            key.kid.is_none() || jwks.keys[..n].iter().find(is_same).is_none(),
            "two keys have the same name: {key:?}"
        );
    }
    let again = Jwks::parse(data).expect("parses as before");
    assert_eq!(format!("{again:?}"), format!("{jwks:?}"));
}
