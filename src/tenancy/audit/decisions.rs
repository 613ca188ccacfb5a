//! Decisions of operators: an accepted finding becomes a notice that names who accepted it, and why.

use std::collections::HashMap;

use sqlx::postgres::PgConnection;

use super::report::{Finding, Remedy};
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

/// Reads the accepted findings. A schema of an earlier version has no decisions.
pub(super) async fn accepted(connection: &mut PgConnection) -> Result<Vec<Decision>, sqlx::Error> {
    if super::has_relation(connection, "decisions").await? {
        sqlx::query_as(ACCEPTED).fetch_all(connection).await
    } else {
        Ok(Vec::new())
    }
}

/// Turns accepted findings into notices. Decisions about rules that cannot be accepted have no effect.
pub(super) fn apply(findings: &mut [Finding], accepted: &[Decision]) {
    let accepted: HashMap<(&str, &str), &Decision> =
        accepted.iter().map(|d| ((d.rule.as_str(), d.object.as_str()), d)).collect();
    for finding in findings {
        let is_acceptable = Rule::by_id(finding.rule).is_some_and(|rule| rule.is_acceptable);
        if let Some(decision) = accepted.get(&(finding.rule, finding.decided_object().as_str()))
            && is_acceptable
        {
            accept(finding, decision);
        }
    }
}

fn accept(finding: &mut Finding, decision: &Decision) {
    finding.severity = Severity::Notice;
    finding.cause = format!("accepted by {}: {} ({})", decision.decided_by, decision.reason, finding.cause);
    finding.remedy = Remedy::decide(format!(
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
