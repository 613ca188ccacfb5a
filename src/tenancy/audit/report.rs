//! What an audit found, and its shape as JSON. It knows nothing of how it was found.

use std::time::Duration;

use serde::Serialize;

use super::rules::{RULES, Rule};

/// Whether something has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Isolation is broken, or could not be shown: the exit code tells.
    Finding,
    /// Somebody should know of it.
    Notice,
}

impl Severity {
    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Finding => "finding",
            Self::Notice => "notice",
        }
    }
}

/// What sort of text a [`Mend`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// Statements for the role that owns the tables.
    Sql,
    /// A command for the shell.
    Shell,
    /// Somebody has to choose, or to fill in a name, first.
    Decide,
}

/// What mends a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mend {
    /// What sort of text it is.
    pub run: Run,
    /// The text.
    pub text: String,
}

impl Mend {
    pub(super) fn sql(text: impl Into<String>) -> Self {
        Self { run: Run::Sql, text: text.into() }
    }

    pub(super) fn shell(text: impl Into<String>) -> Self {
        Self { run: Run::Shell, text: text.into() }
    }

    pub(super) fn decide(text: impl Into<String>) -> Self {
        Self { run: Run::Decide, text: text.into() }
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's id.
    pub rule: &'static str,
    /// Its own, where it differs from the rule's.
    pub severity: Severity,
    /// The table, as SQL names it; none: it is about the database.
    pub table: Option<String>,
    /// What is wrong: a trigger, a policy, a role, a rule that could not be judged.
    pub object: String,
    /// Why.
    pub cause: String,
    /// What mends it.
    pub mend: Mend,
}

impl Finding {
    pub(super) fn new(
        rule: &'static str,
        table: Option<&str>,
        object: &str,
        cause: String,
        mend: Mend,
    ) -> Self {
        let severity = Rule::by_id(rule).map_or(Severity::Finding, |rule| rule.severity);
        Self { rule, severity, table: table.map(str::to_owned), object: object.to_owned(), cause, mend }
    }
}

/// Everything that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The shape of this document; raised when a field changes its meaning or goes.
    pub version: u32,
    /// The database's name.
    pub database: String,
    /// PostgreSQL's version.
    pub server_version: String,
    /// Whether it is a standby.
    pub is_standby: bool,
    /// Registered tables that are there.
    pub tables: i64,
    /// Rules that were judged.
    pub rules: usize,
    /// Milliseconds that it took.
    pub took_ms: u64,
    /// By table, those about the database first; then in the order of the rules.
    pub findings: Vec<Finding>,
}

/// The shape of the document.
pub(super) const VERSION: u32 = 1;

impl Report {
    pub(super) fn finish(mut self, took: Duration) -> Self {
        let place = |id: &str| RULES.iter().position(|rule| rule.id == id);
        self.findings.sort_by(|a, b| {
            (&a.table, place(a.rule), &a.object, &a.cause).cmp(&(
                &b.table,
                place(b.rule),
                &b.object,
                &b.cause,
            ))
        });
        self.findings.dedup();
        self.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// How many there are of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Whether nothing has to be done. Notices don't count.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.count(Severity::Finding) == 0
    }
}
