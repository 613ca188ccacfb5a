//! Columns on which a filter may depend.

use serde::Deserialize;

use super::error::FilterError;
use super::syntax::{Condition, Test};
use super::value::{ExactType, Value};

/// One column of a watched table, as `warden.reading()` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Column {
    pub(crate) name: String,
    /// Type for casts, below all domains.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) is_nullable: bool,
    pub(crate) is_ordered: bool,
    pub(crate) is_text: bool,
    pub(crate) is_boolean: bool,
    is_enum: bool,
    /// Whether the column is generated when it is read, by an expression that may fail.
    is_virtual: bool,
    /// None if the type has no collation.
    collation: Option<Collation>,
}

/// How a collation compares strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Collation {
    /// By their bytes, as `COLLATE "C"` does.
    Bytes,
    /// In an order of its own, but only equal bytes are equal.
    Deterministic,
    /// Different bytes may be equal.
    Nondeterministic,
}

/// Visible columns of a table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<Column>")]
pub struct Columns {
    columns: Vec<Column>,
    /// Positions, in the order of names.
    by_name: Vec<usize>,
    /// A column that no filter may name, and that rows have behind the visible ones.
    hidden: Option<String>,
}

impl From<Vec<Column>> for Columns {
    fn from(columns: Vec<Column>) -> Self {
        let mut by_name: Vec<usize> = (0..columns.len()).collect();
        by_name.sort_unstable_by(|a, b| columns[*a].name.cmp(&columns[*b].name));
        Self { columns, by_name, hidden: None }
    }
}

impl Columns {
    /// The visible column of this name.
    pub(crate) fn find(&self, name: &str) -> Result<&Column, FilterError> {
        self.at(name).map(|(_, column)| column)
    }

    /// The visible column of this name, with its position.
    pub(super) fn at(&self, name: &str) -> Result<(usize, &Column), FilterError> {
        let position = self.position(name).ok_or_else(|| FilterError::unknown_column(name))?;
        Ok((position, &self.columns[position]))
    }

    /// Position of the visible column of this name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        let found = self.by_name.binary_search_by(|at| self.columns[*at].name.as_str().cmp(name));
        found.ok().map(|at| self.by_name[at])
    }

    /// Checks that conditions name no virtual column. PostgreSQL may compute it for a row before other
    /// conditions exclude the row. If that failed, a client would learn about a row that it may not see.
    pub(crate) fn expect_stored(&self, conditions: &[Condition]) -> Result<(), FilterError> {
        conditions.iter().try_for_each(|condition| match &condition.test {
            Test::Compare(name, ..) | Test::In(name, _) | Test::Is(name, _) => {
                self.find(name)?.expect_stored()
            }
            Test::All(members) | Test::Any(members) => self.expect_stored(members),
        })
    }

    /// Whether the column at this position may be null.
    pub(super) fn may_be_null(&self, position: usize) -> bool {
        self.columns.get(position).is_none_or(|column| column.is_nullable)
    }

    /// Position of the column of this name in rows, which have the hidden column too.
    pub(super) fn position_in_rows(&self, name: &str) -> Option<usize> {
        self.position(name).or_else(|| (self.hidden.as_deref() == Some(name)).then_some(self.columns.len()))
    }

    /// Makes rows have this column, although it may not be visible.
    #[must_use]
    pub fn with_hidden(mut self, name: Option<&str>) -> Self {
        self.hidden = name.filter(|name| self.position(name).is_none()).map(str::to_owned);
        self
    }

    /// Number of columns that rows have.
    pub(super) fn count(&self) -> usize {
        self.columns.len() + usize::from(self.hidden.is_some())
    }
}

impl Column {
    /// The column of the row `n`, quoted.
    pub(crate) fn of_row(&self) -> String {
        format!("n.\"{}\"", self.name.replace('"', "\"\""))
    }

    /// The column of the row `n` for equality and `like` by bytes. It names the collation only if the result
    /// would be another one, because an index serves its own collation alone.
    pub(super) fn for_equality(&self) -> String {
        self.collated(self.collation == Some(Collation::Nondeterministic))
    }

    /// The column of the row `n` for comparisons by the order of bytes.
    pub(super) fn for_order(&self) -> String {
        self.collated(self.collation.is_some_and(|collation| collation != Collation::Bytes))
    }

    /// The column of the row `n` for comparisons in which the case of ASCII letters does not count.
    pub(super) fn for_any_case(&self) -> String {
        self.collated(self.collation.is_some())
    }

    fn collated(&self, is_needed: bool) -> String {
        let row = self.of_row();
        if is_needed { format!("{row} collate pg_catalog.\"C\"") } else { row }
    }

    /// The type with which an operation can be evaluated on events.
    pub(super) fn exact(&self, operation: &'static str) -> Result<ExactType, FilterError> {
        ExactType::of(&self.kind, self.is_enum).ok_or_else(|| self.inexact(operation))
    }

    /// The value of a filter that is spelled as events spell it. None if PostgreSQL must convert it.
    pub(super) fn plain(&self, kind: ExactType, text: &str) -> Option<Value<'static>> {
        kind.plain(&self.kind, text)
    }

    /// Whether an event shows that the column is null.
    pub(super) fn has_exact_null(&self) -> bool {
        !matches!(self.kind.as_str(), "json" | "jsonb")
    }

    /// The error of an operation that cannot be evaluated on events.
    pub(super) fn inexact(&self, operation: &'static str) -> FilterError {
        FilterError::NotExact { column: self.name.clone(), kind: self.kind.clone(), operation }
    }

    /// Checks that the column is not virtual, as [`Columns::expect_stored`] does.
    pub(crate) fn expect_stored(&self) -> Result<(), FilterError> {
        if self.is_virtual { Err(FilterError::Virtual(self.name.clone())) } else { Ok(()) }
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
    /// Columns of these names and types. `id` is not null, and a column is virtual if its name begins so.
    /// After `text`, a kind of collation may follow.
    pub(crate) fn for_tests(columns: &[(&str, &str)]) -> Self {
        let column = |&(name, kind): &(&str, &str)| Column {
            name: name.into(),
            kind: kind.into(),
            is_nullable: name != "id",
            is_ordered: kind != "json",
            is_enum: kind == "mood",
            is_virtual: name.starts_with("virtual"),
            is_text: kind.starts_with("text"),
            is_boolean: kind == "boolean",
            collation: match kind {
                "text bytes" => Some(Collation::Bytes),
                "text nondeterministic" => Some(Collation::Nondeterministic),
                kind => kind.starts_with("text").then_some(Collation::Deterministic),
            },
        };
        Self::from(columns.iter().map(column).collect::<Vec<_>>())
    }
}
