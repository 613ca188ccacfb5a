//! Named cases of existing policies, grants, views and functions.

use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{migrate, migrated};
use crate::harness::TestDb;

const ORG: &str = "11111111-1111-1111-1111-111111111111";
const USER: &str = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa";

/// An application in the manner of Supabase: 50 notes of one organisation, of which one belongs to the user.
pub(super) const NOTES: &str = "
    create schema auth;
    grant usage on schema auth to public;
    create function auth.uid() returns uuid language sql stable as
      $$ select (nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub')::uuid $$;
    create table notes (id int primary key, owner_id uuid not null, body text);
    insert into notes select n, case n when 1 then 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa'::uuid
                                       else 'bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb' end, 'x' from generate_series(1, 50) n;
    grant all on notes to anon, authenticated;";

/// A database with core and one organisation, to which both users of [`NOTES`] belong.
pub(super) async fn adopted(before: &str, register: &str) -> TestDb {
    let db = TestDb::create_from("template0").await;
    db.run(before).await;
    migrated(&db, &[]).await;
    db.run(format!(
        "insert into organizations (id, name) values ('{ORG}', 'o');
         insert into organization_members (org_id, user_id) values
           ('{ORG}', '{USER}'), ('{ORG}', 'bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb');
         {register}"
    ))
    .await;
    migrated(&db, &[]).await;
    db
}

/// Rows that statements affect as `authenticated`, with the claims of the user. None: an error.
pub(super) async fn affected(db: &TestDb, statements: &[&str]) -> Vec<Option<u64>> {
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let mut rows = Vec::new();
    for statement in statements {
        let mut transaction = connection.begin().await.expect("begins");
        let claims = format!(r#"{{"sub": "{USER}", "app_metadata": {{"org_id": "{ORG}"}}}}"#);
        sqlx::query(
            "select set_config('request.jwt.claims', $1, true), set_config('role', 'authenticated', true)",
        )
        .bind(claims)
        .execute(&mut *transaction)
        .await
        .expect("sets");
        let result = transaction.execute(sqlx::raw_sql(sqlx::AssertSqlSafe((*statement).to_owned()))).await;
        rows.push(result.ok().map(|done| done.rows_affected()));
        transaction.rollback().await.expect("rolls back");
    }
    rows
}

#[tokio::test]
async fn a_policy_by_owner_lets_one_row_through_in_every_phase() {
    let policy = format!(
        "{NOTES} alter table notes enable row level security;
         create policy own_notes on notes using (owner_id = auth.uid());"
    );
    let db = adopted(&policy, "select warden.adopt_table('notes', 'owner_id')").await;
    let statements = ["select from notes", "update notes set body = 'y'", "delete from notes"];
    assert_eq!(affected(&db, &statements).await, [Some(1); 3], "expand");
    migrated(&db, &["--enforce", "--yes"]).await;
    assert_eq!(affected(&db, &statements).await, [Some(1); 3], "enforce");
    let insert = format!("insert into notes values (51, '{USER}')");
    let theirs = "insert into notes values (51, 'bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb')";
    assert_eq!(affected(&db, &[&insert, theirs]).await, [Some(1), None], "org_id has a default");
    let policies: Vec<String> = sqlx::query_scalar(
        "select polname::text from pg_policy where polrelid = 'notes'::regclass order by 1",
    )
    .fetch_all(&db.pool)
    .await
    .expect("reads");
    assert_eq!(policies, ["own_notes", "warden_org", "warden_table_owner"]);
    migrated(&db, &["--relax", "--yes"]).await;
    assert_eq!(affected(&db, &statements).await, [Some(1); 3], "relax");
}

#[tokio::test]
async fn grants_decide_where_row_level_security_was_off() {
    let db = adopted(NOTES, "select warden.adopt_table('notes', 'owner_id')").await;
    migrated(&db, &["--enforce", "--yes"]).await;
    let statements = ["select from notes", "update notes set body = 'y'", "truncate notes"];
    assert_eq!(affected(&db, &statements).await, [Some(50), Some(50), None]);
    db.run(
        "create policy own_notes on notes using (owner_id = auth.uid()); select warden.use_policies('notes')",
    )
    .await;
    assert_eq!(affected(&db, &statements).await, [Some(1), Some(1), None]);
    migrated(&db, &["--relax", "--yes"]).await;
    assert_eq!(
        affected(&db, &statements).await,
        [Some(1), Some(1), Some(0)],
        "the right to TRUNCATE is back"
    );
}

#[tokio::test]
async fn a_new_owner_keeps_its_rows_after_a_repair() {
    let role = |db: &TestDb, name: &str| format!("{name}_{}", db.name);
    let db = adopted(
        &format!("{NOTES} alter table notes enable row level security;"),
        "select warden.adopt_table('notes', 'owner_id')",
    )
    .await;
    migrated(&db, &["--enforce", "--yes"]).await;
    let owner = role(&db, "new_owner");
    db.run(format!(
        "create role {owner}; alter table notes owner to {owner}; grant authenticated to {owner}"
    ))
    .await;
    let problem = "select count(*) from warden.tenant_objects where name = 'warden_table_owner' and problem is not null";
    let broken: i64 = sqlx::query_scalar(problem).fetch_one(&db.pool).await.expect("reads");
    assert_eq!(broken, 1, "the audit reports it");
    let text = migrated(&db, &[]).await;
    assert!(text.contains("policies repaired"), "{text}");
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let seen = format!(
        "set role {owner}; set request.jwt.claims = '{{\"app_metadata\": {{\"org_id\": \"{ORG}\"}}}}'"
    );
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(seen))).await.expect("sets");
    let rows: i64 =
        sqlx::query_scalar("select count(*) from notes").fetch_one(&mut connection).await.expect("reads");
    assert_eq!(rows, 50);
}

