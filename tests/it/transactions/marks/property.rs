//! Consistent points as a property. Transfers between the rows of two tables keep the sum, and a chain of
//! transactions changes the tables in turn. Clients that apply up to marks show no other state, whatever
//! reconnects, replays, pages and snapshots come in between.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::watch;
use uuid::Uuid;
use warden::app::Gateway;
use warden::rate::Rate;

use super::follower::{Follower, Outcome, Rows, Shows};
use crate::harness::{TestDb, TestGateway, within};

pub(super) const TOPICS: [&str; 2] = ["lefts", "rights"];

/// The rows of both tables.
pub(super) type Shown = [Rows; 2];

/// Rows of each table at the beginning.
const ROWS: i64 = 20;
/// Sum of the rows of both tables.
const SUM: i64 = 2 * ROWS * 100;
/// Id of the row in each table that counts the steps of the chain.
const CHAIN: i64 = 0;
/// Rows of one page of the log: a transaction that changes all rows takes many.
const PAGE_ROWS: u32 = 3;
/// States that the clients show before the writers end, unless `WARDEN_STATES` is set.
const STATES: usize = 40;
/// Transactions by which a writer may be ahead before a state is shown.
const AHEAD: usize = 10;
/// Further transactions of a writer for each state. If writers did not wait, a slow node would read the log
/// in ever larger reads, and the clients would never get a mark.
const PER_STATE: usize = 2;
/// Factor by which the ids of two writers' own rows differ.
const WRITER_ROWS: i64 = 1_000_000;
const WRITERS: i64 = 3;
const CLIENTS: u64 = 6;
/// Time in which all clients must have the rows after the last change.
const DEADLINE: Duration = Duration::from_secs(60);

/// Whether the database can have had this state between two transactions.
pub(super) fn check(shown: &Shown) -> Result<(), String> {
    let sum: i64 = shown.iter().flatten().filter(|(id, _)| **id != CHAIN).map(|(_, n)| n).sum();
    let [left, right] = [&shown[0], &shown[1]].map(|rows| rows.get(&CHAIN).copied().unwrap_or_default());
    if sum != SUM {
        return Err(format!("the sum is {sum}"));
    }
    // A step of the left table precedes the same step of the right one.
    if left != right && left != right + 1 {
        return Err(format!("the chain is at {left} and {right}"));
    }
    Ok(())
}

async fn tables(db: &TestDb) -> Uuid {
    let org = db.create_org().await;
    for topic in TOPICS {
        db.run(format!(
            "create table {topic} (id int primary key, org_id uuid not null, n int not null);
             grant select on {topic} to authenticated;
             select warden.watch('{topic}', '{topic}', '{topic}', visibility => 'organisation');
             insert into {topic} select n, '{org}', 100 from generate_series(1, {ROWS}) n;
             insert into {topic} values ({CHAIN}, '{org}', 0)"
        ))
        .await;
    }
    org
}

/// Throttles a writer: it waits for the clients.
struct Throttle {
    /// States that all clients have shown.
    shown: watch::Receiver<usize>,
    /// States after which the writer ends.
    states: usize,
    transactions: usize,
}

impl Throttle {
    /// Waits until the clients have shown enough states for the next transaction. Returns false at the end.
    async fn next(&mut self) -> bool {
        self.transactions += 1;
        let (count, states) = (self.transactions, self.states);
        let is_enough = |shown: &usize| *shown >= states || count <= AHEAD + PER_STATE * shown;
        *self.shown.wait_for(is_enough).await.expect("the clients run") < states
    }
}

/// Moves amounts and rows between the tables, in transactions of every size. Some fail because of deadlocks,
/// and some are rolled back.
async fn transfer(url: String, org: Uuid, writer: i64, mut throttle: Throttle, seed: u64) {
    let mut connection = PgConnection::connect(&url).await.expect("connects");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut n = 0;
    while throttle.next().await {
        n += 1;
        let (from, to) = if random.bool() { (TOPICS[0], TOPICS[1]) } else { (TOPICS[1], TOPICS[0]) };
        let (a, b, amount) = (random.i64(1..=ROWS), random.i64(1..=ROWS), random.i64(1..50));
        let id = WRITER_ROWS * writer + n;
        let sql = match random.usize(..6) {
            // All rows of both tables.
            0 => format!(
                "update {from} set n = n - 1 where id between 1 and {ROWS};
                 update {to} set n = n + 1 where id between 1 and {ROWS}"
            ),
            // A row is created from a part of another one, and a row of this writer ends.
            1 => format!(
                "update {from} set n = n - {amount} where id = {a}; insert into {to} values ({id}, '{org}', {amount})"
            ),
            2 => format!(
                "with gone as (delete from {from} where id / {WRITER_ROWS} = {writer} returning n)
                 update {to} set n = n + (select coalesce(sum(n), 0) from gone) where id = {b}"
            ),
            _ => format!(
                "update {from} set n = n - {amount} where id = {a}; select pg_sleep(0.002);
                 update {to} set n = n + {amount} where id = {b}"
            ),
        };
        let mut transaction = connection.begin().await.expect("begins");
        let is_done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.is_ok();
        if is_done && random.usize(..8) > 0 {
            transaction.commit().await.expect("commits");
        } else {
            transaction.rollback().await.expect("rolls back");
        }
    }
}

