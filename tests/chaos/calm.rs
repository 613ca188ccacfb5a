//! The calm at the end of a run. Transactions are committed one at a time, and all clients must see each one
//! before the next. Only the transaction's own doorbell, or the tailer's poll, makes a node find it.
//!
//! During the faults a lost wake-up has no effect, because another one follows soon.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use crate::filters::CALM_STATE;
use crate::record::Record;
use crate::snapshot::{self, Snapshot};
use crate::topic_state::{CALM, LAST, LAST_MARK, mark_of_round};
use crate::writers::World;

/// Time without a reconnect after which the calm begins.
const QUIET: Duration = Duration::from_secs(10);
/// Longest wait for the calm. On a busy machine it begins then in spite of reconnects.
const RECONNECT_DEADLINE: Duration = Duration::from_secs(120);
/// Longest first round, in which all clients also catch up.
const FIRST_DEADLINE: Duration = Duration::from_secs(120);
/// Longest other round: the poll takes one second, and the machine is busy.
const DEADLINE: Duration = Duration::from_secs(30);
/// Rounds of each commit mode; with a doorbell there are twice as many.
const ROUNDS_OF_EACH: u64 = 8;

/// Content of the database at the end.
pub(crate) struct Truth {
    pub(crate) marks: HashSet<Uuid>,
    pub(crate) snapshots: HashMap<Uuid, Snapshot>,
}

/// Way of committing a transaction.
#[derive(Clone, Copy, Debug)]
enum CommitMode {
    WithDoorbell,
    /// Constraints are checked immediately, and then the doorbell is silent. Only the poll finds the events.
    Immediate,
    /// A prepared transaction rings no doorbell.
    TwoPhase,
}

/// Waits until no client reconnects any more, because a resume makes its node poll the log.
async fn wait_for_reconnects(record: &Record) {
    let joins = || ["sessions", "resumes", "resumes of phoenix"].map(|name| record.counted(name));
    let mut before = joins();
    let deadline = tokio::time::Instant::now() + RECONNECT_DEADLINE;
    while tokio::time::Instant::now() < deadline {
        tokio::time::sleep(QUIET).await;
        let now = joins();
        if now == before {
            return;
        }
        before = now;
    }
    record.count("times that clients still reconnected at the start of the calm");
}

/// Commits one transaction with a row for each organisation, which every filter selects.
async fn commit(world: &World, name: &str, round: u64, mark: Uuid, mode: CommitMode) {
    let mut connection = world.connect().await;
    let mut tx = connection.begin().await.expect("begins");
    if matches!(mode, CommitMode::Immediate) {
        tx.execute("set constraints all immediate").await.expect("sets");
    }
    for org in &*world.orgs {
        let sql = "insert into calls (org_id, metadata, state)
                   values ($1, jsonb_build_object('writer', 0, 'n', $3, 'calm', $2), $4)";
        let state = i32::try_from(CALM_STATE).expect("small");
        let query = sqlx::query(sql).bind(org).bind(name).bind(round.cast_signed()).bind(state);
        query.execute(&mut *tx).await.expect("inserts");
    }
    sqlx::query("insert into chaos_marks values ($1)").bind(mark).execute(&mut *tx).await.expect("marks");
    match mode {
        CommitMode::WithDoorbell | CommitMode::Immediate => tx.commit().await.expect("commits"),
        CommitMode::TwoPhase => {
            tx.execute(AssertSqlSafe(format!("prepare transaction '{mark}'"))).await.expect("prepares");
            drop(tx);
            finish(&mut connection, mark).await;
        }
    }
}

async fn finish(connection: &mut PgConnection, mark: Uuid) {
    connection.execute(AssertSqlSafe(format!("commit prepared '{mark}'"))).await.expect("commits");
}

/// Runs the rounds of the calm. Returns false if a round was not seen on all topics in time; the run cannot
/// continue then.
pub(crate) async fn rounds(world: &World, topics: usize) -> bool {
    wait_for_reconnects(&world.record).await;
    let modes =
        [CommitMode::WithDoorbell, CommitMode::Immediate, CommitMode::WithDoorbell, CommitMode::TwoPhase];
    for (round, mode) in (1..=4 * ROUNDS_OF_EACH / 2).zip(modes.into_iter().cycle()) {
        commit(world, CALM, round, mark_of_round(round), mode).await;
        let deadline = if round == 1 { FIRST_DEADLINE } else { DEADLINE };
        let seen = tokio::time::timeout(deadline, world.record.calm_seen(round, topics)).await;
        if seen.is_err() {
            let count = world.record.calm_count(round);
            world.record.report_failure(format!(
                "round {round} of the calm ({mode:?}) was seen on {count} of {topics} topics within {deadline:?}"
            ));
            return false;
        }
        world.record.count("transactions of the calm seen by all");
    }
    true
}

/// Commits the last row, without a doorbell, and reads the content of the database.
pub(crate) async fn conclude(world: &World) -> Truth {
    commit(world, LAST, 0, LAST_MARK, CommitMode::TwoPhase).await;
    let mut snapshots = HashMap::new();
    let mut marks = HashSet::new();
    for org in &*world.orgs {
        let snapshot = snapshot::take(world, *org).await;
        marks.extend(&snapshot.marks);
        snapshots.insert(*org, snapshot);
    }
    Truth { marks, snapshots }
}
