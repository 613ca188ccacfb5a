//! Columns on which a filter may depend.

use serde::Deserialize;

use super::error::FilterError;

/// One column of a watched table, as `warden.reading()` describes it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Type for casts, below all domains.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) is_nullable: bool,
    pub(crate) is_ordered: bool,
    pub(crate) is_text: bool,
    pub(crate) is_boolean: bool,
}

/// Visible columns of a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Columns(Vec<Column>);

impl Columns {
    /// The visible column of this name.
    pub(crate) fn find(&self, name: &str) -> Result<&Column, FilterError> {
        let found = self.0.iter().find(|column| column.name == name);
        found.ok_or_else(|| FilterError::unknown_column(name))
    }
}

impl Column {
    /// The column of the row `n`, quoted.
    pub(crate) fn of_row(&self) -> String {
        format!("n.\"{}\"", self.name.replace('"', "\"\""))
    }

    /// Checks that an operation applies to the type.
    pub(crate) fn expect(&self, applies: bool, operation: &'static str) -> Result<(), FilterError> {
        if applies {
            return Ok(());
        }
        Err(FilterError::NotApplicable { column: self.name.clone(), kind: self.kind.clone(), operation })
    }
}

#[cfg(test)]
impl Columns {
    /// Columns of these names and types. `id` is not null.
    pub(crate) fn for_tests(columns: &[(&str, &str)]) -> Self {
        let column = |&(name, kind): &(&str, &str)| Column {
            name: name.into(),
            kind: kind.into(),
            is_nullable: name != "id",
            is_ordered: kind != "json",
            is_text: kind == "text",
            is_boolean: kind == "boolean",
        };
        Self(columns.iter().map(column).collect())
    }
}
