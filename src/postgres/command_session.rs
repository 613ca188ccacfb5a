//! Settings of the database session in which a command works. The role and the database may have others,
//! which would end a long step, or let a change fail or have another effect.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

/// Settings and their values. Those that the server's version does not have are left out.
const NEEDED: [(&str, &str); 13] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    // Another access method may lack updates or keys.
    ("default_table_access_method", "heap"),
    // Access to views can be switched off.
    ("restrict_nonsystem_relation_kind", ""),
    // With another value, triggers and event triggers do not fire, so foreign keys are not checked.
    ("session_replication_role", "origin"),
    ("event_triggers", "on"),
    ("temp_file_limit", "-1"),
];

/// Settings that only limit: if the role may not change them, they stay.
const LIMITS: [&str; 1] = ["temp_file_limit"];

/// A setting that differs from its needed value.
#[derive(sqlx::FromRow)]
struct Setting {
    name: String,
    value: String,
    source: String,
}

/// Applies the settings.
///
/// # Errors
/// If the role may not change one of them. The error names it and the remedy.
pub(super) async fn prepare(connection: &mut PgConnection) -> anyhow::Result<()> {
    // Before the first query, so that no schema of others is searched for functions and operators.
    connection.execute("set search_path = ''").await?;
    let (names, values): (Vec<&str>, Vec<&str>) = NEEDED.into_iter().unzip();
    let differing: Vec<Setting> = sqlx::query_as(
        "select s.name, n.value, s.source from unnest($1::text[], $2::text[]) n (name, value)
         join pg_catalog.pg_settings s on s.name = n.name where s.setting <> n.value",
    )
    .bind(names)
    .bind(values)
    .fetch_all(&mut *connection)
    .await?;
    for setting in differing {
        // One statement each, so that a rejected one has no effect on others.
        let set = format!("set {} = '{}'", setting.name, setting.value);
        match connection.execute(AssertSqlSafe(set)).await {
            Err(sqlx::Error::Database(_)) if LIMITS.contains(&setting.name.as_str()) => {}
            Err(sqlx::Error::Database(error)) => anyhow::bail!("{}", setting.problem(error.message())),
            result => result.map(drop)?,
        }
    }
    Ok(())
}

impl Setting {
    fn problem(&self, error: &str) -> String {
        let Self { name, value, source } = self;
        let remedy = match source.as_str() {
            "database" => format!("alter database ... reset {name};"),
            "user" => format!("alter role ... reset {name};"),
            "database user" => format!("alter role ... in database ... reset {name};"),
            _ => format!("alter role ... set {name} = '{value}';"),
        };
        format!(
            "the command needs the setting {name} = '{value}', and its role may not change it ({error}). It was set \
             by: {source}. As a superuser: {remedy}"
        )
    }
}
