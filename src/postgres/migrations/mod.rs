//! SQL migrations: the core, and the optional tables of the voice-call platform.
//!
//! Both sets keep a record in schema `warden`. The platform's record exists once the platform was chosen;
//! every later run keeps it up to date. Files are idempotent, and [`apply`] applies those again that changed.
//! Online steps on tables in use are not done here, but by `tenancy`.

mod apply;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::{connect, primary_options};

/// The core's migrations, in order, as part of the binary.
static CORE: Migrator = sqlx::migrate!();

/// The platform's migrations. They are applied after the core's.
static PLATFORM: LazyLock<Migrator> = LazyLock::new(|| Migrator {
    table_name: Cow::Borrowed("warden._platform_migrations"),
    ..sqlx::migrate!("./migrations/platform")
});

/// A set of migrations that an operator can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaSet {
    /// Schema `warden`, organisations and memberships: everything that the gateway needs.
    Core,
    /// The core, and the tables of a voice-call platform: calls, recordings, and what surrounds them.
    Platform,
}

impl SchemaSet {
    /// The set's name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Platform => "platform",
        }
    }

    /// The migrations that this set adds.
    #[must_use]
    pub fn migrator(self) -> &'static Migrator {
        match self {
            Self::Core => &CORE,
            Self::Platform => &PLATFORM,
        }
    }

    /// The table that records the set's applied migrations, in schema `warden`.
    #[must_use]
    pub fn record(self) -> &'static str {
        match self {
            Self::Core => "_sqlx_migrations",
            Self::Platform => "_platform_migrations",
        }
    }
}

/// One migration of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationName {
    /// The set.
    pub set: SchemaSet,
    /// The number at the start of the file's name.
    pub version: i64,
    /// The rest of the file's name.
    pub description: String,
    /// Whether an earlier form of the file was applied before.
    pub is_renewed: bool,
}

impl fmt::Display for MigrationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let renewed = if self.is_renewed { " (again)" } else { "" };
        write!(f, "{} {:04} {}{renewed}", self.set.name(), self.version, self.description)
    }
}

/// Result of a migration run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Migrations that this run applied, for the first time or again.
    pub applied: Vec<MigrationName>,
    /// Number of migrations in the sets that this database has.
    pub total: usize,
    /// Tables whose fill triggers followed the rule of an earlier version, and were renewed.
    pub renewed: Vec<String>,
}

/// Brings the core up to date, and the platform's tables if this database has them. Two runs at once wait for
/// one another.
///
/// # Errors
/// If no primary can be reached, it rejects a statement, or another version of Warden migrated it.
pub async fn migrate(url: &str) -> anyhow::Result<Migrated> {
    migrate_set(url, SchemaSet::Core).await
}

/// Like [`migrate`], and chooses the platform's tables for this database.
///
/// # Errors
/// As [`migrate`].
pub async fn migrate_platform(url: &str) -> anyhow::Result<Migrated> {
    migrate_set(url, SchemaSet::Platform).await
}

async fn migrate_set(url: &str, set: SchemaSet) -> anyhow::Result<Migrated> {
    let link = primary_options(url).await?;
    // A slow statement is a whole file, which a log should not contain.
    let options = PgConnectOptions::clone(&link).disable_statement_logging();
    let mut connection = connect(&options).await?;
    let migrated = migrate_on(&mut connection, set).await?;
    connection.close().await?;
    Ok(migrated)
}

/// Migrates on an existing connection, which may be within a transaction.
///
/// # Errors
/// As [`migrate`].
pub(crate) async fn migrate_on(connection: &mut PgConnection, set: SchemaSet) -> anyhow::Result<Migrated> {
    let mut migrated = Migrated::default();
    let is_damaged = is_damaged(&mut *connection).await?;
    for set in sets(connection, set).await? {
        let before = recorded(&mut *connection, set).await?;
        let event_triggers = event_triggers(&mut *connection).await?;
        let applied = apply::apply(&mut *connection, set, is_damaged)
            .await
            .map_err(|error| failure(error, set, &event_triggers))?;
        let files = set.migrator().iter().filter(|file| applied.contains(&file.version));
        migrated.applied.extend(names(set, files, &before));
        migrated.total += set.migrator().iter().count();
    }
    // Tables may have changed without the event trigger, and in a restored database they have other numbers.
    // The executor completes new members, so that the plan names them.
    sqlx::query("select warden.refresh_watches(new_members => false)").execute(&mut *connection).await?;
    migrated.renewed =
        sqlx::query_scalar("select regexp_replace(t::text, '^public\\.', '') from warden.renew_filling() t")
            .fetch_all(connection)
            .await?;
    Ok(migrated)
}

