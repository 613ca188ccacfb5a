//! Tenant tables for tests: their description from the catalogs, valid rows for any of them, and every way to
//! break their isolation. No table is named here, so a table that an application adopts is covered like the
//! platform's.

mod catalog;
mod mutations;
mod rows;

pub use catalog::quote;
pub use catalog::{Schema, Table};
pub use mutations::{Mutation, mutations};
pub use rows::{Insert, RowMaker, candidates};
