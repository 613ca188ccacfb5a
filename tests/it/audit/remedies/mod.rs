//! Remedies, applied to the letter: for each rule and each way to break it, the test runs every remedy and
//! every answer to a question that the audit prints. Then the audit is clean, no row is in another
//! organisation than before, and no role has wider access.
//!
//! - `access`: the rows that each role reaches, and the organisation of each row.
//! - `applications`: databases of applications, adopted by an owner that is no superuser.
//!
//! Roles belong to the cluster, so each test has a cluster of its own.

mod access;
mod applications;

use std::collections::{BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::process::Stdio;

use futures_util::FutureExt as _;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::process::Command;
use uuid::Uuid;
use warden::tenancy::audit::{Finding, RULES, RemedyKind, Severity};
use warden_devkit::cluster::{Cluster, SUPERUSER};

use self::access::{Access, Rows};
use super::breaks::Break;
use super::{execute, findings, inspect, rounds};
use crate::harness::tenancy::{RowMaker, Schema};
use crate::harness::{Sample, TestDb};

/// The first answers that are applied, and the last one: a question about columns may have many of the same
/// kind.
const FIRST_ANSWERS: usize = 3;
/// The last answer.
const LAST: usize = usize::MAX;

/// One step of a remedy: its kind, its text, and the command to run afterwards.
struct Step {
    kind: RemedyKind,
    text: String,
    then: Option<String>,
}

/// The remedy of a finding, or its n-th answer. None if there are fewer answers. A rule that could not be
/// checked needs the remedies of other findings.
fn step(finding: &Finding, n: usize) -> Option<Step> {
    let remedy = &finding.remedy;
    if finding.rule == "not-checked" {
        return None;
    }
    if remedy.kind == RemedyKind::Decide {
        assert!(!remedy.choices.is_empty(), "a question without answers: {finding:?}");
        let choice = if n == LAST { remedy.choices.last() } else { remedy.choices.get(n) }?;
        return Some(Step { kind: choice.kind, text: choice.text.clone(), then: choice.then.clone() });
    }
    (n == 0).then(|| Step { kind: remedy.kind, text: remedy.text.clone(), then: remedy.then.clone() })
}

/// Runs a command that a remedy names, without questions on a terminal.
async fn shell(url: &str, text: &str) {
    let mut words = text.split(' ');
    assert_eq!(words.next(), Some("warden"), "{text}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_warden"));
    command.args(words).env_clear().env("DATABASE_URL", url).stdin(Stdio::null()).kill_on_drop(true);
    if text.contains("--enforce") {
        command.arg("--yes");
    }
    let output = command.output().await.expect("runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}: {stdout}\n{stderr}");
}

/// Applies one step for each finding: all statements first, then each command once.
async fn apply(connection: &mut PgConnection, url: &str, steps: &[Step]) {
    let mut commands = BTreeSet::new();
    for step in steps {
        match step.kind {
            RemedyKind::Sql => execute(connection, &step.text).await,
            RemedyKind::Shell => drop(commands.insert(step.text.as_str())),
            RemedyKind::Decide | RemedyKind::Advice => panic!("cannot be applied: {}", step.text),
        }
        commands.extend(step.then.as_deref());
    }
    // `warden migrate` sorts before `warden migrate --enforce`.
    for command in commands {
        shell(url, command).await;
    }
}

/// A cluster whose template has rows of two organisations in each table.
struct Suite {
    cluster: Cluster,
    admin: PgConnection,
    orgs: [Uuid; 2],
    sound: Access,
}

const SEEDED: &str = "seeded";
const BROKEN: &str = "broken";

impl Suite {
    async fn start() -> Self {
        let (cluster, template) = TestDb::create_alone().await;
        let mut admin = PgConnection::connect(&cluster.url("postgres", SUPERUSER)).await.expect("connects");
        template.pool.close().await;
        execute(&mut admin, &format!("create database {SEEDED} template {}", template.name())).await;
        let mut connection = PgConnection::connect(&cluster.url(SEEDED, SUPERUSER)).await.expect("connects");
        execute(
            &mut connection,
            "create role remedy_login login; grant usage on schema public to remedy_login;
             grant select, insert, update, delete on all tables in schema public to remedy_login",
        )
        .await;
        let orgs = seed(&mut connection).await;
        let sound = Access::read(&mut connection, &orgs).await;
        connection.close().await.expect("closes");
        Self { cluster, admin, orgs, sound }
    }