/// Changes the tables in turn, each in a transaction of its own. All of them commit, so there is always
/// something to show before the writers wait.
async fn chain(url: String, mut throttle: Throttle) {
    let mut connection = PgConnection::connect(&url).await.expect("connects");
    while throttle.next().await {
        for topic in TOPICS {
            let step = format!("update {topic} set n = n + 1 where id = {CHAIN}");
            sqlx::raw_sql(AssertSqlSafe(step)).execute(&mut connection).await.expect("updates");
        }
    }
}

async fn rows(db: &TestDb) -> Shown {
    let mut shown = Shown::default();
    for (topic, rows) in TOPICS.into_iter().zip(&mut shown) {
        let stored: Vec<(i32, i32)> = sqlx::query_as(AssertSqlSafe(format!("select id, n from {topic}")))
            .fetch_all(&db.pool)
            .await
            .expect("queries");
        rows.extend(stored.into_iter().map(|(id, n)| (i64::from(id), i64::from(n))));
    }
    shown
}

/// A node that reads the log in small pages. Without recent events in memory, it serves all replays from the
/// log.
async fn node(db: &TestDb, has_memory: bool) -> Gateway {
    TestGateway::gateway(db, |config| {
        config.limits.tailer.page_rows_max = PAGE_ROWS;
        if !has_memory {
            config.limits.recent.bytes_max = 0;
        }
        let unlimited = Rate::new(100_000, 100_000);
        let admission = &mut config.limits.admission;
        (admission.reads_per_user, admission.reads_per_org) = (unlimited, unlimited);
        (admission.handshakes_per_address, admission.handshakes) = (unlimited, unlimited);
        admission.user_sessions_max = admission.sessions_max;
        // A client joins again after each resync.
        config.limits.session.messages = Rate::new(10_000, 10_000);
    })
    .await
}

/// Runs writers and clients to their end. Returns what each client has seen.
async fn run(shows: Shows) -> Vec<Outcome> {
    let states = std::env::var("WARDEN_STATES").map_or(STATES, |count| count.parse().expect("a number"));
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("WARDEN_SEED={seed}");
    let db = TestDb::create().await;
    let org = tables(&db).await;
    let nodes = [node(&db, true).await, node(&db, false).await];
    let (publish, expected) = watch::channel(None);
    let (all_shown, shown) = watch::channel(0);
    let throttle = || Throttle { shown: shown.clone(), states, transactions: 0 };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let addrs = nodes.iter().map(Gateway::public_addr).collect();
            let (expected, all_shown) = (expected.clone(), all_shown.clone());
            tokio::spawn(Follower::new(addrs, org, shows, seed ^ n, expected, all_shown).run())
        })
        .collect();
    let url = db.url().to_owned();
    let writers =
        (1..=WRITERS).map(|n| transfer(url.clone(), org, n, throttle(), seed ^ (100 * n).cast_unsigned()));
    tokio::join!(futures_util::future::join_all(writers), chain(url.clone(), throttle()));
    let end = rows(&db).await;
    assert_eq!(check(&end), Ok(()), "the writers keep the sum");
    publish.send_replace(Some(end));
    let ended = tokio::time::timeout(DEADLINE, futures_util::future::join_all(clients)).await;
    let ended = ended.expect("a client does not show the rows of the end");
    let outcomes = ended.into_iter().map(|client| client.expect("ends")).collect();
    for node in nodes {
        within("the node stops", node.stop()).await;
    }
    outcomes
}

#[tokio::test]
async fn a_client_that_applies_up_to_marks_shows_only_states_that_the_database_had() {
    let outcomes = run(Shows::AtMarks).await;
    for outcome in &outcomes {
        assert!(outcome.wrong.is_empty(), "{:?}", outcome.wrong);
    }
    let total = |count: fn(&Outcome) -> usize| outcomes.iter().map(count).sum::<usize>();
    println!("{} states, {} connections", total(|o| o.shown), total(|o| o.reconnected));
    assert!(total(|o| o.reconnected) > 0 && total(|o| o.rejoined) > 0);
}

/// The writers above do lead to states that a client must not show.
#[tokio::test]
async fn a_client_that_ignores_marks_shows_states_that_the_database_never_had() {
    let wrong: usize = run(Shows::AtOnce).await.iter().map(|outcome| outcome.wrong.len()).sum();
    assert!(wrong > 0);
}
