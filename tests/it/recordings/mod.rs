//! `warden worker`: recordings of several organisations, from sources of every kind, into a store, while
//! workers are killed.
//!
//! - `source` is the server with the recordings.
//! - `cleanup` compares the store with the rows.
//! - `fetching` tries addresses and answers that must be refused.
//! - `queue` tries rows of other organisations.
//! - `s3` stores into a real S3 server.

mod cleanup;
mod fetching;
mod queue;
mod s3;
mod source;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use sqlx::AssertSqlSafe;
use uuid::Uuid;
use warden_testkit::{DEADLINE, GatewayProcess, eventually};

use self::source::{Sources, size, wav};
use crate::harness::TestDb;

/// Kinds of good sources.
const GOOD: [&str; 4] = ["good", "slow", "flaky", "moved"];
/// Kinds of bad sources, each with a part of the reason with which its recordings fail.
const BAD: [(&str, &str); 12] = [
    ("gone", "answers 410"),
    ("broken", "answers 500"),
    ("missing", "answers 404"),
    ("truncated", "was cut"),
    ("short", "shorter than its header says"),
    ("endless", "more than 16 MiB"),
    ("page", "no audio of a known type"),
    ("compressed", "compressed answer"),
    ("empty", "is empty"),
    ("private", "169.254.169.254 is not a public address"),
    ("file", "cannot have the scheme file"),
    ("loop", "redirects more than 5 times"),
];

/// Jobs that end between two kills.
const JOBS_BETWEEN_KILLS: i64 = 8;

/// Login role of the workers.
const LOGIN: &str = "recorder";

/// A folder that is removed with the test.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("warden-recordings-{}", Uuid::new_v4()));
        std::fs::create_dir(&path).expect("creates");
        Self(path)
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.0.join("store")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.expect("reads").path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A database with organisations, a login role for workers, and a server with sources.
struct Suite {
    db: TestDb,
    orgs: Vec<Uuid>,
    sources: Sources,
    folder: Folder,
    url: String,
}

/// Outcome of a recording: its id, the state and error of its job, its status and bytes, and how many
/// recordings its call counts.
type Outcome = (Uuid, String, Option<String>, String, Option<i64>, i32);

/// A queued recording.
#[derive(Clone, Debug)]
struct Queued {
    org: Uuid,
    recording: Uuid,
    kind: &'static str,
    number: usize,
}

impl Suite {
    async fn start(orgs: usize) -> Self {
        let db = TestDb::create().await;
        db.run(format!(
            "do $$ begin create role {LOGIN} login in role warden_worker; \
             exception when duplicate_object or unique_violation then null; end $$"
        ))
        .await;
        let mut ids = Vec::new();
        for _ in 0..orgs {
            ids.push(db.create_org().await);
        }
        let url = crate::harness::shared_cluster_url(&db.name, LOGIN);
        Self { db, orgs: ids, sources: Sources::start().await, folder: Folder::new(), url }
    }

    /// Queues a recording of a call, and returns it.
    async fn queue(&self, org: Uuid, kind: &'static str, number: usize) -> Queued {
        let (call, recording) = (Uuid::new_v4(), Uuid::new_v4());
        let url = self.sources.url(kind, number);
        self.db
            .run(format!(
                "begin;
                 insert into calls (id, org_id, status) values ('{call}', '{org}', 'completed');
                 insert into recordings (id, org_id, call_id) values ('{recording}', '{org}', '{call}');
                 insert into recording_upload_queue (org_id, recording_id, source_url)
                   values ('{org}', '{recording}', '{url}');
                 commit"
            ))
            .await;
        Queued { org, recording, kind, number }
    }

    fn store(&self) -> PathBuf {
        self.folder.0.join("store")
    }

    /// Starts a worker whose output and store are in the folder.
    async fn worker(&self, more: &[&str]) -> GatewayProcess {
        let store = self.store();
        self.worker_with(more, &[("WARDEN_RECORDINGS_STORE", store.to_str().expect("text"))]).await
    }

