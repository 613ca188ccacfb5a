//! Objects of the application with names that Warden uses: nothing is replaced unless the operator names it.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{RUN_DEADLINE, Run, bare_db, connect, ended, warden};
use crate::harness::{TestDb, shared_cluster_url};
use crate::legacy::catalog;

pub(super) async fn plain(url: &str, args: &[&str]) -> Run {
    let mut command = warden(url, "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

/// Definitions of the functions of the application.
async fn functions(db: &TestDb) -> Vec<String> {
    sqlx::query(
        "select case p.prokind when 'a' then p.oid::regprocedure::text else pg_get_functiondef(p.oid) end as f
         from pg_proc p where p.pronamespace = 'public'::regnamespace
           and coalesce(obj_description(p.oid, 'pg_proc'), '') not like '%(created by Warden)' order by 1",
    )
    .fetch_all(&mut connect(db).await)
    .await
    .expect("reads")
    .iter()
    .map(|row| row.get("f"))
    .collect()
}

/// Asserts that a run stops before it changes anything, and says these things.
async fn stops(db: &TestDb, args: &[&str], says: &[&str]) {
    let mut admin = connect(db).await;
    let before = catalog(&mut admin).await;
    for plan in [&["--plan"][..], &[]] {
        let run =
            plain(db.url(), &[args, plan].concat()).await.must(1).says(says).says(&["Nothing was changed"]);
        assert!(!run.stdout.contains("applied"), "{}", run.stdout);
        assert_eq!(catalog(&mut admin).await, before);
    }
}

async fn hook(db: &TestDb, name: &str, event: &Value) -> Value {
    sqlx::query_scalar(AssertSqlSafe(format!("select {name}($1)")))
        .bind(event)
        .fetch_one(&mut connect(db).await)
        .await
        .expect("runs")
}

/// Findings of the audit about functions and policies.
async fn function_findings(db: &TestDb) -> Vec<String> {
    let run = super::audit(db.url()).await;
    let rules = ["function", "claims", "token-hook", "policy", "immutability"];
    let is_about = |line: &&str| rules.iter().any(|rule| line.starts_with(&format!("  finding  {rule}")));
    run.stdout.lines().filter(is_about).map(str::to_owned).collect()
}

/// An application whose policies call a function of its own, and whose tokens carry a claim of its own.
const APPLICATION: &str = "
    create table profiles (id uuid primary key, org uuid);
    create function public.auth_org_id() returns uuid language sql stable as
      $$ select org from public.profiles where id = nullif(current_setting('app.user', true), '')::uuid $$;
    create function public.custom_access_token_hook(event jsonb) returns jsonb language sql stable as
      $$ select jsonb_set(event, '{claims,plan}', '\"gold\"') $$;
    create table notes (id int primary key, user_id uuid, org uuid);
    create policy own on notes using (org = (select public.auth_org_id()));
    insert into notes values (1, null, null)";

#[tokio::test]
async fn a_function_of_the_application_needs_a_decision() {
    let db = bare_db(APPLICATION).await;
    stops(
        &db,
        &["--tables", "notes", "--default-organization"],
        &[
            "issue: function public.auth_org_id(): exists, and Warden did not create it",
            "from public.profiles where id",
            "create or replace function warden.auth_org_id() returns uuid",
            "warden migrate --keep public.auth_org_id ",
            "warden migrate --replace public.auth_org_id ",
            "issue: function public.custom_access_token_hook(jsonb)",
            "configure that one in",
        ],
    )
    .await;
    stops(&db, &["--keep", "auth_org_id"], &["issue: function public.custom_access_token_hook(jsonb)"]).await;
    stops(&db, &["--keep", "public.other"], &["cannot be kept or replaced: Warden creates no object"]).await;
}

#[tokio::test]
async fn kept_functions_stay_and_warden_uses_its_own() {
    let db = bare_db(APPLICATION).await;
    let before = functions(&db).await;
    let keep = "public.auth_org_id,public.custom_access_token_hook";
    plain(db.url(), &["--keep", keep, "--tables", "notes", "--default-organization"]).await.must(0).says(&[
        "note: the application keeps public.custom_access_token_hook: configure warden.custom_access_token_hook",
    ]);
    // The decision is remembered.
    plain(db.url(), &["--enforce", "--yes"]).await.must(0);
    let policies: Vec<String> = sqlx::query_scalar(
        "select pg_get_expr(polqual, polrelid) from pg_policy where polname = 'warden_org' and polrelid = 'notes'::regclass",
    )
    .fetch_all(&mut connect(&db).await)
    .await
    .expect("reads");
    assert!(policies.iter().all(|p| p.contains("warden.auth_org_id()")), "{policies:?}");
    let event = json!({"user_id": "c0000000-0000-0000-0000-000000000001", "claims": {"app_metadata": {"org_id": "x"}}});
    let result = hook(&db, "warden.custom_access_token_hook", &event).await;
    assert_eq!(
        result["claims"],
        json!({"plan": "gold", "app_metadata": {}}),
        "its claim, and no organisation"
    );
    assert_eq!(function_findings(&db).await, Vec::<String>::new());
    plain(db.url(), &["--relax", "--yes"]).await.must(0);
    assert_eq!(functions(&db).await, before);
}

#[tokio::test]
async fn replaced_functions_are_recorded_and_the_hook_still_runs() {
    let db = bare_db(APPLICATION).await;
    let replace = "auth_org_id,custom_access_token_hook";
    plain(db.url(), &["--plan", "--replace", replace]).await.must(0);
    assert_eq!(functions(&db).await.len(), 2, "a plan replaces nothing");
    plain(db.url(), &["--replace", replace]).await.must(0);
    let former = functions(&db).await;
    assert_eq!(former.len(), 1, "{former:?}");
    assert!(former[0].contains("custom_access_token_hook_before_warden"), "{former:?}");
    let recorded: Vec<String> = sqlx::query_scalar(
        "select name from warden.replaced_objects where definition like '%CREATE OR REPLACE%' order by 1",
    )
    .fetch_all(&mut connect(&db).await)
    .await
    .expect("reads");
    assert_eq!(recorded, ["public.auth_org_id()", "public.custom_access_token_hook(jsonb)"]);
    let org = "a0000000-0000-0000-0000-000000000001";
    let user = "c0000000-0000-0000-0000-000000000001";
    db.run(format!("insert into organization_members (org_id, user_id) values ('{org}', '{user}')")).await;
    let event = json!({"user_id": user, "claims": {"role": "authenticated"}});
    let claims = hook(&db, "public.custom_access_token_hook", &event).await["claims"].take();
    assert_eq!(claims, json!({"role": "authenticated", "plan": "gold", "app_metadata": {"org_id": org}}));
    plain(db.url(), &[]).await.must(0);
}

/// A decision can change after the schema was installed.
#[tokio::test]
async fn a_kept_function_can_be_replaced_later() {
    let db = bare_db(APPLICATION).await;
    plain(
        db.url(),
        &["--keep", "auth_org_id,custom_access_token_hook", "--tables", "notes", "--default-organization"],
    )
    .await
    .must(0);
    plain(db.url(), &["--enforce", "--yes"]).await.must(0);
    plain(db.url(), &["--replace", "auth_org_id"]).await.must(0);
    let is_own: bool = sqlx::query_scalar("select warden.callee('auth_org_id') = 'public.auth_org_id'")
        .fetch_one(&mut connect(&db).await)
        .await
        .expect("reads");
    assert!(is_own);
    plain(db.url(), &["--enforce", "--yes"]).await.must(0);
}

/// Whatever the application's hook does, no token gets an organisation without a membership.
#[tokio::test]
async fn a_hook_that_fails_or_returns_no_object_issues_no_organisation() {
    for (body, error) in [
        ("begin raise exception 'not today'; end", Some("not today")),
        ("begin return null; end", Some("must return an object")),
        ("begin return '[]'::jsonb; end", Some("must return an object")),
        (
            "begin return jsonb_build_object('user_id', 'x', 'claims', jsonb_build_object('app_metadata',
               jsonb_build_object('org_id', 'a0000000-0000-0000-0000-000000000001'))); end",
            None,
        ),
        ("begin return jsonb_set(event, '{claims,app_metadata}', '\"none\"'); end", None),
    ] {
        let db = bare_db(&format!(
            "create function custom_access_token_hook(event jsonb) returns jsonb language plpgsql as $f$ {body} $f$"
        ))
        .await;
        plain(db.url(), &["--replace", "custom_access_token_hook"]).await.must(0);
        let event = json!({"user_id": "c0000000-0000-0000-0000-000000000001", "claims": {}});
        let result: Result<Value, sqlx::Error> =
            sqlx::query_scalar("select public.custom_access_token_hook($1)")
                .bind(&event)
                .fetch_one(&mut connect(&db).await)
                .await;
        match (result, error) {
            (Ok(result), None) => assert_eq!(result["claims"]["app_metadata"], json!({}), "{body}"),
            (Err(found), Some(error)) => assert!(found.to_string().contains(error), "{found}"),
            (result, _) => panic!("{body}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn functions_of_another_kind_or_signature_are_found() {
    for (sql, says) in [
        ("create function auth_org_id() returns text language sql as 'select null::text'", "auth_org_id()"),
        ("create function auth_user_id() returns setof uuid language sql as 'select null::uuid'", "auth_user_id()"),
        ("create function auth_org_id(n int default 1) returns uuid language sql as 'select null::uuid'", "auth_org_id(integer)"),
        ("create procedure prevent_org_id_change() language sql as 'select 1'", "prevent_org_id_change()"),
        (
            "create function custom_access_token_hook(payload json, x int default 1) returns json language sql as 'select payload';
             create function custom_access_token_hook(payload jsonb) returns json language sql as 'select null::json'",
            "custom_access_token_hook(jsonb)",
        ),
    ] {
        let db = bare_db(sql).await;
        let before = functions(&db).await;
        stops(&db, &[], &[&format!("function public.{says}: exists")]).await;
        let name = says.split('(').next().expect("a name");
        plain(db.url(), &["--keep", name]).await.must(0);
        assert_eq!(functions(&db).await, before, "{sql}");
        assert_eq!(function_findings(&db).await, Vec::<String>::new(), "{sql}");
    }
    // Overloads that cannot be confused are nobody's business.
    let db =
        bare_db("create function auth_org_id(n int) returns uuid language sql as 'select null::uuid'").await;
    plain(db.url(), &[]).await.must(0);
}

#[tokio::test]
async fn a_function_that_others_depend_on_is_not_dropped() {
    let db = bare_db(
        "create function auth_org_id() returns text language sql stable as 'select null::text';
         create table notes (id int, org text); create policy own on notes using (org = auth_org_id());
         create view mine as select auth_org_id() as org",
    )
    .await;
    stops(
        &db,
        &["--replace", "auth_org_id"],
        &[
            "cannot be replaced: it differs in its result or arguments",
            "policy own on table public.notes",
            "view",
        ],
    )
    .await;
    db.run("drop policy own on notes; drop view mine").await;
    plain(db.url(), &["--replace", "auth_org_id"]).await.must(0);
}

#[tokio::test]
async fn schemas_types_and_relations_of_wardens_names_are_found() {
    for (sql, says) in [
        (
            "create schema warden; create table warden.things (id int)",
            "schema warden: belongs to the application",
        ),
        ("create type organizations as enum ('a')", "type public.organizations: takes the name"),
        ("create domain organization_members as text", "type public.organization_members: takes the name"),
        ("create view organizations as select 1 as id", "view public.organizations: is a view"),
        ("create sequence organization_members", "sequence public.organization_members: is a sequence"),
        (
            "create table other (id int); create index organization_members_user on other (id)",
            "index public.organization_members_user: takes the name",
        ),
        ("drop schema public", "schema public: does not exist"),
    ] {
        let db = bare_db(sql).await;
        stops(&db, &[], &[says]).await;
    }
    // The printed statement mends it.
    let db = bare_db("create schema warden; create table warden.things (id int)").await;
    db.run("alter schema warden rename to application_warden").await;
    plain(db.url(), &[]).await.must(0);
}

#[tokio::test]
async fn triggers_and_policies_of_wardens_names_are_found() {
    let db = bare_db(
        "create table notes (id int primary key, user_id uuid); insert into notes values (1, null);
         create function log() returns trigger language plpgsql as 'begin return new; end';
         create trigger warden_fill_org_id before insert on notes for each row execute function log();
         create table calls (id int primary key, user_id uuid);
         create policy warden_org on calls using (true)",
    )
    .await;
    let triggers =
        "select string_agg(pg_get_triggerdef(oid), '; ') from pg_trigger where tgname = 'warden_fill_org_id'";
    let before: String =
        sqlx::query_scalar(triggers).fetch_one(&mut connect(&db).await).await.expect("reads");
    plain(db.url(), &["--tables", "notes,calls", "--default-organization"]).await.must(1).says(&[
        "notes: trigger \"warden_fill_org_id\" has a name of Warden's",
        "alter trigger warden_fill_org_id on public.notes rename to application_warden_fill_org_id;",
        "calls: policy \"warden_org\" has a name of Warden's",
    ]);
    let after: String = sqlx::query_scalar(triggers).fetch_one(&mut connect(&db).await).await.expect("reads");
    assert_eq!(after, before);
    db.run(
        "alter trigger warden_fill_org_id on public.notes rename to application_warden_fill_org_id;
         alter policy warden_org on calls rename to application_warden_org",
    )
    .await;
    plain(db.url(), &[]).await.must(0).says(&["every row has an organisation"]);
}

/// They decide about access, so they are used only if the operator names them.
#[tokio::test]
async fn organizations_of_the_application_are_used_only_if_named() {
    let db = bare_db(
        "create table organizations (id uuid primary key, name text);
         create table organization_members (org_id uuid references organizations on delete cascade, user_id uuid, is_primary boolean);
         insert into organizations values ('b0000000-0000-0000-0000-000000000001', 'b')",
    )
    .await;
    stops(
        &db,
        &[],
        &[
            "issue: public.organization_members and public.organizations: exist in the application",
            "--tables public.organization_members,public.organizations",
        ],
    )
    .await;
    plain(db.url(), &["--tables", "public.organizations,public.organization_members"]).await.must(0);
    plain(db.url(), &[]).await.must(0);
}

/// A member of any organisation is who can write memberships.
#[tokio::test]
async fn writable_memberships_stop_the_run_until_closed_or_accepted() {
    let named = ["--tables", "organizations,organization_members"];
    let tables = "create table organizations (id uuid primary key, name text);
                  create table organization_members (org_id uuid, user_id uuid);";
    let role = |name: &str| {
        format!(
            "do $$ begin if not exists (select from pg_roles where rolname = '{name}') then create role {name}; end if; end $$;"
        )
    };
    for (grants, says) in [
        ("grant insert on organization_members to public", "PUBLIC may insert"),
        ("grant update (user_id) on organization_members to existing_writer", "existing_writer may update"),
        ("grant delete, truncate on organizations to existing_writer", "existing_writer may delete, truncate"),
        (
            "grant insert on organization_members to existing_writer; alter table organization_members enable row level security;
             create policy self on organization_members for insert with check (true)",
            "existing_writer may insert",
        ),
    ] {
        let db = bare_db(&format!("{}{tables}{grants}", role("existing_writer"))).await;
        stops(&db, &named, &["ordinary roles may write it: ", says, "revoke "]).await;
        let table = if says.contains("truncate") { "public.organizations" } else { "public.organization_members" };
        plain(db.url(), &[&named[..], &["--accept", table]].concat()).await.must(0);
        plain(db.url(), &[]).await.must(0);
    }
    // Row-level security without a policy for the command is enough, and so is the printed statement.
    let db = bare_db(&format!(
        "{}{tables}grant insert on organization_members to existing_writer;
         alter table organization_members enable row level security;
         grant update on organizations to existing_writer",
        role("existing_writer")
    ))
    .await;
    stops(
        &db,
        &named,
        &["issue: public.organizations: ", "revoke update on public.organizations from existing_writer;"],
    )
    .await;
    db.run("revoke update on public.organizations from existing_writer").await;
    plain(db.url(), &named).await.must(0);
}

/// Isolation rests on these functions, so their owner must be the migrating role's.
#[tokio::test]
async fn functions_that_another_role_owns_stop_the_run() {
    let db = bare_db(
        "do $$ begin
           if not exists (select from pg_roles where rolname = 'existing_owner') then create role existing_owner; end if;
           if not exists (select from pg_roles where rolname = 'existing_migrator') then
             create role existing_migrator login createrole;
           end if;
           execute format('grant create on database %I to existing_migrator', current_database());
         end $$;
         grant warden_owner to existing_migrator; grant create on schema public to existing_owner, existing_migrator;
         create function auth_org_id() returns uuid language sql as 'select null::uuid';
         comment on function auth_org_id() is 'Mine, text 2b1487d4d273aa09a6136edfe2659e79 (created by Warden)';
         alter function auth_org_id() owner to existing_owner",
    )
    .await;
    let url = shared_cluster_url(&db.name, "existing_migrator");
    plain(&url, &[]).await.must(1).says(&[
        "function public.auth_org_id(): belongs to existing_owner",
        "alter routine public.auth_org_id() owner to existing_migrator;",
    ]);
    connect(&db)
        .await
        .execute("alter function public.auth_org_id() owner to existing_migrator")
        .await
        .expect("mends it");
    plain(&url, &[]).await.must(0);
}
