//! SQL that the README shows, with the roles for which it is written.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::texts;
use crate::harness::TestDb;

/// The block of SQL in the README that contains a string.
fn block(part: &str) -> &'static str {
    let readme = include_str!("../../../README.md");
    let mut blocks = readme.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.contains(part)).expect("the README has the block")
}

/// Creates the trigger, and marks an invoice as paid as a role that may not publish.
async fn pay(db: &TestDb, recipe: &str, org: Uuid) -> Result<(), sqlx::Error> {
    let suffix = &db.name;
    let (owner, writer) = (format!("owner_{suffix}"), format!("writer_{suffix}"));
    db.run(format!(
        "create role {owner}; create role {writer}; grant warden_publisher to {owner};
         grant usage, create on schema public to {owner};
         create table invoices (id int primary key, org_id uuid not null, paid_at timestamptz);
         alter table invoices owner to {owner};
         grant select, insert, update on invoices to {writer};
         select warden.declare_topic('invoices')"
    ))
    .await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let recipe = format!("set role {owner}; {recipe}; set role {writer}");
    connection.execute(sqlx::raw_sql(AssertSqlSafe(recipe))).await.expect("creates the trigger");
    let pay = format!(
        "insert into invoices values (42, '{org}', null);
         update invoices set paid_at = now(); update invoices set paid_at = now()"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(pay))).await.map(|_| ())
}

#[tokio::test]
async fn a_trigger_publishes_for_writers_that_may_not() {
    let recipe = block("create trigger announce_payment");
    let db = TestDb::create().await;
    let org = db.create_org().await;
    pay(&db, recipe, org).await.expect("the writer pays");
    let published =
        "select concat_ws(' ', org_id, topic, event, data) from warden.events where topic = 'invoices'";
    assert_eq!(texts(&db, published).await, [format!("{org} invoices invoice.paid {{\"id\": 42}}")]);

    // With the rights of the writer, it fails.
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let error =
        pay(&db, &recipe.replace("security definer ", ""), org).await.expect_err("it must not publish");
    assert!(error.to_string().contains("permission denied"), "{error}");
}
