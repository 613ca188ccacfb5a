//! Filters that are evaluated on the rows of events, with the three-valued logic of PostgreSQL.
//!
//! `compile` creates them.

use std::cmp::Ordering;

use super::pattern::Pattern;
use super::row::Row;
use super::value::{Cell, ExactType, Value};

/// Result of a filter on one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The row fulfils the filter.
    True,
    /// It does not.
    False,
    /// The result is null, so the row is not selected.
    Null,
    /// The event lacks a column on which the result depends.
    Unknown,
}

/// A filter for the columns of one table. Equal filters select the same rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    pub(super) root: Node,
    /// Columns on which the result depends.
    columns: Vec<usize>,
}

/// Condition on columns, by their position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Node {
    /// One of these orderings.
    Compare {
        column: usize,
        kind: ExactType,
        test: Ordered,
        value: Value<'static>,
    },
    /// Sorted, so that the order of values makes no other filter.
    In {
        column: usize,
        kind: ExactType,
        values: Vec<Value<'static>>,
    },
    Like {
        column: usize,
        kind: ExactType,
        pattern: Pattern,
    },
    IsNull {
        column: usize,
    },
    IsTruth {
        column: usize,
        truth: Option<bool>,
    },
    Not(Box<Node>),
    /// Sorted and without duplicates.
    All(Vec<Node>),
    Any(Vec<Node>),
}

/// Comparison by order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Ordered {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Filter {
    pub(super) fn new(root: Node) -> Self {
        let mut columns = Vec::new();
        root.add_columns(&mut columns);
        columns.sort_unstable();
        columns.dedup();
        Self { root, columns }
    }

    /// Whether an update changed a column on which the result depends. `before` is the row before it.
    pub(super) fn depends_on_changes(&self, before: &Row<'_>) -> bool {
        self.columns.iter().any(|column| before.is_changed(*column))
    }

    /// Evaluates the filter on a row.
    #[must_use]
    pub fn evaluate(&self, row: &Row<'_>) -> Outcome {
        self.root.evaluate(row)
    }
}

impl Node {
    /// A group in one form: flat, sorted, without duplicates.
    pub(super) fn group(members: Vec<Self>, is_all: bool) -> Self {
        let mut flat = Vec::new();
        for member in members {
            match member {
                Self::All(inner) if is_all => flat.extend(inner),
                Self::Any(inner) if !is_all => flat.extend(inner),
                other => flat.push(other),
            }
        }
        flat.sort_unstable();
        flat.dedup();
        match (flat.len(), is_all) {
            (1, _) => flat.remove(0),
            (_, true) => Self::All(flat),
            (_, false) => Self::Any(flat),
        }
    }

    fn add_columns(&self, columns: &mut Vec<usize>) {
        match self {
            Self::Compare { column, .. }
            | Self::In { column, .. }
            | Self::Like { column, .. }
            | Self::IsNull { column }
            | Self::IsTruth { column, .. } => columns.push(*column),
            Self::Not(inner) => inner.add_columns(columns),
            Self::All(members) | Self::Any(members) => {
                members.iter().for_each(|member| member.add_columns(columns));
            }
        }
    }

    pub(super) fn evaluate(&self, row: &Row<'_>) -> Outcome {
        match self {
            Self::Compare { column, kind, test, value } => {
                of_cell(row.cell(*column, *kind), |cell| match test {
                    // Equality of strings needs no order.
                    Ordered::Equal => kind.equals(cell, value),
                    Ordered::NotEqual => !kind.equals(cell, value),
                    _ => test.holds(kind.compare(cell, value)),
                })
            }
            // Nothing equals one of no values, not even null.
            Self::In { values, .. } if values.is_empty() => Outcome::False,
            Self::In { column, kind, values } => of_cell(row.cell(*column, *kind), |cell| {
                values.binary_search_by(|value| kind.compare(cell, value).reverse()).is_ok()
            }),
            Self::Like { column, kind, pattern } => of_cell(row.cell(*column, *kind), |cell| match cell {
                Value::Text(text) => pattern.matches(text),
                _ => false,
            }),
            Self::IsNull { column } => {
                row.json(*column).map_or(Outcome::Unknown, |json| Outcome::of(json == "null"))
            }
            Self::IsTruth { column, truth } => match row.cell(*column, ExactType::Boolean) {
                Cell::Missing => Outcome::Unknown,
                Cell::Null => Outcome::of(truth.is_none()),
                Cell::Value(value) => Outcome::of(truth.is_some_and(|truth| *value == Value::Boolean(truth))),
            },
            Self::Not(inner) => match inner.evaluate(row) {
                Outcome::True => Outcome::False,
                Outcome::False => Outcome::True,
                other => other,
            },
            Self::All(members) => fold(members, row, Outcome::False, Outcome::True),
            Self::Any(members) => fold(members, row, Outcome::True, Outcome::False),
        }
    }
}

/// Result of a group: `decisive` if one member has it, whatever a missing column would contain. Otherwise
/// unknown, or null, if a member is. Otherwise `neutral`.
fn fold(members: &[Node], row: &Row<'_>, decisive: Outcome, neutral: Outcome) -> Outcome {
    let mut result = neutral;
    for member in members {
        match member.evaluate(row) {
            outcome if outcome == decisive => return decisive,
            Outcome::Unknown => result = Outcome::Unknown,
            Outcome::Null if result != Outcome::Unknown => result = Outcome::Null,
            _ => {}
        }
    }
    result
}

fn of_cell(cell: &Cell<'_>, test: impl FnOnce(&Value<'_>) -> bool) -> Outcome {
    match cell {
        Cell::Missing => Outcome::Unknown,
        Cell::Null => Outcome::Null,
        Cell::Value(value) => Outcome::of(test(value)),
    }
}

impl Outcome {
    fn of(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl Ordered {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
        }
    }
}
