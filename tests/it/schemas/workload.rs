//! Random writes of two organisations, and a client of each that follows them through a real gateway. A
//! client knows its rows at the beginning. Afterwards it applies "the last event of a row wins", and must
//! end with exactly the rows of its organisation.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use uuid::Uuid;

use super::file::SchemaFile;
use crate::harness::managed::{ANN, ARTHUR, BEN, ManagedDb, ORG_A, ORG_B};
use crate::harness::{Client, TestGateway, token};

/// Topic of the event that ends a run.
const END: &str = "end_of_workload";

/// A watched table.
struct Watch {
    relation: String,
    topic: String,
    key_columns: Vec<String>,
    omit_columns: Vec<String>,
}

impl Watch {
    /// The values that identify a row.
    fn key(&self, row: &Value) -> String {
        let values: Vec<&Value> = self.key_columns.iter().map(|column| &row[column]).collect();
        json!(values).to_string()
    }
}

/// Rows by topic and key.
type Rows = BTreeMap<(String, String), Value>;

/// A client of one organisation, and the rows that it knows.
struct Follower {
    org: Uuid,
    client: Client,
    rows: Rows,
}

/// Runs random writes, and checks what the clients of both organisations know afterwards.
pub async fn run(schema: &SchemaFile, app: &ManagedDb, statements: u32, rng: &mut Rng) {
    app.db.run(format!("select warden.declare_topic('{END}')")).await;
    let watches = watches(app).await;
    let gateway = TestGateway::gateway(&app.db, |_| {}).await;
    let mut followers = Vec::new();
    for org in [ORG_A, ORG_B] {
        let topics: Vec<&str> = watches.iter().map(|w| w.topic.as_str()).chain([END]).collect();
        let token = token(org, &json!({"app_metadata": {"org_id": org, "warden_topics": topics}}));
        let mut client = Client::connect(gateway.public_addr(), &token).await;
        for topic in topics {
            client.join(topic).await;
        }
        followers.push(Follower { org, client, rows: table_rows(app, &watches, org).await });
    }
    write(schema, app, statements, rng).await;
    for follower in &mut followers {
        app.db.publish(follower.org, END, "end").await;
        follower.follow(&watches).await;
        let expected = table_rows(app, &watches, follower.org).await;
        assert_same(&follower.rows, &expected);
    }
    gateway.stop().await;
}

async fn watches(app: &ManagedDb) -> Vec<Watch> {
    let rows = sqlx::query(
        "select relation::regclass::text as relation, topic, key_columns, omit_columns
         from warden.watches where topic <> 'org'",
    )
    .fetch_all(&app.db.pool)
    .await
    .expect("reads");
    rows.iter()
        .map(|row| Watch {
            relation: row.get("relation"),
            topic: row.get("topic"),
            key_columns: row.get("key_columns"),
            omit_columns: row.get("omit_columns"),
        })
        .collect()
}

async fn table_rows(app: &ManagedDb, watches: &[Watch], org: Uuid) -> Rows {
    let mut found = Rows::new();
    for watch in watches {
        let strings = columns_of_extensions(app, &watch.relation)
            .await
            .iter()
            .map(|column| format!(" || jsonb_build_object('{column}', t.\"{column}\"::text)"))
            .collect::<String>();
        let sql = format!(
            "select (to_jsonb(t.*){strings}) - $2::text[] from {} t where t.org_id = $1",
            watch.relation
        );
        let rows: Vec<Value> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(org)
            .bind(&watch.omit_columns)
            .fetch_all(&app.db.pool)
            .await
            .expect("reads");
        for row in rows {
            found.insert((watch.topic.clone(), watch.key(&row)), row);
        }
    }
    found
}

/// Columns whose types belong to extensions. Events contain their values as strings.
async fn columns_of_extensions(app: &ManagedDb, relation: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select a.attname::text from pg_attribute a
         join pg_depend d on d.classid = 'pg_type'::regclass and d.objid = a.atttypid and d.deptype = 'e'
         where a.attrelid = $1::regclass and a.attnum > 0 and not a.attisdropped",
    )
    .bind(relation)
    .fetch_all(&app.db.pool)
    .await
    .expect("reads")
}

impl Follower {
    /// Applies events up to the last one.
    async fn follow(&mut self, watches: &[Watch]) {
        loop {
            let event = self.client.next_event().await;
            if event.topic == END {
                return;
            }
            let watch = watches.iter().find(|w| w.topic == event.topic).expect("a joined topic");
            let data = event.payload["data"].clone();
            let key = (event.topic.clone(), watch.key(&data));
            if let Some(org) = data.get("org_id") {
                assert_eq!(org, &json!(self.org), "an event of another organisation: {event:?}");
            }
            if event.name.ends_with(".deleted") {
                self.rows.remove(&key);
            } else {
                self.rows.insert(key, data);
            }
        }
    }
}

/// Compares rows. A member of an inheritance tree may have columns that its parent lacks.
fn assert_same(known: &Rows, expected: &Rows) {
    let keys = |rows: &Rows| rows.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(known), keys(expected), "the client knows other rows than the table has");
    for (key, row) in expected {
        for (column, value) in row.as_object().expect("a row") {
            assert_eq!(known[key].get(column), Some(value), "{key:?}: column {column}: {}", known[key]);
        }
    }
}

/// Runs random statements of the file as the application's role. A tenth of the transactions is rolled back.
async fn write(schema: &SchemaFile, app: &ManagedDb, statements: u32, rng: &mut Rng) {
    let choices = schema.all_of("write");
    assert!(!choices.is_empty(), "{}: has statements", schema.name);
    let role = schema.one("role").unwrap_or("authenticated");
    let login = if role == "authenticated" { "authenticator" } else { role };
    let mut connection = app.connect_as(login).await;
    for n in 0..statements {
        // Every statement runs once, in order, so that each table has rows of both organisations.
        let first_rounds = u32::try_from(choices.len()).expect("few") * 2;
        let chosen = if n < first_rounds { (n / 2) as usize } else { rng.usize(..choices.len()) };
        let (org, user) = match (n % 2, rng.bool()) {
            (0, true) => (ORG_A, ANN),
            (0, false) => (ORG_A, ARTHUR),
            _ => (ORG_B, BEN),
        };
        let sql = choices[chosen]
            .replace("{n}", &(100 + n).to_string())
            .replace("{user}", &user.to_string())
            .replace("{org}", &org.to_string());
        let is_kept = n < first_rounds || rng.u8(..10) > 0;
        as_request(&mut connection, role, org, user, &sql, is_kept)
            .await
            .unwrap_or_else(|e| panic!("statement {n} of {org}: {e}\n{sql}"));
    }
    connection.close().await.expect("closes");
}

async fn as_request(
    connection: &mut PgConnection,
    role: &str,
    org: Uuid,
    user: Uuid,
    sql: &str,
    is_kept: bool,
) -> Result<(), sqlx::Error> {
    let claims = json!({"sub": user, "role": "authenticated", "app_metadata": {"org_id": org}});
    let end = if is_kept { "commit" } else { "rollback" };
    let script = format!(
        "begin; set local role {role}; select set_config('request.jwt.claims', '{claims}', true); {sql}; {end}"
    );
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(script))).await;
    if done.is_err() {
        connection.execute("rollback").await?;
    }
    done.map(|_| ())
}
