//! Filters: conditions on the columns of a row.
//!
//! - `syntax` parses a filter without knowing its table.
//! - `query` parses a filter in the form of a URL's query.
//! - `column` describes the columns of a table.
//! - `sql` writes a filter as a condition of a query.
//! - `compile` compiles a filter for a table. `evaluate` evaluates it on the `row` of an event, and `update`
//!   on both rows of an update. `value`, `number`, `moment` and `pattern` compare as PostgreSQL does.
//! - `index` finds those of many filters that select an event's row, by their `keys`. `verdict` is what the
//!   event means to them.
//! - `channel` is what one subscription asked for: a filter, and the columns that it `select`s.
//!
//! This module does no I/O.

mod channel;
mod column;
mod column_condition;
mod column_set;
mod compile;
mod error;
mod evaluate;
mod index;
mod indexed;
mod keys;
mod moment;
mod multiset;
mod number;
mod pattern;
mod query;
mod results;
mod row;
mod select;
mod sql;
mod syntax;
mod value;
mod verdict;

pub use channel::{ChannelFilter, EntityTopic, TableChecks, TableColumns};
pub use column::{Column, Columns};
pub use compile::Literals;
pub use error::FilterError;
pub(crate) use error::shortened;
pub use evaluate::{Filter, Outcome};
pub use index::FilterIndex;
pub use indexed::FilterId;
pub(crate) use multiset::Multiset;
pub(crate) use number::DIGITS_MAX;
pub(crate) use pattern::{FLOATING_CHARS_MAX, PATTERN_STEPS_MAX};
pub use query::{FilterQueryError, parse_query};
pub(crate) use query::{pairs, parameter};
pub use row::Row;
pub use select::Selection;
pub(crate) use sql::SqlBuilder;
pub(crate) use syntax::{CONDITIONS_MAX, DEPTH_MAX, FilterParser, LIST_VALUES_MAX};
pub use syntax::{Comparison, Condition, Test, Truth};
pub use verdict::{Change, SelectedRows, Verdict};
