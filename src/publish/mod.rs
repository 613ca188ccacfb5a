//! Publishing for back ends: the events of one request, and the call that publishes them within one
//! organisation.
//!
//! | file | job |
//! |---|---|
//! | `batch` | the events of a request, and what is wrong with them |
//! | `cloudevents` | CloudEvents as events |
//! | `json` | the gateway's own JSON form of events |
//! | `strict` | rules for JSON that must reach PostgreSQL unchanged |
//! | `key` | idempotency keys |
//! | `share` | memory and turns of each organisation |
//! | `store` | the database function that publishes |
//!
//! This module knows no HTTP, and cannot publish beyond the organisation of its caller.

mod batch;
pub mod cloudevents;
mod json;
mod key;
mod share;
mod store;
mod strict;

pub use batch::{BodyError, EventBatch, FORBIDDEN_TOPIC, Problem};
pub use json::parse as parse_json;
pub use key::{IdempotencyKey, InvalidKey, KEY_BYTES_MAX};
pub use share::{PublishShares, Reservation, SMALL_BODY_BYTES_MAX};
pub use store::{Caller, PublishError, PublishLimits, Published, PublishedEvent, Publisher};
pub use strict::{DEPTH_MAX, KEYS_MAX, NUMBER_DIGITS_MAX};
