//! The cost of verifying one token by algorithm: the gateway's own verifier, with keys in memory.
//!
//! `cargo bench --bench verify`. To measure another crypto library, replace the feature of `jsonwebtoken` in
//! Cargo.toml (`aws_lc_rs` or `rust_crypto`) and run it again.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use warden::auth::{IssuerConfig, KeyServerUrl, Readiness, Token, Verifier, VerifierConfig};
use warden::config::Limits;
use warden::metrics::Metrics;
use warden_testkit::keys::{IssuerKey, TestKeyServer};

/// Claim `aud` of the tokens.
const AUDIENCE: &str = "authenticated";
const ISSUER: &str = "https://project.supabase.co/auth/v1";
const SECRET: &str = "the benchmark's secret of 32 bytes";

const ALGORITHMS: [&str; 4] = ["HS256", "RS256", "ES256", "EdDSA"];

struct Bench {
    verifier: Arc<Verifier>,
    tokens: Vec<(&'static str, Token)>,
}

static BENCH: LazyLock<Bench> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let keys = [IssuerKey::rs256(), IssuerKey::es256(), IssuerKey::eddsa()];
        let server = TestKeyServer::start(&keys.each_ref().map(|key| key.jwk("1"))).await;
        let issuer = IssuerConfig {
            issuer: Some(ISSUER.to_owned()),
            audience: AUDIENCE.to_owned(),
            jwks_url: Some(KeyServerUrl::parse(&server.url(), false).expect("a URL")),
            secrets: vec![SECRET.to_owned()],
            ..IssuerConfig::default()
        };
        let config = VerifierConfig { issuers: vec![issuer] };
        let limits = Limits::default();
        let verifier =
            Verifier::new(&config, limits.keys, limits.token_bytes_max, &Arc::new(Metrics::default()));
        let verifier = Arc::new(verifier.expect("a verifier"));
        let fetchers: Vec<_> = verifier.key_fetchers().into_iter().map(tokio::spawn).collect();
        while verifier.readiness() != Readiness::Ready {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fetchers.iter().for_each(tokio::task::JoinHandle::abort);
        let secret = EncodingKey::from_secret(SECRET.as_bytes());
        let hs256 = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &secret).expect("signs");
        let mut tokens = vec![("HS256", Token::new(hs256))];
        tokens.extend(keys.iter().map(|key| (key.alg(), Token::new(key.sign("1", &claims())))));
        Bench { verifier, tokens }
    })
});

/// The claims that Supabase Auth writes, without those that the gateway ignores.
fn claims() -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    json!({
        "iss": ISSUER,
        "sub": "11111111-1111-4111-8111-111111111111",
        "aud": AUDIENCE,
        "role": "authenticated",
        "session_id": "22222222-2222-4222-8222-222222222222",
        "email": "somebody@example.com",
        "iat": now,
        "exp": now + 86_400,
        "app_metadata": {"provider": "email", "org_id": "33333333-3333-4333-8333-333333333333"},
        "user_metadata": {"name": "Somebody"},
    })
}

#[divan::bench(args = ALGORITHMS)]
fn verify(bencher: divan::Bencher<'_, '_>, algorithm: &str) {
    let (_, token) = BENCH.tokens.iter().find(|(name, _)| *name == algorithm).expect("a token");
    bencher.bench(|| BENCH.verifier.verify_now(divan::black_box(token)).expect("a good token"));
}

fn main() {
    divan::main();
}
