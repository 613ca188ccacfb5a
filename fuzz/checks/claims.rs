//! Verification of tokens with any header and any claims. For every input: no panic, and a token without a
//! valid signature is rejected. If a signed token is accepted, a second, simpler parser must find the same
//! claims, and the same token in a URL must be recognised under any name.
//!
//! An input is a header and claims, one line each. Without a header line the usual header is signed.

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use axum::http::{HeaderMap, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::Value;
use warden::auth::{CredentialError, Identity, SignedFilter, Token, Verifier, VerifierConfig, find};
use warden::config::Limits;
use warden::metrics::Metrics;

const SECRET: &str = "a secret of more than thirty-two bytes";
const USUAL_HEADER: &[u8] = br#"{"alg":"HS256","typ":"JWT"}"#;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let config = VerifierConfig::hs256(SECRET, "authenticated", Some("https://issuer.example"));
    let limits = Limits::default();
    Verifier::new(&config, limits.keys, limits.token_bytes_max, &Arc::new(Metrics::default()))
        .expect("a verifier")
});

pub(crate) fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(
            VERIFIER.verify_now(&Token::new(text)).is_err(),
            "a token without a valid signature was accepted: {text}"
        );
    }
    let (header, claims) = match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (&b""[..], data),
    };
    let header = if header.is_empty() { USUAL_HEADER } else { header };
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("a secret signs");
    let token = format!("{message}.{signature}");
    if let Ok(identity) = VERIFIER.verify_now(&Token::new(token.as_str())) {
        let uri: Uri = format!("/?room={token}").parse().expect("base64url and dots");
        let found = find(&uri, &HeaderMap::new(), None);
        assert!(matches!(found, Err(CredentialError::InUrl(_))), "an accepted token passes in a URL: {uri}");
        let header = std::str::from_utf8(header).expect("an accepted header is UTF-8");
        if let Ok(header) = serde_json::from_str::<Value>(header) {
            assert_eq!(header["alg"], "HS256");
            assert!(header.get("crit").is_none(), "{header}");
        }
        let claims = std::str::from_utf8(claims).expect("accepted claims are UTF-8");
        // Some valid JSON (huge numbers, lone surrogates) cannot be parsed into a Value. It is harmless in
        // claims that nobody reads.
        if let Ok(claims) = serde_json::from_str(claims) {
            assert_same_claims(&identity, &claims);
        }
    }
    // The same token with another signature must be rejected.
    let unsigned = Token::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode([0; 32])));
    assert!(VERIFIER.verify_now(&unsigned).is_err());
}

/// Compares an identity with claims that were parsed a second time.
fn assert_same_claims(identity: &Identity, claims: &Value) {
    assert_eq!(claims["iss"], "https://issuer.example", "{claims}");
    assert_eq!(claims["sub"].as_str(), Some(identity.subject.as_str()), "{claims}");
    let has_audience = match &claims["aud"] {
        Value::Array(list) => list.iter().any(|one| one == "authenticated"),
        one => one == "authenticated",
    };
    assert!(has_audience, "{claims}");
    let seconds =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let exp = claims["exp"].as_f64().expect("exp is a number");
    assert!(exp > seconds(SystemTime::now()) - 1.0, "{claims}");
    assert!((exp - seconds(identity.expires_at)).abs() < 1e-3, "{claims}");
    for name in ["nbf", "iat"] {
        assert!(claims.get(name).is_none_or(|time| time.as_f64().is_some_and(|t| t >= 0.0)), "{claims}");
    }
    assert_eq!(claims.get("iat").is_some(), identity.issued_at.is_some(), "{claims}");
    let metadata = &claims["app_metadata"];
    let org = metadata["org_id"].as_str().expect("org_id is a string");
    assert!(org.eq_ignore_ascii_case(&identity.org.to_string()), "{claims}");
    assert_eq!(
        claims.get("session_id").map(|id| id.as_str().map(str::to_owned)),
        identity.session_id.clone().map(Some)
    );
    assert_eq!(
        identity.is_service,
        claims.get("role").is_some_and(|role| role == "service_role"),
        "{claims}"
    );
    assert_eq!(identity.filters.is_present(), metadata.get("warden_filters").is_some(), "{claims}");
    for (topic, filter) in metadata["warden_filters"].as_object().into_iter().flatten() {
        let is_all = identity.filters.of(topic) == Some(&SignedFilter::All);
        assert!(identity.filters.of(topic).is_some() && is_all == (filter == "*"), "{claims}");
    }
    match metadata.get("warden_topics") {
        None => assert!(!identity.topics.is_present()),
        Some(list) => {
            assert!(identity.topics.is_present());
            let list = list.as_array().expect("an accepted claim is a list");
            assert!(
                list.iter().all(|topic| identity.topics.names(topic.as_str().expect("a list of strings")))
            );
            let lists = |name: &str| list.iter().any(|topic| topic == name || topic == "*");
            for name in ["org", "calls", "recordings"] {
                assert_eq!(identity.topics.names(name), lists(name), "{claims}");
            }
        }
    }
}
