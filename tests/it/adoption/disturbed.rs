//! Runs that are disturbed: by transactions that hold locks or old snapshots, by Ctrl-C, and by a lost
//! connection.

use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr};

use super::{connect, legacy_db, migrate, spawn, tables_with_null};
use crate::harness::{TestDb, within};

/// A run whose standard error is read line by line.
struct Watched {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Watched {
    fn start(db: &TestDb) -> Self {
        let mut child = spawn(db.url(), &[]);
        let lines = BufReader::new(child.stderr.take().expect("is piped")).lines();
        Self { child, lines }
    }

    /// Waits for a line that contains all of these strings.
    async fn says(&mut self, texts: &[&str]) {
        within("the line", async {
            loop {
                let line = self.lines.next_line().await.expect("reads").expect("runs still");
                if texts.iter().all(|t| line.contains(t)) {
                    return;
                }
            }
        })
        .await;
    }

    /// Reads the rest of standard error and asserts the exit code.
    async fn ends(mut self, code: i32) {
        let rest = async { while self.lines.next_line().await.expect("reads").is_some() {} };
        let (status, ()) = tokio::join!(self.child.wait(), rest);
        assert_eq!(status.expect("ends").code(), Some(code));
    }

    fn interrupt(&self) {
        let pid = i32::try_from(self.child.id().expect("runs")).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::INT).expect("is sent");
    }
}

async fn named(db: &TestDb, name: &str) -> PgConnection {
    let mut connection = connect(db).await;
    sqlx::query("select set_config('application_name', $1, false)")
        .bind(name)
        .execute(&mut connection)
        .await
        .expect("names");
    connection
}

/// The run names the session that blocks it, and gives up its lock request now and then so that others get
/// theirs.
#[tokio::test]
async fn a_held_lock_blocks_the_run_and_nobody_else() {
    let db = legacy_db().await;
    let mut holder = named(&db, "nightly report").await;
    let mut report = holder.begin().await.expect("begins");
    report.execute("update leads set score = 1 where id = legacy_id('lead', 1)").await.expect("updates");
    let mut run = Watched::start(&db);
    run.says(&["leads: column and triggers", "waiting for a lock", "nightly report"]).await;
    db.run("update leads set score = 2 where id = legacy_id('lead', 2)").await;
    run.says(&["waiting for a lock"]).await;
    report.commit().await.expect("commits");
    run.ends(0).await;
    assert_eq!(tables_with_null(&mut connect(&db).await).await, Vec::<String>::new());
}

/// A transaction whose snapshot shows a parent without an organisation inserts children without one. The run
/// waits until such transactions have ended.
#[tokio::test]
async fn the_run_waits_for_transactions_with_old_snapshots() {
    let db = legacy_db().await;
    // This transaction locks no table that is adopted.
    let mut old = named(&db, "old view").await;
    let mut view = old.begin().await.expect("begins");
    view.execute("set transaction isolation level repeatable read").await.expect("sets");
    view.execute("select 1 from customers").await.expect("looks");
    let mut run = Watched::start(&db);
    // The first index build waits for it. By then new rows are filled from their parents.
    run.says(&["indexes: waiting for the transaction", "old view"]).await;
    drop(view.rollback().await);

    // The next transaction blocks no index build. Without a foreign key it locks no parent either.
    run.ends(0).await;
    let db = legacy_db().await;
    migrate(db.url(), &[]).await.must(0);
    db.run(
        "alter table kb_sync_log drop constraint kb_sync_log_org_id_fkey; set session_replication_role = replica;
         update knowledge_base set org_id = null where id = legacy_id('kb', 3); reset session_replication_role",
    )
    .await;
    let mut old = named(&db, "old view").await;
    let mut view = old.begin().await.expect("begins");
    view.execute("set transaction isolation level repeatable read").await.expect("sets");
    view.execute("insert into kb_sync_log (knowledge_base_id) values (legacy_id('kb', 3))")
        .await
        .expect("inserts");
    let mut run = Watched::start(&db);
    run.says(&["kb_sync_log: remaining rows: waiting for the transaction", "old view"]).await;
    view.commit().await.expect("commits");
    run.ends(0).await;
    assert_eq!(tables_with_null(&mut connect(&db).await).await, Vec::<String>::new());
}

/// The next run resumes.
#[tokio::test]
async fn ctrl_c_during_an_index_build_leaves_no_invalid_index() {
    let db = legacy_db().await;
    let mut old = named(&db, "old view").await;
    let mut view = old.begin().await.expect("begins");
    view.execute("set transaction isolation level repeatable read").await.expect("sets");
    view.execute("select 1 from customers").await.expect("looks");
    let mut run = Watched::start(&db);
    run.says(&["indexes: waiting for the transaction"]).await;
    run.interrupt();
    run.ends(130).await;
    let mut admin = connect(&db).await;
    let invalid: i64 = sqlx::query_scalar("select count(*) from pg_index where not indisvalid")
        .fetch_one(&mut admin)
        .await
        .expect("counts");
    assert_eq!(invalid, 0);
    view.rollback().await.expect("ends");
    migrate(db.url(), &[]).await.must(0);
    assert_eq!(tables_with_null(&mut admin).await, Vec::<String>::new());
}

/// The server terminates the run's backend, as a restart does.
#[tokio::test]
async fn a_lost_connection_ends_the_run_and_the_next_completes_it() {
    let db = legacy_db().await;
    let mut holder = named(&db, "holder").await;
    let mut held = holder.begin().await.expect("begins");
    held.execute("update leads set score = 1 where id = legacy_id('lead', 1)").await.expect("updates");
    let mut run = Watched::start(&db);
    run.says(&["leads: column and triggers", "waiting for a lock"]).await;
    db.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'warden migrate' and datname = current_database()").await;
    run.ends(1).await;
    held.rollback().await.expect("ends");
    migrate(db.url(), &[]).await.must(0);
    assert_eq!(tables_with_null(&mut connect(&db).await).await, Vec::<String>::new());
}
