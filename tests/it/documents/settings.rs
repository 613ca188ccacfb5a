//! Settings of the session that writes: under each of them, a statement on a watched table succeeds where it
//! does on an unwatched one, in a transaction that is committed in two phases, and logs the same events.
//!
//! The suite checks those that are known to matter and a random sample (`WARDEN_SEED`); `WARDEN_SETTINGS=all`
//! checks all of `pg_settings`, each Boolean and enumeration with all values, each number with its least and
//! greatest.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::strings;
use crate::harness::TestDb;

/// Settings of the suite's sample, beside [`ALWAYS`].
const SAMPLE: usize = 20;

/// Settings that every run checks: how names, literals and values are read and printed, and who writes how.
const ALWAYS: [(&str, &str); 24] = [
    ("search_path", ""),
    ("search_path", "hostile, pg_catalog"),
    ("search_path", "hostile, pg_catalog, public, watched"),
    ("search_path", "nowhere"),
    ("search_path", "pg_temp, pg_catalog"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("escape_string_warning", "on"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("quote_all_identifiers", "on"),
    ("bytea_output", "escape"),
    ("DateStyle", "German, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "America/St_Johns"),
    ("extra_float_digits", "-15"),
    ("xmloption", "document"),
    ("client_encoding", "LATIN1"),
    ("default_transaction_isolation", "serializable"),
    ("row_security", "off"),
    ("role", "authenticated"),
    ("lock_timeout", "20000"),
    ("plpgsql.variable_conflict", "use_column"),
    ("plpgsql.extra_errors", "all"),
];

/// All other settings that a session may change, with values. `session_replication_role` is left out:
/// `replica` switches triggers off, which is its purpose.
const OTHERS: &str = "
    select name || '=' || value
    from pg_settings, unnest(case vartype when 'bool' then '{on,off}' when 'enum' then enumvals
                             when 'integer' then array[min_val, max_val] when 'real' then array[min_val, max_val]
                             else '{}' end) value
    where context in ('user', 'superuser') and name <> 'session_replication_role'
    order by 1";

#[tokio::test]
async fn no_setting_of_a_session_fails_or_changes_its_writes() {
    let db = TestDb::create().await;
    db.run(include_str!("settings/tables.sql")).await;
    let org = db.create_org().await;
    db.run(format!("update sources set org_id = '{org}'")).await;
    let mut settings: Vec<(String, String)> = ALWAYS.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    let mut others: Vec<(String, String)> = strings(&db, OTHERS)
        .await
        .iter()
        .map(|s| s.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())).expect("name=value"))
        .collect();
    if std::env::var("WARDEN_SETTINGS").is_err() {
        let seed = std::env::var("WARDEN_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| fastrand::u64(..));
        eprintln!("WARDEN_SEED={seed}");
        fastrand::Rng::with_seed(seed).shuffle(&mut others);
        others.truncate(SAMPLE);
    }
    settings.extend(others);

    let expected = write(&db, org, &[]).await.expect("writes").expect("writes");
    assert_eq!(expected.len(), 18, "{expected:#?}");
    let (mut wrong, mut left_out) = (Vec::new(), Vec::new());
    for (name, value) in &settings {
        let setting = format!("{name} = {value:?}");
        match write(&db, org, &[(name, value)]).await {
            Ok(Ok(events)) if events == expected => {}
            Ok(Ok(events)) => wrong.push(format!("{setting}: {}", difference(&expected, &events))),
            Ok(Err(e)) => wrong.push(format!("{setting}: {e}")),
            Err(e) => left_out.push(format!("{setting}: {e}")),
        }
    }
    eprintln!("{} settings, of which these fail without a watch too: {left_out:#?}", settings.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A quarter at most: the others show what this test is about.
    assert!(left_out.len() * 4 < settings.len(), "{left_out:#?}");
}

/// Describes the first event that differs.
fn difference(expected: &[String], events: &[String]) -> String {
    let different = expected.iter().zip(events).find(|(e, o)| e != o);
    different.map_or_else(|| format!("{} events", events.len()), |(e, o)| format!("{o} instead of {e}"))
}

/// Writes to the watched tables with these settings. Returns the events, or the error of a write; an outer
/// error if the unwatched tables cannot be written either.
async fn write(
    db: &TestDb,
    org: Uuid,
    settings: &[(&str, &str)],
) -> Result<Result<Vec<String>, sqlx::Error>, sqlx::Error> {
    attempt(db, "plain", org, settings).await?;
    if let Err(e) = attempt(db, "watched", org, settings).await {
        return Ok(Err(e));
    }
    let events = strings(
        db,
        "select concat_ws(' ', event, data, 'old', old, 'truncated', truncated) from warden.events
         where topic like 'probe%' order by id",
    )
    .await;
    db.run("delete from warden.events").await;
    Ok(Ok(events))
}

/// Runs the statements of `writes.sql` in one transaction, which is committed in two phases.
async fn attempt(db: &TestDb, place: &str, org: Uuid, settings: &[(&str, &str)]) -> Result<(), sqlx::Error> {
    let mut session = PgConnection::connect(db.url()).await?;
    session.execute("do 'begin end'").await?;
    for (name, value) in settings {
        sqlx::query("select set_config($1, $2, false)").bind(name).bind(value).execute(&mut session).await?;
    }
    session.execute("begin").await?;
    let writes = include_str!("settings/writes.sql").replace("{place}", place);
    for statement in writes.replace("{org}", &org.to_string()).split_inclusive(";\n") {
        session.execute(sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))).await?;
    }
    session.execute(sqlx::raw_sql(AssertSqlSafe(format!("prepare transaction '{}'", db.name)))).await?;
    session.execute(sqlx::raw_sql(AssertSqlSafe(format!("commit prepared '{}'", db.name)))).await?;
    session.close().await
}
