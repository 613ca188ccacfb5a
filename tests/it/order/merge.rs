//! MERGE on partitioned tables, and rows that move between partitions, with triggers that write.

use sqlx::{Connection as _, PgConnection};

use super::{check, programs::Program, server_version};
use crate::harness::TestDb;

/// Writes of the trigger that each changed row fires.
const BODIES: [&str; 2] = [
    "insert into b values (coalesce(new.id, old.id), 'ORG', 0) on conflict (id) do update set v = b.v + 1;",
    // A move within a deletion, and writes within each of its halves.
    "if tg_op = 'DELETE' and old.id <> 9 then update a set id = id + 30 where id = 9; end if;
     insert into b values (coalesce(new.id, old.id), 'ORG', 0) on conflict (id) do nothing;",
];

/// Rows of a source, with the action for each: delete, update, move by 20, or insert.
const SOURCES: [&str; 7] = [
    "(1, 'd'), (1, 'i')",
    "(1, 'd'), (4, 'i')",
    "(1, 'd'), (14, 'i'), (11, 'd'), (5, 'i')",
    "(1, 'd'), (1, 'i'), (2, 'u'), (11, 'd'), (11, 'i'), (12, 'u')",
    "(2, 'u'), (1, 'd'), (3, 'd'), (6, 'i'), (16, 'i')",
    "(1, 'm'), (2, 'd'), (3, 'u'), (2, 'i')",
    "(1, 'd'), (2, 'm'), (3, 'm'), (11, 'd'), (12, 'u'), (1, 'i'), (15, 'i'), (2, 'i')",
];

/// The actions of a statement. Those that a source does not use still open their statements.
const ACTIONS: [&str; 3] = [
    "when matched and s.act = 'd' then delete
     when matched and s.act = 'u' then update set v = t.v + 1
     when matched then update set id = t.id + 20
     when not matched then insert values (s.id, 'ORG', 7)",
    "when matched and s.act = 'd' then delete
     when not matched then insert values (s.id, 'ORG', 7)",
    // PostgreSQL gives the rows that move to triggers that it does not fire.
    "when matched and s.act in ('u', 'd') then update set v = t.v + 1
     when matched then update set id = t.id + 20",
];

const OTHERS: [&str; 4] = [
    "update a set id = id + 20 where id <= 2",
    "update a set id = id + 20 where id = 2; update a set v = 2, id = case id when 22 then 2 else id end",
    "delete from a where id in (1, 3, 11)",
    "with gone as (delete from a where id in (1, 11) returning *)
       insert into a select id, org_id, 9 from gone union all values (4, 'ORG'::uuid, 9), (13, 'ORG', 9)",
];

fn schema(timing: &str, body: &str) -> String {
    format!(
        "drop table if exists a, b cascade;
         create table a (id int primary key, org_id uuid not null, v int) partition by range (id);
         create table a_low partition of a for values from (minvalue) to (10);
         create table a_high partition of a for values from (10) to (maxvalue);
         create table b (id int primary key, org_id uuid not null, v int);
         select warden.watch('a', 'a', 'a'), warden.watch('b', 'b', 'b');
         create or replace function change() returns trigger language plpgsql as $$
           begin if pg_trigger_depth() = 1 then {body} end if; return coalesce(new, old); end $$;
         create trigger change {timing} insert or update or delete on a for each row execute function change()"
    )
}

fn scripts(has_merge: bool) -> Vec<String> {
    let merges = ACTIONS.iter().flat_map(|actions| {
        // Without an action for them, the statement would update and move rows.
        SOURCES.iter().filter(|s| actions.contains("'u'") || !s.contains(['u', 'm'])).map(move |source| {
            format!(
                "merge into a t using (values {source}) s (id, act) on t.id = s.id and s.act <> 'i' {actions}"
            )
        })
    });
    let others = OTHERS.iter().map(|&s| s.to_owned());
    let rows = "delete from a where id = 9; delete from a; delete from b;
                insert into a select n, 'ORG', 1 from unnest('{1,2,3,9,11,12}'::int[]) n";
    merges.filter(|_| has_merge).chain(others).flat_map(|statement| [rows.to_owned(), statement]).collect()
}

#[tokio::test]
async fn merges_and_moves_between_partitions_are_logged_in_order() {
    let db = TestDb::create().await;
    let org = db.create_org().await.to_string();
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    let version = server_version(&mut session).await;
    for (timing, body) in [("after", BODIES[0]), ("before", BODIES[1])] {
        let program = Program {
            schema: schema(timing, body).replace("ORG", &org),
            scripts: scripts(version >= 150_000).iter().map(|s| s.replace("ORG", &org)).collect(),
        };
        let succeeded = check(&mut session, &program).await;
        assert_eq!(succeeded, Ok(program.scripts.len()), "{timing}: {body}");
    }
}
