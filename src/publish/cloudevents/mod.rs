//! CloudEvents 1.0 over HTTP, in its three content modes.
//!
//! | mode | recognised by | file |
//! |---|---|---|
//! | structured, batched | the media type | `structured` |
//! | binary | headers that begin with `ce-` | `binary` |
//!
//! `subject` names the topic and `type` the event. `source` and `id` together are the event's idempotency
//! key. Several problems of an event are found, so that its sender does not meet them one
//! by one.
//!
//! This is a parser of our own: the official crate accepts objects with the same key twice, reads numbers as
//! doubles, and stops at the first problem.

mod attributes;
mod binary;
mod structured;

pub use attributes::PROBLEMS_MAX;
pub use binary::{Header, parse as parse_binary};
pub use structured::{parse as parse_structured, parse_batch};
