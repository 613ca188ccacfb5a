//! Settings of the session that writes: under each of them, a statement on a watched table succeeds where it
//! does on an unwatched one, in a transaction that is committed in two phases, and logs the same events. DDL
//! gives the watched tables the same triggers and log functions, and Warden's own functions can be called.
//!
//! The suite checks those that are known to matter and a random sample (`WARDEN_SEED`); `WARDEN_SETTINGS=all`
//! checks all of `pg_settings`, each Boolean and enumeration with all values, each number with its least and
//! greatest.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::strings;
use crate::harness::TestDb;

/// Settings of the suite's sample, beside [`DIALECT`] and [`ALWAYS`].
const SAMPLE: usize = 20;

/// Settings that every run checks one by one: how names, literals and values are read and printed. With
/// all of them in one session, the suite alters tables and calls functions.
const DIALECT: [(&str, &str); 13] = [
    ("search_path", "hostile, pg_catalog, public, watched"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("quote_all_identifiers", "on"),
    ("bytea_output", "escape"),
    ("DateStyle", "German, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("extra_float_digits", "-15"),
    ("plpgsql.variable_conflict", "use_column"),
    ("plpgsql.extra_errors", "all"),
    ("row_security", "off"),
];

/// Other settings that every run checks one by one.
const ALWAYS: [(&str, &str); 11] = [
    ("search_path", ""),
    ("search_path", "hostile, pg_catalog"),
    ("search_path", "nowhere"),
    ("search_path", "pg_temp, pg_catalog"),
    ("escape_string_warning", "on"),
    ("TimeZone", "America/St_Johns"),
    ("xmloption", "document"),
    ("client_encoding", "LATIN1"),
    ("default_transaction_isolation", "serializable"),
    ("role", "authenticated"),
    ("lock_timeout", "20000"),
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
    let mut settings: Vec<(String, String)> =
        DIALECT.into_iter().chain(ALWAYS).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let mut others: Vec<(String, String)> = strings(&db, OTHERS)
        .await
        .iter()
        .map(|s| s.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())).expect("name=value"))
        .collect();
    let is_complete = std::env::var("WARDEN_SETTINGS").is_ok();
    if !is_complete {
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
    let follows = alter(&db, org, &[]).await.expect("alters").expect("alters");
    // The writing trigger of `logs` needs the order triggers of that table and of its partitions.
    assert!(follows.iter().filter(|line| line.contains("warden_begin_insert")).count() == 4, "{follows:#?}");
    granted_functions_are_called(&db).await;
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
    // DDL takes seconds, so the suite checks some of the settings at once.
    let dialects = if is_complete {
        settings.iter().map(|(name, value)| vec![(name.as_str(), value.as_str())]).collect()
    } else {
        vec![DIALECT.to_vec()]
    };
    for dialect in dialects {
        match alter(&db, org, &dialect).await {
            Ok(Ok(state)) if state == follows => {}
            Ok(Ok(state)) => wrong.push(format!("{dialect:?}, DDL: {}", difference(&follows, &state))),
            Ok(Err(e)) => wrong.push(format!("{dialect:?}, DDL: {e}")),
            Err(e) => assert!(is_complete, "the plain tables cannot be altered: {e}"),
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
    let mut session = begin(db, settings).await?;
    run(&mut session, include_str!("settings/writes.sql"), place, org).await?;
    session.execute(sqlx::raw_sql(AssertSqlSafe(format!("prepare transaction '{}'", db.name)))).await?;
    session.execute(sqlx::raw_sql(AssertSqlSafe(format!("commit prepared '{}'", db.name)))).await?;
    session.close().await
}

/// Begins a transaction in a session with these settings.
async fn begin(db: &TestDb, settings: &[(&str, &str)]) -> Result<PgConnection, sqlx::Error> {
    let mut session = PgConnection::connect(db.url()).await?;
    session.execute("do 'begin end'").await?;
    for (name, value) in settings {
        sqlx::query("select pg_catalog.set_config($1, $2, false)")
            .bind(name)
            .bind(value)
            .execute(&mut session)
            .await?;
    }
    session.execute("begin").await?;
    Ok(session)
}

/// Runs the statements of a script one by one.
async fn run(session: &mut PgConnection, script: &str, place: &str, org: Uuid) -> Result<(), sqlx::Error> {
    let script = script.replace("{place}", place).replace("{org}", &org.to_string());
    for statement in script.split_inclusive(";\n") {
        session.execute(sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))).await?;
    }
    Ok(())
}

/// The triggers and log functions of the watched tables, and what was logged in the transaction.
const STATE: &str = r#"
    select concat_ws(' ', c.relname, g.tgname, g.tgargs, p.proname, md5(replace(p.prosrc, '"', '')))
    from pg_trigger g join pg_class c on c.oid = g.tgrelid join pg_proc p on p.oid = g.tgfoid
    where c.relnamespace = 'watched'::regnamespace and not g.tgisinternal
    union all
    select concat_ws(' ', topic, event, data, old) from warden.events where xid = pg_current_xact_id()
    order by 1"#;

/// Alters the watched tables with these settings in a transaction that is rolled back, writes to them, and
/// calls Warden's functions. Returns the state before the rollback, or the error; an outer error if the
/// unwatched tables cannot be altered either.
async fn alter(
    db: &TestDb,
    org: Uuid,
    settings: &[(&str, &str)],
) -> Result<Result<Vec<String>, sqlx::Error>, sqlx::Error> {
    let changes = include_str!("settings/changes.sql");
    let mut session = begin(db, settings).await?;
    run(&mut session, changes, "plain", org).await?;
    session.execute("rollback").await?;
    session.execute("begin").await?;
    for script in [changes, include_str!("settings/calls.sql")] {
        if let Err(e) = run(&mut session, script, "watched", org).await {
            return Ok(Err(e));
        }
    }
    session.execute("reset all").await?;
    let state = sqlx::query_scalar(STATE).fetch_all(&mut session).await;
    session.close().await?;
    Ok(state)
}

/// Every function that Warden grants to a back end or a gateway is among the calls.
async fn granted_functions_are_called(db: &TestDb) {
    let granted = strings(
        db,
        "select distinct p.proname from pg_proc p, aclexplode(p.proacl) a
         where p.pronamespace = 'warden'::regnamespace and a.grantee::regrole::text ~ '^warden_(gateway|publisher)$'",
    )
    .await;
    let calls = include_str!("settings/calls.sql");
    let missing: Vec<_> = granted.iter().filter(|name| !calls.contains(&format!("warden.{name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
