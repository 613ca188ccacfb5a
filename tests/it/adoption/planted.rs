//! Objects that an ordinary role created under Warden's names before Warden was installed. Their owner could
//! turn isolation off later.

use super::existing_objects::plain;
use super::{audit, bare_db, connect};

/// A role that may create tables and functions in schema `public`, as any role may before PostgreSQL 15, and
/// schemas.
const PLANTER: &str = "do $$ begin
    create role planter;
  exception when duplicate_object or unique_violation then null;
  end $$;
  do $$ begin execute format('grant create on database %I to planter', current_database()); end $$;
  grant create on schema public to planter; set role planter;";

/// Objects that Warden would use, the option of the run, and how the issue names them.
const PLANTED: [(&str, &[&str], &str); 6] = [
    (
        "create table organizations (id uuid primary key, name text);
         comment on table organizations is 'Organisations. (created by Warden)';",
        &["--platform"],
        "role planter: owns public.organizations:",
    ),
    (
        "create table organization_members (org_id uuid, user_id uuid);",
        &["--tables", "organization_members"],
        "role planter: owns public.organization_members:",
    ),
    (
        "create function auth_org_id() returns uuid language sql as 'select null::uuid';
         comment on function auth_org_id() is 'Mine, text 2b1487d4d273aa09a6136edfe2659e79 (created by Warden)';",
        &[],
        "function public.auth_org_id(): belongs to planter",
    ),
    ("create schema warden;", &[], "schema warden: planter owns schema warden:"),
    // The record of migrations makes the schema look like an installed one.
    (
        "create schema warden;
         create table warden._sqlx_migrations (version bigint primary key, description text not null,
           installed_on timestamptz not null default now(), success boolean not null, checksum bytea not null,
           execution_time bigint not null);
         create function warden.run(command text) returns void language plpgsql security definer set search_path = ''
           as 'begin execute command; end';
         grant execute on function warden.run(text) to service_role;",
        &[],
        "schema warden: planter owns schema warden, table warden._sqlx_migrations, function warden.run(pg_catalog.text)",
    ),
    (
        "create schema warden;
         create type warden.planted as enum ('a'); create domain warden.xid as text;
         create operator warden.= (leftarg = text, rightarg = text, function = pg_catalog.texteq);
         create collation warden.mine from \"C\"; create view warden.events as select 1 as id;",
        &[],
        "schema warden: planter owns schema warden, operator warden.=(",
    ),
];

#[tokio::test]
async fn planted_objects_stop_a_superuser_too() {
    for (planted, args, issue) in PLANTED {
        let db = bare_db(&format!("{PLANTER} {planted} reset role")).await;
        let run = plain(db.url(), args).await.must(1);
        run.says(&[&format!("issue: {issue}"), "Nothing was changed"]);
        let is_installed: bool = sqlx::query_scalar("select to_regclass('warden.tenant_tables') is not null")
            .fetch_one(&mut connect(&db).await)
            .await
            .expect("is read");
        assert!(!is_installed);
    }
}

#[tokio::test]
async fn a_planted_table_is_used_once_its_owner_is_accepted_or_changed() {
    let (planted, args, _) = PLANTED[0];
    let db = bare_db(&format!("{PLANTER} {planted} reset role")).await;
    plain(db.url(), &[args, &["--accept", "planter"]].concat()).await.must(0);
    // The decision is recorded.
    plain(db.url(), args).await.must(0);
    let db =
        bare_db(&format!("{PLANTER} {planted} reset role; reassign owned by planter to current_user")).await;
    plain(db.url(), args).await.must(0);
}

/// The operator lists tables and knows whose they are: an application may have a role of its own for its
/// tables.
#[tokio::test]
async fn the_owner_of_a_listed_table_may_own_the_organizations() {
    let db = bare_db(&format!(
        "{PLANTER} create table organizations (id uuid primary key, name text);
         create table notes (id uuid primary key, user_id uuid); reset role"
    ))
    .await;
    plain(db.url(), &["--tables", "organizations,notes", "--default-organization"]).await.must(0);
    plain(db.url(), &[]).await.must(0);
}

/// Functions and operators that fit the arguments of Warden's statements better than PostgreSQL's own, which
/// take any type. Each one reports the role with whose rights it runs.
fn better_fitting_objects() -> String {
    let mut sql = String::new();
    let plant = |name: &str, arguments: &str, result: &str| {
        format!(
            "create function public.{name}({arguments}) returns {result} language plpgsql as $$
             begin raise exception 'planted code ran as %', current_user; end $$;\n"
        )
    };
    for arguments in [
        "text, name",
        "text, name, name",
        "text, text",
        "text, text, text",
        "text, name, text",
        "text, regclass",
        "text, regprocedure",
    ] {
        sql += &plant("format", arguments, "text");
    }
    sql += &plant("concat_ws", "text, text, text", "text");
    sql += &plant("array_to_string", "text[], text", "text");
    sql += &plant("string_agg", "text, name", "text");
    for (n, (left, right)) in
        [("text", "name"), ("name", "text"), ("oid", "regclass"), ("oid", "regrole"), ("name", "name")]
            .into_iter()
            .enumerate()
    {
        sql += &plant(&format!("planted_{n}"), &format!("{left}, {right}"), "boolean");
        for operator in ["=", "<>", "||"] {
            sql += &format!(
                "create operator public.{operator} (leftarg = {left}, rightarg = {right}, function = public.planted_{n});\n"
            );
        }
    }
    sql
}

#[tokio::test]
async fn planted_functions_and_operators_do_not_run_with_the_rights_of_a_migration() {
    let db = bare_db(&format!(
        "{PLANTER} {} create domain public.uuid as text; create type public.oid as enum ('a'); reset role;
         create table notes (id int primary key, user_id pg_catalog.uuid); insert into notes values (1, null)",
        better_fitting_objects()
    ))
    .await;
    for args in [
        &["--plan", "--tables", "notes", "--default-organization"][..],
        &["--tables", "notes", "--default-organization"],
        &["--enforce", "--yes"],
        &["--relax", "--yes"],
        &[],
    ] {
        plain(db.url(), args).await.must(0);
    }
    // The schema that is searched first can also be the one of the planter.
    let db = bare_db(&format!("{PLANTER} {} reset role;", better_fitting_objects())).await;
    db.run(format!("alter database {} set search_path = public, pg_catalog", db.name())).await;
    for args in [&["--plan", "--platform"][..], &["--platform"], &["--enforce", "--yes"], &[]] {
        plain(db.url(), args).await.must(0);
    }
    let run = audit(db.url()).await.must(1);
    run.says(&["the search_path of database", "set search_path = public;"]);
}
