//! Conditions of the application's policies that read other tables. Once such a table is isolated, they see
//! the organisation's rows only, so a person decides first.

use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{audited, migrate, migrated};
use crate::harness::TestDb;

const ORG_A: &str = "aaaaaaaa-0000-4000-8000-000000000000";
const ORG_B: &str = "bbbbbbbb-0000-4000-8000-000000000000";
const USER_A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const USER_B: &str = "bbbbbbbb-0000-4000-8000-000000000001";

/// A member of the organisation B hides the ticket of A. Conditions read `blocks` in different ways, or not
/// at all.
const TICKETS: &str = "
    create table tickets (id int primary key, owner_id uuid);
    create table blocks (id int primary key, owner_id uuid, ticket_id int);
    create table prices (id int primary key);
    create table hints (id int primary key, ticket_id int);
    grant select on tickets, blocks, prices, hints to authenticated;
    alter table tickets enable row level security; alter table hints enable row level security;
    create view shown_blocks as select * from blocks; alter view shown_blocks owner to authenticated;
    create view all_blocks as select * from blocks;
    create function is_blocked(ticket int) returns boolean language sql stable as
      'select exists (select from public.blocks where ticket_id = ticket)';
    create function is_hidden(ticket int) returns boolean language sql stable as 'select public.is_blocked(ticket)';
    create function is_known(ticket int) returns boolean language sql stable security definer as
      'select exists (select from public.blocks where ticket_id = ticket)';
    create policy unblocked on tickets to authenticated
      using (not exists (select from blocks b where b.ticket_id = tickets.id));
    create policy by_function on tickets for delete to authenticated using (is_hidden(id));
    create policy by_view on tickets for insert to authenticated
      with check (exists (select from shown_blocks b where b.ticket_id = tickets.id));
    create policy of_hints on hints using (not exists (select from blocks b where b.ticket_id = hints.ticket_id));
    create policy by_price on tickets for delete to authenticated using (exists (select from prices p where p.id = tickets.id));
    create policy by_owner on tickets for delete to authenticated using (is_known(id));
    create policy by_copy on tickets for delete to authenticated
      using (exists (select from all_blocks b where b.ticket_id = tickets.id));
    create policy by_claims on tickets for delete to authenticated using (owner_id = auth_user_id());
    create policy without_effect on prices using (exists (select from blocks));";

const ASKED: [&str; 4] = ["tickets.unblocked", "tickets.by_function", "tickets.by_view", "hints.of_hints"];
const NOT_ASKED: [&str; 5] =
    ["tickets.by_price", "tickets.by_owner", "tickets.by_copy", "tickets.by_claims", "prices.without_effect"];

/// The tickets that a member of A sees.
async fn tickets_of_a(db: &TestDb) -> Vec<i32> {
    let mut request = PgConnection::connect(db.url()).await.expect("connects");
    request
        .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            r#"set role authenticated;
               select set_config('request.jwt.claims', '{{"sub": "{USER_A}", "app_metadata": {{"org_id": "{ORG_A}"}}}}', false)"#
        ))))
        .await
        .expect("sets");
    sqlx::query_scalar("select id from tickets order by 1").fetch_all(&mut request).await.expect("reads")
}

#[tokio::test]
async fn conditions_that_read_other_tables_are_questions_before_isolation() {
    let db = TestDb::create_from("template0").await;
    migrated(&db, &[]).await;
    db.run(TICKETS).await;
    db.run(format!(
        "insert into organizations (id, name) values ('{ORG_A}', 'a'), ('{ORG_B}', 'b');
         insert into organization_members (org_id, user_id) values ('{ORG_A}', '{USER_A}'), ('{ORG_B}', '{USER_B}');
         insert into tickets values (1, '{USER_A}'), (2, '{USER_A}'); insert into blocks values (1, '{USER_B}', 1)"
    ))
    .await;
    let names_policies = |text: &str| {
        for policy in ASKED {
            assert!(text.contains(&format!("public.{policy}")), "{policy}: {text}");
        }
        for policy in NOT_ASKED {
            assert!(!text.contains(&format!("public.{policy}")), "{policy}: {text}");
        }
    };
    let tables = ["--tables", "public.tickets user_column=owner_id, public.blocks user_column=owner_id"];
    let plan = migrated(&db, &["--plan", tables[0], tables[1]]).await;
    names_policies(&plan);
    migrated(&db, &tables).await;
    names_policies(&audited(&db).await);
    assert_eq!(tickets_of_a(&db).await, [2]);
    let (code, text) = migrate(&db, &["--enforce", "--yes"]).await;
    assert_eq!(code, Some(1), "{text}");
    names_policies(&text);
    assert_eq!(tickets_of_a(&db).await, [2], "nothing has changed");
    let answer = text.lines().find(|line| line.contains("'policy-condition'")).expect("a statement").trim();
    db.run(answer).await;
    db.run(
        "select warden.accept_finding('definer-function', 'public.is_known(integer)', 'it reads one ticket')",
    )
    .await;
    assert!(!audited(&db).await.contains("finding  policy-condition"));
    migrated(&db, &["--enforce", "--yes"]).await;
    // What the question is about: the condition does not see the row of B.
    assert_eq!(tickets_of_a(&db).await, [1, 2]);
    assert!(!audited(&db).await.contains("policy-condition"), "isolated tables are no question");
}