/// Policies and views that only a person can decide about block enforcement, each with its remedy.
#[tokio::test]
async fn questions_block_enforcement_until_they_are_answered() {
    for (before, says, answer) in [
        (
            "create policy strict on notes as restrictive using (owner_id = auth.uid())",
            "restrictive policies that have no effect",
            "drop policy strict on notes",
        ),
        (
            "alter table notes enable row level security; create role strict_owner; alter table notes owner to strict_owner;
             create policy strict on notes as restrictive using (owner_id = auth.uid())",
            "restrictive policies from which",
            "alter table notes force row level security",
        ),
        (
            "create view shown as select * from notes; create view all_shown as select * from shown;
             grant select on all_shown to anon",
            "rows of every organisation: it reads public.notes as its owner postgres",
            "revoke select on all_shown from anon",
        ),
        (
            "create materialized view kept as select * from notes; grant select on kept to authenticated",
            "public.kept: this materialized view shows authenticated",
            "select warden.accept_finding('bypassing-view', 'public.kept', 'a public price list')",
        ),
        (
            "create function counted() returns bigint language sql security definer as 'select count(*) from notes'",
            "may call this function, which reaches public.notes and runs as postgres",
            "select warden.accept_finding('definer-function', 'public.counted()', 'a number only')",
        ),
    ] {
        let db = adopted(NOTES, "select warden.adopt_table('notes', 'owner_id')").await;
        db.run(before).await;
        let (code, text) = migrate(&db, &["--enforce", "--yes"]).await;
        assert!(code == Some(1) && text.contains(says), "{before}: {text}");
        let is_forced: bool =
            sqlx::query_scalar("select relforcerowsecurity from pg_class where oid = 'notes'::regclass")
                .fetch_one(&db.pool)
                .await
                .expect("reads");
        assert!(!is_forced, "{before}: nothing was enforced");
        let (_, plan) = migrate(&db, &["--plan", "--enforce"]).await;
        assert!(plan.contains(says), "{before}: {plan}");
        db.run(answer).await;
        migrated(&db, &["--enforce", "--yes"]).await;
    }
}

/// A policy of the application that has the name of one of Warden's is neither changed nor dropped.
#[tokio::test]
async fn a_policy_with_a_name_of_wardens_blocks_until_it_is_renamed() {
    let db = TestDb::create_from("template0").await;
    db.run(format!("{NOTES} create policy warden_granted on notes using (false)")).await;
    migrated(&db, &[]).await;
    db.run("select warden.adopt_table('notes', 'owner_id', uses_default_organization => true)").await;
    let (code, text) = migrate(&db, &["--enforce", "--yes"]).await;
    assert!(code == Some(1) && text.contains("\"warden_granted\""), "{text}");
    let error = db.error("select warden.protect('notes')").await;
    assert!(error.contains("that Warden did not create"), "{error}");
    let condition = "select pg_get_expr(polqual, polrelid) from pg_policy where polname = $1";
    let kept: String =
        sqlx::query_scalar(condition).bind("warden_granted").fetch_one(&db.pool).await.expect("reads");
    assert_eq!(kept, "false");
    db.run("alter policy warden_granted on notes rename to theirs").await;
    migrated(&db, &["--enforce", "--yes"]).await;
    let kept: String = sqlx::query_scalar(condition).bind("theirs").fetch_one(&db.pool).await.expect("reads");
    assert_eq!(kept, "false");
}

