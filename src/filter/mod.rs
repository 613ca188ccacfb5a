//! Filters: conditions on the columns of a row.
//!
//! - `syntax` parses a filter without knowing its table.
//! - `column` describes the columns of a table.
//! - `sql` writes a filter as a condition of a query.
//!
//! This module does no I/O.

mod column;
mod error;
mod sql;
mod syntax;

pub(crate) use column::{Column, Columns};
pub use error::FilterError;
pub(crate) use error::shortened;
pub(crate) use sql::SqlBuilder;
pub(crate) use syntax::{CONDITIONS_MAX, DEPTH_MAX, FilterParser, LIST_VALUES_MAX};
pub use syntax::{Comparison, Condition, Test, Truth};
