//! The end of a run: when all is over, transactions come one at a time, so that nothing but its own bell, or the
//! reader's poll, makes a node look for it; and everybody must see it before the next one comes.
//!
//! While chaos lasts a wake-up that is lost shows in nothing, because another follows at once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use crate::following::{CALM, LAST, LAST_MARK, Rows, mark_of_round};
use crate::record::Record;
use crate::snapshot;
use crate::writers::World;

/// When nobody came back for so long, all are there.
const QUIET: Duration = Duration::from_secs(10);
/// On a busy machine it begins after so long in any case.
const COME_BACK_DEADLINE: Duration = Duration::from_secs(120);
/// Until all have caught up and seen the first one.
const FIRST_DEADLINE: Duration = Duration::from_secs(120);
/// Until all have seen one of the others: a second's poll, and a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// Each way to commit comes so often.
const ROUNDS_OF_EACH: u64 = 8;

/// What the database holds in the end.
pub(crate) struct Truth {
    pub(crate) marks: HashSet<Uuid>,
    pub(crate) rows: HashMap<Uuid, Rows>,
}

/// How a transaction is committed.
#[derive(Clone, Copy, Debug)]
enum Way {
    WithBell,
    /// Constraints are checked at once, where the bell is silent: only the poll finds it.
    Immediate,
    /// No bell may ring at its commit.
    TwoPhase,
}

/// Waits until nobody resumes any more: a resume makes its node look at the log.
async fn all_have_come_back(record: &Record) {
    let joins = || ["sessions", "resumes", "resumes of phoenix"].map(|what| record.counted(what));
    let mut before = joins();
    let deadline = tokio::time::Instant::now() + COME_BACK_DEADLINE;
    while tokio::time::Instant::now() < deadline {
        tokio::time::sleep(QUIET).await;
        let now = joins();
        if now == before {
            return;
        }
        before = now;
    }
    record.count("times that clients still came back when it should be calm");
}

/// One transaction, of an event for each organisation.
async fn commit(world: &World, name: &str, round: u64, mark: Uuid, way: Way) {
    let mut connection = world.connect().await;
    let mut tx = connection.begin().await.expect("begins");
    if matches!(way, Way::Immediate) {
        tx.execute("set constraints all immediate").await.expect("sets");
    }
    for org in &*world.orgs {
        let sql = "select warden.publish($1, 'calls', $2, jsonb_build_object('org_id', $1, 'n', $3))";
        let query = sqlx::query(sql).bind(org).bind(name).bind(round.cast_signed());
        query.execute(&mut *tx).await.expect("publishes");
    }
    sqlx::query("insert into chaos_marks values ($1)").bind(mark).execute(&mut *tx).await.expect("marks");
    match way {
        Way::WithBell | Way::Immediate => tx.commit().await.expect("commits"),
        Way::TwoPhase => {
            tx.execute(AssertSqlSafe(format!("prepare transaction '{mark}'"))).await.expect("prepares");
            drop(tx);
            finish(&mut connection, mark).await;
        }
    }
}

async fn finish(connection: &mut PgConnection, mark: Uuid) {
    connection.execute(AssertSqlSafe(format!("commit prepared '{mark}'"))).await.expect("commits");
}

/// False where somebody did not see one in time, on one of so many topics: then there is no use in going on.
pub(crate) async fn rounds(world: &World, topics: usize) -> bool {
    all_have_come_back(&world.record).await;
    let ways = [Way::WithBell, Way::Immediate, Way::WithBell, Way::TwoPhase];
    for (round, way) in (1..=4 * ROUNDS_OF_EACH / 2).zip(ways.into_iter().cycle()) {
        commit(world, CALM, round, mark_of_round(round), way).await;
        let deadline = if round == 1 { FIRST_DEADLINE } else { DEADLINE };
        let seen = tokio::time::timeout(deadline, world.record.calm_seen(round, topics)).await;
        if seen.is_err() {
            let saw = world.record.calm_count(round);
            world.record.complain(format!(
                "in the calm a transaction ({way:?}) was seen on {saw} of {topics} topics within {deadline:?}, \
                 round {round}"
            ));
            return false;
        }
        world.record.count("times that all saw a transaction in the calm");
    }
    true
}

/// Publishes the last event, for which no bell rings, and reads what there is.
pub(crate) async fn conclude(world: &World) -> Truth {
    commit(world, LAST, 0, LAST_MARK, Way::TwoPhase).await;
    let mut rows = HashMap::new();
    let mut marks = HashSet::new();
    for org in &*world.orgs {
        let snapshot = snapshot::take(world, *org).await;
        rows.insert(*org, snapshot.rows);
        marks.extend(snapshot.marks);
    }
    Truth { marks, rows }
}