/// The plan and the confirmation name what each role may do, before and after.
#[tokio::test]
async fn the_plan_prints_the_access_of_each_role() {
    let policy = format!(
        "{NOTES} create table prices (id int); alter table notes enable row level security;
         create policy own_notes on notes for select using (owner_id = auth.uid()); grant select on prices to anon;
         insert into prices values (1);"
    );
    let db = adopted(
        &policy,
        "select warden.adopt_table('notes', 'owner_id'); select warden.adopt_table('prices', uses_default_organization => true)",
    )
    .await;
    let login = format!("api_{}", db.name);
    db.run(format!("create role {login} login noinherit; grant anon, authenticated to {login}")).await;
    let (_, plan) = migrate(&db, &["--plan", "--enforce"]).await;
    let (_, asked) = migrate(&db, &["--enforce"]).await;
    for text in [&plan, &asked] {
        for says in [
            "anon, authenticated  select: rows that the policy own_notes allows -> the same, within the organisation; \
             insert, update, delete: no rows -> no rows; loses references, trigger, truncate, which no policy limits",
            "anon  select: all rows -> rows of the organisation",
        ] {
            assert!(text.contains(says), "{says}\n{text}");
        }
    }
    assert!(asked.contains(&login), "login roles that may become anon are named: {asked}");
}

/// Grants on a whole do not apply to a statement that names a partition, and the other way round.
#[tokio::test]
async fn roles_with_rights_on_a_member_alone_are_named() {
    let visits = "
        create table visits (id int, owner_id uuid, at date not null) partition by range (at);
        create table visits_2024 partition of visits for values from ('2024-01-01') to ('2025-01-01');
        create table visits_2025 partition of visits for values from ('2025-01-01') to ('2026-01-01')
          partition by list (id);
        create table visits_2025_rest partition of visits_2025 default;
        create table lists (id int primary key, owner_id uuid); create table old_lists () inherits (lists);
        grant select on visits to authenticated; grant select on visits_2024 to authenticated;
        insert into visits values (1, null, '2024-05-05'), (2, null, '2025-05-05'); insert into old_lists values (1);";
    let db = adopted(
        visits,
        "select warden.adopt_table('visits', 'owner_id', uses_default_organization => true);
         select warden.adopt_table('lists', 'owner_id', uses_default_organization => true)",
    )
    .await;
    let [archive, api] = ["archive", "api"].map(|name| format!("{name}_{}", db.name));
    db.run(format!(
        "create role {archive}; create role {api} login noinherit; grant {archive} to {api};
         grant select (id) on visits_2025_rest to {archive}; grant delete on old_lists to {archive}"
    ))
    .await;
    let (_, plan) = migrate(&db, &["--plan", "--enforce"]).await;
    let (_, asked) = migrate(&db, &["--enforce"]).await;
    for text in [&plan, &asked] {
        for says in [
            format!("visits_2025_rest\n  {archive}  select: all rows -> rows of the organisation"),
            format!("old_lists\n  {archive}  delete: all rows -> rows of the organisation"),
        ] {
            assert!(text.contains(&says), "{says}\n{text}");
        }
        // Roles of other tests may be members of it.
        let whole = text.split_once("\nvisits\n  authenticated").map(|(_, rest)| rest.lines().next());
        let is_named =
            whole.flatten().is_some_and(|l| l.ends_with("  select: all rows -> rows of the organisation"));
        assert!(is_named, "{text}");
        assert!(!text.contains("visits_2024\n"), "it is like the whole: {text}");
    }
    let role = format!("{archive} (2 tables, 0 sessions now, also by SET ROLE of {api})");
    assert!(asked.contains(&role), "{role}\n{asked}");
}