    /// Starts a worker with more environment variables.
    async fn worker_with(&self, more: &[&str], variables: &[(&str, &str)]) -> GatewayProcess {
        let mut args =
            vec!["worker", "--allow-network", "127.0.0.1/32,::1/128", "--allow-http", "--retry", "20"];
        args.extend(["--retry-max", "200", "--attempts", "15", "--recording-mib", "16", "--jobs", "8"]);
        if !more.contains(&"--lease") {
            args.extend(["--lease", "2000"]);
        }
        args.extend(more);
        let own = [("DATABASE_URL", self.url.as_str()), ("WARDEN_LOG", "warden=info")];
        let variables = [&own, variables].concat();
        GatewayProcess::run(env!("CARGO_BIN_EXE_warden"), &args, &variables, &self.log()).await
    }

    fn log(&self) -> PathBuf {
        self.folder.0.join("log")
    }

    async fn open_jobs(&self) -> i64 {
        sqlx::query_scalar(
            "select count(*) from recording_upload_queue where state in ('pending', 'uploading')",
        )
        .fetch_one(&self.db.pool)
        .await
        .expect("counts")
    }

    /// Waits until fewer jobs than this are open.
    async fn progress(&self, jobs: i64) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while self.open_jobs().await >= jobs {
            if tokio::time::Instant::now() > deadline {
                let open: Vec<(String, String, i32, Option<String>)> = sqlx::query_as(
                    "select state, source_url, attempts, last_error from recording_upload_queue
                     where state in ('pending', 'uploading')",
                )
                .fetch_all(&self.db.pool)
                .await
                .expect("reads");
                let log = log(&self.log());
                let end = log.lines().rev().take(40).collect::<Vec<_>>().join("\n");
                panic!("no progress within {DEADLINE:?}: {open:#?}\n{end}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Asserts that every good recording is stored once, byte for byte, that every bad one has failed with
    /// its reason, and that the store contains nothing else.
    async fn check(&self, queued: &[Queued]) {
        let rows: Vec<Outcome> = sqlx::query_as(
            "select r.id, q.state, q.last_error, r.status, r.size_bytes, c.recording_count
             from recordings r join recording_upload_queue q on q.recording_id = r.id join calls c on c.id = r.call_id",
        )
        .fetch_all(&self.db.pool)
        .await
        .expect("reads");
        let rows: HashMap<Uuid, _> = rows.into_iter().map(|row| (row.0, row)).collect();
        let mut expected: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for Queued { org, recording, kind, number } in queued {
            let (_, state, error, status, bytes, count) = &rows[recording];
            if let Some((_, reason)) = BAD.iter().find(|(bad, _)| bad == kind) {
                assert_eq!(
                    (state.as_str(), status.as_str(), *count),
                    ("failed", "failed", 0),
                    "{kind} {number}: {error:?}"
                );
                assert!(error.as_ref().is_some_and(|e| e.contains(reason)), "{kind} {number}: {error:?}");
            } else {
                let length = i64::try_from(wav(0, size(*number)).len()).expect("small");
                let seen = (state.as_str(), status.as_str(), *bytes, *count);
                assert_eq!(seen, ("done", "completed", Some(length), 1), "{kind} {number}: {error:?}");
                expected.insert(self.store().join(format!("org/{org}/recordings/{recording}")), *number);
            }
        }
        let mut files = self.folder.files();
        // What an upload of a killed worker leaves behind: the store does not list it.
        files.retain(|file| !file.to_string_lossy().contains('#'));
        files.sort();
        assert_eq!(files, expected.keys().cloned().collect::<Vec<_>>());
        for (path, number) in expected {
            assert!(std::fs::read(&path).expect("reads") == wav(number, size(number)), "{}", path.display());
        }
    }
}

/// Organisations and recordings of the run.
fn sizes() -> (usize, usize) {
    match std::env::var("WARDEN_RECORDINGS").as_deref() {
        Ok("full") => (20, 5000),
        _ => (5, 150),
    }
}

/// One organisation has nine of ten recordings. Two workers are killed again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_workers_store_every_good_recording_once_and_fail_every_bad_one() {
    let (orgs, recordings) = sizes();
    let suite = Suite::start(orgs).await;
    let mut queued = Vec::new();
    for number in 0..recordings {
        let org = if number % 10 == 0 { suite.orgs[1 + number / 10 % (orgs - 1)] } else { suite.orgs[0] };
        let kind =
            if number % 4 == 3 { BAD[number / 4 % BAD.len()].0 } else { GOOD[number % 4 + number / 100 % 2] };
        queued.push(suite.queue(org, kind, number).await);
    }
    let mut workers = [suite.worker(&[]).await, suite.worker(&[]).await];
    let mut kills = 0;
    while suite.open_jobs().await > 0 {
        // A worker is killed once some jobs have ended since its start.
        let open = suite.open_jobs().await;
        suite.progress((open - JOBS_BETWEEN_KILLS).max(0) + 1).await;
        let victim = &mut workers[kills % 2];
        victim.signal(Signal::KILL);
        victim.wait().await;
        *victim = suite.worker(&[]).await;
        kills += 1;
    }
    for worker in &mut workers {
        worker.signal(Signal::KILL);
        worker.wait().await;
    }
    println!("{recordings} recordings, {orgs} organisations, {kills} kills");
    assert!(kills >= 2, "{kills}");
    suite.check(&queued).await;
}

fn log(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Runs a command of the worker, and returns its output.
async fn command(suite: &Suite, args: &[&str]) -> (bool, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_warden"))
        .arg("worker")
        .args(args)
        .env_clear()
        .env("DATABASE_URL", &suite.url)
        .output()
        .await
        .expect("runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A worker that is asked to stop gives its rows back at once.
#[tokio::test]
async fn a_stopped_worker_gives_its_rows_back() {
    let suite = Suite::start(1).await;
    let queued = suite.queue(suite.orgs[0], "silent", 1).await;
    let mut worker = suite.worker(&["--lease", "600000"]).await;
    eventually("the source is asked", async || suite.sources.count("/silent/1") == 1).await;
    worker.signal(Signal::TERM);
    assert!(worker.wait().await.success(), "{}", log(&suite.log()));
    let url = suite.sources.url("good", 1);
    suite.db.run(format!("update recording_upload_queue set source_url = '{url}'")).await;
    let mut worker = suite.worker(&["--until-idle"]).await;
    assert!(worker.wait().await.success(), "{}", log(&suite.log()));
    suite.check(&[Queued { kind: "good", ..queued }]).await;
}

#[tokio::test]
async fn failed_recordings_are_listed_and_retried_by_hand() {
    let suite = Suite::start(2).await;
    let bad = suite.queue(suite.orgs[0], "gone", 1).await;
    let good = suite.queue(suite.orgs[1], "good", 2).await;
    let mut worker = suite.worker(&["--until-idle"]).await;
    assert!(worker.wait().await.success(), "{}", log(&suite.log()));
    suite.check(&[bad.clone(), good.clone()]).await;

    let (_, listed) = command(&suite, &["jobs", "--failed"]).await;
    assert!(listed.contains("the source answers 410"), "{listed}");
    assert!(!listed.contains(&suite.orgs[1].to_string()), "{listed}");
    let (is_done, said) = command(&suite, &["jobs", "--retry", &Uuid::new_v4().to_string()]).await;
    assert!(!is_done && said.contains("no failed job has the id"), "{said}");

    let repaired = suite.sources.url("good", 1);
    suite
        .db
        .run(format!("update recording_upload_queue set source_url = '{repaired}' where state = 'failed'"))
        .await;
    let (is_done, said) = command(&suite, &["jobs", "--retry", "all"]).await;
    assert!(is_done && said.contains("1 recording will be tried again"), "{said}");
    let mut worker = suite.worker(&["--until-idle"]).await;
    assert!(worker.wait().await.success(), "{}", log(&suite.log()));
    suite.check(&[Queued { kind: "good", ..bad }, good]).await;
}

/// Clients see the stages of a recording.
#[tokio::test]
async fn the_log_has_an_event_for_each_stage() {
    let suite = Suite::start(1).await;
    let queued = suite.queue(suite.orgs[0], "good", 3).await;
    let mut worker = suite.worker(&["--until-idle"]).await;
    assert!(worker.wait().await.success(), "{}", log(&suite.log()));
    let stages: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(format!(
        "select event, data ->> 'status' from warden.events where topic = 'recordings' and data ->> 'id' = '{}' order by id",
        queued.recording
    )))
    .fetch_all(&suite.db.pool)
    .await
    .expect("reads");
    let stages: Vec<(&str, &str)> =
        stages.iter().map(|(event, status)| (event.as_str(), status.as_str())).collect();
    assert_eq!(
        stages,
        [
            ("recording.created", "in-progress"),
            ("recording.updated", "processing"),
            ("recording.updated", "completed")
        ]
    );
}
