//! The tables that the operator listed, and those that look like an organisation's.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use sqlx::postgres::PgConnection;

use super::choices::Choices;
use super::decisions::exists;
use super::names::{TableChoice, TableName};
use crate::tenancy::AdoptionIssue;

/// Organisations and memberships. The core registers them itself.
pub(super) const CORE: [&str; 2] = ["public.organizations", "public.organization_members"];

/// A table that looks like an organisation's.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Candidate {
    pub(super) oid: i64,
    /// Quoted name with its schema.
    pub name: String,
    pub(super) user_column: Option<String>,
    pub(super) parent: Option<i64>,
    pub(super) parent_name: Option<String>,
    pub(super) parent_column: Option<String>,
    pub(super) parent_key: Option<String>,
    /// A table that a key of several columns references, if there is neither parent nor user.
    pub(super) reference: Option<i64>,
    pub(super) reference_name: Option<String>,
    /// Why it is a candidate.
    pub reason: String,
}

impl Candidate {
    /// Whether its rows name a parent, a user or another row.
    #[must_use]
    pub fn is_derivable(&self) -> bool {
        self.parent.is_some() || self.user_column.is_some() || self.reference.is_some()
    }
}

/// A name of the list, and the table that it means.
#[derive(Debug, Clone, Default, sqlx::FromRow)]
pub(super) struct Resolved {
    n: i32,
    pub(super) oid: Option<i64>,
    pub(super) full_name: Option<String>,
    pub(super) problem: Option<String>,
    pub(super) columns: Vec<String>,
}

pub(super) async fn check(
    connection: &mut PgConnection,
    choices: &Choices,
) -> anyhow::Result<Vec<AdoptionIssue>> {
    let mut issues = Vec::new();
    for listed in resolve(connection, &choices.tables).await? {
        let mut report = |problem: String| issues.push(listed.issue(problem));
        if let Some(problem) = &listed.table.problem {
            report(problem.clone());
            continue;
        }
        let parent = listed.parent.as_ref();
        if let Some((name, problem)) = parent.and_then(|(name, table)| Some((name, table.problem.as_ref()?)))
        {
            report(format!("has the parent {}, which {problem}", name.title()));
        }
        let choice = &listed.choice;
        let own = [&choice.user_column, &choice.parent_column];
        for column in own.into_iter().flatten().filter(|column| !listed.table.columns.contains(column)) {
            report(format!("has no column \"{column}\""));
        }
        if let (Some(key), Some((name, table))) = (&choice.parent_key, parent)
            && table.problem.is_none()
            && !table.columns.contains(key)
        {
            report(format!("has the parent {}, which has no column \"{key}\"", name.title()));
        }
    }
    Ok(issues)
}

/// A choice with its tables.
pub(super) struct Listed {
    pub(super) choice: TableChoice,
    pub(super) table: Resolved,
    pub(super) parent: Option<(TableName, Resolved)>,
}

impl Listed {
    /// The issue of a mistake in the list.
    pub(super) fn issue(&self, problem: String) -> AdoptionIssue {
        AdoptionIssue::new(self.choice.table.title(), problem, "Correct the list of --tables.")
    }
}

/// Looks up the tables and parents of the list.
pub(super) async fn resolve(
    connection: &mut PgConnection,
    choices: &[TableChoice],
) -> Result<Vec<Listed>, sqlx::Error> {
    let names: Vec<&TableName> =
        choices.iter().flat_map(|choice| std::iter::once(&choice.table).chain(&choice.parent)).collect();
    let wanted: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(n, name)| json!({"n": n, "schema": name.schema, "name": name.name, "is_exact": name.is_exact}))
        .collect();
    let rows: Vec<Resolved> = sqlx::query_as(include_str!("sql/tables.sql"))
        .bind(sqlx::types::Json(wanted))
        .fetch_all(connection)
        .await?;
    // An ambiguous name has several rows.
    let mut resolved: HashMap<i32, Resolved> = HashMap::new();
    for row in rows {
        resolved.entry(row.n).or_insert(row);
    }
    let mut at = 0;
    let mut next = || {
        let found = resolved.get(&at).cloned();
        at += 1;
        found.unwrap_or_default()
    };
    Ok(choices
        .iter()
        .map(|choice| Listed {
            choice: choice.clone(),
            table: next(),
            parent: choice.parent.clone().map(|name| (name, next())),
        })
        .collect())
}

/// The listed tables that exist, and those that are registered, by their oids.
pub(super) async fn chosen(
    connection: &mut PgConnection,
    choices: &Choices,
) -> Result<Vec<i64>, sqlx::Error> {
    let listed = resolve(&mut *connection, &choices.tables).await?;
    let mut chosen: Vec<i64> = listed.iter().filter_map(|listed| listed.table.oid).collect();
    if exists(&mut *connection, "warden.tenant_tables").await? {
        chosen.extend(registered(connection).await?);
    }
    Ok(chosen)
}

/// All candidates that are not registered.
pub(super) async fn candidates(connection: &mut PgConnection) -> Result<Vec<Candidate>, sqlx::Error> {
    sqlx::query_as(
        "select c.relation::oid::bigint as oid, format('%I.%I', n.nspname, k.relname) as name,
           c.user_column::text as user_column, c.parent::oid::bigint as parent, c.parent::text as parent_name,
           c.parent_column::text as parent_column, c.parent_key::text as parent_key, c.reference::oid::bigint as reference,
           c.reference::text as reference_name, c.reason
         from warden.tenant_candidates() c
         join pg_class k on k.oid = c.relation join pg_namespace n on n.oid = k.relnamespace
         order by n.nspname, k.relname",
    )
    .fetch_all(connection)
    .await
}

pub(super) async fn registered(connection: &mut PgConnection) -> Result<HashSet<i64>, sqlx::Error> {
    let oids: Vec<i64> = sqlx::query_scalar(
        "select c.oid::bigint from warden.tenant_tables t
         join pg_namespace n on n.nspname = t.schema_name
         join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name",
    )
    .fetch_all(connection)
    .await?;
    Ok(oids.into_iter().collect())
}
