//! A watched table as a user may read it. `warden.reading()` returns it.

use serde::Deserialize;

use super::error::{QueryError, ReadError};
use crate::filter::{Column, Columns, Condition, Filter};

/// Descriptions of tables in memory. Beyond this number the memory is cleared.
pub(crate) const TABLES_MAX: usize = 64;

/// Description of what may be read of a table. SQL in it is about the row `n`.
#[derive(Debug, Deserialize)]
pub(super) struct ReadableTable {
    /// Quoted name.
    pub(super) relation: String,
    /// Quoted name of the organisation's column.
    pub(super) org_column: String,
    /// Columns that identify a row within its organisation. They are never null.
    pub(super) key: Vec<Column>,
    /// Visible columns.
    pub(super) columns: Columns,
    /// Expression of the row's document.
    pub(super) document: String,
    /// Expression of its key, which is sent if the document is too large.
    pub(super) key_document: String,
}

impl ReadableTable {
    /// Parses what `warden.reading()` returned.
    pub(super) fn parse(described: Option<serde_json::Value>) -> Result<Self, ReadError> {
        let described = described.ok_or(ReadError::UnknownTopic)?;
        if let Some(problem) = described.get("problem").and_then(serde_json::Value::as_str) {
            return Err(ReadError::NotReadable(problem.to_owned()));
        }
        serde_json::from_value(described)
            .map_err(|error| ReadError::NotReadable(format!("warden.reading(): {error}")))
    }
}

impl ReadableTable {
    /// Checks that conditions which a token requires can be evaluated on events, so that pages and events
    /// have the same rows.
    pub(super) fn check_signed(&self, topic: &str, conditions: &[Condition]) -> Result<(), ReadError> {
        let checked = Filter::literals(conditions, &self.columns).map_err(QueryError::from);
        checked.map(drop).map_err(|error| ReadError::from(error).of_signed(topic))
    }
}

#[cfg(test)]
impl ReadableTable {
    /// A table with the key `id` and these columns.
    pub(super) fn for_tests(columns: &[(&str, &str)]) -> Self {
        let parsed = Columns::for_tests(columns);
        let key = parsed.find("id").expect("a key").clone();
        Self {
            relation: "public.t".into(),
            org_column: "org_id".into(),
            key: vec![key],
            columns: parsed,
            document: "d".into(),
            key_document: "k".into(),
        }
    }
}