/// Migrations that [`migrate_on`] would apply.
pub(crate) async fn pending(
    connection: &mut PgConnection,
    set: SchemaSet,
) -> Result<Vec<MigrationName>, sqlx::Error> {
    let mut pending = Vec::new();
    let is_damaged = is_damaged(&mut *connection).await?;
    for set in sets(connection, set).await? {
        let recorded = recorded(&mut *connection, set).await?;
        pending.extend(names(set, apply::stale(set, &recorded, is_damaged), &recorded));
    }
    Ok(pending)
}

/// Whether [`migrate_on`] failed because it did not get a lock in time.
pub(crate) fn is_locked(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<Rejected>().and_then(|rejected| rejected.code.as_deref());
    code == Some(apply::LOCK_NOT_AVAILABLE) || blocked(error).is_some()
}

/// Why [`migrate_on`] did not get the lock of migrations: another session holds it.
pub(crate) fn blocked(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| cause.downcast_ref::<apply::Blocked>()).map(ToString::to_string)
}

/// The server's error about a migration. sqlx's own error contains the server's message three times.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Rejected {
    message: String,
    code: Option<String>,
}

/// The sets to apply, in order: those asked for, and those that the database already has.
async fn sets(connection: &mut PgConnection, set: SchemaSet) -> Result<Vec<SchemaSet>, sqlx::Error> {
    let mut sets = vec![SchemaSet::Core];
    let is_platform = set == SchemaSet::Platform || is_platform_chosen(connection).await?;
    if is_platform {
        sets.push(SchemaSet::Platform);
    }
    Ok(sets)
}

/// Whether the first migration of the platform was applied. Its record may be empty: a first run failed, or
/// only the schema was restored.
async fn is_platform_chosen(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // Not checked at compile time, because the table may not exist.
    sqlx::query_scalar("select to_regclass('warden.platform_set') is not null").fetch_one(connection).await
}

fn names(
    set: SchemaSet,
    files: impl IntoIterator<Item = &'static Migration>,
    before: &HashMap<i64, Vec<u8>>,
) -> Vec<MigrationName> {
    let name = |file: &Migration| MigrationName {
        set,
        version: file.version,
        description: file.description.to_string(),
        is_renewed: before.contains_key(&file.version),
    };
    files.into_iter().map(name).collect()
}

/// An event trigger of the application: its name, and the name of its function.
type EventTrigger = (String, String);

/// Event triggers that the statements of a migration fire, with the rights of `warden_owner`.
async fn event_triggers(connection: &mut PgConnection) -> Result<Vec<EventTrigger>, sqlx::Error> {
    sqlx::query_as(
        "select quote_ident(e.evtname), p.oid::regprocedure::text from pg_event_trigger e join pg_proc p on p.oid = e.evtfoid
         where e.evtenabled <> 'D' and e.evtname not like 'warden\\_%' and not p.prosecdef",
    )
    .fetch_all(connection)
    .await
}

fn failure(error: MigrateError, set: SchemaSet, event_triggers: &[EventTrigger]) -> anyhow::Error {
    match error {
        MigrateError::VersionMissing(version) => anyhow::anyhow!(
            "this database has {} migration {version}, which this version of Warden does not know: a newer version \
             migrated it. Use that version; to recreate a development database, run `warden dev --ephemeral` \
             or remove its data directory",
            set.name()
        ),
        other => {
            let mut context = "a migration failed and was rolled back".to_owned();
            if let Some(hint) = event_trigger_hint(&other, event_triggers).or_else(|| hint(&other)) {
                context = format!("{context}. To continue:\n{hint}\ncause");
            }
            rejected(other, set).context(context)
        }
    }
}

