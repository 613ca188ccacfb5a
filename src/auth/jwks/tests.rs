//! Tests of published key sets: accepted keys, skipped keys and rejected documents.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use num_bigint::BigUint;
use serde_json::{Value, json};

use super::*;
use crate::auth::Alg;

pub(super) fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A good key on P-256: twice the generator.
pub(super) fn ec() -> Value {
    let (x, y) =
        ("fPJ7GI0DT36KUjgDBLUaw8CJaeJ38hs1pgtI_EdmmXg", "B3dVENuO0EApPZrGn3Qw27p9reY86YIpngS3nSJ4c9E");
    json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "1"})
}

/// A good RSA key of this length: a number without small factors that is neither prime nor a square.
pub(super) fn rsa_of(bits: u64) -> Value {
    let mut n = (BigUint::from(3_u32) << (bits - 2)) + 1_u32;
    while weak::check_rsa_modulus(&n.to_bytes_be(), &mut weak::CheckBudget::default()).is_err() {
        n += 2_u32;
    }
    json!({"kty": "RSA", "n": encoded(&n.to_bytes_be()), "e": "AQAB", "kid": "1"})
}

/// A good Ed25519 key: twice the generator.
pub(super) fn ed() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": "yaP4aq5GXw5WUThkUQ85l1YfosnoXqIdwikjCfPNYCI", "kid": "1"})
}

pub(super) fn with(mut key: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().expect("an object") {
        key[name] = value.clone();
    }
    key
}

pub(super) fn parsed(keys: &[Value]) -> Jwks {
    Jwks::parse(json!({"keys": keys, "other": 1}).to_string().as_bytes()).expect("a key set")
}

/// Parses a document with this key: its algorithm, or the reason why it was skipped.
pub(super) fn parse_one(key: Value) -> Result<Alg, KeyError> {
    let jwks = parsed(&[key]);
    match (jwks.keys.first(), jwks.skipped.first()) {
        (Some(key), None) => Ok(key.alg),
        (None, Some((0, error))) => Err(*error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn public_keys_of_the_three_algorithms_are_accepted() {
    for (key, alg) in [(ec(), Alg::Es256), (rsa_of(2048), Alg::Rs256), (ed(), Alg::EdDsa)] {
        assert_eq!(parse_one(key.clone()), Ok(alg));
        let more = json!({"use": "sig", "key_ops": ["verify", "x"], "x5u": "http://x", "x5c": ["y"]});
        assert_eq!(parse_one(with(key.clone(), &more)), Ok(alg));
        let none = json!({"use": null, "key_ops": null, "alg": null, "kid": null, "d": null});
        assert_eq!(parse_one(with(key, &none)), Ok(alg));
    }
    for (key, name) in [(ec(), "ES256"), (rsa_of(2048), "RS256"), (ed(), "EdDSA"), (ed(), "Ed25519")] {
        assert!(parse_one(with(key, &json!({"alg": name}))).is_ok(), "{name}");
    }
}

#[test]
fn keys_for_other_purposes_are_skipped() {
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
            assert_eq!(parse_one(with(key.clone(), &changes)), Err(error), "{changes}");
        }
    }
    for field in ["p", "q", "dp", "dq", "qi", "oth"] {
        assert_eq!(parse_one(with(rsa_of(2048), &json!({field: "AQAB"}))), Err(KeyError::Private));
    }
    // A key cannot name the algorithm of another key type.
    assert_eq!(parse_one(with(ec(), &json!({"alg": "RS256"}))), Err(KeyError::Algorithm));
    assert_eq!(parse_one(with(rsa_of(2048), &json!({"alg": "ES256"}))), Err(KeyError::Algorithm));
}

#[test]
fn key_material_must_have_the_right_length() {
    for (bits, is_accepted) in
        [(1024, false), (2047, false), (2048, true), (4096, true), (8192, true), (8193, false)]
    {
        assert_eq!(parse_one(rsa_of(bits)).is_ok(), is_accepted, "{bits}");
    }
    // Leading zeros do not count as key length.
    let padded = encoded(&[vec![0; 128], vec![0xff; 128]].concat());
    assert_eq!(parse_one(with(rsa_of(2048), &json!({"n": padded}))), Err(KeyError::RsaLength));
    assert_eq!(parse_one(with(rsa_of(2048), &json!({"e": "*"}))), Err(KeyError::Malformed));
    for short in [encoded(&[1; 31]), encoded(&[1; 33]), String::new(), "*".into(), encoded(&[1; 32]) + "="] {
        assert_eq!(parse_one(with(ec(), &json!({"x": short}))), Err(KeyError::Malformed), "{short}");
        assert_eq!(parse_one(with(ed(), &json!({"x": short}))), Err(KeyError::Malformed), "{short}");
    }
    assert_eq!(parse_one(with(ec(), &json!({"y": null}))), Err(KeyError::Malformed));
}

#[test]
fn an_invalid_key_does_not_affect_the_others() {
    let jwks = parsed(&[json!(7), json!({}), ec(), ec(), ed()]);
    let accepted: Vec<_> = jwks.keys.iter().map(|key| key.alg).collect();
    assert_eq!(accepted, [Alg::Es256, Alg::EdDsa]);
    assert_eq!(jwks.skipped, [(0, KeyError::Malformed), (1, KeyError::Malformed), (3, KeyError::Duplicate)]);
}

#[test]
fn a_document_must_be_a_key_set_of_limited_size() {
    for invalid in
        ["", "[]", "[[]]", "{}", "null", "<html>", "{\"keys\":{}}", "{\"keys\":null}", "{\"keys\":[]} x"]
    {
        assert_eq!(Jwks::parse(invalid.as_bytes()).err(), Some(JwksError::NotAKeySet), "{invalid}");
    }
    assert!(Jwks::parse(b"{\"keys\":[]}").expect("a key set").keys.is_empty());
    let many = |n| json!({"keys": vec![7; n]}).to_string();
    assert_eq!(Jwks::parse(many(65).as_bytes()).err(), Some(JwksError::TooMany(65)));
    assert!(Jwks::parse(many(64).as_bytes()).is_ok());
}
