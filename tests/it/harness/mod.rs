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

mod database;
mod gateway;
mod http;
mod logs;
mod pooler;
pub mod tenancy;

pub use database::{TestDb, cluster_options, shared_cluster_url};
pub use gateway::{AUDIENCE, IssuerExt, SECRET, TestGateway, claims, sign, token};
pub use http::{Answer, Upgrade, urls_with};
pub use logs::{LogCapture, gives_away, keep_secret, watch};
pub use pooler::Pooler;
pub use warden_testkit::keys::{Answer as KeyAnswer, IssuerKey, TestKeyServer};
pub use warden_testkit::phoenix::{ConnectError, handshake};
pub use warden_testkit::{Client, DEADLINE, Event, PostgresProxy, eventually, within};
