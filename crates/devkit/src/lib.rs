//! Tools for development and tests that the gateway itself does not need.
//!
//! `warden dev`, the tests and the benchmarks use this crate; it does not depend on the gateway, and a
//! production build (`--no-default-features`) does not contain it.

pub mod cluster;
pub mod simulate;
pub mod token;
