//! `warden claims sync` against a stand-in of the admin API of Supabase Auth, and against `auth.users`.

mod by_sql;
mod faults;
mod providers;
mod stand_in;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use self::stand_in::{KEY, StandIn, StoredUser};
use crate::cli::{Outcome, run};
use crate::harness::TestDb;

const DEFAULT_ORG: &str = "a0000000-0000-0000-0000-000000000001";

const FAST: [&str; 8] =
    ["claims", "sync", "--json", "--rate", "10000", "--concurrency", "8", "--attempts=30"];

/// Runs the command, and checks that it does not show the key.
async fn sync(db: &TestDb, api: &StandIn, args: &[&str]) -> Outcome {
    let variables =
        [("DATABASE_URL", db.url()), ("WARDEN_AUTH_URL", &api.url()), ("WARDEN_SERVICE_KEY", KEY)];
    let outcome = run(&[&FAST[..], args].concat(), &variables).await;
    assert!(!outcome.stdout.contains(KEY) && !outcome.stderr.contains(KEY), "{outcome:?}");
    outcome
}

fn summary(outcome: &Outcome, code: i32) -> Value {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

async fn join(db: &TestDb, user: Uuid, org: Uuid, is_primary: bool, age: &str) {
    db.run(format!(
        "insert into organization_members (org_id, user_id, is_primary, created_at)
         values ('{org}', '{user}', {is_primary}, now() - interval '{age}')"
    ))
    .await;
}

/// Organisations of all members, by the function of the token hook.
async fn hook(db: &TestDb) -> HashMap<Uuid, Uuid> {
    let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "select user_id, warden.default_org_for(user_id) from (select distinct user_id from organization_members) m",
    )
    .fetch_all(&db.pool)
    .await
    .expect("queries");
    rows.into_iter().collect()
}

/// Every user that ought to have an organisation has that of the hook, and other keys are as they were.
async fn expect_all_right(db: &TestDb, api: &StandIn) {
    let orgs = hook(db).await;
    for user in &api.world().users {
        let org = user.metadata.get("org_id").and_then(Value::as_str).map(str::to_owned);
        let expected = orgs.get(&user.id).map(Uuid::to_string);
        if user.is_active() {
            assert!(expected.is_some(), "{user:?} is no member");
            assert_eq!(org, expected, "{user:?}");
        }
        let mut others = user.metadata.clone();
        others.remove("org_id");
        assert_eq!(others, user.others, "{user:?}");
    }
}

#[tokio::test]
async fn every_user_gets_the_organisation_of_the_token_hook() {
    let db = TestDb::create().await;
    let (first, second) = (db.create_org().await, db.create_org().await);
    let mut users: Vec<StoredUser> = (0..12).map(StoredUser::new).collect();
    join(&db, users[0].id, first, false, "2 days").await;
    join(&db, users[0].id, second, true, "1 day").await;
    join(&db, users[1].id, second, false, "2 days").await;
    join(&db, users[1].id, first, false, "1 day").await;
    for index in [2, 3, 8] {
        join(&db, users[index].id, first, false, "1 day").await;
    }
    users[2].metadata.insert("org_id".into(), json!(second));
    users[3].metadata.insert("org_id".into(), json!(first));
    users[4].is_anonymous = true;
    users[5].banned_until = Some(OffsetDateTime::now_utc() + time::Duration::hours(1));
    users[6].banned_until = Some(OffsetDateTime::now_utc() - time::Duration::hours(1));
    users[7].deleted_at = Some(OffsetDateTime::now_utc());
    users[8].deleted_at = Some(OffsetDateTime::now_utc());
    let ids: Vec<Uuid> = users.iter().map(|user| user.id).collect();
    let api = StandIn::start(users, 0).await;

    let before = hook(&db).await;
    let dry = summary(&sync(&db, &api, &["--dry-run", "--page-size", "5"]).await, 0);
    assert_eq!((dry["updated"].as_u64(), api.world().writes), (Some(6), 0), "{dry}");
    assert_eq!(hook(&db).await, before);
    let verified = summary(&sync(&db, &api, &["--verify"]).await, 1);
    assert_eq!((verified["differences"].as_u64(), api.world().writes), (Some(7), 0), "{verified}");

    let skipped = summary(&sync(&db, &api, &["--without-membership", "skip"]).await, 0);
    assert_eq!(skipped["skipped"]["without membership"], 4, "{skipped}");
    assert_eq!((hook(&db).await, api.org_of(ids[9])), (before, None));

    let done = summary(&sync(&db, &api, &["--page-size", "5"]).await, 0);
    assert_eq!(
        (&done["users"], &done["updated"], &done["memberships"], &done["already_right"]),
        (&json!(12), &json!(4), &json!(4), &json!(3)),
        "{done}"
    );
    assert_eq!(done["skipped"]["has another organisation (--reassign overwrites it)"], 1, "{done}");
    assert_eq!(api.org_of(ids[0]), Some(json!(second)));
    assert_eq!(api.org_of(ids[1]), Some(json!(second)));
    assert_eq!(api.org_of(ids[2]), Some(json!(second)), "is not overwritten without --reassign");
    for member in [6, 9, 10, 11] {
        assert_eq!(api.org_of(ids[member]), Some(json!(DEFAULT_ORG)));
    }
    let orgs = hook(&db).await;
    for other in [4, 5, 7] {
        assert_eq!((api.org_of(ids[other]), orgs.get(&ids[other])), (None, None), "user {other}");
    }
    assert_eq!(api.org_of(ids[8]), None);
    assert_eq!(summary(&sync(&db, &api, &["--verify"]).await, 1)["differences"], 1);

    // Sessions end where the organisation changed.
    db.run("create schema auth; create table auth.sessions (user_id uuid)").await;
    for id in &ids {
        db.run(format!("insert into auth.sessions values ('{id}')")).await;
    }
    let state = tempfile(&db);
    let done = summary(&sync(&db, &api, &["--reassign", "--revoke", "--state-file", &state]).await, 0);
    assert_eq!((&done["updated"], &done["revoked"]), (&json!(1), &json!(1)), "{done}");
    let revoked: Vec<(String, Uuid)> = sqlx::query_as("select user_id, org_id from warden.revocations")
        .fetch_all(&db.pool)
        .await
        .expect("queries");
    assert_eq!(revoked, [(ids[2].to_string(), second)]);
    let sessions: i64 =
        sqlx::query_scalar("select count(*) from auth.sessions").fetch_one(&db.pool).await.expect("queries");
    assert_eq!(sessions, 11);
    assert!(!std::path::Path::new(&state).exists(), "a complete run leaves no state file");
    summary(&sync(&db, &api, &["--verify"]).await, 0);
    expect_all_right(&db, &api).await;
}

