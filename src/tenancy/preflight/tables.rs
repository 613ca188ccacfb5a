//! The tables that the operator listed: they are resolved before anything is changed, and registered after
//! the SQL migrations with the source of their rows' organisation.

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
    oid: i64,
    /// Quoted name with its schema.
    pub name: String,
    user_column: Option<String>,
    parent: Option<i64>,
    parent_name: Option<String>,
    parent_column: Option<String>,
    parent_key: Option<String>,
    /// A table that a key of several columns references, if there is neither parent nor user.
    reference: Option<i64>,
    reference_name: Option<String>,
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
    columns: Vec<String>,
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

/// Result of the registration of the listed tables.
#[derive(Debug, Default)]
pub(in crate::tenancy) struct Registration {
    /// From where the rows of each table get their organisation.
    pub(in crate::tenancy) notes: Vec<String>,
    /// Tables that were not registered.
    pub(in crate::tenancy) issues: Vec<AdoptionIssue>,
}

/// The source of a table's organisation.
#[derive(Debug)]
struct Derivation {
    table: i64,
    name: String,
    user_column: Option<String>,
    parent: Option<i64>,
    parent_name: Option<String>,
    parent_column: Option<String>,
    parent_key: Option<String>,
    /// Whether the operator chose the default organisation.
    is_default: bool,
    /// A table that must be registered as well, and that is no parent.
    reference: Option<i64>,
    source: String,
}

/// Registers the listed tables, parents before children. It reports a table as an issue if neither a parent
/// nor a user determines the organisation of its rows, because all rows would get the default organisation.
///
/// # Errors
/// If the database cannot be read, or rejects a statement.
pub(in crate::tenancy) async fn register(
    connection: &mut PgConnection,
    choices: &Choices,
) -> anyhow::Result<Registration> {
    let mut registration = Registration::default();
    platform(&mut *connection, choices, &mut registration).await?;
    if choices.tables.is_empty() {
        return Ok(registration);
    }
    let candidates: HashMap<i64, Candidate> =
        candidates(&mut *connection).await?.into_iter().map(|c| (c.oid, c)).collect();
    let mut registered: HashSet<i64> = registered(&mut *connection).await?;
    let mut waiting = Vec::new();
    for listed in resolve(&mut *connection, &choices.tables).await? {
        let (Some(oid), Some(name)) = (listed.table.oid, listed.table.full_name.clone()) else { continue };
        if CORE.contains(&name.as_str()) || registered.contains(&oid) && !listed.choice.is_explicit() {
            continue;
        }
        match derive(&listed, oid, &name, candidates.get(&oid)) {
            Some(derivation) => waiting.push(derivation),
            None => registration.issues.push(underivable(&name)),
        }
    }
    loop {
        let (ready, blocked): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|d: &Derivation| d.parent.or(d.reference).is_none_or(|oid| registered.contains(&oid)));
        waiting = blocked;
        if ready.is_empty() {
            break;
        }
        for derivation in ready {
            derivation.register(&mut *connection).await?;
            registered.insert(derivation.table);
            registration.notes.push(format!("{} {}", derivation.name, derivation.source));
        }
    }
    registration.issues.extend(waiting.iter().map(Derivation::orphan));
    Ok(registration)
}

/// Registers the platform's tables if the operator chose them in this run. Otherwise it removes from the
/// registry those that were dropped: a table that has such a name today is another one, which nobody chose.
async fn platform(
    connection: &mut PgConnection,
    choices: &Choices,
    registration: &mut Registration,
) -> Result<(), sqlx::Error> {
    let forgotten: Vec<String> =
        sqlx::query_scalar("select f::text from warden.forget_absent_tables() f order by 1")
            .fetch_all(&mut *connection)
            .await?;
    if choices.has_platform {
        sqlx::query("select warden.register_platform()").execute(connection).await?;
        return Ok(());
    }
    registration.notes.extend(forgotten.into_iter().map(|name| {
        format!(
            "{name}: the platform's table was dropped. A table that has this name today is adopted only if you choose \
             it: --tables public.{name}, or --platform again"
        )
    }));
    Ok(())
}

/// Whether a run changes the registry without a choice of the operator.
pub(in crate::tenancy) async fn forgets(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select exists (select from warden.absent_platform_tables())")
        .fetch_one(connection)
        .await
}

