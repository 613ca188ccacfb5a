//! Adoption while the application writes at full speed.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::{audit, connect, legacy_db, migrate, tables_with_null};
use crate::harness::{eventually, shared_cluster_url};
use crate::legacy::{APP_ROLE, Writers, counts};

const WRITERS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_keeps_writing_during_adoption() {
    let db = legacy_db().await;
    let mut admin = connect(&db).await;
    let before = counts(&mut admin).await;
    let app_url = shared_cluster_url(&db.name, APP_ROLE);
    let writers = Writers::start(&app_url, WRITERS, 7).await;
    eventually("the application writes", async || writers.statements() > 50).await;

    migrate(db.url(), &[]).await.must(0).says(&["every row has an organisation"]);
    let at = writers.statements();
    eventually("the application keeps writing", async || writers.statements() > at + 50).await;
    let totals = writers.stop().await;
    println!(
        "{} statements of {WRITERS} writers, the longest {:?} ({})",
        totals.statements, totals.longest.0, totals.longest.1
    );
    assert!(totals.errors.is_empty(), "{:?}", &totals.errors[..totals.errors.len().min(5)]);

    // No row is lost, and every row has an organisation.
    let after = counts(&mut admin).await;
    for (table, count) in before {
        let expected = count
            + totals.rows.get(table.as_str()).copied().unwrap_or(0)
            + i64::from(table == "organizations");
        assert_eq!(after[&table], expected, "{table}");
    }
    assert_eq!(tables_with_null(&mut admin).await, Vec::<String>::new());
    assert_rows_belong_to_their_organisations(&mut admin).await;

    migrate(db.url(), &[]).await.must(0).idle();
    second_phase(db.url(), &app_url, &mut admin).await;
}