fn rejected(error: MigrateError, set: SchemaSet) -> anyhow::Error {
    let (cause, place) = match &error {
        MigrateError::Execute(cause) => (cause, String::new()),
        MigrateError::ExecuteMigration(cause, version) => (cause, format!("{} {version:04}: ", set.name())),
        _ => return anyhow::Error::new(error),
    };
    match cause.as_database_error() {
        Some(cause) => anyhow::Error::new(Rejected {
            message: format!("{place}{}", cause.message()),
            code: cause.code().map(Cow::into_owned),
        }),
        None => anyhow::Error::new(error),
    }
}

/// The server's error about a migration.
fn server_error(error: &MigrateError) -> Option<&PgDatabaseError> {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = error else {
        return None;
    };
    cause.as_database_error()?.try_downcast_ref::<PgDatabaseError>()
}

/// The hint of a migration's error, which often is the statement for a superuser.
fn hint(error: &MigrateError) -> Option<String> {
    server_error(error)?.hint().map(str::to_owned)
}

/// Says what to do if the function of an application's event trigger failed.
fn event_trigger_hint(error: &MigrateError, event_triggers: &[EventTrigger]) -> Option<String> {
    let context = server_error(error)?.r#where()?;
    let (trigger, function) =
        event_triggers.iter().find(|(_, function)| context.contains(function.as_str()))?;
    Some(format!(
        "the event trigger {trigger} of the application calls {function}, which failed as warden_owner, the role that creates \
         Warden's objects. Grant that role the rights that the function needs, or let the function run with the rights of its \
         owner: alter function {function} security definer; or disable it meanwhile: alter event trigger {trigger} disable;"
    ))
}

/// Whether owners or rights of Warden's objects are wrong, so that every file must be applied again:
///
/// - A restore left out owners or rights (`pg_dump --no-owner`, `--no-privileges`). Then the log belongs to
///   another role, or the gateway's role may not read it.
/// - Default privileges of the new database allow requests to call a function of Warden, such as the token
///   hook.
/// - Schema `public` was dropped and created again, as tools do to reset a database. Schema `warden`
///   remained.
async fn is_damaged(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // Not checked at compile time, because schema and roles may not exist.
    sqlx::query_scalar(
        "select exists (
           select from pg_class c join pg_namespace n on n.oid = c.relnamespace
           where c.oid = to_regclass('warden.events')
             and ('warden_owner' not in (pg_get_userbyid(n.nspowner), pg_get_userbyid(c.relowner))
                  or pg_get_userbyid(n.nspowner) <> pg_get_userbyid(c.relowner)
                  or to_regclass('public.organizations') is null
                  or to_regclass('public.organization_members') is null
                  or not exists (select from pg_roles r where r.rolname = 'warden_gateway'
                                   and has_schema_privilege(r.oid, n.oid, 'usage')
                                   and has_table_privilege(r.oid, c.oid, 'select'))
                  or exists (
                    select from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                    where (p.pronamespace = n.oid and p.proname not in ('auth_org_id', 'auth_user_id')
                             and not (a.grantee = to_regrole('authenticated')
                                      and p.proname in ('has_short_numbers', 'json_is_convertible'))
                           or p.oid = to_regprocedure('public.custom_access_token_hook(jsonb)')
                              and obj_description(p.oid, 'pg_proc') like '%(created by Warden)')
                      and coalesce(a.grantee in (0, to_regrole('anon'), to_regrole('authenticated')), false))))",
    )
    .fetch_one(connection)
    .await
}

/// Versions and checksums of the applied migrations.
async fn recorded(
    connection: &mut PgConnection,
    set: SchemaSet,
) -> Result<HashMap<i64, Vec<u8>>, sqlx::Error> {
    // Not checked at compile time, because the first run creates the table.
    let record = format!("warden.{}", set.record());
    let is_there: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(&record)
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        return Ok(HashMap::new());
    }
    let sql = format!("select version, checksum from {record} where success");
    let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(connection).await?;
    Ok(applied.into_iter().collect())
}
