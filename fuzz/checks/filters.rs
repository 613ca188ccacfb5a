//! Filters of a token (`app_metadata.warden_filters`). No filter may cause a panic. The claims that a filter
//! names change its values alone: with other claims it has the same form, or is rejected.

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use warden::auth::{FilterClaim, SignedFilter, Token, Verifier, VerifierConfig};
use warden::config::Limits;
use warden::filter::{Condition, Test};
use warden::metrics::Metrics;

const SECRET: &str = "a secret of more than thirty-two bytes";

/// Limits of `docs/limits.md`.
const CONDITIONS_MAX: usize = 64;
const LIST_VALUES_MAX: usize = 500;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let config = VerifierConfig::hs256(SECRET, "authenticated", None);
    let limits = Limits::default();
    Verifier::new(&config, limits.keys, limits.token_bytes_max, &Arc::new(Metrics::default()))
        .expect("a verifier")
});

pub(crate) fn run(filter: &str) {
    let plain = accepted(filter, "a", &json!(["a", "b"]));
    let odd = accepted(filter, "x),or=(id.is.not_null&\"*%$sub", &json!(["a,b)", "$role"]));
    let (Some(plain), Some(odd)) = (&plain, &odd) else {
        // The length of a value may exceed a limit.
        assert!(plain.is_none() || odd.is_none());
        return;
    };
    match (plain.of("items"), odd.of("items")) {
        (Some(SignedFilter::All), Some(SignedFilter::All)) => assert_eq!(filter, "*"),
        (Some(SignedFilter::Rows(plain)), Some(SignedFilter::Rows(odd))) => {
            assert!(!plain.conditions.is_empty() && filter != "*");
            let (mut conditions, mut values) = (0, 0);
            assert_eq!(plain.conditions.len(), odd.conditions.len());
            for (plain, odd) in plain.conditions.iter().zip(odd.conditions.iter()) {
                assert_same_form(plain, odd, &mut conditions, &mut values);
            }
            assert!(conditions <= CONDITIONS_MAX && values <= LIST_VALUES_MAX);
        }
        other => panic!("{other:?}"),
    }
}

/// The claim with this filter, in a token with these claims.
fn accepted(filter: &str, sub: &str, teams: &Value) -> Option<FilterClaim> {
    let exp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() + 60;
    let claims = json!({
        "sub": sub, "aud": "authenticated", "exp": exp, "role": sub,
        "app_metadata": {"org_id": "a0000000-0000-0000-0000-000000000001", "team": sub, "teams": teams,
                         "warden_filters": {"items": filter}}
    });
    let parts =
        [r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
    let message = parts.join(".");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("a secret signs");
    let identity = VERIFIER.verify_now(&Token::new(format!("{message}.{signature}"))).ok()?;
    assert!(identity.filters.is_present(), "a filter that is not enforced: {filter:?}");
    Some(identity.filters)
}

fn assert_same_form(plain: &Condition, odd: &Condition, conditions: &mut usize, values: &mut usize) {
    *conditions += 1;
    assert_eq!(plain.is_negated, odd.is_negated);
    match (&plain.test, &odd.test) {
        (Test::Compare(column, comparison, value), Test::Compare(other, compared, changed)) => {
            assert_eq!((column, comparison), (other, compared));
            assert!(value == changed || !comparison.is_pattern(), "a claim in a pattern: {changed:?}");
            assert!(value == changed || value == "a", "{value:?} {changed:?}");
        }
        (Test::In(column, list), Test::In(other, changed)) => {
            assert_eq!((column, list.len()), (other, changed.len()));
            *values += list.len();
        }
        (Test::Is(column, truth), Test::Is(other, is)) => assert_eq!((column, truth), (other, is)),
        (Test::All(members), Test::All(others)) | (Test::Any(members), Test::Any(others)) => {
            assert_eq!(members.len(), others.len());
            for (plain, odd) in members.iter().zip(others) {
                assert_same_form(plain, odd, conditions, values);
            }
        }
        other => panic!("{other:?}"),
    }
}
