//! Tables that are watched, or were, become partitions of a watched table.

use super::strings;
use crate::harness::TestDb;

const ATTACH: &str = "alter table visits attach partition old_visits for values from (0) to (100)";

/// Creates a watched table with a row, and a watched partitioned table.
async fn create(db: &TestDb, arguments: &str) -> String {
    let org = db.create_org().await.to_string();
    db.run(format!(
        "create table old_visits (id int primary key, org_id uuid not null, v int);
         create table visits (id int primary key, org_id uuid not null, v int) partition by range (id);
         create table visits_2 partition of visits for values from (100) to (200);
         select warden.watch('old_visits', 'old_visits', 'old'{arguments}); select warden.watch('visits', 'visits', 'visit'{arguments});
         insert into old_visits values (1, '{org}', 1); delete from warden.events"
    ))
    .await;
    org
}

async fn events(db: &TestDb) -> Vec<String> {
    strings(db, "select topic || ' ' || event || ' ' || coalesce(data ->> 'id', '') from warden.events where topic ~ 'visits' order by id")
        .await
}

#[tokio::test]
async fn a_watched_table_becomes_a_partition() {
    for (before, arguments, follows_ddl) in [
        ("select 1", "", true),
        ("select warden.unwatch('old_visits')", "", true),
        ("select 1", ", replicated => true", true),
        ("select 1", "", false),
        // The trigger of a former version, which partitions inherited.
        ("select warden.guard_org_id('visits'); select warden.refresh_watches(true)", "", true),
    ] {
        let db = TestDb::create().await;
        let org = create(&db, arguments).await;
        if !follows_ddl {
            db.run("alter event trigger warden_refresh_watches disable; alter event trigger warden_protect_members disable").await;
        }
        db.run(before).await;
        db.run(format!("{ATTACH}; select warden.refresh_watches()")).await;
        let resyncs =
            strings(&db, "select topic from warden.events where event = 'warden.resync' order by 1").await;
        let both: &[&str] = if before.contains("unwatch") { &["visits"] } else { &["old_visits", "visits"] };
        assert_eq!(resyncs, both, "{before}");
        db.run(format!("delete from warden.events; update visits set v = 2; insert into old_visits values (2, '{org}', 1)")).await;
        assert_eq!(events(&db).await, ["visits visit.updated 1", "visits visit.created 2"], "{before}");
        db.run("select warden.unwatch('old_visits')").await;
        assert_eq!(strings(&db, "select warden.unfit_watches()").await, Vec::<String>::new());
        // Every partition keeps the organisation of its rows, also one that is created later.
        db.run(format!(
            "create table visits_3 partition of visits for values from (200) to (300); select warden.refresh_watches();
             insert into visits values (100, '{org}', 1), (200, '{org}', 1)"
        ))
        .await;
        for id in [1, 100, 200] {
            let moved =
                db.error(format!("update visits set org_id = gen_random_uuid() where id = {id}")).await;
            assert!(moved.contains("cannot be changed"), "{before}: {moved}");
        }
        db.run("select warden.unwatch('visits'); update visits set org_id = gen_random_uuid()").await;
    }
}

#[tokio::test]
async fn a_partitioned_table_becomes_a_partition() {
    let db = TestDb::create().await;
    let org = create(&db, "").await;
    db.run(format!(
        "create table years (id int primary key, org_id uuid not null, v int) partition by range (id);
         create table years_1 partition of years for values from (200) to (250);
         select warden.watch('years', 'years', 'year'); insert into years values (200, '{org}', 1);
         alter table visits attach partition years for values from (200) to (300); delete from warden.events;
         update visits set v = 2; update years set v = 3"
    ))
    .await;
    assert_eq!(events(&db).await, ["visits visit.updated 200", "visits visit.updated 200"]);
}

/// Registered tables have the trigger on the whole. The documentation names the statement.
#[tokio::test]
async fn a_registered_table_becomes_a_partition_once_its_own_trigger_is_dropped() {
    let db = TestDb::create().await;
    let org = create(&db, "").await;
    db.run("select warden.adopt_table('visits'); select warden.guard_org_id('visits')").await;
    let refused = db.error(ATTACH).await;
    assert!(refused.contains("warden_org_id_immutable") && refused.contains("already exists"), "{refused}");
    db.run(format!(
        "drop trigger warden_org_id_immutable on old_visits; drop trigger if exists warden_require_org_id on old_visits;
         {ATTACH}"
    ))
    .await;
    db.run(format!("delete from warden.events; insert into visits values (2, '{org}', 1)")).await;
    assert_eq!(events(&db).await, ["visits visit.created 2"]);
    let moved = db.error("update visits set org_id = gen_random_uuid()").await;
    assert!(moved.contains("cannot be changed"), "{moved}");
}
