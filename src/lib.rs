//! Warden: a zero-trust real-time gateway for multi-tenant applications on PostgreSQL.
//!
//! ```text
//!   browser ──upgrade──> http ──> auth                                    (one way in)
//!                         │        └─ Identity: the org of this session
//!                         └──> session <──joins── hub <──batches── tailer <── warden.events
//!                                  └──── outbox <──frames──┘                             ▲
//!                                                          triggers, warden.publish() ───┘
//! ```
//!
//! Imports run one way: `wire` and `cursor` import no other module; `hub` imports both;
//! `session` imports `hub`, `auth` and `replay`; `http` imports `session`; `app` composes all of them.
//! `tests/it/architecture` has the whole list and enforces it. `ARCHITECTURE.md` has the map of the code
//! and its invariants.

pub mod app;
pub mod audit_trail;
pub mod auth;
mod backoff;
mod capacity;
pub mod claims_sync;
pub mod cli;
pub mod config;
pub mod control;
pub mod cursor;
#[cfg(feature = "dev")]
pub mod dev;
pub mod filter;
pub mod http;
pub mod hub;
pub mod log;
pub mod metrics;
pub mod org;
pub mod postgres;
pub mod publish;
pub mod rate;
pub mod reading;
pub mod recordings;
pub mod replay;
pub mod retention;
mod service;
pub mod session;
pub mod shutdown;
mod sparse;
mod sync;
pub mod tailer;
pub mod telemetry;
pub mod tenancy;
pub mod watch_check;
pub mod wire;
