//! Others are in the way: transactions that hold locks or look from before, an operator who stops, a connection
//! that is lost.

use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr};

use super::{connect, legacy_db, migrate, spawn, tables_with_null};
use crate::harness::{TestDb, within};

/// A run whose lines on standard error are read.
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

    /// Waits for a line with all of these texts.
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

    /// Reads on to the end.
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

/// While the run waits for a lock others get theirs; it says who is in the way.
#[tokio::test]
async fn a_table_that_is_held() {
    let db = legacy_db().await;
    let mut holder = named(&db, "nightly report").await;
    let mut report = holder.begin().await.expect("begins");
    report.execute("update leads set score = 1 where id = legacy_id('lead', 1)").await.expect("updates");
    let mut run = Watched::start(&db);
    run.says(&["leads: column and filling trigger", "waiting for a lock", "nightly report"]).await;
    db.run("update leads set score = 2 where id = legacy_id('lead', 2)").await;
    run.says(&["waiting for a lock"]).await;
    report.commit().await.expect("commits");
    run.ends(0).await;
    assert_eq!(tables_with_null(&mut connect(&db).await).await, Vec::<String>::new());
}

/// A transaction that sees a parent as it was before its organisation makes a child without one: the run outlasts it.
#[tokio::test]
async fn a_transaction_from_before() {
    let db = legacy_db().await;
    // No lock of any table that is adopted.
    let mut old = named(&db, "old view").await;
    let mut view = old.begin().await.expect("begins");
    view.execute("set transaction isolation level repeatable read").await.expect("sets");
    view.execute("select 1 from customers").await.expect("looks");
    let mut run = Watched::start(&db);
    // The first index waits for it; by then new rows are filled from parents.
    run.says(&["indexes: waiting for the transaction", "old view"]).await;
    drop(view.rollback().await);

    // Now one that is in no index's way: where there is no key, it locks no parent either.
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
    run.says(&["kb_sync_log: last rows without org_id: waiting for the transaction", "old view"]).await;
    view.commit().await.expect("commits");
    run.ends(0).await;
    assert_eq!(tables_with_null(&mut connect(&db).await).await, Vec::<String>::new());
}

/// Ctrl-C while an index is built: the run ends, leaves no invalid index, and the next goes on.
#[tokio::test]
async fn an_operator_who_stops() {
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

/// The server ends the run's session, as in a restart.
#[tokio::test]
async fn a_connection_that_is_lost() {
    let db = legacy_db().await;
    let mut holder = named(&db, "holder").await;
    let mut held = holder.begin().await.expect("begins");
    held.execute("update leads set score = 1 where id = legacy_id('lead', 1)").await.expect("updates");
    let mut run = Watched::start(&db);
    run.says(&["leads: column and filling trigger", "waiting for a lock"]).await;
    db.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'warden migrate' and datname = current_database()").await;
    run.ends(1).await;
    held.rollback().await.expect("ends");
    migrate(db.url(), &[]).await.must(0);
    assert_eq!(tables_with_null(&mut connect(&db).await).await, Vec::<String>::new());
}
