//! Applies a set of migrations. Every file states the wanted state, so it can be applied again: after a
//! change of the file, and after a restore that lost its record.
//!
//! sqlx's own `Migrator::run` rejects a file that differs from the applied one. Hence this loop, which uses
//! sqlx's record and its lock, so that older versions of Warden wait for it and understand its result.

use std::collections::HashMap;

use sqlx::migrate::{Migrate as _, MigrateError, Migration};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::SchemaSet;
use crate::postgres::dialect;

/// With `row_security = off`, which a database may set, reading a table fails if its policies apply to the
/// reader. With any schema in the search_path in which others may create objects, a function or operator of
/// theirs that fits the arguments better than PostgreSQL's own would run with the rights of the migrating
/// role. The event trigger that completes watched tables need not check each statement, because that is done
/// after the last file.
const SESSION: &str = "set local row_security = on; set local search_path = pg_catalog, pg_temp; \
                       set local warden.is_protecting = on";
/// SQLSTATE of a lock that was not granted in time.
pub(super) const LOCK_NOT_AVAILABLE: &str = "55P03";

const SUSPEND_DEFAULT_PRIVILEGES: &str = include_str!("suspend_default_privileges.sql");
const RESTORE_DEFAULT_PRIVILEGES: &str = include_str!("restore_default_privileges.sql");

/// Applies the files of a set that are not recorded as they are, and returns their versions.
///
/// If one file changed, later ones are applied as well, because they may build on what it replaces. In a
/// damaged schema, all are applied.
pub(super) async fn apply(
    connection: &mut PgConnection,
    set: SchemaSet,
    is_damaged: bool,
) -> Result<Vec<i64>, MigrateError> {
    lock(connection).await?;
    let result = apply_locked(connection, set, is_damaged).await;
    // If the run failed within a transaction of the caller, the lock ends with the connection.
    let unlocked = connection.unlock().await;
    let applied = result?;
    unlocked?;
    Ok(applied)
}

/// Another session holds the lock of migrations, which every role can take.
#[derive(Debug, thiserror::Error)]
#[error(
    "another session holds the lock of migrations: {0}; if it is no run of warden, end it with \
     pg_terminate_backend(pid)"
)]
pub(super) struct Blocked(String);

/// Takes sqlx's lock of migrations. If the lock timeout of the session ends the wait, the error names the
/// holder.
async fn lock(connection: &mut PgConnection) -> Result<(), MigrateError> {
    match connection.lock().await {
        Err(MigrateError::Execute(error)) if is_lock_timeout(&error) => {
            Err(MigrateError::Source(Box::new(Blocked(holder(connection).await))))
        }
        result => result,
    }
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.as_deref() == Some(LOCK_NOT_AVAILABLE)
}

/// The session that holds the lock.
async fn holder(connection: &mut PgConnection) -> String {
    let database = sqlx::query_scalar("select current_database()::text").fetch_one(&mut *connection).await;
    let database: String = database.unwrap_or_default();
    let holder: Result<Option<String>, _> = sqlx::query_scalar(
        "select format('pid %s, role %s', a.pid, coalesce(a.usename, '?'))
         from pg_locks l join pg_stat_activity a using (pid)
         where l.locktype = 'advisory' and l.granted and l.objsubid = 1
           and (l.classid::bigint << 32) | l.objid::bigint = $1
           and l.database = (select oid from pg_database where datname = current_database())",
    )
    .bind(lock_id(&database))
    .fetch_optional(connection)
    .await;
    // In a transaction that failed, the server answers no query.
    holder.ok().flatten().unwrap_or_else(|| "see pg_locks".to_owned())
}

/// Number of sqlx's lock.
fn lock_id(database: &str) -> i64 {
    let mut crc = flate2::Crc::new();
    crc.update(database.as_bytes());
    0x3d32_ad9e * i64::from(crc.sum())
}

async fn apply_locked(
    connection: &mut PgConnection,
    set: SchemaSet,
    is_damaged: bool,
) -> Result<Vec<i64>, MigrateError> {
    let migrator = set.migrator();
    let record = &migrator.table_name;
    let mut transaction = connection.begin().await?;
    transaction.execute(sqlx::raw_sql(SESSION)).await?;
    transaction.execute(sqlx::raw_sql(SUSPEND_DEFAULT_PRIVILEGES)).await?;
    for schema in migrator.create_schemas.iter() {
        transaction.create_schema_if_not_exists(schema).await?;
    }
    transaction.ensure_migrations_table(record).await?;
    transaction.execute(sqlx::raw_sql(RESTORE_DEFAULT_PRIVILEGES)).await?;
    transaction.commit().await?;
    if let Some(version) = connection.dirty_version(record).await? {
        return Err(MigrateError::Dirty(version));
    }
    let recorded = connection.list_applied_migrations(record).await?;
    if let Some(unknown) = recorded.iter().find(|m| !migrator.version_exists(m.version)) {
        return Err(MigrateError::VersionMissing(unknown.version));
    }
    let recorded: HashMap<i64, Vec<u8>> =
        recorded.into_iter().map(|m| (m.version, m.checksum.into_owned())).collect();
    let mut applied = Vec::new();
    for migration in stale(set, &recorded, is_damaged) {
        let mut transaction = connection.begin().await?;
        transaction.execute(sqlx::raw_sql(SESSION)).await?;
        transaction.execute(sqlx::raw_sql(AssertSqlSafe(dialect(true)))).await?;
        transaction.execute(sqlx::raw_sql(SUSPEND_DEFAULT_PRIVILEGES)).await?;
        forget(&mut transaction, record, migration.version).await?;
        transaction.apply(record, migration).await?;
        transaction.execute(sqlx::raw_sql(RESTORE_DEFAULT_PRIVILEGES)).await?;
        transaction.commit().await?;
        applied.push(migration.version);
    }
    Ok(applied)
}

/// The files to apply, in order: those without a record, and from the first one that changed on, all. In a
/// damaged schema: all.
pub(super) fn stale(
    set: SchemaSet,
    recorded: &HashMap<i64, Vec<u8>>,
    is_damaged: bool,
) -> Vec<&'static Migration> {
    let mut has_changed = is_damaged;
    let files = set.migrator().iter();
    files
        .filter(|file| {
            let checksum = recorded.get(&file.version);
            has_changed |= checksum.is_some_and(|checksum| *checksum != *file.checksum);
            has_changed || checksum.is_none()
        })
        .collect()
}

/// Removes the record of a migration. If the transaction fails, the record stays.
async fn forget(transaction: &mut PgConnection, record: &str, version: i64) -> Result<(), MigrateError> {
    sqlx::query(AssertSqlSafe(format!("delete from {record} where version = $1")))
        .bind(version)
        .execute(transaction)
        .await?;
    Ok(())
}