async fn registered(connection: &mut PgConnection) -> Result<HashSet<i64>, sqlx::Error> {
    let oids: Vec<i64> = sqlx::query_scalar(
        "select c.oid::bigint from warden.tenant_tables t
         join pg_namespace n on n.nspname = t.schema_name
         join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name",
    )
    .fetch_all(connection)
    .await?;
    Ok(oids.into_iter().collect())
}

fn derive(listed: &Listed, oid: i64, name: &str, candidate: Option<&Candidate>) -> Option<Derivation> {
    let choice = &listed.choice;
    let mut derivation = Derivation {
        table: oid,
        name: name.to_owned(),
        user_column: choice.user_column.clone(),
        parent: None,
        parent_name: None,
        parent_column: None,
        parent_key: None,
        is_default: choice.is_default,
        reference: None,
        source: String::new(),
    };
    if let Some((_, parent)) = &listed.parent {
        derivation.parent = parent.oid;
        derivation.parent_name.clone_from(&parent.full_name);
        derivation.parent_column.clone_from(&choice.parent_column);
        derivation.parent_key = Some(choice.key().to_owned());
    } else if let Some(candidate) = candidate.filter(|_| !choice.is_default) {
        derivation.user_column = derivation.user_column.or_else(|| candidate.user_column.clone());
        derivation.parent = candidate.parent;
        derivation.parent_name.clone_from(&candidate.parent_name);
        derivation.parent_column.clone_from(&candidate.parent_column);
        derivation.parent_key.clone_from(&candidate.parent_key);
    }
    let mut sources = Vec::new();
    if let (Some(parent), Some(column)) = (&derivation.parent_name, &derivation.parent_column) {
        sources.push(if parent == CORE[0] {
            format!("the organisation that {column} names")
        } else {
            format!("the organisation of {parent} by {column}")
        });
    }
    if let Some(column) = &derivation.user_column {
        sources.push(format!("the membership of {column}"));
    }
    if listed.table.columns.iter().any(|column| column == "org_id") && sources.is_empty() {
        sources.push("its own org_id".to_owned());
    }
    // Without an option, the rows that a table references decide (warden.other_references()).
    if let Some(candidate) =
        candidate.filter(|c| sources.is_empty() && !choice.is_default && c.reference.is_some())
    {
        derivation.reference = candidate.reference;
        derivation.parent_name.clone_from(&candidate.reference_name);
        let reference = candidate.reference_name.as_deref().unwrap_or("?");
        sources.push(format!("the organisation of {reference} by a key of several columns"));
    }
    if sources.is_empty() && !choice.is_default {
        return None;
    }
    sources.push("the default organisation".to_owned());
    derivation.source = format!("gets {}", sources.join(", else "));
    Some(derivation)
}

fn underivable(name: &str) -> AdoptionIssue {
    AdoptionIssue::new(
        name,
        "has no foreign key to a table of organisations and no column with a user: its rows do not say to which \
         organisation they belong",
        format!(
            "Say it: --tables '{name} user_column=...' or '{name} parent=... parent_column=...'. If all its rows belong \
             to the default organisation: '{name} organization=default'."
        ),
    )
}

impl Derivation {
    async fn register(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "select warden.register_table($1::oid::regclass, $2::name, $3::oid::regclass, $4::name, coalesce($5, 'id')::name,
                                         uses_default_organization => $6)",
        )
        .bind(sqlx::postgres::types::Oid(u32::try_from(self.table).unwrap_or(0)))
        .bind(&self.user_column)
        .bind(self.parent.map(|oid| sqlx::postgres::types::Oid(u32::try_from(oid).unwrap_or(0))))
        .bind(&self.parent_column)
        .bind(&self.parent_key)
        .bind(self.is_default)
        .execute(connection)
        .await?;
        Ok(())
    }

    fn orphan(&self) -> AdoptionIssue {
        let parent = self.parent_name.as_deref().unwrap_or("?");
        AdoptionIssue::new(
            self.name.clone(),
            format!("inherits its organisation from {parent}, which is not adopted"),
            format!("List {parent} as well: --tables {parent},{}", self.name),
        )
    }
}
