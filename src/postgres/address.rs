//! Addresses of the database: what `DATABASE_URL` and libpq's environment say. It opens no connection.

use anyhow::Context as _;
use warden_connect::{Address, Environment};

/// Most addresses in one URL. The gateway connects to all of them at once whenever it looks for the primary.
pub(crate) const ADDRESSES_MAX: usize = warden_connect::ADDRESSES_MAX;

/// Addresses at which the primary may be.
#[derive(Clone, Debug)]
pub struct Addresses(pub(super) Vec<Address>);

/// Parses a connection string in one of libpq's forms, such as `postgres://user:password@host:5432/database`
/// or `host=... dbname=...`, and completes it from libpq's environment: `PG*` variables, service and password
/// files. Several addresses are given as `host1:5432,host2:5433` or `?host=host1,host2&port=5432,5433`.
///
/// # Errors
/// If the string is invalid. The message does not repeat the string, which may contain a password.
pub fn options(url: &str) -> anyhow::Result<Addresses> {
    warden_connect::parse(url, &Environment::of_process()).context("DATABASE_URL").map(Addresses)
}
