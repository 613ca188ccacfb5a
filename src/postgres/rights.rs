//! Rights that a role lacks: which role, what it lacks, and the statement that grants it. PostgreSQL's own
//! error names neither the role nor the remedy.

use std::fmt;

use sqlx::postgres::PgConnection;

use super::GATEWAY_ROLE;

/// Most rights that one message lists.
const LISTED_RIGHTS_MAX: usize = 4;

/// A role that lacks rights, and how to grant them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingRight {
    /// The role.
    pub(crate) role: String,
    /// The missing rights.
    pub(crate) problem: String,
    /// Statements for a superuser, or the role to use instead.
    pub(crate) remedy: String,
}

impl fmt::Display for MissingRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "role {} {}. {}", self.role, self.problem, self.remedy)
    }
}

/// Why the current role cannot audit the schema: it may not use schema `warden`. None if the schema does not
/// exist.
///
/// # Errors
/// If the catalogs cannot be read.
pub(crate) async fn missing_schema_right(
    connection: &mut PgConnection,
) -> Result<Option<MissingRight>, sqlx::Error> {
    missing_right(connection, false).await
}

/// Why the current role cannot change the schema: it may not use schema `warden`, or may not read its tables.
/// None if the schema or the registry does not exist.
///
/// # Errors
/// If the catalogs cannot be read.
pub(crate) async fn missing_table_right(
    connection: &mut PgConnection,
) -> Result<Option<MissingRight>, sqlx::Error> {
    missing_right(connection, true).await
}

async fn missing_right(
    connection: &mut PgConnection,
    for_tables: bool,
) -> Result<Option<MissingRight>, sqlx::Error> {
    let found: Option<(String, String, bool, String)> =
        sqlx::query_as(include_str!("rights/schema.sql")).bind(for_tables).fetch_optional(connection).await?;
    Ok(found.map(|(role, action, is_member, remedy)| {
        let reason = if is_member {
            "it is a member of warden_owner and does not inherit its rights"
        } else {
            "it is not a member of warden_owner"
        };
        MissingRight { role, problem: format!("may not {action} schema warden, because {reason}"), remedy }
    }))
}

/// Rights that the gateway needs and its current role lacks. Objects that do not exist are left out.
///
/// # Errors
/// If the catalogs cannot be read.
pub(crate) async fn missing_gateway_rights(
    connection: &mut PgConnection,
) -> Result<Option<MissingRight>, sqlx::Error> {
    let missing: Vec<(String, String, String)> =
        sqlx::query_as(include_str!("rights/gateway.sql")).fetch_all(connection).await?;
    let Some((role, ..)) = missing.first().cloned() else { return Ok(None) };
    let rights: Vec<&str> =
        missing.iter().take(LISTED_RIGHTS_MAX).map(|(_, right, _)| right.as_str()).collect();
    let more = match missing.len().saturating_sub(LISTED_RIGHTS_MAX) {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    let remedy = if role == GATEWAY_ROLE {
        let statements: Vec<&str> = missing.iter().map(|(.., statement)| statement.as_str()).collect();
        format!("As a superuser: {}", statements.join(" "))
    } else {
        format!("As a superuser: grant {GATEWAY_ROLE} to {role};")
    };
    Ok(Some(MissingRight {
        role,
        problem: format!("lacks rights that the gateway needs: {}{more}", rights.join(", ")),
        remedy,
    }))
}
