//! Events that triggers publish within a statement on a watched table: each follows the changes before it.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::harness::TestDb;

/// Triggers that publish two events, and the events of one statement that inserts the rows 1 and 2.
const TRIGGERS: [(&str, &str, &[&str]); 5] = [
    (
        "after insert on orders for each row",
        "perform warden.publish(new.org_id, 'orders', 'one', jsonb_build_object('id', new.id));
         perform warden.publish(new.org_id, 'orders', 'two', jsonb_build_object('id', new.id));",
        &["order.created 1", "order.created 2", "one 1", "two 1", "one 2", "two 2"],
    ),
    (
        "before insert on orders for each row",
        "perform warden.publish(new.org_id, 'orders', 'one', jsonb_build_object('id', new.id));
         perform warden.publish(new.org_id, 'orders', 'two', jsonb_build_object('id', new.id));",
        &["one 1", "two 1", "order.created 1", "one 2", "two 2", "order.created 2"],
    ),
    (
        "after insert on orders for each row",
        r#"perform warden.publish_all(new.org_id, jsonb_build_array(
             jsonb_build_object('topic', 'orders', 'event', 'one', 'data', jsonb_build_object('id', new.id))));
           perform set_config('request.jwt.claims',
             json_build_object('app_metadata', json_build_object('org_id', new.org_id))::text, true);
           perform warden.notify('orders', format('{"event": "two", "id": %s}', new.id));"#,
        &["order.created 1", "order.created 2", "one 1", "two 1", "one 2", "two 2"],
    ),
    (
        "after insert on orders referencing new table as added for each statement",
        "perform warden.publish(org_id, 'orders', 'one', jsonb_build_object('id', id)) from added order by id;
         update orders set n = 2 where id = 1;",
        &["order.created 1", "order.created 2", "one 1", "one 2", "order.updated 1"],
    ),
    // Its first event is published within a statement on a table that is not watched.
    (
        "after insert on orders for each row",
        "insert into visits values (new.id, new.org_id); update orders set n = 2 where id = new.id;",
        &["order.created 1", "order.created 2", "visited 1", "order.updated 1", "visited 2", "order.updated 2"],
    ),
];

#[tokio::test]
async fn events_that_triggers_publish_come_after_the_changes_before_them() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "create table orders (id int primary key, org_id uuid not null, n int); create table visits (id int, org_id uuid);
         create function visited() returns trigger language plpgsql as
           $$ begin perform warden.publish(new.org_id, 'orders', 'visited', jsonb_build_object('id', new.id)); return new; end $$;
         create trigger visited after insert on visits for each row execute function visited();
         select warden.watch('orders', 'orders', 'order')",
    )
    .await;
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    for (event, body, expected) in TRIGGERS {
        // Each statement is the first one of its transaction, and one follows others.
        let others = format!("insert into orders values (0, '{org}'); delete from orders;");
        for before in ["", &others] {
            let script = format!(
                "begin;
                 create function ordered() returns trigger language plpgsql as $$ begin {body} return new; end $$;
                 create trigger ordered {event} execute function ordered(); {before}
                 delete from warden.events; insert into orders values (1, '{org}'), (2, '{org}')"
            );
            session.execute(sqlx::raw_sql(AssertSqlSafe(script))).await.expect("writes");
            let events: Vec<String> = sqlx::query_scalar(
                "select concat(event, ' ', data ->> 'id') from warden.events where topic = 'orders' order by id",
            )
            .fetch_all(&mut session)
            .await
            .expect("reads");
            assert_eq!(events, expected, "{event}: {body}");
            session.execute("rollback").await.expect("rolls back");
        }
    }
}
