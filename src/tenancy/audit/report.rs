//! The report of an audit, and its JSON format.

use std::time::Duration;

use serde::Serialize;

use super::remedy::Remedy;
use super::rules::{RULES, Rule, Severity};

/// One violation of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Id of the rule.
    pub rule: &'static str,
    /// The rule's severity, or a milder one.
    pub severity: Severity,
    /// The table, with its schema; none if the finding concerns the database.
    pub table: Option<String>,
    /// The object that violates the rule: a trigger, a policy, a role, or a rule that could not be checked.
    pub object: String,
    /// The problem, as one sentence.
    pub cause: String,
    /// Way to remove the cause.
    pub remedy: Remedy,
}

impl Finding {
    pub(super) fn new(
        rule: &'static str,
        table: Option<&str>,
        object: &str,
        cause: String,
        remedy: Remedy,
    ) -> Self {
        let severity = Rule::by_id(rule).map_or(Severity::Finding, |rule| rule.severity);
        Self { rule, severity, table: table.map(str::to_owned), object: object.to_owned(), cause, remedy }
    }

    /// Name of the finding's object in `warden.decisions`: the table, the object, or the object of the table.
    #[must_use]
    pub fn decided_object(&self) -> String {
        match &self.table {
            None => self.object.clone(),
            Some(table) if is_name_of(table, &self.object) => table.clone(),
            Some(table) => format!("{table}.{}", self.object),
        }
    }
}

/// Result of an audit.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this format. It is raised when a field is removed or changes its meaning.
    pub version: u32,
    /// Name of the database.
    pub database: String,
    /// PostgreSQL's version.
    pub server_version: String,
    /// Whether the server is a standby.
    pub is_standby: bool,
    /// Number of registered tables that exist.
    pub tables: i64,
    /// Number of rules that were checked.
    pub rules: usize,
    /// Duration in milliseconds.
    pub took_ms: u64,
    /// Findings about the database first, then by table; within a table in the order of the rules.
    pub findings: Vec<Finding>,
}

/// Present version of the report's format.
pub(super) const VERSION: u32 = 1;

impl Report {
    /// Sorts the findings, and removes duplicates.
    pub(super) fn finish(mut self, took: Duration) -> Self {
        let position = |id: &str| RULES.iter().position(|rule| rule.id == id);
        self.findings.sort_by(|a, b| {
            (&a.table, position(a.rule), &a.object, &a.cause).cmp(&(
                &b.table,
                position(b.rule),
                &b.object,
                &b.cause,
            ))
        });
        self.findings.dedup();
        self.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Number of findings of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Whether there are no findings. Notices don't count.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.count(Severity::Finding) == 0
    }
}

/// Whether this is a table's name without its schema.
fn is_name_of(table: &str, object: &str) -> bool {
    let quoted = format!("\"{}\"", object.replace('"', "\"\""));
    [object, &quoted].iter().any(|name| table.strip_suffix(*name).is_some_and(|schema| schema.ends_with('.')))
}
