//! Filters on both rows of an update, in one pass. A condition on a column that the update did not change is
//! evaluated once, because both rows have the same value.

use super::evaluate::{Filter, Node, Results};
use super::row::Row;

/// Results on the row before an update and on the row after it.
type Both = [Results; 2];

impl Filter {
    /// Whether the filter selects the row before an update, and the row after it, as [`Filter::selects`] does
    /// for one row. `before` knows the columns that the update changed.
    pub(super) fn selects_both(&self, before: &Row<'_>, row: &Row<'_>) -> [Option<bool>; 2] {
        let mut selects = [Some(true); 2];
        // The first part that is not true decides, for each of the rows.
        let mut is_decided = [false; 2];
        for part in &*self.parts {
            let results = part.evaluate_both(before, row);
            for n in 0..2 {
                if !is_decided[n] && results[n] != Results::TRUE {
                    is_decided[n] = true;
                    selects[n] = if results[n].may_be(Results::TRUE) { None } else { Some(false) };
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
    fn evaluate_both(&self, before: &Row<'_>, row: &Row<'_>) -> Both {
        match self {
            Self::Compare { column, .. }
            | Self::In { column, .. }
            | Self::Like { column, .. }
            | Self::IsNull { column }
            | Self::IsTruth { column, .. } => {
                let now = self.evaluate(row);
                [if before.is_changed(*column) { self.evaluate(before) } else { now }, now]
            }
            Self::Not(inner) => inner.evaluate_both(before, row).map(Results::not),
            Self::All(members) => {
                let mut both = [Results::TRUE; 2];
                for member in members {
                    let [then, now] = member.evaluate_both(before, row);
                    both = [both[0].and(then), both[1].and(now)];
                    if both == [Results::FALSE; 2] {
                        break;
                    }
                }
                both
            }
            Self::Any(members) => {
                let mut both = [Results::FALSE; 2];
                for member in members {
                    let [then, now] = member.evaluate_both(before, row);
                    both = [both[0].or(then), both[1].or(now)];
                    if both == [Results::TRUE; 2] {
                        break;
                    }
                }
                both
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
