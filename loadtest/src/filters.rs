//! Filters of sockets on `calls`, and their evaluation on the changes that the load tester makes. It knows
//! nothing of the gateway's evaluation.

use serde::{Deserialize, Serialize};

/// The topic that is joined with filters.
pub(crate) const FILTERED_TOPIC: &str = "calls";
/// The column that every filter compares. It contains the number of an agent.
const COLUMN: &str = "assistant_id";
/// States of a call in the order in which it passes through them.
pub(crate) const STATUSES: [&str; 4] = ["queued", "ringing", "in-progress", "completed"];
/// One in this many filters combines several conditions.
const COMPOUND_ONE_IN: u32 = 4;

/// A row as filters see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Number of its agent.
    #[serde(rename = "a")]
    pub(crate) agent: u32,
    /// Position in [`STATUSES`].
    #[serde(rename = "s")]
    pub(crate) status: usize,
}

/// The row before and after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowChange {
    #[serde(rename = "b")]
    pub(crate) before: Option<Row>,
    #[serde(rename = "a")]
    pub(crate) after: Option<Row>,
}

/// Whether an update moved a row into a filter or out of it: the field `filter` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Moved {
    Entered,
    Left,
}

/// A filter: the rows of the agent with its number. Some filters also compare the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Filter(pub(crate) u32);

/// The value of the column for an agent.
pub(crate) fn agent_name(agent: u32) -> String {
    format!("agent-{agent}")
}

/// The agent with this name, if there is one.
pub(crate) fn agent_number(name: &str) -> Option<u32> {
    name.strip_prefix("agent-")?.parse().ok()
}

impl Filter {
    /// The field `filter` of a join.
    pub(crate) fn query(self) -> String {
        let agent = format!("{COLUMN}=eq.{}", agent_name(self.0));
        match self.0 % (2 * COMPOUND_ONE_IN) {
            3 => format!("{agent}&status=in.(in-progress,completed)"),
            7 => format!("{agent}&or=(status.eq.queued,not.and(status.neq.completed,status.neq.ringing))"),
            _ => agent,
        }
    }

    fn selects(self, row: Row) -> bool {
        let status = STATUSES[row.status];
        row.agent == self.0
            && match self.0 % (2 * COMPOUND_ONE_IN) {
                3 => matches!(status, "in-progress" | "completed"),
                7 => matches!(status, "queued" | "completed" | "ringing"),
                _ => true,
            }
    }

    /// Meaning of a change for a socket with this filter: nothing, or an event with this field `filter`.
    pub(crate) fn meaning(self, change: RowChange) -> Option<Option<Moved>> {
        let selects = |row: Option<Row>| row.map(|row| self.selects(row));
        match (selects(change.before), selects(change.after)) {
            (Some(false), Some(true)) => Some(Some(Moved::Entered)),
            (Some(true), Some(false)) => Some(Some(Moved::Left)),
            (Some(true), _) | (_, Some(true)) => Some(None),
            _ => None,
        }
    }
}

impl RowChange {
    /// The filters that may select the row before or after the change.
    pub(crate) fn candidates(self) -> impl Iterator<Item = Filter> {
        let before = self.before.map(|row| Filter(row.agent));
        let after = self.after.map(|row| Filter(row.agent)).filter(|after| Some(*after) != before);
        before.into_iter().chain(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn row(agent: u32, status: usize) -> Option<Row> {
        Some(Row { agent, status })
    }

    fn meaning(filter: u32, before: Option<Row>, after: Option<Row>) -> Option<Option<Moved>> {
        Filter(filter).meaning(RowChange { before, after })
    }

    #[test]
    fn a_filter_selects_the_rows_of_its_agent() {
        assert_eq!(meaning(1, None, row(1, 0)), Some(None));
        assert_eq!(meaning(1, None, row(2, 0)), None);
        assert_eq!(meaning(1, row(1, 0), row(1, 1)), Some(None));
        assert_eq!(meaning(1, row(1, 0), row(2, 1)), Some(Some(Moved::Left)));
        assert_eq!(meaning(1, row(2, 0), row(1, 1)), Some(Some(Moved::Entered)));
        assert_eq!(meaning(1, row(2, 0), row(3, 1)), None);
    }

    #[test]
    fn compound_filters_also_compare_the_status() {
        assert_eq!(meaning(3, None, row(3, 0)), None);
        assert_eq!(meaning(3, row(3, 1), row(3, 2)), Some(Some(Moved::Entered)));
        assert_eq!(meaning(7, row(7, 1), row(7, 2)), Some(Some(Moved::Left)));
        assert_eq!(meaning(7, row(7, 2), row(7, 3)), Some(Some(Moved::Entered)));
        assert!((0..16).filter(|n| Filter(*n).query().contains("status")).count() == 4);
    }

    #[test]
    fn names_of_agents_have_one_form() {
        assert_eq!(agent_number(&agent_name(17)), Some(17));
        assert_eq!(agent_number("assistant-17"), None);
    }
}
