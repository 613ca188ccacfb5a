//! The registration of the listed tables, after the SQL migrations, with the source of their rows'
//! organisation.

use std::collections::{HashMap, HashSet};

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::choices::Choices;
use super::options;
use super::tables::{CORE, Candidate, Listed, candidates, registered, resolve};
use crate::tenancy::AdoptionIssue;
use crate::tenancy::executor::OtherSources;
use crate::tenancy::registry::Registry;
use crate::tenancy::undecided;

/// Result of the registration of the listed tables.
#[derive(Debug, Default)]
pub(in crate::tenancy) struct Registration {
    /// From where the rows of each table get their organisation.
    pub(in crate::tenancy) notes: Vec<String>,
    /// Tables that were not registered.
    pub(in crate::tenancy) issues: Vec<AdoptionIssue>,
    /// Tables that were registered.
    pub(in crate::tenancy) tables: HashSet<i64>,
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
    /// The sources, in their order.
    sources: Vec<String>,
}

/// Registers the listed tables, except those with rows of which nothing says to which organisation they
/// belong. These are an issue, and nothing of them is changed.
///
/// # Errors
/// If the database cannot be read, or rejects a statement.
pub(in crate::tenancy) async fn register_decided(
    connection: &mut PgConnection,
    choices: &Choices,
) -> anyhow::Result<Registration> {
    if choices.tables.is_empty() {
        return register(connection, choices, &HashSet::new()).await;
    }
    let mut trial = connection.begin().await?;
    let registered = register(&mut trial, choices, &HashSet::new()).await?.tables;
    let mut open = Vec::new();
    for table in Registry::load(&mut trial).await?.tables {
        if registered.contains(&table.oid) {
            open.extend(OtherSources::load(&mut trial, &table).await?.undecided);
        }
    }
    // Rows are counted while the transaction holds no lock.
    trial.rollback().await?;
    let (mut undecided, mut texts) = (HashSet::new(), Vec::new());
    for rows in open {
        if let Some(text) = rows.describe(&mut *connection).await? {
            undecided.insert(rows.oid);
            texts.push(text);
        }
    }
    let mut registration = register(connection, choices, &undecided).await?;
    registration.issues.splice(0..0, undecided::issue(&texts));
    Ok(registration)
}

/// Registers the listed tables, parents before children, except these. It reports a table as an issue if
/// neither a parent nor a user determines the organisation of its rows.
///
/// # Errors
/// If the database cannot be read, or rejects a statement.
pub(in crate::tenancy) async fn register(
    connection: &mut PgConnection,
    choices: &Choices,
    except: &HashSet<i64>,
) -> anyhow::Result<Registration> {
    let mut registration = Registration::default();
    platform(&mut *connection, choices, &mut registration).await?;
    if choices.tables.is_empty() {
        choose_default(&mut *connection, choices).await?;
        return Ok(registration);
    }
    let candidates: HashMap<i64, Candidate> =
        candidates(&mut *connection).await?.into_iter().map(|c| (c.oid, c)).collect();
    let mut registered: HashSet<i64> = registered(&mut *connection).await?;
    let mut waiting = Vec::new();
    let mut derived = Vec::new();
    for listed in resolve(&mut *connection, &choices.tables).await? {
        let (Some(oid), Some(name)) = (listed.table.oid, listed.table.full_name.clone()) else { continue };
        let is_known = registered.contains(&oid) && !listed.choice.is_explicit();
        if CORE.contains(&name.as_str()) || is_known || except.contains(&oid) {
            continue;
        }
        let candidate = candidates.get(&oid);
        if let Some(problem) = wrong_user(&mut *connection, &listed, &name, candidate).await? {
            registration.issues.push(underivable(&name, &problem));
            continue;
        }
        match derive(&listed, oid, &name, candidate, choices.uses_default) {
            Some(derivation) => waiting.push(derivation),
            None => registration.issues.push(underivable(&name, NO_SOURCE)),
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
            registration.tables.insert(derivation.table);
            derived.push(derivation);
        }
    }
    for derivation in derived {
        registration.notes.push(derivation.note(&mut *connection).await?);
    }
    choose_default(connection, choices).await?;
    let is_listed = |oid: &i64| except.contains(oid) || waiting.iter().any(|d| d.table == *oid);
    for derivation in &waiting {
        let is_waiting = derivation.parent.or(derivation.reference).as_ref().is_some_and(is_listed);
        registration.issues.push(derivation.orphan(is_waiting));
    }
    Ok(registration)
}

