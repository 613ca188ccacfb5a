//! A watched table as a user may read it. `warden.reading()` returns it.

use std::collections::HashMap;

use serde::Deserialize;

use super::error::{QueryError, ReadError};
use super::request::RowRequest;
use crate::filter::{Column, Columns, EntityTopic, Filter};

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
    /// The entity topic that its events reach.
    pub(super) entity: Option<EntityTopic>,
    /// Expression of the row's document.
    pub(super) document: String,
    /// Expression of its key, which is sent if the document is too large.
    pub(super) key_document: String,
    /// Expression of the document without the columns whose values `jsonb` cannot represent.
    pub(super) partial_document: String,
    /// Conditions of columns that can be ordered and have values of any length: the value is null, or short
    /// enough for a position.
    pub(super) position_conditions: HashMap<String, String>,
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
    /// Checks the conditions that a token requires, if there are any. They can be evaluated on events, so
    /// pages and events have the same rows. With them, a request may not name columns whose computation may
    /// fail.
    pub(super) fn check_signed(&self, topic: &str, request: &RowRequest) -> Result<(), ReadError> {
        let RowRequest { signed, conditions, order, .. } = request;
        if signed.is_empty() {
            return Ok(());
        }
        let checked =
            Filter::literals(signed, &self.columns).and_then(|_| self.columns.expect_stored(signed));
        checked.map_err(|error| ReadError::from(QueryError::from(error)).of_signed(topic))?;
        self.columns.expect_stored(conditions).map_err(QueryError::from)?;
        for term in order {
            self.columns.find(&term.column).and_then(Column::expect_stored).map_err(QueryError::from)?;
        }
        Ok(())
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
            entity: None,
            document: "d".into(),
            key_document: "k".into(),
            partial_document: "p".into(),
            position_conditions: HashMap::from([("a\"b".into(), "c".into())]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_columns_decide_nothing_beside_the_filters_of_a_token() {
        let table = ReadableTable::for_tests(&[("id", "bigint"), ("a", "text"), ("virtual_n", "integer")]);
        let check = |signed: &str, query: &str| {
            let mut request = RowRequest::parse(query).expect("parses");
            request.signed = RowRequest::parse(signed).expect("parses").conditions;
            table.check_signed("items", &request).map_err(|error| (error.code(), error.to_string()))
        };
        let queries =
            ["virtual_n=eq.1", "or=(a.eq.x,and(id.eq.1,virtual_n.not.is.null))", "order=a,virtual_n.desc"];
        for query in queries {
            let (code, message) = check("a=eq.x", query).expect_err(query);
            assert!(code == "invalid_query" && message.contains("virtual_n"), "{query} {message}");
            assert_eq!(check("", query), Ok(()), "{query}");
        }
        assert_eq!(check("a=eq.x", "select=virtual_n&id=eq.1&order=a"), Ok(()));
        let (code, message) = check("virtual_n=eq.1", "id=eq.1").expect_err("is virtual");
        assert!(code == "filter_not_applicable" && message.contains("virtual_n"), "{message}");
    }
}
