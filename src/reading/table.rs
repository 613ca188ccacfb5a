//! A watched table as a user may read it. `warden.reading()` returns it.

use serde::Deserialize;

use super::error::QueryError;

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
    columns: Vec<Column>,
    /// Expression of the row's document.
    pub(super) document: String,
    /// Expression of its key, which is sent if the document is too large.
    pub(super) key_document: String,
}

/// One column.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    /// Type for casts, below all domains.
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) is_nullable: bool,
    pub(super) is_ordered: bool,
    pub(super) is_text: bool,
    pub(super) is_boolean: bool,
}

impl ReadableTable {
    /// The visible column of this name.
    pub(super) fn column(&self, name: &str) -> Result<&Column, QueryError> {
        let found = self.columns.iter().find(|column| column.name == name);
        found.ok_or_else(|| QueryError::unknown_column(name))
    }
}

impl Column {
    /// The column of the row `n`, quoted.
    pub(super) fn of_row(&self) -> String {
        format!("n.\"{}\"", self.name.replace('"', "\"\""))
    }

    /// Checks that an operation applies to the type.
    pub(super) fn expect(&self, applies: bool, operation: &'static str) -> Result<(), QueryError> {
        if applies {
            return Ok(());
        }
        Err(QueryError::NotApplicable { column: self.name.clone(), kind: self.kind.clone(), operation })
    }
}

#[cfg(test)]
impl ReadableTable {
    /// A table with the key `id` and these columns.
    pub(super) fn for_tests(columns: &[(&str, &str)]) -> Self {
        let column = |&(name, kind): &(&str, &str)| Column {
            name: name.into(),
            kind: kind.into(),
            is_nullable: name != "id",
            is_ordered: kind != "json",
            is_text: kind == "text",
            is_boolean: kind == "boolean",
        };
        let columns: Vec<Column> = columns.iter().map(column).collect();
        Self {
            relation: "public.t".into(),
            org_column: "org_id".into(),
            key: columns.iter().filter(|column| column.name == "id").cloned().collect(),
            columns,
            document: "d".into(),
            key_document: "k".into(),
        }
    }
}
