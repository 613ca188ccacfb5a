//! Advice that must not be given: remedies that break reads or writes, and findings that no remedy ends.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use warden::tenancy::audit::Finding;

use super::{execute, findings, inspect};
use crate::harness::TestDb;

async fn connection() -> PgConnection {
    let db = TestDb::create().await;
    PgConnection::connect(db.url()).await.expect("connects")
}

/// The findings of the audit about a database with these objects, which are rolled back.
async fn found(connection: &mut PgConnection, sql: &str) -> Vec<Finding> {
    execute(connection, "begin").await;
    execute(connection, sql).await;
    let found = findings(inspect(connection).await);
    execute(connection, "rollback").await;
    found
}

/// An application whose policies need a function and a view that read without row-level security.
const HELPERS: &str = r#"
    alter default privileges in schema public grant all on tables to anon, authenticated;
    create table "Profiles" (id uuid primary key, team uuid);
    insert into "Profiles" values ('11111111-1111-1111-1111-111111111111', '22222222-2222-2222-2222-222222222222');
    create function my_team() returns uuid language sql stable security definer as
      $$ select team from public."Profiles" where id = (current_setting('request.jwt.claims', true)::json ->> 'sub')::uuid $$;
    create function is_mine(team uuid) returns boolean language sql stable as 'select $1 = public.my_team()';
    create view teams as select distinct team from "Profiles";
    alter table "Profiles" enable row level security;
    create policy same_team on "Profiles" using (is_mine(team) and team in (select t.team from teams t));
    insert into warden.tenant_tables (schema_name, table_name, scope, user_column) values ('public', 'Profiles', 'user', 'id');
    create function lead_count() returns bigint language sql stable security definer as 'select count(*) from public.leads';
    create function own_leads() returns bigint language sql stable as 'select public.lead_count()';
    create table counts (n bigint default own_leads()); alter table counts enable row level security;
    create view shown_leads as select id from leads; revoke all on shown_leads from anon;
    create policy of_leads on counts using (n > (select count(*) from shown_leads))"#;

/// Each answer about what a policy uses leaves the policy as it is.
#[tokio::test]
async fn what_a_policy_uses_keeps_its_rights_and_its_callers() {
    let mut connection = connection().await;
    let found = found(&mut connection, HELPERS).await;
    for (object, rule) in [("shown_leads", "bypassing-view"), ("public.lead_count()", "definer-function")] {
        let finding = found.iter().find(|f| f.rule == rule && f.object == object);
        let finding = finding.unwrap_or_else(|| panic!("{object}: {found:#?}"));
        let answers: Vec<&str> = finding.remedy.choices.iter().map(|c| c.text.as_str()).collect();
        let narrows = |text: &&str| text.contains("revoke ") || text.contains("security_invoker");
        assert!(!answers.iter().any(narrows), "{finding:#?}");
        assert!(finding.remedy.text.contains(" uses it: "), "{finding:#?}");
        assert!(answers.iter().any(|text| text.contains("warden.accept_finding")), "{finding:#?}");
        let is_policy = rule == "bypassing-view";
        assert_eq!(answers.iter().any(|text| text.contains("security invoker")), !is_policy, "{finding:#?}");
    }
    execute(&mut connection, "begin").await;
    execute(&mut connection, HELPERS).await;
    let policy: Vec<(String, bool)> = sqlx::query_as(AssertSqlSafe(
        "select object::regprocedure::text, is_policy from warden.needed_objects()
         where class = 'pg_proc'::regclass and object::regprocedure::text in ('my_team()', 'own_leads()') order by 1"
            .to_owned(),
    ))
    .fetch_all(&mut connection)
    .await
    .expect("reads");
    // The policy calls `my_team()` through a function with the rights of its caller.
    assert_eq!(policy, [("my_team()".to_owned(), true), ("own_leads()".to_owned(), false)]);
}

#[tokio::test]
async fn a_rule_without_actions_is_no_finding() {
    let sql = "create rule append_only as on delete to contacts do instead nothing;
               create rule fixed as on update to contacts where old.org_id is not null do instead nothing";
    assert_eq!(found(&mut connection().await, sql).await, Vec::new());
}

#[tokio::test]
async fn a_partitioned_table_without_partitions_needs_no_other_index() {
    let sql =
        "create table readings (id int, org_id uuid not null, at date not null) partition by range (at);
               select warden.adopt_table('readings')";
    let found = found(&mut connection().await, sql).await;
    assert!(found.iter().all(|finding| finding.rule != "org-plan"), "{found:#?}");
}

/// The answer names what a policy for rows of one's own user means to writes for other users.
#[tokio::test]
async fn the_answer_that_protects_rows_of_users_says_whose_writes_fail() {
    let sql = "create table notices (id int, user_id uuid, body text); grant all on notices to authenticated;
               create table private_notices (id int, user_id uuid)";
    let found = found(&mut connection().await, sql).await;
    let answer = |table: &str| {
        let finding = found.iter().find(|f| f.table.as_deref() == Some(table));
        let choices = &finding.unwrap_or_else(|| panic!("{table}: {found:#?}")).remedy.choices;
        choices.iter().find(|c| c.text.contains("leave_to_user")).expect("an answer").clone()
    };
    let open = answer("public.notices");
    assert!(
        open.answer.contains("a write for another user fails") && open.text.contains("warden.protect"),
        "{open:?}"
    );
    let closed = answer("public.private_notices");
    assert!(
        closed.answer == "each belongs to a user" && !closed.text.contains("warden.protect"),
        "{closed:?}"
    );
}
