//! The test harness: one private PostgreSQL per run, one database per test, gateways in the test's process,
//! and clients that share no code with the gateway (`warden_testkit`).
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
//! Tests do not sleep. Every wait has a deadline ([`DEADLINE`]). To show that an unwanted event was not
//! delivered, a test publishes a marker after it and expects only the marker ([`Client::expect_only`]).

mod cursors;
mod database;
mod documented;
mod dump;
mod gateway;
mod http;
mod logs;
pub mod managed;
mod node;
mod pooler;
mod rotation;
mod sample;
pub mod tenancy;
mod tls;
mod witness;

pub use database::{TestDb, backend_peak, cluster_options, shared_cluster_url};
pub use dump::pg_dump;
pub use gateway::{AUDIENCE, IssuerExt, SECRET, TestGateway, claims, sign, token};
pub use http::{Answer, Post, Upgrade, urls_with};
pub use logs::{LogCapture, capture_logs, contains_secret, keep_secret};
pub use node::{Node, status};
pub use pooler::Pooler;
pub use rotation::{rotate_log, rotate_once};
pub use sample::{Sample, is_full};
pub use tls::{Authority, TlsServer, Validity};
pub use warden_testkit::keys::{Answer as KeyAnswer, IssuerKey, TestKeyServer};
pub use warden_testkit::phoenix::{ConnectError, handshake};
pub use warden_testkit::{Client, DEADLINE, Event, PostgresProxy, eventually, within};
pub use witness::Witness;
