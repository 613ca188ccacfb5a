//! Warden: a zero-trust real-time gateway for multi-tenant applications on PostgreSQL.
//!
//! ```text
//!   browser ──upgrade──> http ──> auth                                    (one way in)
//!                         │        └─ Identity: the org of this session
//!                         └──> session <──joins── hub <──batches── events::source <── warden.events
//!                                  └──── outbox <──frames──┘                             ▲
//!                                                          triggers, warden.publish() ───┘
//! ```
//!
//! Imports run one way: `wire` and `events::cursor` know nobody; `hub` knows `wire`; `session` knows
//! `hub`, `wire` and `events`; `http` knows `auth` and `session`; `app` puts it together. The map of the
//! code and its invariants are in `ARCHITECTURE.md`.

pub mod app;
pub mod audit;
pub mod auth;
mod backoff;
pub mod cli;
pub mod config;
pub mod dev;
pub mod events;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod org;
pub mod postgres;
pub mod rate;
pub mod session;
pub mod shutdown;
mod sparse;
mod sync;
pub mod telemetry;
pub mod tenancy;
pub mod wire;
