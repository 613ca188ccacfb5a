//! Tables of tenants for tests: what the catalogs say of them, valid rows for any of them, and every way
//! to break what keeps them apart. It knows no table by name, so that a table which an application
//! adopts is covered as the platform's are.

mod catalog;
mod mutations;
mod rows;

pub use catalog::quote;
pub use catalog::{Schema, Table};
pub use mutations::{Mutation, mutations};
pub use rows::{Insert, RowMaker, candidates};
