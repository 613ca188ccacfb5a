//! Connections to PostgreSQL as libpq makes them: connection strings in all their forms, and TLS.
//!
//! This crate knows nothing of the gateway. No error repeats any part of a connection string that may be a
//! password: a mistyped string may contain the password in any place.
//!
//! - [`mod@parse`] reads connection strings, `PG*` variables, service files and password files.
//! - `address` holds what is known of one server, and the options with which sqlx connects to it.
//! - `tunnel` encrypts. sqlx connects to a tunnel, and the tunnel to the server.
//! - `negotiation` decides between TLS and plain text, in libpq's order.
//! - `failure` is the reason why there is no connection.
//! - `shown_path` shows paths of files only if they exist.
//! - `tls` verifies the server's certificate.
//! - `authentication` binds the password to the TLS connection, by the calculations of `scram`.

mod address;
mod authentication;
mod environment;
mod failure;
mod negotiation;
mod parse;
mod scram;
mod shown_path;
mod tls;
mod tunnel;

pub use address::{Address, Link};
pub use environment::Environment;
pub use parse::parse;
pub use shown_path::ShownPath;
pub use tunnel::{BUFFER_BYTES, CLOSE_TIMEOUT, NEGOTIATION_TIMEOUT};

/// Most addresses in one connection string. The gateway connects to all of them at once whenever it looks for
/// the primary.
pub const ADDRESSES_MAX: usize = 16;
