//! Moves between partitions of which one half is missing, because a trigger cancels it or the partition has
//! no triggers: the next rows of the transaction must not be taken for the other half.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::{server_version, stored_halves};
use crate::harness::TestDb;

/// A trigger cancels what the setting of its name says. "!first" sorts before Warden's triggers, "~last"
/// after them.
const SCHEMA: &str = r#"
    create table a (id int not null, org_id uuid not null, r int not null, v int, primary key (id, r))
      partition by range (r);
    create table a_low partition of a for values from (minvalue) to (10);
    create table a_high partition of a for values from (10) to (maxvalue);
    create table c (id int);
    select warden.watch('a', 'a', 'a', key_columns => '{id}');
    create function cancel() returns trigger language plpgsql as $$ begin
      if current_setting('app.cancel', true) = tg_argv[0] then return null; end if;
      return coalesce(new, old); end $$;
    create trigger cancel_deletion before delete on a for each row execute function cancel('deletion');
    create trigger "!first" before insert on a for each row execute function cancel('first');
    create trigger cancel_insertion before insert on a for each row execute function cancel('insertion');
    create trigger "~last" before update on a for each row execute function cancel('update');"#;

/// With this trigger, the tables have order triggers.
const NESTED: &str = "
    create table b (id int primary key, org_id uuid not null, v int);
    select warden.watch('b', 'b', 'b');
    create function write() returns trigger language plpgsql as $$ begin
      insert into b values (coalesce(new.id, old.id), coalesce(new.org_id, old.org_id), 1)
        on conflict (id) do update set v = b.v + 1;
      return null; end $$;
    create trigger write after insert or update or delete on a for each row execute function write();";

/// Scripts of one transaction, with the events that they log. `MOVE` and `MERGE` move row 2.
const SCRIPTS: [(&str, &[&str]); 10] = [
    (
        "set local app.cancel = 'deletion'; MOVE; reset app.cancel;
         with gone as (delete from a where id = 2 returning *) insert into a select * from gone",
        &["deleted 2 1", "created 2 1"],
    ),
    (
        "set local app.cancel = 'deletion'; MOVE; reset app.cancel;
         delete from a where id = 2; insert into a values (2, 'ORG', 1)",
        &["deleted 2 1", "created 2 1"],
    ),
    (
        "set local app.cancel = 'update'; MOVE; reset app.cancel;
         with gone as (delete from a where id = 2 returning *) insert into a select * from gone",
        &["deleted 2 1", "created 2 1"],
    ),
    (
        "set local app.cancel = 'first'; MOVE; reset app.cancel; insert into a values (2, 'ORG', 1)",
        &["deleted 2 1", "created 2 1"],
    ),
    (
        "set local app.cancel = 'insertion'; MOVE; reset app.cancel; insert into a values (2, 'ORG', 15)",
        &["deleted 2 1", "created 2 15"],
    ),
    // The partition has no triggers.
    (
        "alter table a_high disable trigger all;
         with i as (insert into a values (2, 'ORG', 1)) update a set r = 15 where id = 2",
        &["updated 2 15", "created 2 1"],
    ),
    (
        "alter table a_high disable trigger all;
         with m as (update a set r = 15 where id = 2), i as (insert into a values (3, 'ORG', 1)),
              u as (update a set v = 5 where id = 1) select 1",
        &["created 3 1", "updated 1 1", "updated 2 15"],
    ),
    (
        "set local app.cancel = 'first'; MERGE; reset app.cancel; insert into a values (2, 'ORG', 15)",
        &["deleted 2 1", "created 2 15"],
    ),
    (
        "MERGE; delete from a where id = 2; insert into a values (2, 'ORG', 15);
         delete from a where id = 2; insert into a values (2, 'ORG', 1); MERGE",
        &["updated 2 15", "deleted 2 15", "created 2 15", "deleted 2 15", "created 2 1", "updated 2 15"],
    ),
    (
        "MERGE; truncate a; insert into a values (2, 'ORG', 15)",
        &["updated 2 15", "resync", "resync", "resync", "created 2 15"],
    ),
];

#[tokio::test]
async fn a_row_is_logged_as_created_after_a_move_without_its_other_half() {
    let db = TestDb::create().await;
    let org = db.create_org().await.to_string();
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    let has_merge = server_version(&mut session).await >= 150_000;
    session.execute(SCHEMA).await.expect("creates");
    for is_nested in [false, true] {
        if is_nested {
            session.execute(NESTED).await.expect("creates");
        }
        for (script, expected) in SCRIPTS {
            if script.contains("MERGE") && !has_merge {
                continue;
            }
            let script = script.replace("MOVE", "update a set r = 15 where id = 2").replace(
                "MERGE",
                "merge into a t using (values (2)) s (id) on t.id = s.id when matched then update set r = 15",
            );
            let sql = format!(
                "truncate a; insert into a values (1, 'ORG', 1), (2, 'ORG', 1); delete from warden.events;
                 begin; {script}; commit; alter table a_high enable trigger all"
            );
            session
                .execute(sqlx::raw_sql(AssertSqlSafe(sql.replace("ORG", &org))))
                .await
                .unwrap_or_else(|e| panic!("{script}: {e}"));
            let mut events: Vec<String> = sqlx::query_scalar(
                "select concat_ws(' ', split_part(event, '.', 2), data ->> 'id', data ->> 'r') from warden.events
                 where topic = 'a' order by id",
            )
            .fetch_all(&mut session)
            .await
            .expect("reads");
            // Only the order of the events of one row is promised.
            if script.contains("select 1") {
                events.sort_unstable();
            }
            assert_eq!(events, expected, "{script}, {is_nested}");
            assert_eq!(stored_halves(&mut session).await, 0, "{script}, {is_nested}: left rows behind");
        }
    }
}

/// One row of a large update moves. The session needs memory for this row alone; the images of all rows would
/// take about 100 bytes each.
#[tokio::test]
async fn an_update_of_many_rows_of_which_one_moves_takes_little_memory() {
    const ROWS: i64 = 70_000;
    let db = TestDb::create().await;
    let org = db.create_org().await.to_string();
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    if server_version(&mut session).await < 150_000 {
        return;
    }
    session.execute(SCHEMA).await.expect("creates");
    let sql = format!(
        "insert into a select n, '{org}', 1 from generate_series(1, {ROWS}) n; delete from warden.events;
         set work_mem = '1MB'; create table peak (bytes bigint);
         create function note_peak() returns trigger language plpgsql security definer set search_path = public as $$ begin
           insert into peak select sum(used_bytes) from pg_backend_memory_contexts; return null; end $$;
         create trigger peak after insert on warden.events for each statement execute function note_peak();"
    );
    session.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.expect("prepares");
    let mut peaks = Vec::new();
    for place in ["1", "case when id = 77 then 15 else 1 end"] {
        let sql = format!("delete from peak; update a set v = coalesce(v, 0) + 1, r = {place}");
        session.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.expect("updates");
        let peak: i64 =
            sqlx::query_scalar("select max(bytes) from peak").fetch_one(&mut session).await.expect("reads");
        peaks.push(peak);
    }
    assert!(peaks[1] < peaks[0] + ROWS * 40, "{peaks:?}");
    let moved: i64 = sqlx::query_scalar(
        "select count(*) from warden.events where data ->> 'r' = '15' and event = 'a.updated'",
    )
    .fetch_one(&mut session)
    .await
    .expect("counts");
    assert_eq!(moved, 1);
}
