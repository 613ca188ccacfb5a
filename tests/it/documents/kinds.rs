//! Foreign, unlogged and temporary tables, whose rows no log can follow: as watched tables, and as partitions
//! and children of one.

use super::strings;
use crate::harness::TestDb;

const FOREIGN: &str = "
    create extension if not exists postgres_fdw;
    do $$ begin
      execute format('create server here foreign data wrapper postgres_fdw options (host %L, port %L, dbname %L)',
                     btrim(current_setting('unix_socket_directories'), chr(34)), current_setting('port'), current_database());
      execute format('create user mapping for %I server here options (user %L)', current_user, current_user);
    end $$;
    create table archive (id int not null, org_id uuid not null, v int);
    create table hot (id int primary key, org_id uuid not null, v int); create table warm () inherits (hot);
    create foreign table cold (id int not null, org_id uuid not null, v int) server here options (table_name 'archive')";

async fn unfit(db: &TestDb) -> Vec<String> {
    strings(db, "select warden.unfit_watches()").await
}

async fn events(db: &TestDb) -> Vec<String> {
    let events =
        strings(db, "select event from warden.events where topic in ('hot', 'spots') order by id").await;
    db.run("delete from warden.events").await;
    events
}

#[tokio::test]
async fn writes_succeed_and_resync_while_a_foreign_table_is_a_child() {
    for (follows_ddl, triggers) in [(true, false), (true, true), (false, false)] {
        let db = TestDb::create().await;
        let org = db.create_org().await;
        db.run(FOREIGN).await;
        if triggers {
            db.run(
                "create function again() returns trigger language plpgsql as
                   $$ begin update hot set v = 9 where id = new.id and v <> 9; return new; end $$;
                 create trigger again after insert on hot for each row execute function again()",
            )
            .await;
        }
        db.run(format!(
            "select warden.watch('hot', 'hot', 'hot', replicated => {triggers});
             insert into archive values (7, '{org}', 1); insert into warm values (3, '{org}', 1)"
        ))
        .await;
        let refresh = if follows_ddl {
            ""
        } else {
            db.run("alter event trigger warden_refresh_watches disable; alter event trigger warden_refresh_watches_drop disable").await;
            "select warden.refresh_watches();"
        };
        for (add, remove) in [
            ("alter foreign table cold inherit hot", "alter foreign table cold no inherit hot"),
            (
                "create foreign table cool () inherits (warm) server here options (table_name 'archive')",
                "drop foreign table cool",
            ),
        ] {
            events(&db).await;
            db.run(format!("{add}; {refresh}")).await;
            assert_eq!(unfit(&db).await, ["public.hot"], "{add}");
            events(&db).await;
            db.run(format!("insert into hot values (1, '{org}', 1)")).await;
            db.run("update hot set v = v + 1").await;
            db.run("delete from hot where id in (1, 7)").await;
            assert_eq!(events(&db).await, ["warden.resync"; 3], "{add}");
            db.run(format!("insert into archive values (7, '{org}', 1); {remove}; {refresh}")).await;
            assert_eq!(unfit(&db).await, Vec::<String>::new(), "{remove}");
            events(&db).await;
            db.run(format!("insert into hot values (2, '{org}', 1); delete from hot where id = 2")).await;
            let updated: &[&str] = if triggers { &["hot.updated"] } else { &[] };
            assert_eq!(events(&db).await, [&["hot.created"], updated, &["hot.deleted"]].concat(), "{remove}");
        }
    }
}

#[tokio::test]
async fn foreign_unlogged_and_temporary_tables_are_rejected() {
    let db = TestDb::create().await;
    db.run(FOREIGN).await;
    for (table, error) in [
        ("alter foreign table cold inherit hot", "public.cold is a foreign table"),
        ("drop foreign table cold; create unlogged table spots () inherits (hot)", "public.spots is unlogged"),
        ("drop table spots; create temp table spots () inherits (hot)", "spots is temporary"),
        ("drop table hot cascade; create unlogged table hot (id int primary key, org_id uuid)", "public.hot is unlogged"),
        (
            "drop table hot; create table hot (id int, org_id uuid) partition by list (id);
             create foreign table cold partition of hot for values in (1) server here options (table_name 'archive')",
            "public.cold is a foreign table",
        ),
    ] {
        // In one session, because of the temporary table.
        let refused = db.error(format!("{table}; select warden.watch('hot', 'hot', 'hot')")).await;
        assert!(refused.contains(error), "{table}: {refused}");
        db.run(table).await;
    }
}

#[tokio::test]
async fn a_watched_table_that_becomes_unlogged_is_reported() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "create table spots (id int primary key, org_id uuid) partition by list (id);
         create table spots_1 partition of spots for values in (1); select warden.watch('spots', 'spots', 'spot')",
    )
    .await;
    db.run(format!("alter table spots_1 set unlogged; insert into spots values (1, '{org}')")).await;
    assert_eq!(events(&db).await, ["spot.created"]);
    assert_eq!(unfit(&db).await, ["public.spots"]);
    db.run("alter table spots_1 set logged").await;
    assert_eq!(unfit(&db).await, Vec::<String>::new());
    // PostgreSQL rewrites the table, but the values are the same.
    assert_eq!(events(&db).await, Vec::<String>::new());
}
