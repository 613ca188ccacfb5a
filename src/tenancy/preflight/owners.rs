//! Owners of organisations and memberships. A role that may create tables in `public` can create them before
//! Warden is installed, and as their owner turn row-level security off later.

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
