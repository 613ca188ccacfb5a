//! Owners of tables, above all of organisations and memberships. A role that may create tables in `public`
//! can create these before Warden is installed, and as their owner turn row-level security off later.

use sqlx::postgres::PgConnection;

use super::choices::Choices;
use super::decisions::Decisions;
use super::tables;
use crate::tenancy::AdoptionIssue;

/// A role that nothing distinguishes from an ordinary one, and what it owns.
#[derive(Debug, sqlx::FromRow)]
struct Owner {
    role: String,
    tables: String,
    remedy: String,
}

pub(super) async fn check(
    connection: &mut PgConnection,
    choices: &Choices,
    decisions: &Decisions,
) -> anyhow::Result<Vec<AdoptionIssue>> {
    let chosen = tables::chosen(&mut *connection, choices).await?;
    let owners: Vec<Owner> =
        sqlx::query_as(include_str!("sql/owners.sql")).bind(chosen).fetch_all(connection).await?;
    Ok(owners.into_iter().filter(|owner| !decisions.is_accepted(&owner.role)).map(Owner::issue).collect())
}

/// Remarks about owners of tables that are ordinary roles: what they can do, and who can act as them.
pub(in crate::tenancy) async fn notes(
    connection: &mut PgConnection,
    tables: &[i64],
) -> Result<Vec<String>, sqlx::Error> {
    let rows: Vec<(String, String, String)> =
        sqlx::query_as(include_str!("sql/table_owners.sql")).bind(tables).fetch_all(connection).await?;
    Ok(rows
        .into_iter()
        .map(|(owner, tables, logins)| {
            format!(
                "{owner} owns {tables}. An owner can turn row-level security off, and its functions, triggers and casts \
                 run with the rights of this run. Roles that can log in as it or act as it: {logins}"
            )
        })
        .collect())
}

impl Owner {
    fn issue(self) -> AdoptionIssue {
        let Self { role, tables, remedy } = self;
        AdoptionIssue::new(
            format!("role {role}"),
            format!(
                "owns {tables}: it could turn off what isolates organisations. It is no superuser, owns neither the \
                 database nor a table that you listed, and is not the role of this run"
            ),
            format!("{remedy}\nIf it is the application's own role: warden migrate --accept {role}"),
        )
    }
}
