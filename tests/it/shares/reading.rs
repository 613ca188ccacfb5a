//! Connections that read rows, rates, and descriptions of tables.

use std::time::Duration;

use warden::rate::Rate;

use super::{many, rows};
use crate::harness::{TestDb, TestGateway, eventually};

/// A table whose rows take long for one organisation.
async fn start(change: impl FnOnce(&mut warden::config::Limits)) -> TestGateway {
    let db = TestDb::create().await;
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

/// Each selection is described once, and others still read.
#[tokio::test]
async fn many_selections_of_one_organisation_leave_reading_to_others() {
    let t = start(|_| {}).await;
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
    for n in 0_u32..100 {
        let names: Vec<String> =
            (0..7).filter(|bit| n >> bit & 1 == 1).map(|bit| format!(",c{bit}")).collect();
        let path = format!("/v1/wide?select=id{}", names.concat());
        let answer = rows(greedy, &path).send(t.gateway.public_addr()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        if n % 30 == 0 {
            witness.expect_served().await;
        }
    }
    witness.expect_served().await;
    t.gateway.stop().await;
}
