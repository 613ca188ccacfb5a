//! The property, in random worlds.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

use super::streams::Streams;
use super::world::{Exempt, ROWS, TABLES, World};
use super::{migrate, migrated};
use crate::harness::{TestDb, is_full};

/// Worlds of one run: in the suite, and with `make full`.
const CASES: [usize; 2] = [1, 20];

/// Table, role, organisation of the claims (none: no claims), and attempt.
type Attempt = (usize, String, Option<usize>, String);
/// Rows that an attempt reached; none if the statement was rejected.
type Reach = BTreeMap<Attempt, Option<BTreeSet<i32>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_reaches_the_same_rows_within_its_organisation() {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let cases = std::env::var("WARDEN_ACCESS_CASES")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(CASES[usize::from(is_full())]);
    eprintln!("WARDEN_SEED={seed} WARDEN_ACCESS_CASES={cases}");
    let mut random = Rng::with_seed(seed);
    for case in 0..cases {
        let db = TestDb::create_from("template0").await;
        let world = World::random(&mut random, &format!("access_{}", db.name));
        let failures = check(&db, &world, &mut random).await;
        assert!(
            failures.is_empty(),
            "WARDEN_SEED={seed}, case {case}:\n{}\n{}",
            failures.iter().take(20).cloned().collect::<Vec<_>>().join("\n"),
            world.sql
        );
    }
}

/// Differences between what is reached and what must be.
async fn check(db: &TestDb, world: &World, random: &mut Rng) -> Vec<String> {
    db.run(world.sql.clone()).await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    connection.execute(sqlx::raw_sql(include_str!("probe.sql"))).await.expect("creates");
    let before = reach(&mut connection, world, false).await;
    migrated(db, &[]).await;
    adopt(db, world).await;
    let mut failures = Vec::new();
    compare(&mut failures, "expand", &before, &reach(&mut connection, world, false).await);
    let streams = Streams::start(db, || random.bool()).await;
    failures.extend(streams.check(db, world, "expand").await);
    answer_questions(db, &world.exempt).await;
    compare(&mut failures, "questions", &before, &reach(&mut connection, world, false).await);
    migrated(db, &["--enforce", "--yes"]).await;
    let enforced = reach(&mut connection, world, true).await;
    compare(&mut failures, "enforce", &expected(&before, &world.exempt), &enforced);
    failures.extend(streams.check(db, world, "enforce").await);
    // A run that finds nothing to do changes nothing.
    migrated(db, &["--enforce", "--yes"]).await;
    compare(&mut failures, "enforce twice", &enforced, &reach(&mut connection, world, true).await);
    migrated(db, &["--relax", "--yes"]).await;
    compare(&mut failures, "relax", &before, &reach(&mut connection, world, false).await);
    failures.extend(streams.check(db, world, "relax").await);
    streams.stop().await;
    failures
}

/// The expand phase: both tables belong to two organisations, each with one member.
async fn adopt(db: &TestDb, world: &World) {
    let mut setup = String::new();
    for (org, user) in world.orgs.iter().zip(world.users) {
        setup += &format!(
            "insert into organizations (id, name) values ('{org}', 'o');
             insert into organization_members (org_id, user_id) values ('{org}', '{user}');"
        );
    }
    for table in TABLES {
        setup += &format!("select warden.adopt_table('{table}', 'owner_id');");
    }
    db.run(setup).await;
    migrated(db, &[]).await;
}

/// Accepts each view and function with an exempt owner. Until the last one is accepted, `--enforce` names
/// those that are left, and changes nothing.
async fn answer_questions(db: &TestDb, exempt: &[Exempt]) {
    for n in 0..exempt.len() {
        // A run takes a second, so only the first and the last question are left open for one.
        if n == 0 || n + 1 == exempt.len() {
            let (code, text) = migrate(db, &["--enforce", "--yes"]).await;
            assert_eq!(code, Some(1), "{text}");
            for (k, Exempt { object, .. }) in exempt.iter().enumerate() {
                assert_eq!(text.contains(&format!("{object}: ")), k >= n, "{object}: {text}");
            }
        }
        let Exempt { object, rule, .. } = &exempt[n];
        db.run(format!("select warden.accept_finding('{rule}', '{object}', 'on purpose')")).await;
    }
}

