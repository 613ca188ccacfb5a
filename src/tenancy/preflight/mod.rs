//! Checks of `warden migrate` before it changes anything: what exists and is not Warden's, and what the
//! operator decided about it.
//!
//! - `clashes` reports objects of the application that have the name of one of Warden's.
//! - `choices` holds the operator's decisions; `names` parses the list of tables.
//! - `existing` reports objects that Warden would replace, or could not rely on.
//! - `organizations` reports the application's own organisations and memberships.
//! - `owners` reports ordinary roles that own organisations or memberships, or other tables.
//! - `options` reports options of that list that cannot be right.
//! - `tables` resolves the listed tables; `registration` derives from where their rows get their
//!   organisation, and registers them.
//! - `decisions` reads and records decisions, so that later runs do not ask again.
//!
//! Only `decisions` and the registration change the database, after the checks and the SQL migrations.

mod choices;
mod clashes;
mod decisions;
mod existing;
mod names;
mod options;
mod organizations;
mod owners;
mod registration;
mod tables;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

pub use choices::Choices;
pub(super) use clashes::clashes;
pub(super) use existing::lost_watches;
pub use names::{TableChoice, parse_tables};
pub use organizations::is_question;
pub(super) use owners::notes as owner_notes;
pub(super) use registration::{forgets, register, register_decided};
pub use tables::Candidate;

use self::decisions::Decisions;
use super::AdoptionIssue;
use super::sql::literal;
use crate::postgres::missing_table_right;

/// Every reason why a run must not change anything yet.
///
/// # Errors
/// If the catalogs cannot be read.
pub(super) async fn check(
    connection: &mut PgConnection,
    choices: &Choices,
) -> anyhow::Result<Vec<AdoptionIssue>> {
    // Nothing else can be checked without this right.
    if let Some(missing) = missing_table_right(&mut *connection).await? {
        return Ok(vec![AdoptionIssue::new(
            format!("role {}", missing.role),
            missing.problem,
            missing.remedy,
        )]);
    }
    let has_public: bool = sqlx::query_scalar("select to_regnamespace('public') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if !has_public {
        return Ok(vec![AdoptionIssue::new(
            "schema public",
            "does not exist, and Warden creates organisations and functions for policies in it",
            "create schema public;",
        )]);
    }
    let decisions = Decisions::load(&mut *connection, choices).await?;
    let mut issues = tables::check(&mut *connection, choices).await?;
    issues.append(&mut options::check(&mut *connection, choices).await?);
    let bypasses = organizations::bypasses(&mut *connection).await?;
    issues.append(&mut existing::check(&mut *connection, &decisions, &bypasses).await?);
    issues.append(&mut organizations::check(&mut *connection, &decisions, &bypasses, choices).await?);
    issues.append(&mut owners::check(&mut *connection, choices, &decisions).await?);
    let chosen = tables::chosen(&mut *connection, choices).await?;
    issues.append(&mut existing::whole_rows(&mut *connection, &chosen, &decisions).await?);
    Ok(issues)
}

/// Lets the SQL migrations of this session replace the objects that the operator named.
pub(super) async fn prepare(connection: &mut PgConnection, choices: &Choices) -> Result<(), sqlx::Error> {
    let names: Vec<String> = choices.replace.iter().map(|name| choices::object_name(name)).collect();
    let sql = format!("set warden.replace = {}", literal(&names.join(",")));
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}

/// Applies and records the decisions, after the SQL migrations. It returns remarks for the operator.
///
/// # Errors
/// If the database rejects a statement.
pub(super) async fn record(connection: &mut PgConnection, choices: &Choices) -> anyhow::Result<Vec<String>> {
    decisions::record(&mut *connection, choices).await?;
    if choices.keep.is_empty() && choices.replace.is_empty() {
        return Ok(Vec::new());
    }
    existing::notes(connection).await
}

/// Tables that look like an organisation's and are not registered.
///
/// # Errors
/// If the database cannot be read, or lacks Warden's schema.
pub(super) async fn candidates(connection: &mut PgConnection) -> Result<Vec<Candidate>, sqlx::Error> {
    tables::candidates(connection).await
}