    /// A broken database, its URL, and the findings about it.
    async fn broken(&mut self, round: &[&'static Break]) -> (PgConnection, String, Vec<Finding>) {
        self.clear().await;
        execute(&mut self.admin, &format!("create database {BROKEN} template {SEEDED}")).await;
        let url = self.cluster.url(BROKEN, SUPERUSER);
        let mut connection = PgConnection::connect(&url).await.expect("connects");
        for broken in round {
            execute(&mut connection, broken.sql).await;
        }
        let found = inspect_in(&mut connection).await;
        (connection, url, found)
    }

    /// Drops the broken database, and the roles of its breaks.
    async fn clear(&mut self) {
        execute(&mut self.admin, &format!("drop database if exists {BROKEN} with (force)")).await;
        execute(
            &mut self.admin,
            "do $$ declare r name; begin
               for r in select rolname from pg_roles where rolname ~ '^audited_' loop
                 execute format('drop role %I', r);
               end loop;
             end $$",
        )
        .await;
    }
}

async fn inspect_in(connection: &mut PgConnection) -> Vec<Finding> {
    execute(connection, "begin").await;
    let found = findings(inspect(connection).await);
    execute(connection, "rollback").await;
    found
}

/// Inserts a row of each of two organisations into each registered table.
async fn seed(connection: &mut PgConnection) -> [Uuid; 2] {
    let schema = Schema::load(connection).await;
    let orgs = [Uuid::from_u128(0xa1), Uuid::from_u128(0xb2)];
    let maker = RowMaker { schema: &schema, with_optional_parents: true };
    for org in orgs {
        execute(connection, &format!("insert into organizations (id, name) values ('{org}', 'seeded')"))
            .await;
        for table in schema.registered().filter(|table| table.scope.as_deref() != Some("root")) {
            execute(connection, "begin").await;
            let done = maker.insert(connection, table, org, &[]).await;
            // A row that another row needed may exist already.
            let end = if done.is_ok() { "commit" } else { "rollback" };
            execute(connection, end).await;
        }
    }
    orgs
}

/// A round whose remedies were applied.
struct Repaired {
    /// Rules whose remedies were applied.
    rules: BTreeSet<&'static str>,
    /// Answers to the question that has most of them.
    answers: usize,
}

/// Applies the n-th answers to the findings of a round.
async fn repair(suite: &mut Suite, round: &[&'static Break], n: usize) -> Repaired {
    let (mut connection, url, found) = suite.broken(round).await;
    let steps: Vec<Step> = found.iter().filter_map(|finding| step(finding, n)).collect();
    let rules =
        found.iter().filter(|finding| step(finding, n).is_some()).map(|finding| finding.rule).collect();
    let answers = found.iter().map(|finding| finding.remedy.choices.len()).max().unwrap_or(0);
    // Findings without an n-th answer get their first.
    let rest =
        found.iter().filter(|finding| step(finding, n).is_none()).filter_map(|finding| step(finding, 0));
    let steps: Vec<Step> = steps.into_iter().chain(rest).collect();
    let (rows, access) =
        (Rows::read(&mut connection).await, Access::read(&mut connection, &suite.orgs).await);
    apply(&mut connection, &url, &steps).await;
    let left: Vec<Finding> =
        inspect_in(&mut connection).await.into_iter().filter(|f| !is_accepted(f)).collect();
    assert_eq!(left, Vec::new(), "answer {n} to {found:#?}");
    rows.assert_unmoved(&Rows::read(&mut connection).await);
    access.assert_not_widened(&Access::read(&mut connection, &suite.orgs).await, &suite.sound);
    Repaired { rules, answers }
}

fn is_accepted(finding: &Finding) -> bool {
    finding.severity == Severity::Notice && finding.cause.starts_with("accepted by ")
}

/// A failure does not end the test, so that one run reports every remedy that fails.
#[tokio::test]
async fn every_remedy_removes_its_finding_and_nothing_else() {
    let mut suite = Suite::start().await;
    let mut applied = BTreeSet::new();
    let mut failures = 0;
    let sample = Sample::one_in(3);
    for (number, round) in rounds().into_iter().enumerate() {
        // A round with a rule that no round before had is always tried.
        let is_new = round.iter().flat_map(|broken| broken.finds).any(|(rule, _)| !applied.contains(rule));
        if !is_new && !sample.contains(number) {
            continue;
        }
        let mut waiting: VecDeque<usize> = [0].into();
        while let Some(n) = waiting.pop_front() {
            match AssertUnwindSafe(repair(&mut suite, &round, n)).catch_unwind().await {
                Ok(repaired) => {
                    applied.extend(repaired.rules);
                    if n == 0 && sample.contains(number) {
                        waiting.extend(1..repaired.answers.min(FIRST_ANSWERS));
                        waiting.extend((repaired.answers > FIRST_ANSWERS).then_some(LAST));
                    }
                }
                Err(_) => failures += 1,
            }
        }
    }
    assert_eq!(failures, 0, "each was reported above");
    let rules: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).collect();
    let missing: Vec<&&str> = rules.difference(&applied).filter(|rule| !UNTRIED.contains(rule)).collect();
    assert!(missing.is_empty(), "no remedy of these rules was applied: {missing:?}");
}

/// Rules whose remedies other tests apply.
const UNTRIED: &[&str] = &["not-checked", "policy-condition", "schema", "token-hook-caller"];