fn compare(failures: &mut Vec<String>, phase: &str, wanted: &Reach, found: &Reach) {
    for ((table, role, claims, attempt), rows) in wanted {
        let reached = &found[&(*table, role.clone(), *claims, attempt.clone())];
        // A rejected statement reaches no row.
        if reached.as_ref().is_none_or(BTreeSet::is_empty) != rows.as_ref().is_none_or(BTreeSet::is_empty)
            || reached.is_some() && rows.is_some() && reached != rows
        {
            failures.push(format!(
                "{phase}: {}, {role}, claims {claims:?}, {attempt}: reached {reached:?}, must reach {rows:?}",
                TABLES[*table]
            ));
        }
    }
}

/// Rows that must be reached once the tables are enforced: those reached before, within the organisation. A
/// role that bypasses row-level security is exempt, but not in views and functions that run as another role.
/// Accepted objects show the same rows as before.
fn expected(before: &Reach, exempt: &[Exempt]) -> Reach {
    let org_of = |id: i32| usize::from(id % 2 == 0);
    before
        .iter()
        .map(|(attempt, rows)| {
            let (_, role, claims, what) = attempt;
            let runs_as_owner = what.starts_with("view ") || what.starts_with("function f_");
            let is_accepted = exempt.iter().any(|object| object.attempts.contains(what));
            let is_exempt = is_accepted || role == "service_role" && !runs_as_owner;
            let rows = rows.as_ref().map(|rows| {
                rows.iter().copied().filter(|id| is_exempt || *claims == Some(org_of(*id))).collect()
            });
            (attempt.clone(), rows)
        })
        .collect()
}

/// Tries every role, claims and command.
async fn reach(connection: &mut PgConnection, world: &World, names_org: bool) -> Reach {
    let mut found = Reach::new();
    for (n, table) in TABLES.iter().enumerate() {
        for role in &world.roles {
            for claims in [None, Some(0), Some(1)] {
                for (what, ids) in probe(connection, world, (n, table), role, claims, names_org).await {
                    found.insert((n, role.clone(), claims, what), ids.map(|ids| ids.into_iter().collect()));
                }
            }
        }
    }
    found
}

async fn probe(
    connection: &mut PgConnection,
    world: &World,
    (n, table): (usize, &str),
    role: &str,
    claims: Option<usize>,
    names_org: bool,
) -> Vec<(String, Option<Vec<i32>>)> {
    let token = claims.map_or(String::new(), |org| {
        json!({"sub": world.users[org], "app_metadata": {"org_id": world.orgs[org]}}).to_string()
    });
    // A role with rights on some columns cannot name org_id: its rows get the default.
    let may_name: bool = !names_org
        || sqlx::query_scalar("select has_column_privilege($1, $2, 'org_id', 'insert')")
            .bind(role)
            .bind(table)
            .fetch_one(&mut *connection)
            .await
            .expect("reads");
    // An id is even if the row belongs to the second organisation.
    let candidates: Vec<_> = (100..108)
        .filter(|id| !names_org || may_name || claims == Some(usize::from(id % 2 == 0)))
        .map(|id: i32| {
            let org = usize::from(id % 2 == 0);
            let existing = ROWS.start() + (id - 99) % 8;
            json!({"id": id, "existing": existing, "owner_id": world.users[org], "org_id": world.orgs[org], "v": (id / 2) % 4})
        })
        .collect();
    let org_column = if names_org && may_name { "named" } else { "" };
    sqlx::query_as("select what, ids from pg_temp.probe($1::text::regclass, $2, $3, $4, $5, $6, $7)")
        .bind(table)
        .bind(role)
        .bind(token)
        .bind(org_column)
        .bind(json!(candidates))
        .bind(&world.views[n])
        .bind(&world.functions[n])
        .fetch_all(connection)
        .await
        .unwrap_or_else(|e| panic!("{table} {role}: {e}"))
}

/// The organisations of the fixture, so that ids and organisations cannot be confused.
#[test]
fn ids_of_two_organisations_differ() {
    let world = World::random(&mut Rng::with_seed(1), "x");
    assert_ne!(world.orgs[0], world.orgs[1]);
    assert!(world.users.iter().all(|u| *u != Uuid::nil()));
}
