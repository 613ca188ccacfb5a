//! The rule that the applied migrations are exactly those of this version.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::remedy::Remedy;
use super::report::Finding;
use crate::postgres::SchemaSet;

/// Compares the applied migrations of each set with those of this version.
pub(super) async fn check(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let mut found = check_set(&mut *connection, SchemaSet::Core).await?;
    if super::has_relation(&mut *connection, SchemaSet::Platform.record()).await? {
        found.append(&mut check_set(&mut *connection, SchemaSet::Platform).await?);
    }
    let has_organizations: bool = sqlx::query_scalar(
        "select to_regclass('public.organizations') is not null and to_regclass('public.organization_members') is not null",
    )
    .fetch_one(connection)
    .await?;
    if found.is_empty() && !has_organizations {
        let cause = "organisations or memberships do not exist any more, as after a reset of schema public";
        let remedy = Remedy::shell("warden migrate");
        found.push(Finding::new("schema", None, "public", cause.to_owned(), remedy));
    }
    Ok(found)
}

async fn check_set(connection: &mut PgConnection, set: SchemaSet) -> Result<Vec<Finding>, sqlx::Error> {
    let select = format!("select version, success, checksum from warden.{} order by version", set.record());
    let applied: Vec<(i64, bool, Vec<u8>)> =
        sqlx::query_as(AssertSqlSafe(select)).fetch_all(connection).await?;
    // A first run with --platform that failed leaves an empty record: the platform was not chosen.
    if set == SchemaSet::Platform && applied.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut report = |version: i64, cause: &str, remedy: Remedy| {
        let object = format!("{} migration {version:04}", set.name());
        found.push(Finding::new("schema", None, &object, cause.to_owned(), remedy));
    };
    let migrator = set.migrator();
    for migration in migrator.iter() {
        match applied.iter().find(|(version, ..)| *version == migration.version) {
            None | Some((_, false, _)) => {
                report(migration.version, "it was not applied", Remedy::shell("warden migrate"));
            }
            Some((_, _, checksum)) if checksum != migration.checksum.as_ref() => report(
                migration.version,
                "it differs from the one that was applied: another version of Warden migrated this database",
                Remedy::shell("warden migrate"),
            ),
            Some(_) => {}
        }
    }
    for (version, ..) in &applied {
        if !migrator.version_exists(*version) {
            report(
                *version,
                "this version of Warden does not contain it: a later version migrated this database",
                Remedy::advice("run the audit with that version of Warden"),
            );
        }
    }
    Ok(found)
}
