//! Conditions on one column, evaluated on one row.

use std::cmp::Ordering;

use super::pattern::Pattern;
use super::results::Results;
use super::row::Row;
use super::value::{Cell, ExactType, Value};

/// A condition on a column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ColumnCondition {
    /// Position of the column.
    pub(super) column: usize,
    pub(super) test: ValueTest,
}

/// Requirement on the value of a column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ValueTest {
    /// One of these orderings.
    Compare {
        kind: ExactType,
        test: Ordered,
        value: Value<'static>,
    },
    /// Sorted, so that the order of values makes no other filter.
    In {
        kind: ExactType,
        values: Vec<Value<'static>>,
    },
    Like {
        kind: ExactType,
        pattern: Pattern,
    },
    IsNull,
    IsTruth(Option<bool>),
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

impl ColumnCondition {
    /// The type as which the column is decoded. None if the condition needs no value.
    pub(super) fn kind(&self) -> Option<ExactType> {
        match &self.test {
            ValueTest::Compare { kind, .. } | ValueTest::In { kind, .. } | ValueTest::Like { kind, .. } => {
                Some(*kind)
            }
            ValueTest::IsTruth(_) => Some(ExactType::Boolean),
            ValueTest::IsNull => None,
        }
    }

    pub(super) fn evaluate(&self, row: &Row<'_>) -> Results {
        let column = self.column;
        match &self.test {
            ValueTest::Compare { kind, test, value } => {
                of_cell(row.cell(column, *kind), |cell| match test {
                    // Equality of strings needs no order.
                    Ordered::Equal => kind.equals(cell, value),
                    Ordered::NotEqual => !kind.equals(cell, value),
                    _ => test.holds(kind.compare(cell, value)),
                })
            }
            // Nothing equals one of no values, not even null.
            ValueTest::In { values, .. } if values.is_empty() => Results::FALSE,
            ValueTest::In { kind, values } => of_cell(row.cell(column, *kind), |cell| {
                values.binary_search_by(|value| kind.compare(cell, value).reverse()).is_ok()
            }),
            ValueTest::Like { kind, pattern } => match row.cell(column, *kind) {
                Cell::Value(Value::Text(text)) => match pattern.matches(text, row.pattern_steps()) {
                    Some(is_match) => Results::of(is_match),
                    None => Results::NOT_NULL,
                },
                other => of_cell(other, |_| false),
            },
            ValueTest::IsNull => {
                row.json(column).map_or(Results::NOT_NULL, |json| Results::of(json == "null"))
            }
            ValueTest::IsTruth(truth) => match row.cell(column, ExactType::Boolean) {
                Cell::Missing => Results::NOT_NULL,
                Cell::Null => Results::of(truth.is_none()),
                Cell::Value(value) => Results::of(truth.is_some_and(|truth| *value == Value::Boolean(truth))),
            },
        }
    }
}

fn of_cell(cell: &Cell<'_>, test: impl FnOnce(&Value<'_>) -> bool) -> Results {
    match cell {
        Cell::Missing => Results::ANY,
        Cell::Null => Results::NULL,
        Cell::Value(value) => Results::of(test(value)),
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
