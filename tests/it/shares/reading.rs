//! Connections that read rows, rates, and descriptions of tables.

use std::time::Duration;

use serde_json::json;
use warden::metrics::LimitLabels;
use warden::rate::Rate;

use super::{connect_user, many, rows};
use crate::harness::{TestDb, TestGateway, eventually};

/// A table whose rows take long for one organisation.
async fn start(change: impl FnOnce(&mut warden::config::Limits)) -> TestGateway {
    start_on(TestDb::create().await, change).await
}

async fn start_on(db: TestDb, change: impl FnOnce(&mut warden::config::Limits)) -> TestGateway {
    db.run(
        "create table sleepers (id int primary key, org_id uuid not null);
         create table texts (id int primary key, org_id uuid not null, body text);
         create function slow() returns boolean language sql volatile as 'select pg_sleep(60) is not null';
         alter table sleepers enable row level security;
         create policy sleeping on sleepers for select to authenticated using (slow());
         grant select on sleepers, texts to authenticated;
         select warden.watch('sleepers', 'sleepers', 'sleeper', visibility => 'organisation'),
                warden.watch('texts', 'texts', 'text', visibility => 'organisation')",
    )
    .await;
    TestGateway::start_with(db, |config| {
        config.limits.reading.statement_timeout = Duration::from_secs(30);
        config.limits.admission.reads_per_user = Rate::new(10_000, 10_000);
        change(&mut config.limits);
    })
    .await
}

/// Statements that the server runs now, of this text.
async fn running(db: &TestDb, part: &str) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity
         where datname = current_database() and state = 'active' and query like $1 and pid <> pg_backend_pid()",
    )
    .bind(format!("%{part}%"))
    .fetch_one(&db.pool)
    .await
    .expect("queries")
}

#[tokio::test]
async fn slow_queries_of_one_organisation_leave_connections_to_others() {
    let t = start(|_| {}).await;
    let witness = t.witness().await;
    let greedy = t.db.create_org().await;
    t.db.run(format!("insert into sleepers values (1, '{greedy}')")).await;
    let sent = many(&t, greedy, "/v1/sleepers", 40);
    eventually("the organisation has its connections", async || {
        running(&t.db, "from warden_rows").await == 2
    })
    .await;
    witness.expect_served().await;
    assert_eq!(running(&t.db, "from warden_rows").await, 2, "half of the connections");
    drop(sent);
    // Reads continue after their clients have left.
    eventually("the queries end", async || {
        t.db.run(
            "select pg_terminate_backend(pid) from pg_stat_activity
                  where datname = current_database() and query like '%from warden_rows'",
        )
        .await;
        running(&t.db, "from warden_rows").await == 0
    })
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn requests_for_rows_are_limited_per_organisation() {
    let t = start(|limits| limits.admission.reads_per_org = Rate::new(1, 3)).await;
    let witness = t.witness().await;
    let greedy = t.db.create_org().await;
    let addr = t.gateway.public_addr();
    eventually("the rate is exceeded", async || {
        rows(greedy, "/v1/texts").send(addr).await.code() == "reads_per_org"
    })
    .await;
    witness.expect_served().await;
    t.gateway.stop().await;
}

/// Each selection is described once, each statement is prepared on its connection, and others still read.
#[tokio::test]
async fn many_selections_of_one_organisation_leave_reading_to_others() {
    let t = start(|limits| limits.admission.reads_per_org = Rate::new(10_000, 10_000)).await;
    let witness = t.witness().await;
    let greedy = t.db.create_org().await;
    t.db.run("create table wide (id int primary key, org_id uuid not null)").await;
    for n in 0..7 {
        t.db.run(format!("alter table wide add c{n} int")).await;
    }
    t.db.run(
        "grant select on wide to authenticated;
         select warden.watch('wide', 'wide', 'wide', visibility => 'organisation')",
    )
    .await;
    // More than a connection keeps prepared, because one at a time uses the same connection.
    for n in 0_u32..256 {
        let names: Vec<String> =
            (0..7).filter(|bit| n >> bit & 1 == 1).map(|bit| format!(",c{bit}")).collect();
        let order = ["", "&order=id.desc"][usize::from(n >= 128)];
        let path = format!("/v1/wide?select=id{}{order}", names.concat());
        let answer = rows(greedy, &path).send(t.gateway.public_addr()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        if n % 30 == 0 {
            witness.expect_served().await;
        }
    }
    witness.expect_served().await;
    t.gateway.stop().await;
}

/// Sorts that need more disk than the database allows. What others read fits into memory, and so does every
/// page of the log.
#[tokio::test]
async fn large_sorts_of_one_organisation_leave_reading_to_others() {
    let db = TestDb::create().await;
    db.run(
        "do $$ begin
           execute format('alter database %I set temp_file_limit = %L', current_database(), '0');
           execute format('alter database %I set work_mem = %L', current_database(), '1MB');
         end $$",
    )
    .await;
    let t = start_on(db, |limits| limits.admission.reads_per_org = Rate::new(10_000, 10_000)).await;
    let witness = t.witness().await;
    let greedy = t.db.create_org().await;
    let cursor = t.connect(greedy).await.join("texts").await["cursor"].clone();
    t.db.run(format!(
        "set temp_file_limit = -1;
         insert into texts select n, '{greedy}', repeat(md5(n::text), 59) from generate_series(1, 3000) n;
         reset all"
    ))
    .await;
    for _ in 0..3 {
        let mut sent = many(&t, greedy, "/v1/texts?order=body&limit=1000", 10);
        witness.expect_served().await;
        while let Some(answer) = sent.join_next().await {
            let answer = answer.expect("an answer");
            assert_eq!((answer.status, answer.code()), (400, "query_too_expensive".into()), "{answer:?}");
            assert!(answer.body.contains("temp_file_limit"), "{answer:?}");
        }
    }
    let answer = rows(greedy, "/v1/texts?limit=10").send(t.gateway.public_addr()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut client = t.connect(greedy).await;
    client.join_with("texts", json!({"since": cursor})).await;
    for _ in 0..3000 {
        client.expect_event("texts", "text.created").await;
    }
    t.gateway.stop().await;
}

/// Snapshots whose clients do not read, until no more of the organisation are read.
#[tokio::test]
async fn snapshots_of_one_organisation_leave_snapshots_to_others() {
    let t = start(|_| {}).await;
    let witness = t.witness().await;
    let (greedy, other) = (t.db.create_org().await, t.db.create_org().await);
    t.db.run(format!(
        "insert into texts select n, '{greedy}', repeat('x', 50000) from generate_series(1, 400) n;
         insert into texts values (1001, '{other}', 'theirs')"
    ))
    .await;
    let reached = || {
        t.gateway.metrics().limits_reached.get_or_create(&LimitLabels { limit: "snapshots_per_org" }).get()
    };
    let join = json!(["1", "1", "texts", "phx_join", {"snapshot": {}}]).to_string();
    let mut held = Vec::new();
    for n in 0..40 {
        let mut client = connect_user(&t, greedy, n).await;
        client.send(&join).await;
        held.push(client);
    }
    eventually("the organisation has its snapshots", async || reached() > 0).await;
    let mut client = t.connect(other).await;
    client.join_with("texts", json!({"snapshot": {}})).await;
    let page = client.expect_event("texts", "warden.snapshot").await;
    assert_eq!((&page.payload["rows"][0]["body"], &page.payload["last"]), (&json!("theirs"), &json!(true)));
    witness.expect_served().await;
    drop(held);
    t.gateway.stop().await;
}
