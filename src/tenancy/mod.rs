//! Tenancy in a database that is there: what belongs to an organisation, and whether the database keeps it apart.
//!
//! It runs as the migrating role (the operator's `DATABASE_URL`), never as the gateway, and no session of a
//! tenant comes through here.

pub mod audit;
