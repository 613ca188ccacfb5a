//! Issues: obstacles to adoption that an operator must remove.

use std::fmt;

/// Advice for a step that failed for an unknown reason.
pub(super) const RUN_AGAIN: &str =
    "Remove the cause, then run the command again: it continues where it stopped.";

/// Advice if row-level security hides rows from the migrating role. The executor does not lift FORCE for the
/// duration of a run: an application that logs in as the tables' owner would lose its isolation meanwhile.
pub(super) const NEEDS_BYPASS: &str = "Row-level security is already forced on that table, so this role cannot read all its rows. Run the command as a \
     superuser, or as an owner of the tables with BYPASSRLS.";

/// An obstacle that an operator must remove. The run skips the affected table and continues with the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptionIssue {
    /// The table, or another subject.
    pub subject: String,
    /// The problem.
    pub problem: String,
    /// A command, a statement, or a query that shows the rows.
    pub remedy: String,
    /// Whether the issue blocks `--enforce`.
    pub is_blocking: bool,
}

impl AdoptionIssue {
    pub(super) fn new(
        subject: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { subject: subject.into(), problem: problem.into(), remedy: remedy.into(), is_blocking: true }
    }
}

impl fmt::Display for AdoptionIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    {}", self.subject, self.problem, self.remedy.replace('\n', "\n    "))
    }
}
