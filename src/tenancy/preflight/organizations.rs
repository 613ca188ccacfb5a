//! The application's own `organizations` and `organization_members`. They decide about access, so Warden uses
//! them only if the operator names them, and only if ordinary roles cannot write them.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;

use super::choices::Choices;
use super::decisions::Decisions;
use crate::tenancy::AdoptionIssue;

/// The problem of the finding that asks whether Warden may use them.
const QUESTION: &str = "exist in the application. Warden would use them to decide who belongs to which organisation, \
                        and issue tokens accordingly";

/// Whether an issue only asks whether Warden may use the application's organisations.
#[must_use]
pub fn is_question(issue: &AdoptionIssue) -> bool {
    issue.problem == QUESTION
}

/// One of the two tables.
#[derive(Debug, sqlx::FromRow)]
struct Existing {
    table: String,
    is_foreign: bool,
    misfit: Option<String>,
    remedy: String,
    is_not_unique: bool,
    required_columns: Option<Vec<String>>,
    /// Statement that inserts the default organisation, with example values.
    insertion: Option<String>,
}

/// A role that may write one of them.
#[derive(Debug, sqlx::FromRow)]
struct Writer {
    table: String,
    role: String,
    commands: String,
    statement: String,
}

/// A view, rule or function through which ordinary roles may write one of them without a right on it.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Bypass {
    table: String,
    /// Name for `--accept`. The arguments of a function are no part of it.
    pub(super) object: String,
    description: String,
    owner: String,
    roles: Vec<String>,
    /// Statement that closes it.
    statement: Option<String>,
}

pub(super) async fn bypasses(connection: &mut PgConnection) -> Result<Vec<Bypass>, sqlx::Error> {
    sqlx::query_as(include_str!("sql/bypasses.sql")).fetch_all(connection).await
}

pub(super) async fn check(
    connection: &mut PgConnection,
    decisions: &Decisions,
    bypasses: &[Bypass],
    choices: &Choices,
) -> anyhow::Result<Vec<AdoptionIssue>> {
    let existing: Vec<Existing> =
        sqlx::query_as(include_str!("sql/organizations.sql")).fetch_all(&mut *connection).await?;
    let mut issues = Vec::new();
    for table in &existing {
        issues.extend(table.issue(&mut *connection, choices.needs_default()).await?);
    }
    let foreign: Vec<String> =
        existing.iter().filter(|t| t.is_foreign).map(|t| format!("public.{}", t.table)).collect();
    if !decisions.uses_organizations && !foreign.is_empty() {
        issues.push(AdoptionIssue::new(
            foreign.join(" and "),
            QUESTION,
            format!(
                "If they are the tenants and their members, name them: warden migrate --tables {},...\n\
                 Otherwise rename them, and Warden creates its own.",
                foreign.join(",")
            ),
        ));
    }
    let writers: Vec<Writer> =
        sqlx::query_as(include_str!("sql/writers.sql")).fetch_all(&mut *connection).await?;
    let mut by_table: BTreeMap<&str, Vec<&Writer>> = BTreeMap::new();
    for writer in &writers {
        by_table.entry(&writer.table).or_default().push(writer);
    }
    for (table, writers) in by_table {
        if !decisions.is_accepted(table) {
            issues.push(writable(table, &writers));
        }
    }
    issues.extend(bypasses.iter().filter(|b| !b.is_accepted(decisions)).map(Bypass::issue));
    Ok(issues)
}

/// The finding about roles that may write a table.
fn writable(table: &str, writers: &[&Writer]) -> AdoptionIssue {
    let who: Vec<String> = writers.iter().map(|w| format!("{} may {}", w.role, w.commands)).collect();
    let close: Vec<&str> = writers.iter().map(|w| w.statement.as_str()).collect();
    AdoptionIssue::new(
        table,
        format!(
            "decides about access, and ordinary roles may write it: {}. They could make themselves members of any \
             organisation",
            who.join("; ")
        ),
        format!("{}\nIf they may, on purpose: warden migrate --accept {table}", close.join("\n")),
    )
}

impl Bypass {
    /// A table that ordinary roles may write on purpose needs no view or function.
    fn is_accepted(&self, decisions: &Decisions) -> bool {
        decisions.is_accepted(&self.object)
            || self.table.split(" and ").all(|table| decisions.is_accepted(table))
    }

    fn issue(&self) -> AdoptionIssue {
        let Self { table, object, description, owner, roles, statement } = self;
        let roles =
            if roles.iter().any(|role| role == "public") { "PUBLIC".to_owned() } else { roles.join(", ") };
        AdoptionIssue::new(
            object,
            format!(
                "{description}{table}, which decides about access, with the rights of {owner}, and ordinary roles may use \
                 it: {roles}. They could make themselves members of any organisation"
            ),
            format!(
                "{}\nIf it admits only users that the organisation invited: warden migrate --accept {object}",
                statement.as_deref().unwrap_or_default()
            ),
        )
    }
}

impl Existing {
    /// Why the table does not fit. Warden needs the default organisation only if the operator chose it.
    async fn issue(
        &self,
        connection: &mut PgConnection,
        needs_default: bool,
    ) -> anyhow::Result<Option<AdoptionIssue>> {
        let subject = format!("public.{}", self.table);
        if let Some(misfit) = &self.misfit {
            return Ok(Some(AdoptionIssue::new(subject, misfit.clone(), self.remedy.clone())));
        }
        if self.is_not_unique {
            return Ok(Some(AdoptionIssue::new(
                subject,
                "has no unique id, which every tenant table references",
                "alter table public.organizations add unique (id);",
            )));
        }
        let Some(columns) =
            self.required_columns.as_deref().filter(|columns| needs_default && !columns.is_empty())
        else {
            return Ok(None);
        };
        let has_default: bool = sqlx::query_scalar(
            "select exists (select from public.organizations where id = 'a0000000-0000-0000-0000-000000000001')",
        )
        .fetch_one(connection)
        .await?;
        Ok((!has_default).then(|| {
            AdoptionIssue::new(
                subject,
                format!("requires {}, so Warden cannot insert the default organisation", columns.join(", ")),
                format!(
                    "Insert it, with values of your choice (triggers of the table see the new row): {}",
                    self.insertion.as_deref().unwrap_or_default()
                ),
            )
        }))
    }
}