/// Path of a state file that does not exist.
fn tempfile(db: &TestDb) -> String {
    std::env::temp_dir().join(format!("warden-claims-{}.json", db.name())).display().to_string()
}

/// A deletion moves all later users to a smaller position.
#[tokio::test]
async fn users_are_not_missed_when_others_are_deleted_between_pages() {
    let db = TestDb::create().await;
    // Far apart, so that the pass for new users does not read them again.
    let users: Vec<StoredUser> = (0..60).map(|n| StoredUser::new(n * 600)).collect();
    let deleted: Vec<Uuid> = users.iter().step_by(7).map(|user| user.id).collect();
    let api = StandIn::start(users, 0).await;
    api.world().delete_after_list = deleted;
    summary(&sync(&db, &api, &["--page-size", "10"]).await, 0);
    expect_all_right(&db, &api).await;
}

#[tokio::test]
async fn users_with_equal_creation_times_at_a_boundary_are_reported() {
    let db = TestDb::create().await;
    let mut users: Vec<StoredUser> = (0..20).map(StoredUser::new).collect();
    users[10].created_at = users[9].created_at;
    let api = StandIn::start(users, 0).await;
    let done = summary(&sync(&db, &api, &["--page-size", "10"]).await, 1);
    assert_eq!(done["unordered_pages"], 1, "{done}");
    summary(&sync(&db, &api, &["--page-size", "15"]).await, 0);
}

#[tokio::test]
async fn the_service_key_is_never_shown() {
    let db = TestDb::create().await;
    let api = StandIn::start(vec![StoredUser::new(0)], 0).await;
    for status in [400, 401, 422] {
        let body = json!({"code": status, "error_code": "bad_jwt", "msg": format!("invalid key {KEY}")});
        api.world().only_answer = Some((status, body));
        let outcome = sync(&db, &api, &[]).await;
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("invalid key [service key]"), "{outcome:?}");
    }
    api.world().only_answer = None;
    let help = run(&["claims", "sync", "--help"], &[("WARDEN_SERVICE_KEY", KEY)]).await;
    assert!(help.stdout.contains("--service-key-file") && !help.stdout.contains(KEY), "{help:?}");
    let file = tempfile(&db) + ".key";
    std::fs::write(&file, format!("{KEY}\n")).expect("writes");
    let variables = [("DATABASE_URL", db.url()), ("WARDEN_AUTH_URL", &api.url())];
    let by_file = run(&[&FAST[..], &["--service-key-file", &file]].concat(), &variables).await;
    assert_eq!(by_file.code, Some(0), "{by_file:?}");
    std::fs::remove_file(&file).expect("deletes");
    let without = run(&FAST, &variables).await;
    assert!(without.code == Some(1) && without.stderr.contains("WARDEN_SERVICE_KEY"), "{without:?}");
    for url in ["http://auth.example.com/auth/v1", "https://user:word@auth.example.com", "ftp://127.0.0.1"] {
        let variables = [("DATABASE_URL", db.url()), ("WARDEN_AUTH_URL", url), ("WARDEN_SERVICE_KEY", KEY)];
        let outcome = run(&FAST, &variables).await;
        assert!(outcome.code == Some(1) && outcome.stderr.contains("WARDEN_AUTH_URL must"), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_state_file_of_another_database_or_url_is_rejected() {
    let (db, other) = (TestDb::create().await, TestDb::create().await);
    let api = StandIn::start(vec![StoredUser::new(0)], 0).await;
    let state = tempfile(&db);
    api.world().only_answer = Some((400, json!({})));
    assert_eq!(sync(&db, &api, &["--state-file", &state]).await.code, Some(1));
    api.world().only_answer = None;
    let mode = std::fs::metadata(&state).expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let outcome = sync(&other, &api, &["--state-file", &state]).await;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("belongs to the database"), "{outcome:?}");
    let elsewhere = StandIn::start(vec![], 0).await;
    let outcome = sync(&db, &elsewhere, &["--state-file", &state]).await;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("belongs to the users at"), "{outcome:?}");
    summary(&sync(&db, &api, &["--state-file", &state]).await, 0);
    std::fs::write(&state, "{}").expect("writes");
    let outcome = sync(&db, &api, &["--state-file", &state]).await;
    assert!(outcome.stderr.contains("is not a state file"), "{outcome:?}");
    std::fs::remove_file(&state).expect("deletes");
}
