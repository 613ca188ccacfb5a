//! The test harness: a PostgreSQL of its own for the run, a database for each test, gateways in the
//! test's process, and clients that speak the protocol without sharing code with the gateway.
//!
//! ```ignore
//! let t = TestGateway::start().await;            // database, migrations, gateway
//! let org = t.db.create_org().await;
//! let mut client = t.connect(org).await;         // authenticated socket
//! client.join("calls").await;
//! let call = t.db.insert_call(org).await;
//! let event = client.expect_event("calls", "call.created").await;
//! ```
//!
//! Nothing here sleeps: whatever is awaited has [`DEADLINE`], and what must not come is shown by what
//! comes instead ([`Client::expect_only`]).

mod client;
mod database;
mod gateway;
mod http;
mod keys;
mod logs;
mod pooler;
mod proxy;
pub mod tenancy;

use std::time::Duration;

pub use client::{Client, Event, connect_raw, handshake};
pub use database::{TestDb, cluster_options, shared_cluster_url};
pub use gateway::{AUDIENCE, SECRET, TestGateway, claims, sign, token};
pub use http::{Answer, Upgrade, urls_with};
pub use keys::{Answer as KeyAnswer, IssuerKey, TestKeyServer};
pub use logs::{LogCapture, gives_away, keep_secret, watch};
pub use pooler::Pooler;
pub use proxy::Proxy;

/// How long anything may take before a test fails: far beyond what it takes, for busy machines.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits with [`DEADLINE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Polls a condition with [`DEADLINE`].
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    within(what, async {
        let mut interval = tokio::time::interval(Duration::from_millis(10));
        while !condition().await {
            interval.tick().await;
        }
    })
    .await;
}
