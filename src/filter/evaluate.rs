//! Filters that are evaluated on the rows of events, with the three-valued logic of PostgreSQL.
//!
//! `compile` creates them.

use std::cmp::Ordering;
use std::sync::Arc;

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

/// A filter for the columns of one table. Equal filters select the same rows. Clones share their memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Conditions that are evaluated one after the other. The first that is not true decides.
    pub(super) parts: Arc<[Node]>,
    /// Columns on which the result depends.
    columns: Arc<[usize]>,
    /// Number of conditions on a column.
    conditions: usize,
}

/// Results that a condition may have on one row: several if the event lacks a column on which it depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Results(u8);

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
    pub(super) fn new(condition: Node) -> Self {
        Self::of_parts([condition].into())
    }

    fn of_parts(parts: Arc<[Node]>) -> Self {
        let mut columns = Vec::new();
        parts.iter().for_each(|part| part.add_columns(&mut columns));
        let conditions = columns.len();
        columns.sort_unstable();
        columns.dedup();
        Self { parts, columns: columns.into(), conditions }
    }

    /// The rows of this filter that another one selects too. If this filter does not select a row, or its
    /// result is unknown, the other one changes nothing.
    #[must_use]
    pub fn and_then(&self, other: &Self) -> Self {
        Self::of_parts(self.parts.iter().chain(&*other.parts).cloned().collect())
    }

    /// Number of conditions on a column.
    pub(crate) fn conditions(&self) -> usize {
        self.conditions
    }

    /// Whether an update changed a column on which the result depends. `before` is the row before it.
    pub(super) fn depends_on_changes(&self, before: &Row<'_>) -> bool {
        self.columns.iter().any(|column| before.is_changed(*column))
    }

    /// Evaluates the filter on a row.
    #[must_use]
    pub fn evaluate(&self, row: &Row<'_>) -> Outcome {
        for part in &*self.parts {
            match part.evaluate(row) {
                Results::TRUE => {}
                Results::FALSE => return Outcome::False,
                Results::NULL => return Outcome::Null,
                _ => return Outcome::Unknown,
            }
        }
        Outcome::True
    }

    /// Whether the filter selects a row. None if that depends on a column that the event lacks. A result that
    /// may be false or null, but not true, does not select the row.
    #[must_use]
    pub fn selects(&self, row: &Row<'_>) -> Option<bool> {
        for part in &*self.parts {
            match part.evaluate(row) {
                Results::TRUE => {}
                results if !results.may_be(Results::TRUE) => return Some(false),
                _ => return None,
            }
        }
        Some(true)
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

    /// Whether the condition contains a pattern.
    pub(super) fn has_pattern(&self) -> bool {
        match self {
            Self::Like { .. } => true,
            Self::Not(inner) => inner.has_pattern(),
            Self::All(members) | Self::Any(members) => members.iter().any(Self::has_pattern),
            _ => false,
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

    pub(super) fn evaluate(&self, row: &Row<'_>) -> Results {
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
            Self::In { values, .. } if values.is_empty() => Results::FALSE,
            Self::In { column, kind, values } => of_cell(row.cell(*column, *kind), |cell| {
                values.binary_search_by(|value| kind.compare(cell, value).reverse()).is_ok()
            }),
            Self::Like { column, kind, pattern } => match row.cell(*column, *kind) {
                Cell::Value(Value::Text(text)) => match pattern.matches(text, row.pattern_steps()) {
                    Some(is_match) => Results::of(is_match),
                    None => Results::NOT_NULL,
                },
                other => of_cell(other, |_| false),
            },
            Self::IsNull { column } => {
                row.json(*column).map_or(Results::NOT_NULL, |json| Results::of(json == "null"))
            }
            Self::IsTruth { column, truth } => match row.cell(*column, ExactType::Boolean) {
                Cell::Missing => Results::NOT_NULL,
                Cell::Null => Results::of(truth.is_none()),
                Cell::Value(value) => Results::of(truth.is_some_and(|truth| *value == Value::Boolean(truth))),
            },
            Self::Not(inner) => inner.evaluate(row).not(),
            // A false member decides, whatever the others are.
            Self::All(members) => {
                let mut results = Results::TRUE;
                for member in members {
                    results = results.and(member.evaluate(row));
                    if results == Results::FALSE {
                        break;
                    }
                }
                results
            }
            Self::Any(members) => {
                let mut results = Results::FALSE;
                for member in members {
                    results = results.or(member.evaluate(row));
                    if results == Results::TRUE {
                        break;
                    }
                }
                results
            }
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

impl Results {
    pub(super) const TRUE: Self = Self(1);
    pub(super) const FALSE: Self = Self(2);
    const NULL: Self = Self(4);
    const NOT_NULL: Self = Self(1 | 2);
    const ANY: Self = Self(1 | 2 | 4);

    fn of(holds: bool) -> Self {
        if holds { Self::TRUE } else { Self::FALSE }
    }

    /// Whether one of these results is possible.
    pub(super) fn may_be(self, results: Self) -> bool {
        self.0 & results.0 != 0
    }

    pub(super) fn not(self) -> Self {
        Self(self.0 & Self::NULL.0 | (self.0 & Self::TRUE.0) << 1 | (self.0 & Self::FALSE.0) >> 1)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(AND[usize::from(self.0 & Self::ANY.0)][usize::from(other.0 & Self::ANY.0)])
    }

    pub(super) fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }
}

/// Results of `and` for each pair of results. A thousand filters of one event need it thousands of times.
const AND: [[u8; 8]; 8] = {
    let mut table = [[0; 8]; 8];
    let results: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
    let mut pair = 0;
    while pair < 64 {
        let (a, b) = (pair / 8, pair % 8);
        table[a][b] = and_of(results[a], results[b]);
        pair += 1;
    }
    table
};

/// The possible results of `and`.
const fn and_of(a: u8, b: u8) -> u8 {
    const TRUE: u8 = Results::TRUE.0;
    const FALSE: u8 = Results::FALSE.0;
    const NULL: u8 = Results::NULL.0;
    let mut results = a & b & TRUE | (a | b) & FALSE;
    if a & NULL != 0 && b & (TRUE | NULL) != 0 || b & NULL != 0 && a & (TRUE | NULL) != 0 {
        results |= NULL;
    }
    results
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Each combination is compared with the results of its members.
    #[test]
    fn groups_have_every_possible_result_and_no_other() {
        let and = |a: u8, b: u8| match (a, b) {
            (2, _) | (_, 2) => 2,
            (1, 1) => 1,
            _ => 4,
        };
        let all = |set: u8| [1, 2, 4].into_iter().filter(move |result| set & result != 0);
        for a in 1..=7 {
            for b in 1..=7 {
                let expected =
                    all(a).flat_map(|a| all(b).map(move |b| and(a, b))).fold(0, |set, one| set | one);
                assert_eq!(Results(a).and(Results(b)), Results(expected), "{a} {b}");
            }
        }
        assert_eq!(Results::TRUE.or(Results::ANY), Results::TRUE);
        assert_eq!(Results::NULL.or(Results::ANY), Results(1 | 4));
        assert_eq!((Results::TRUE.not(), Results::NULL.not()), (Results::FALSE, Results::NULL));
    }
}
