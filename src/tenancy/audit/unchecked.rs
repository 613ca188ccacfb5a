//! Findings about rules that could not be checked: what prevented it, and the role that lacks a right.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnection;

use super::remedy::Remedy;
use super::report::Finding;
use super::rules;
use crate::postgres::{MissingRight, missing_table_right};

/// Role that runs the audit.
pub(super) struct Auditor {
    /// Quoted name.
    role: String,
    /// Why the role cannot read Warden's own tables; none if it can.
    missing: Option<MissingRight>,
}

impl Auditor {
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let role = sqlx::query_scalar("select quote_ident(current_user)").fetch_one(&mut *connection).await?;
        let missing = missing_table_right(connection).await?;
        Ok(Self { role, missing })
    }

    /// The finding that the server rejected a rule's query with this error.
    pub(super) fn not_checked(
        &self,
        rule: &str,
        table: Option<&str>,
        error: &dyn DatabaseError,
        timeout: Duration,
    ) -> Finding {
        let code = error.code().unwrap_or_default();
        let (cause, remedy) = match code.as_ref() {
            "57014" => (
                format!("it took longer than {} s", timeout.as_secs()),
                Remedy::shell(format!("warden audit --timeout {}", timeout.as_secs().saturating_mul(10))),
            ),
            "55P03" => (
                "another session has locked the table exclusively".to_owned(),
                Remedy::advice("run the audit again after that session has ended; pg_locks shows it"),
            ),
            "42501" => self.without_right(error.message()),
            _ => (
                format!("{} ({code})", error.message()),
                Remedy::advice("apply the remedies of the other findings first; then run the audit again"),
            ),
        };
        Finding::new(rules::NOT_CHECKED, table, rule, format!("could not be checked: {cause}"), remedy)
    }

    /// Cause and remedy if the role lacks a right.
    fn without_right(&self, message: &str) -> (String, Remedy) {
        let role = &self.role;
        // Forced policies apply even to the owner of the tables, which may be the role that runs
        // `warden migrate`.
        if message.contains("row-level security policy") {
            return (
                format!("{message}, which binds role {role}"),
                Remedy::advice(
                    "forced row-level security hides rows from this role: run the audit as a superuser, or as a role \
                     with BYPASSRLS that owns the tables and is a member of warden_owner",
                ),
            );
        }
        match &self.missing {
            Some(missing) => (
                format!("role {role} {}: {message}", missing.problem),
                Remedy::advice(format!(
                    "run the audit as the role that runs `warden migrate`. {}",
                    missing.remedy
                )),
            ),
            None => (
                format!("role {role}: {message}"),
                Remedy::advice(
                    "apply the remedies of the other findings; then run the audit as the role that runs \
                     `warden migrate` (it owns the tables, and is a member of warden_owner), or as a superuser",
                ),
            ),
        }
    }
}
