//! Members that are created or detached after adoption, and members that cannot be protected.

use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, Executor as _};

use super::{BY_KEY, BY_MONTH, INHERITED, ORGS, assert_isolated, count, is_clean};
use crate::adoption::{audit, connect, migrate, small_db};
use crate::harness::TestDb;

/// Without the event trigger, the audit finds a new member, and both remedies complete it.
#[tokio::test]
async fn a_new_partition_without_the_event_trigger_is_found_and_completed() {
    let db = BY_MONTH.database().await;
    migrate(db.url(), &["--enforce", "--yes"]).await.must(0);
    db.run("drop event trigger warden_protect_members; drop event trigger warden_refresh_watches").await;
    for remedy in ["migrate", "protect_members"] {
        db.run(BY_MONTH.grow).await;
        let found = audit(db.url()).await.must(1);
        assert!(found.stdout.contains("Call Logs 2025-01"), "{}", found.stdout);
        if remedy == "migrate" {
            migrate(db.url(), &[]).await.must(0).says(&["run: select warden.protect_members("]);
        } else {
            db.run(&format!("select warden.protect_members('{}')", BY_MONTH.grown)).await;
        }
        assert_isolated(&db, &BY_MONTH).await;
        is_clean(&audit(db.url()).await, &BY_MONTH);
        db.run(&format!("drop table {}", BY_MONTH.grown)).await;
    }
}

/// Without the event trigger, a new partition accepts no rows until it is protected: default privileges could
/// let requests of every organisation read it by its name.
#[tokio::test]
async fn a_new_partition_accepts_no_rows_until_it_is_protected() {
    let db = BY_MONTH.database().await;
    db.run("drop event trigger warden_protect_members; drop event trigger warden_refresh_watches").await;
    migrate(db.url(), &["--enforce", "--yes"]).await.must(0);
    db.run(BY_MONTH.grow).await;
    db.run(&format!("grant all on {} to authenticated", BY_MONTH.grown)).await;
    let mut writer = connect(&db).await;
    let org = ORGS[0];
    let claims = format!(
        r#"select set_config('request.jwt.claims', '{{"app_metadata": {{"org_id": "{org}"}}}}', false)"#
    );
    writer.execute(AssertSqlSafe(claims)).await.expect("sets the claims");
    let insert =
        |table: &str| AssertSqlSafe(format!("insert into {table} (started_on) values ('2025-01-07')"));
    for role in ["authenticated", "postgres"] {
        writer.execute(AssertSqlSafe(format!("set role {role}"))).await.expect("sets the role");
        for table in [BY_MONTH.whole, BY_MONTH.grown] {
            if role == "authenticated" && table == BY_MONTH.whole {
                continue;
            }
            let error = writer.execute(insert(table)).await.expect_err("is rejected");
            let error = error.into_database_error().expect("of the database");
            assert_eq!(error.code().as_deref(), Some("55000"), "{role}: {error}");
            let error = error.downcast_ref::<PgDatabaseError>();
            assert!(
                error.message().contains("warden: public.\"Call Logs 2025-01\" accepts no rows"),
                "{error}"
            );
            assert!(error.hint().is_some_and(|hint| hint.contains("warden.protect_members(")), "{error:?}");
        }
    }
    db.run(&format!("select warden.protect_members('{}')", BY_MONTH.grown)).await;
    writer.execute(insert(BY_MONTH.whole)).await.expect("inserts");
    assert_isolated(&db, &BY_MONTH).await;
    is_clean(&audit(db.url()).await, &BY_MONTH);
    migrate(db.url(), &["--relax", "--yes"]).await.must(0);
    let left = count(&mut writer, "pg_trigger where tgname = 'warden_require_protection'").await;
    assert_eq!(left, 0);
}

