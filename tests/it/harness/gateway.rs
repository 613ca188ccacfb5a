//! Gateways in the test's process, each on ports of its own.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use uuid::Uuid;
use warden::app::Gateway;
use warden::auth::{IssuerConfig, KeyServerUrl, VerifierConfig};
use warden::config::{Config, Edge, Limits};
use warden::log::TailerState;

use super::{Client, TestDb, TestKeyServer, capture_logs, keep_secret, within};

/// Signs every token that the test gateways accept.
pub const SECRET: &str = "a test secret of more than 32 bytes";
/// Audience of these tokens.
pub const AUDIENCE: &str = "authenticated";

/// Claims of a valid token.
pub fn claims(org: Uuid) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    json!({
        "sub": "11111111-1111-4111-8111-111111111111",
        "aud": AUDIENCE,
        "role": "authenticated",
        "iat": now,
        "exp": now + 3600,
        "app_metadata": {"org_id": org},
    })
}

/// Signs any claims with an HMAC algorithm and a secret. No log line may contain the token afterwards.
pub fn sign(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
    let token =
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).expect("signs");
    keep_secret(secret);
    keep_secret(&token);
    for part in token.split('.') {
        keep_secret(part);
    }
    token
}

/// Signs a valid token with these changed claims. `null` removes a claim.
pub fn token(org: Uuid, changes: &Value) -> String {
    let mut claims = claims(org);
    let object = claims.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            object.remove(name);
        } else {
            object.insert(name.clone(), value.clone());
        }
    }
    sign(&claims, Algorithm::HS256, SECRET)
}

/// Configuration of an issuer whose keys a test server publishes.
pub trait IssuerExt {
    fn issuer(&self, name: &str) -> IssuerConfig;
}

impl IssuerExt for TestKeyServer {
    fn issuer(&self, name: &str) -> IssuerConfig {
        IssuerConfig {
            issuer: Some(name.into()),
            audience: AUDIENCE.into(),
            jwks_url: Some(KeyServerUrl::parse(&self.url(), false).expect("a URL")),
            ..IssuerConfig::default()
        }
    }
}

/// A gateway and its database.
pub struct TestGateway {
    pub db: TestDb,
    pub gateway: Gateway,
}

impl TestGateway {
    /// Starts a gateway on a new database, with the default limits.
    pub async fn start() -> Self {
        Self::start_with(TestDb::create().await, |_| {}).await
    }

    /// Starts a gateway on this database, with a changed configuration.
    pub async fn start_with(db: TestDb, change: impl FnOnce(&mut Config)) -> Self {
        let gateway = Self::gateway(&db, change).await;
        Self { db, gateway }
    }

    /// Starts another gateway on a database, and waits until it follows the log.
    pub async fn gateway(db: &TestDb, change: impl FnOnce(&mut Config)) -> Gateway {
        let gateway = Self::try_gateway(db, change).await.expect("the gateway starts");
        let mut reader = gateway.reader();
        within("the gateway follows the log", reader.wait_for(|s| *s == TailerState::Following))
            .await
            .expect("runs");
        gateway
    }

    /// Tries to start a gateway, and does not wait until it follows the log.
    pub async fn try_gateway(db: &TestDb, change: impl FnOnce(&mut Config)) -> anyhow::Result<Gateway> {
        capture_logs();
        keep_secret(SECRET);
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config {
            database: warden::postgres::options(db.gateway_url()).expect("a URL"),
            verifier: VerifierConfig::hs256(SECRET, AUDIENCE, None),
            topics_need_claim: Vec::new(),
            listen: any_port,
            admin_listen: any_port,
            allowed_origins: vec!["http://app.example".into(), "capacitor://localhost".into()],
            edge: Edge::default(),
            limits: Limits::default(),
        };
        // Tests cause hundreds of rejections. The test of the delay sets its own.
        config.limits.admission.rejection_delay = Duration::ZERO;
        change(&mut config);
        Gateway::start(config).await
    }

    /// Opens a session of this organisation.
    pub async fn connect(&self, org: Uuid) -> Client {
        Client::connect(self.gateway.public_addr(), &token(org, &json!({}))).await
    }
}
