//! The order of the events of one row, when the application's own triggers change it as well.

mod cancelled;
mod merge;
mod moves;
mod names;
mod needs;
mod programs;
mod published;
mod queries;

use std::collections::HashMap;

use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use crate::harness::TestDb;

/// Rows that a client has: by table and key.
type Rows = HashMap<(String, i64), Value>;

/// Applies the events after an id to a client's rows, and returns the last id.
///
/// # Panics
/// If an event does not follow from the state after the event before it.
async fn apply(db: &mut PgConnection, after: i64, rows: &mut Rows) -> Result<i64, String> {
    let events = sqlx::query(
        "select id, topic, split_part(event, '.', 2) as event, data, old from warden.events
         where id > $1 and topic in ('a', 'b', 'c') order by id",
    )
    .bind(after)
    .fetch_all(db)
    .await
    .expect("reads the events");
    let mut last = after;
    for event in events {
        last = event.get("id");
        let (topic, name): (String, String) = (event.get("topic"), event.get("event"));
        let (data, old): (Value, Option<Value>) = (event.get("data"), event.get("old"));
        let key = (topic, data["id"].as_i64().expect("an id"));
        let before = rows.get(&key).cloned();
        let expected = match (name.as_str(), &before) {
            ("created", None) => Some(data.clone()),
            ("deleted", Some(before)) if *before == data => None,
            ("updated", Some(before)) if old.as_ref() == Some(&difference(before, &data)) => {
                Some(data.clone())
            }
            _ => return Err(format!("{key:?}: {name} {data}, old {old:?}, but the row was {before:?}")),
        };
        match expected {
            Some(data) => rows.insert(key, data),
            None => rows.remove(&key),
        };
    }
    Ok(last)
}

/// The former values of the columns that differ.
fn difference(before: &Value, after: &Value) -> Value {
    let before = before.as_object().expect("an object");
    let changed = before.iter().filter(|(column, value)| after.get(column) != Some(value));
    Value::Object(changed.map(|(column, value)| (column.clone(), value.clone())).collect::<Map<_, _>>())
}

/// The query of all rows of the program's tables.
async fn query_of_rows(db: &mut PgConnection) -> String {
    sqlx::query_scalar(
        "select string_agg(format('select %L as topic, id::bigint, to_jsonb(%I) as data from %I', t, t, t), ' union all ')
         from unnest('{a,b,c}'::text[]) t where to_regclass(t) is not null",
    )
    .fetch_one(db)
    .await
    .expect("reads the tables")
}

async fn table_rows(db: &mut PgConnection, query: &str) -> Rows {
    let rows = sqlx::query(AssertSqlSafe(query.to_owned())).fetch_all(db).await.expect("reads the rows");
    rows.iter().map(|row| ((row.get("topic"), row.get("id")), row.get("data"))).collect()
}

/// Runs one program, and checks the events after each of its scripts.
async fn check(db: &mut PgConnection, program: &programs::Program) -> Result<usize, String> {
    db.execute(sqlx::raw_sql(AssertSqlSafe(program.schema.clone()))).await.expect("creates the schema");
    let mut last: i64 = sqlx::query_scalar("select coalesce(max(id), 0) from warden.events")
        .fetch_one(&mut *db)
        .await
        .expect("reads the log");
    let query_of_rows = query_of_rows(db).await;
    let mut rows = Rows::new();
    let mut succeeded = 0;
    for (n, script) in program.scripts.iter().enumerate() {
        // The extended protocol, if the script is one statement.
        let result = if script.contains(';') {
            db.execute(sqlx::raw_sql(AssertSqlSafe(script.clone()))).await
        } else {
            sqlx::query(AssertSqlSafe(script.clone())).execute(&mut *db).await
        };
        match result {
            Ok(_) => succeeded += 1,
            Err(error) => {
                // Programs may break constraints, but nothing may fail in Warden.
                let error = format!("{error:?}");
                if error.contains("warden") {
                    return Err(format!("script {n} failed: {error}"));
                }
                db.execute("rollback").await.expect("rolls back");
            }
        }
        last = apply(db, last, &mut rows).await.map_err(|e| format!("script {n}: {e}"))?;
        let table = table_rows(db, &query_of_rows).await;
        if table != rows {
            return Err(format!("script {n}: the table is {table:?}, the client has {rows:?}"));
        }
    }
    Ok(succeeded)
}

async fn server_version(db: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select current_setting('server_version_num')::int")
        .fetch_one(db)
        .await
        .expect("reads")
}

/// A number from the environment: `make order` runs more programs.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().expect("a number"))
}

/// Halves of moves between partitions that are stored. There are none after a statement.
async fn stored_halves(session: &mut PgConnection) -> i64 {
    let halves = sqlx::query_scalar("select count(*) from warden.moved_rows");
    halves.fetch_one(session).await.expect("counts")
}

#[tokio::test]
async fn a_client_that_applies_events_in_order_has_every_state_of_every_row() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    let version = server_version(&mut session).await;
    let mut succeeded = 0;
    let (first, programs) = (number("WARDEN_ORDER_FIRST", 0), number("WARDEN_ORDER_PROGRAMS", 12));
    for seed in first..first + programs {
        let program = programs::program(seed, org, version >= 150_000);
        match check(&mut session, &program).await {
            Ok(scripts) => succeeded += scripts,
            Err(error) => {
                let scripts = program.scripts.join(";\n-- next\n");
                panic!("seed {seed}: {error}\n{};\n{scripts};", program.schema)
            }
        }
    }
    assert!(succeeded > 5 * usize::try_from(programs).expect("fits"), "only {succeeded} scripts succeeded");
    let notes: i64 = sqlx::query_scalar("select count(*) from warden.row_notes")
        .fetch_one(&mut session)
        .await
        .expect("counts");
    assert_eq!(notes, 0, "a statement left notes behind");
}