/// Asserts that rows belong to the organisation of their membership, parent or the default, in this order.
async fn assert_rows_belong_to_their_organisations(admin: &mut PgConnection) {
    for (what, sql) in [
        ("members' rows", "select count(*) from calls c join organization_members m using (user_id)
                           where c.org_id <> (select org_id from organization_members where user_id = c.user_id order by created_at, org_id limit 1)"),
        ("the older membership counts", "select count(*) from leads where user_id = legacy_id('user', 7) and org_id <> legacy_id('org', 2)"),
        ("orphans", "select count(*) from calls where user_id is null and org_id <> 'a0000000-0000-0000-0000-000000000001'"),
        ("children", "select count(*) from call_logs l join calls c on c.id = l.call_id where l.org_id <> c.org_id"),
        ("grandchildren", "select count(*) from embeddings e join knowledge_base_chunks c on c.id = e.chunk_id where e.org_id <> c.org_id"),
        ("children without a parent", "select count(*) from recording_upload_queue where recording_id is null and org_id <> 'a0000000-0000-0000-0000-000000000001'"),
    ] {
        let wrong: i64 = sqlx::query_scalar(sql).fetch_one(&mut *admin).await.expect(what);
        assert_eq!(wrong, 0, "{what}");
    }
    let members: i64 = sqlx::query_scalar("select count(*) from calls where org_id = legacy_id('org', 1)")
        .fetch_one(&mut *admin)
        .await
        .expect("counts");
    assert!(members > 0, "some rows belong to an organisation by membership");
}

async fn second_phase(url: &str, app_url: &str, admin: &mut PgConnection) {
    let asked = migrate(url, &["--enforce"]).await.must(1);
    assert!(asked.stderr.contains("legacy_app") && asked.stderr.contains("pass --yes"), "{}", asked.stderr);
    assert_eq!(old_application(app_url).await, None, "nothing was enforced");

    let mut app = PgConnection::connect(app_url).await.expect("connects");
    app.execute("set application_name = 'billing-nightly'; update calls set status = 'seen' where false")
        .await
        .expect("works");
    let done =
        migrate(url, &["--enforce", "--yes"]).await.must(0).says(&["the database isolates organisations"]);
    assert!(done.stderr.contains("billing-nightly"), "names sessions: {}", done.stderr);
    assert!(done.stderr.contains("update calls set status = 'seen'"), "names statements: {}", done.stderr);
    let missing: Vec<String> = sqlx::query_scalar(
        "select format('%s %s: %s', table_name, name, problem) from warden.tenant_objects
         where applies and not is_valid and phase not in ('fill', 'user')",
    )
    .fetch_all(&mut *admin)
    .await
    .expect("objects");
    assert_eq!(missing, Vec::<String>::new());
    audit(url).await.must(0);
    let error = old_application(app_url).await.expect("is rejected");
    assert!(error.contains("warden: the new row of public.calls has no org_id"), "{error}");
    bound_application(admin, app_url).await;

    migrate(url, &["--enforce", "--yes"]).await.must(0).says(&["0 rows filled"]);
    migrate(url, &["--relax", "--yes"]).await.must(0);
    assert_eq!(old_application(app_url).await, None);
    assert_eq!(tables_with_null(admin).await, Vec::<String>::new());
    migrate(url, &[]).await.must(0).idle();
    migrate(url, &["--enforce", "--yes"]).await.must(0);
}

/// Error of the first statement of the old application that fails, if any does.
async fn old_application(app_url: &str) -> Option<String> {
    let mut app = PgConnection::connect(app_url).await.expect("connects");
    for sql in [
        "insert into calls (user_id) values (gen_random_uuid())",
        "insert into payments (cents) values (1)",
        "insert into contacts (user_id, email) values (gen_random_uuid(), gen_random_uuid()::text)",
        "update leads set score = 0",
    ] {
        if let Err(error) = app.execute(sql).await {
            return Some(error.to_string());
        }
    }
    None
}

/// A back end that binds its transactions to an organisation.
async fn bound_application(admin: &mut PgConnection, app_url: &str) {
    admin.execute("grant authenticated to legacy_app").await.expect("grants");
    admin.execute("grant select, insert, update, delete on calls to authenticated").await.expect("grants");
    let own: Uuid =
        sqlx::query_scalar("select legacy_id('org', 1)").fetch_one(&mut *admin).await.expect("an id");
    let mut app = PgConnection::connect(app_url).await.expect("connects");
    let mut bound = app.begin().await.expect("begins");
    let claims = format!(r#"{{"app_metadata": {{"org_id": "{own}"}}}}"#);
    sqlx::query("select set_config('request.jwt.claims', $1, true)")
        .bind(&claims)
        .execute(&mut *bound)
        .await
        .expect("sets");
    let seen: Vec<Uuid> =
        sqlx::query_scalar("select distinct org_id from calls").fetch_all(&mut *bound).await.expect("reads");
    assert_eq!(seen, [own]);
    sqlx::query("insert into calls (org_id) values ($1)")
        .bind(own)
        .execute(&mut *bound)
        .await
        .expect("writes its own");
    let error = sqlx::query("insert into calls (org_id) values (legacy_id('org', 2))")
        .execute(&mut *bound)
        .await
        .expect_err("not another's");
    assert!(error.to_string().contains("row-level security"), "{error}");
    drop(bound);
    app.execute(AssertSqlSafe("reset role")).await.expect("is usable");
    admin.execute("revoke authenticated from legacy_app").await.expect("revokes");
}

/// The application did not change these rows: its triggers, its timestamps and the event log ignore the
/// backfill.
#[tokio::test]
async fn the_backfill_fires_no_triggers_and_emits_no_events() {
    let db = legacy_db().await;
    let mut admin = connect(&db).await;
    migrate(db.url(), &[]).await.must(0);
    for (what, sql) in [
        ("updated_at", "select count(*) from calls where updated_at <> '2024-02-02'"),
        ("updated_at of leads", "select count(*) from leads where updated_at <> '2024-02-02'"),
        ("counting trigger", "select count(*) from user_phone_numbers where updates > 0"),
        // Only the default organisation is a new row.
        ("events", "select count(*) from warden.events where event not like 'warden.%' and topic <> 'org'"),
        ("triggers that were on or off", "select count(*) from pg_trigger where tgrelid = 'user_phone_numbers'::regclass
            and (tgname, tgenabled) not in (('count_update', 'O'), ('switched_off', 'D'), ('warden_fill_org_id', 'O'), ('warden_fill_org_id_update', 'O'),
                                             ('warden_org_id_immutable', 'O'))
            and not tgisinternal"),
    ] {
        let seen: i64 = sqlx::query_scalar(sql).fetch_one(&mut admin).await.expect(what);
        assert_eq!(seen, 0, "{what}");
    }
    // Later changes emit events.
    db.run("insert into calls (user_id) values (legacy_id('user', 1))").await;
    let events: Vec<(Uuid, String)> = sqlx::query_as(
        "select org_id, event from warden.events where event not like 'warden.%' and topic <> 'org'",
    )
    .fetch_all(&mut admin)
    .await
    .expect("events");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].1, "call.created");
    // The watches equal those of an empty database.
    let watched: Vec<String> = sqlx::query_scalar("select row(relation, topic, event_prefix, key_columns, omit_columns, org_column, entity_topic, entity_topic_column)::text from warden.watches order by 1")
        .fetch_all(&mut admin).await.expect("watches");
    let fresh = crate::harness::TestDb::create().await;
    let mut fresh = connect(&fresh).await;
    let expected: Vec<String> = sqlx::query_scalar("select row(relation, topic, event_prefix, key_columns, omit_columns, org_column, entity_topic, entity_topic_column)::text from warden.watches order by 1")
        .fetch_all(&mut fresh).await.expect("watches");
    assert_eq!(watched, expected);
}
