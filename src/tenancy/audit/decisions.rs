//! Decisions of operators: an accepted finding becomes a notice that names who accepted it, and why.

use std::collections::HashMap;

use sqlx::postgres::PgConnection;

use super::remedy::{Choice, Remedy, RemedyKind};
use super::report::Finding;
use super::rules::{Rule, Severity};

/// A row of `warden.decisions`.
#[derive(sqlx::FromRow)]
pub(super) struct Decision {
    rule: String,
    object: String,
    reason: String,
    decided_by: String,
}

const ACCEPTED: &str =
    "select rule, object, reason, decided_by::text from warden.decisions where choice = 'accept'";

/// Reads the accepted findings.
pub(super) async fn accepted(connection: &mut PgConnection) -> Result<Option<Vec<Decision>>, sqlx::Error> {
    if super::has_relation(connection, "decisions").await? {
        sqlx::query_as(ACCEPTED).fetch_all(connection).await.map(Some)
    } else {
        Ok(None)
    }
}

/// Turns accepted findings into notices, and offers to accept the others. Decisions about rules that cannot
/// be accepted have no effect. A schema of an earlier version has no decisions.
pub(super) fn apply(findings: &mut [Finding], accepted: Option<&[Decision]>) {
    let Some(accepted) = accepted else { return };
    let accepted: HashMap<(&str, &str), &Decision> =
        accepted.iter().map(|d| ((d.rule.as_str(), d.object.as_str()), d)).collect();
    let is_acceptable =
        |finding: &&mut Finding| Rule::by_id(finding.rule).is_some_and(|rule| rule.is_acceptable);
    for finding in findings.iter_mut().filter(is_acceptable) {
        match accepted.get(&(finding.rule, finding.decided_object().as_str())) {
            Some(decision) => accept(finding, decision),
            None => offer(finding),
        }
    }
}

fn offer(finding: &mut Finding) {
    let statement = format!(
        "select warden.accept_finding({}, {}, '<reason>');",
        quote_literal(finding.rule),
        quote_literal(&finding.decided_object())
    );
    finding.remedy.choices.push(Choice::new("it is on purpose", RemedyKind::Sql, &statement));
}

fn accept(finding: &mut Finding, decision: &Decision) {
    finding.severity = Severity::Notice;
    finding.cause = format!("accepted by {}: {} ({})", decision.decided_by, decision.reason, finding.cause);
    finding.remedy = Remedy::advice(format!(
        "if this is no longer on purpose: select warden.reopen_finding({}, {});",
        quote_literal(finding.rule),
        quote_literal(&finding.decided_object())
    ));
}

/// An SQL literal, as PostgreSQL's function of this name returns it.
fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}
