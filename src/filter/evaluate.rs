//! Filters that are evaluated on the rows of events, with the three-valued logic of PostgreSQL.
//!
//! `compile` creates them.

use std::sync::Arc;

use super::column_condition::{ColumnCondition, ValueTest};
use super::column_set::ColumnSet;
use super::results::Results;
use super::row::Row;

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
    columns: ColumnSet,
    /// Number of conditions on a column.
    conditions: usize,
}

/// The rows on which a filter is evaluated, in one pass.
#[derive(Clone, Copy, Debug)]
struct Rows<'r, 'a> {
    /// The row before an update, which knows the columns that the update changed.
    before: Option<&'r Row<'a>>,
    after: &'r Row<'a>,
}

/// Condition on columns, by their position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Node {
    Column(ColumnCondition),
    Not(Box<Node>),
    /// Sorted and without duplicates.
    All(Vec<Node>),
    Any(Vec<Node>),
}

impl Filter {
    pub(super) fn new(condition: Node) -> Self {
        Self::of_parts([condition].into())
    }

    fn of_parts(parts: Arc<[Node]>) -> Self {
        let mut columns = Vec::new();
        parts.iter().for_each(|part| part.add_columns(&mut columns));
        let conditions = columns.len();
        Self { parts, columns: columns.into_iter().collect(), conditions }
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

    /// Whether an update may have changed a column on which the result depends. `before` is the row before
    /// it.
    pub(super) fn depends_on_changes(&self, before: &Row<'_>) -> bool {
        self.columns.may_share(before.changed_columns())
    }

    /// Evaluates the filter on a row.
    #[must_use]
    pub fn evaluate(&self, row: &Row<'_>) -> Outcome {
        let rows = Rows { before: None, after: row };
        let results =
            self.parts.iter().map(|part| part.evaluate(rows)).find(|results| *results != Results::TRUE);
        match results.unwrap_or(Results::TRUE) {
            Results::TRUE => Outcome::True,
            Results::FALSE => Outcome::False,
            Results::NULL => Outcome::Null,
            _ => Outcome::Unknown,
        }
    }

    /// Whether the filter selects a row. None if that depends on a column that the event lacks. A result that
    /// may be false or null, but not true, does not select the row.
    #[must_use]
    pub fn selects(&self, row: &Row<'_>) -> Option<bool> {
        let [_, after] = self.selects_of(Rows { before: None, after: row });
        after
    }

    /// Whether the filter selects the row before an update, and the row after it, as [`Filter::selects`] does
    /// for one row. `before` knows the columns that the update changed.
    pub(super) fn selects_both<'a>(&self, before: &Row<'a>, after: &Row<'a>) -> [Option<bool>; 2] {
        self.selects_of(Rows { before: Some(before), after })
    }

    fn selects_of(&self, rows: Rows<'_, '_>) -> [Option<bool>; 2] {
        let mut selects = [Some(true); 2];
        // The first part that is not true decides, for each of the rows.
        let mut is_decided = [false; 2];
        for part in &*self.parts {
            let results = part.evaluate(rows);
            for (n, results) in [results.before(), results.after()].into_iter().enumerate() {
                if !is_decided[n] && results != Results::TRUE {
                    is_decided[n] = true;
                    selects[n] = if results.may_be(Results::TRUE) { None } else { Some(false) };
                }
            }
            if is_decided == [true; 2] {
                break;
            }
        }
        selects
    }
}

impl Node {
    pub(super) fn on_column(column: usize, test: ValueTest) -> Self {
        Self::Column(ColumnCondition { column, test })
    }

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
        // Patterns are expensive, so the others may decide before them.
        flat.sort_unstable_by(|a, b| (a.has_pattern(), a).cmp(&(b.has_pattern(), b)));
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
            Self::Column(condition) => matches!(condition.test, ValueTest::Like { .. }),
            Self::Not(inner) => inner.has_pattern(),
            Self::All(members) | Self::Any(members) => members.iter().any(Self::has_pattern),
        }
    }

    fn add_columns(&self, columns: &mut Vec<usize>) {
        match self {
            Self::Column(condition) => columns.push(condition.column),
            Self::Not(inner) => inner.add_columns(columns),
            Self::All(members) | Self::Any(members) => {
                members.iter().for_each(|member| member.add_columns(columns));
            }
        }
    }

    fn evaluate(&self, rows: Rows<'_, '_>) -> Results {
        match self {
            Self::Not(inner) => inner.evaluate(rows).not(),
            // A false member decides, whatever the others are.
            Self::All(members) => {
                let mut results = Results::TRUE;
                for member in members {
                    results = results.and(member.evaluate(rows));
                    if results == Results::FALSE {
                        break;
                    }
                }
                results
            }
            Self::Any(members) => {
                let mut results = Results::FALSE;
                for member in members {
                    results = results.or(member.evaluate(rows));
                    if results == Results::TRUE {
                        break;
                    }
                }
                results
            }
            Self::Column(condition) => {
                let after = condition.evaluate(rows.after);
                match rows.before {
                    // Of a column that the update did not change, both rows have the same value.
                    Some(before) if before.is_changed(condition.column) => {
                        Results::of_both(condition.evaluate(before), after)
                    }
                    _ => after,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::column::Columns;
    use super::super::syntax::FilterParser;
    use super::*;

    #[test]
    fn both_rows_have_the_results_that_each_has_alone() {
        let columns = Columns::for_tests(&[("id", "bigint"), ("a", "text"), ("n", "integer")]);
        let groups = [
            "(a.eq.x)",
            "(a.neq.x,n.gt.1)",
            "(or(a.eq.x,n.eq.2))",
            "(not.and(a.eq.x,n.eq.1))",
            "(or(a.like.x*,and(n.in.(1,2),a.is.not_null)),n.is.not_null)",
            "(not.or(a.is.null,n.lt.2))",
        ];
        let filters = groups.map(|group| {
            let condition = FilterParser::default().group("and", group).expect("parses");
            Filter::compile(&[condition], &columns, &[]).expect("compiles")
        });
        let all = || filters.iter().flat_map(|first| filters.iter().map(|second| first.and_then(second)));
        let texts = ["", r#""a": "x""#, r#""a": "xy""#, r#""a": null"#];
        let numbers = ["", r#""n": 1"#, r#""n": 2"#, r#""n": null"#];
        let objects: Vec<String> = texts
            .iter()
            .flat_map(|a| numbers.iter().map(move |n| [*a, *n]))
            .map(|members| {
                format!(
                    "{{{}}}",
                    members.into_iter().filter(|m| !m.is_empty()).collect::<Vec<_>>().join(", ")
                )
            })
            .collect();
        let mut compared = 0;
        for (data, old) in objects.iter().flat_map(|data| objects.iter().map(move |old| (data, old))) {
            for filter in filters.iter().cloned().chain(all()) {
                let row = Row::new(&columns, data).expect("an object");
                let before = row.before(&columns, old).expect("an object");
                let alone = [filter.selects(&before), filter.selects(&row)];
                assert_eq!(filter.selects_both(&before, &row), alone, "{filter:?} {data} {old}");
                compared += 1;
            }
        }
        assert_eq!(compared, 16 * 16 * (6 + 36));
    }
}