/// The event trigger may disappear after the enforce phase, for example when a role that may not create it
/// restores a dump. Then the audit finds that nothing keeps a new partition empty, and both remedies do.
#[tokio::test]
async fn a_partition_needs_its_trigger_once_the_event_trigger_is_gone() {
    let db = BY_MONTH.database().await;
    migrate(db.url(), &["--enforce", "--yes"]).await.must(0);
    is_clean(&audit(db.url()).await, &BY_MONTH);
    db.run("drop event trigger warden_protect_members; drop event trigger warden_refresh_watches").await;
    for remedy in ["migrate", "protect_members"] {
        let found = audit(db.url()).await.must(1);
        assert!(
            found.stdout.contains("nothing keeps them empty until they are protected"),
            "{}",
            found.stdout
        );
        if remedy == "migrate" {
            migrate(db.url(), &[]).await.must(0);
        } else {
            db.run(&format!("select warden.protect_members('{}')", BY_MONTH.whole)).await;
        }
        is_clean(&audit(db.url()).await, &BY_MONTH);
        db.run(BY_MONTH.grow).await;
        let insert = format!("insert into {} (started_on) values ('2025-01-07')", BY_MONTH.grown);
        connect(&db).await.execute(AssertSqlSafe(insert)).await.expect_err("is rejected");
        db.run(&format!(
            "drop table {}; drop trigger warden_require_protection on {}",
            BY_MONTH.grown, BY_MONTH.whole
        ))
        .await;
    }
}

