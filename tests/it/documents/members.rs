//! Watched tables that have rows in common: partitions and children of watched tables.

use super::strings;
use crate::harness::TestDb;

const TABLES: &str = "
    create table visits (id int not null, org_id uuid not null, primary key (id)) partition by range (id);
    create table visits_1 partition of visits for values from (0) to (100);
    create table people (id int primary key, org_id uuid not null);
    create table staff (primary key (id)) inherits (people);
    create table places (id int, org_id uuid not null);
    create table rooms (primary key (id)) inherits (people, places)";

#[tokio::test]
async fn a_table_is_part_of_one_watch_only() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(TABLES).await;
    db.run("alter table places add primary key (id)").await;
    for (first, second, error) in [
        ("visits", "visits_1", "public.visits_1 is a partition or child of public.visits, and statements"),
        ("people", "staff", "public.staff is a partition or child of public.people, and statements"),
        ("people", "places", "public.places and public.people, which is watched, have a child in common"),
    ] {
        let watch = |table: &str| format!("select warden.watch('{table}', '{table}', '{table}')");
        db.run(watch(first)).await;
        let refused = db.error(watch(second)).await;
        assert!(refused.contains(error), "{refused}");
        // The first may be changed, and is as it was.
        db.run(watch(first)).await;
        assert_eq!(strings(&db, "select warden.unfit_watches()").await, Vec::<String>::new());
        db.run(format!("select warden.unwatch('{first}')")).await;
    }
    db.run(format!("insert into staff values (1, '{org}')")).await;
    assert_eq!(
        strings(&db, "select event from warden.events where topic <> 'org'").await,
        Vec::<String>::new()
    );
    db.run(
        "create table pets (id int primary key, org_id uuid not null);
         create table animals (id int primary key, org_id uuid not null);
         select warden.watch('pets', 'pets', 'pet'); alter table pets inherit animals",
    )
    .await;
    assert_eq!(strings(&db, "select warden.unfit_watches()").await, ["public.pets"]);
    let refused = db.error("select warden.watch('animals', 'animals', 'animal')").await;
    assert!(
        refused.contains("public.animals has the partition or child public.pets, which is watched"),
        "{refused}"
    );
}

/// A watched table becomes a child of another one, whose watch then has its events, and is separated again.
#[tokio::test]
async fn the_outer_watch_has_the_events_of_a_watched_table_until_one_of_both_ends() {
    for (follows_ddl, end) in [
        (true, "alter table staff no inherit people"),
        (false, "alter table staff no inherit people"),
        (true, "select warden.unwatch('people'); alter table staff no inherit people"),
        (true, "select warden.unwatch('staff')"),
    ] {
        let db = TestDb::create().await;
        let org = db.create_org().await;
        let refresh = if follows_ddl { "select 1" } else { "select warden.refresh_watches()" };
        if !follows_ddl {
            db.run(
                "alter event trigger warden_refresh_watches disable;
                 alter event trigger warden_protect_members disable",
            )
            .await;
        }
        // A trigger that writes to both needs the triggers that keep the order.
        db.run(
            "create table people (id int primary key, org_id uuid not null, v int);
             create table staff (id int primary key, org_id uuid not null, v int);
             create function count_people() returns trigger language plpgsql as
               $$ begin update people set v = 1 where id = new.id; update staff set v = 1 where id = new.id; return new; end $$;
             create trigger count_people after insert on staff for each row execute function count_people();
             select warden.watch('people', 'people', 'person'); select warden.watch('staff', 'staff', 'staff')",
        )
        .await;
        let unfit = async || strings(&db, "select warden.unfit_watches()").await;
        let insert = |id: u32| format!("insert into staff values ({id}, '{org}')");
        db.run(format!("{}; alter table staff inherit people", insert(1))).await;
        if !follows_ddl {
            assert_eq!(unfit().await, ["public.people", "public.staff"]);
        }
        db.run(format!("{refresh}; {}", insert(2))).await;
        assert_eq!(unfit().await, ["public.staff"]);
        let problem = "select warden.reading('staff', null, 1000) ->> 'problem'";
        assert!(strings(&db, problem).await[0].contains("part of another watched table"));
        db.run(format!("{end}; {refresh}; {}", insert(3))).await;
        assert_eq!(unfit().await, Vec::<String>::new());
        let events = "select topic || coalesce(' ' || (data ->> 'id') || ' ' || split_part(event, '.', 2), ' ' || event)
                      from warden.events where topic in ('people', 'staff') order by id";
        let last = if end.contains("'staff'") { "people" } else { "staff" };
        let mut events = strings(&db, events).await;
        let tail = events.split_off(events.len() - 2);
        assert_eq!(tail, [format!("{last} 3 created"), format!("{last} 3 updated")], "{end}");
        assert!(events.iter().any(|e| e == "staff warden.resync"), "{events:?}");
        let rows: Vec<_> = events.iter().filter(|e| !e.contains("resync")).collect();
        assert_eq!(
            rows,
            ["staff 1 created", "staff 1 updated", "people 2 created", "people 2 updated"],
            "{end}"
        );
    }
}

#[tokio::test]
async fn a_partition_that_create_schema_creates_emits_events() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(TABLES).await;
    db.run(format!(
        "select warden.watch('visits', 'visits', 'visit');
         create schema archive create table visits_2 partition of public.visits for values from (100) to (200);
         insert into archive.visits_2 values (100, '{org}')"
    ))
    .await;
    assert_eq!(
        strings(&db, "select event from warden.events where topic = 'visits'").await,
        ["visit.created"]
    );
}