/// Records that rows belong to the default organisation if nothing says where they belong: rows of the listed
/// tables that are registered, or without a list of all tables of the application.
async fn choose_default(connection: &mut PgConnection, choices: &Choices) -> Result<(), sqlx::Error> {
    if !choices.uses_default {
        return Ok(());
    }
    let listed = resolve(&mut *connection, &choices.tables).await?;
    let oids: Vec<i64> = listed.iter().filter_map(|table| table.table.oid).collect();
    sqlx::query(
        "update warden.tenant_tables t set fills_rest_with_default = true
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = t.schema_name and c.relname = t.table_name and t.scope = 'org'
           and t.origin = 'application' and not t.fills_rest_with_default
           and ($1::bigint[] = '{}' or c.oid::bigint = any ($1))",
    )
    .bind(&oids)
    .execute(&mut *connection)
    .await?;
    sqlx::query("select warden.create_default_organization()").execute(&mut *connection).await?;
    // New rows follow the choice at once.
    sqlx::query("select count(*) from warden.renew_filling()").execute(connection).await?;
    Ok(())
}

/// Why the user column that Warden would use cannot name a user, if it is the only source.
async fn wrong_user(
    connection: &mut PgConnection,
    listed: &Listed,
    name: &str,
    candidate: Option<&Candidate>,
) -> Result<Option<String>, sqlx::Error> {
    let is_sole = |c: &&Candidate| c.parent.is_none() && !listed.choice.is_explicit();
    let Some(column) = candidate.filter(is_sole).and_then(|c| c.user_column.as_deref()) else {
        return Ok(None);
    };
    let Some(oid) = listed.table.oid else { return Ok(None) };
    options::user_problem(connection, oid, name, column).await
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
        sqlx::query("select warden.create_default_organization()").execute(&mut *connection).await?;
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

fn derive(
    listed: &Listed,
    oid: i64,
    name: &str,
    candidate: Option<&Candidate>,
    uses_default: bool,
) -> Option<Derivation> {
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
        sources: Vec::new(),
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
    if derivation.is_default || uses_default {
        sources.push("the default organisation".to_owned());
    } else if sources.is_empty() {
        return None;
    }
    derivation.sources = sources;
    Some(derivation)
}

/// The problem of a table without a source.
const NO_SOURCE: &str = "has no foreign key to a table of organisations and no column with a user: its rows do not say \
                         to which organisation they belong";

fn underivable(name: &str, problem: &str) -> AdoptionIssue {
    AdoptionIssue::new(
        name,
        problem,
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

    /// From where the rows get their organisation. Rows that they must reference count once all tables are
    /// registered.
    async fn note(&self, connection: &mut PgConnection) -> Result<String, sqlx::Error> {
        let required: Vec<String> = sqlx::query_scalar(
            "select format('the organisation of %s by %s', target, columns)
             from warden.other_references($1::oid::regclass, 't') where is_required",
        )
        .bind(sqlx::postgres::types::Oid(u32::try_from(self.table).unwrap_or(0)))
        .fetch_all(connection)
        .await?;
        let mut sources = self.sources.clone();
        let place = usize::from(self.parent.is_some()).min(sources.len());
        sources.splice(place..place, required);
        Ok(format!("{} gets {}", self.name, sources.join(", else ")))
    }

    /// The issue of a table whose parent is not registered, although it may be listed.
    fn orphan(&self, is_parent_listed: bool) -> AdoptionIssue {
        let parent = self.parent_name.as_deref().unwrap_or("?");
        let remedy = if is_parent_listed {
            format!("Resolve the issue of {parent} first.")
        } else {
            format!("List {parent} as well: --tables {parent},{}", self.name)
        };
        AdoptionIssue::new(
            self.name.clone(),
            format!("inherits its organisation from {parent}, which is not adopted"),
            remedy,
        )
    }
}