/// The event trigger never makes a statement of the application fail. Detached partitions stay protected.
#[tokio::test]
async fn partitions_are_detached_and_attached_again() {
    let db = BY_MONTH.database().await;
    migrate(db.url(), &["--enforce", "--yes"]).await.must(0);
    db.run(r#"alter table "Call Logs" detach partition "Call Logs 2024-01""#).await;
    let mut admin = connect(&db).await;
    let protected = count(
        &mut admin,
        r#"pg_class where oid = '"Call Logs 2024-01"'::regclass and relrowsecurity and relforcerowsecurity"#,
    )
    .await;
    assert_eq!(protected, 1);
    let found = audit(db.url()).await.must(1);
    assert!(found.stdout.contains("Call Logs 2024-01"), "the audit names it: {}", found.stdout);
    db.run(r#"alter table "Call Logs" attach partition "Call Logs 2024-01" for values from ('2024-01-01') to ('2024-02-01')"#).await;
    assert_isolated(&db, &BY_MONTH).await;
    is_clean(&audit(db.url()).await, &BY_MONTH);
    // If Warden cannot protect a member, the statement succeeds with a warning.
    db.run("alter function warden.protect(regclass) rename to protect_former").await;
    db.run(BY_MONTH.grow).await;
    db.run("alter function warden.protect_former(regclass) rename to protect").await;
    assert!(audit(db.url()).await.must(1).stdout.contains("Call Logs 2025-01"));
}

/// The owner of a partitioned table, who is no superuser and has no rights on schema `warden`, adds
/// partitions in every phase, also after the owner has changed, and also to a member that another role owns.
#[tokio::test]
async fn ordinary_owners_add_partitions_in_every_phase() {
    let db = small_db(
        "create role first_owner; create role second_owner; create role region_owner;
         grant create, usage on schema public to first_owner, second_owner, region_owner;
         create table visits (id bigint, region text, day date, user_id uuid, primary key (id, region, day))
           partition by list (region);
         create table visits_eu partition of visits for values in ('eu') partition by range (day);
         create table visits_rest partition of visits default;
         alter table visits owner to first_owner; alter table visits_rest owner to first_owner;
         alter table visits_eu owner to region_owner;",
    )
    .await;
    let mut number = 0;
    let mut add_partitions = async |owner: &str| {
        number += 1;
        db.run(&format!(
            "set role {owner};
             create table visits_{number} partition of visits for values in ('{number}');
             create table visits_like_{number} (like visits including all);
             alter table visits attach partition visits_like_{number} for values in ('like {number}');
             set role region_owner;
             create table visits_eu_{number} partition of visits_eu
               for values from ('2024-{number:02}-01') to ('2024-{number:02}-28');
             reset role;"
        ))
        .await;
    };
    add_partitions("first_owner").await;
    migrate(db.url(), &["--tables", "public.visits"]).await.must(0);
    add_partitions("first_owner").await;
    migrate(db.url(), &["--enforce", "--yes"]).await.must(0);
    add_partitions("first_owner").await;
    db.run("alter table visits owner to second_owner").await;
    add_partitions("second_owner").await;
    db.run("alter table visits_rest owner to second_owner; select warden.watch('visits', 'visits', 'visit')")
        .await;
    migrate(db.url(), &[]).await.must(0).idle();
    add_partitions("second_owner").await;
    migrate(db.url(), &["--relax", "--yes"]).await.must(0);
    add_partitions("second_owner").await;
}

/// Trees that cannot be adopted are issues with a remedy that ends.
#[tokio::test]
async fn a_tree_that_cannot_be_adopted_is_an_issue_with_an_end() {
    for (tables, register, says) in [
        (
            "create table clicks (id uuid, user_id uuid, at date) partition by range (at);
             create foreign data wrapper elsewhere; create server s foreign data wrapper elsewhere;
             create foreign table clicks_old partition of clicks for values from ('2020-01-01') to ('2021-01-01') server s;",
            "clicks",
            "has the member clicks_old, a foreign table",
        ),
        (
            "create table plain (name text); create table trucks_2 () inherits (trucks, plain);",
            "assets",
            "has the member trucks_2, which also inherits from public.plain",
        ),
    ] {
        let db = small_db(&format!("{} {tables}", INHERITED.tables)).await;
        migrate(db.url(), &[]).await.must(0);
        db.run(&format!(
            "insert into warden.tenant_tables (table_name, user_column) values ('{register}', 'user_id')"
        ))
        .await;
        let run =
            migrate(db.url(), &[]).await.must(1).says(&[says, "warden.accept_finding('unregistered-table'"]);
        let issue = run.stdout.lines().skip_while(|l| !l.contains(says)).nth(1).expect("a remedy").to_owned();
        let statements = issue.split_once("delete from").expect("statements").1;
        assert!(audit(db.url()).await.must(1).stdout.contains("table-kind"));
        db.run(&format!("delete from{}", statements.replace("<reason>", "kept apart"))).await;
        migrate(db.url(), &[]).await.must(0);
        let after = audit(db.url()).await.stdout;
        assert!(!after.contains("table-kind"), "{after}");
        for line in after.lines().filter(|l| l.trim_start().starts_with("finding")) {
            assert!(!line.contains(register), "{after}");
        }
    }
}

/// A watched table with a partition that was created while no event trigger protected it.
async fn watched_table(is_registered: bool) -> TestDb {
    let db = small_db(BY_KEY.tables).await;
    migrate(db.url(), &[]).await.must(0);
    if is_registered {
        db.run("select warden.adopt_table('rooms', 'user_id')").await;
        migrate(db.url(), &[]).await.must(0);
    } else {
        db.run("alter table rooms add org_id uuid").await;
    }
    db.run("select warden.watch('rooms', 'rooms', 'room', visibility => 'organisation'); drop event trigger warden_protect_members;
         drop event trigger warden_refresh_watches")
        .await;
    db.run(BY_KEY.grow).await;
    db
}

#[tokio::test]
async fn a_run_completes_the_log_triggers_of_new_partitions() {
    for is_registered in [true, false] {
        let db = watched_table(is_registered).await;
        let logged = "select count(*) from pg_trigger where tgrelid = 'rooms_2'::regclass and tgname like 'warden_log_%'";
        let count = async || sqlx::query_scalar::<_, i64>(logged).fetch_one(&db.pool).await.expect("counts");
        assert_eq!(count().await, 0);
        migrate(db.url(), &["--plan"])
            .await
            .must(0)
            .says(&["rooms (", "add the triggers and policies of new members: rooms_2"]);
        assert_eq!(count().await, 0);
        migrate(db.url(), &[]).await.must(0);
        assert!(count().await > 0, "is_registered: {is_registered}");
        migrate(db.url(), &[]).await.must(0);
        let plan = migrate(db.url(), &["--plan"]).await.must(0);
        assert!(!plan.stdout.contains("new members"), "{}", plan.stdout);
        assert!(!audit(db.url()).await.stdout.contains("watch-triggers"));
    }
}

/// The event trigger also serves tables that are watched and not registered.
#[tokio::test]
async fn a_new_partition_of_a_watched_table_is_watched() {
    let db = small_db(BY_KEY.tables).await;
    migrate(db.url(), &[]).await.must(0);
    db.run("alter table rooms add org_id uuid; select warden.watch('rooms', 'rooms', 'room', visibility => 'organisation')")
        .await;
    db.run(BY_KEY.grow).await;
    let missing = "warden.incomplete_members()";
    assert_eq!(count(&mut connect(&db).await, missing).await, 0);
}
