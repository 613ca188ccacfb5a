//! Tools for development and tests that the gateway itself does not need.
//!
//! `warden dev`, the tests and the benchmarks use this crate. It does not depend on the gateway, and a
//! production build (`--no-default-features`) omits it.
//!
//! - [`cluster`] runs private PostgreSQL servers.
//! - [`simulate`] writes calls as a voice platform would.
//! - [`token`] signs development tokens.

pub mod cluster;
pub mod simulate;
pub mod token;
