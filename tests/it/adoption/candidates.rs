//! Candidates: tables that look like an organisation's. The list contains them, and no ordinary reference
//! table.

use super::{RUN_DEADLINE, Run, ended, small_db, warden};
use crate::harness::TestDb;

/// Tables of several applications, each with the sign by which it is found.
const FOUND: &str = r#"
    create schema storage; create schema realtime;
    create table tenants (id uuid primary key, name text);
    create table invoices (id int primary key, t uuid references tenants);
    create table users (id uuid primary key, email text);
    create table devices (id int primary key, belongs_to uuid references users);
    create table auth_user (id serial primary key, username text);
    create table ticket (id int primary key, reporter_id int references auth_user);
    create table posts (id text primary key, userid varchar(26), channelid varchar(26));
    create table channels (id text primary key, teamid varchar(26), creatorid varchar(26));
    create table realm_settings (id int primary key, realm_id uuid);
    create table bookings (id int primary key, clinic_id int);
    create table orders (id int primary key, customer_id uuid);
    create table meetings (id int primary key, member_ids uuid[]);
    create table storage.files (id int primary key, org_id uuid, owner_id uuid);
    create table realtime.presence (id int primary key, user_id uuid);
    create table notes (id int primary key, owner_id uuid, body text);
    create table history (id bigserial primary key, record jsonb);
    create function copy_note() returns trigger language plpgsql as $$ begin
      insert into history (record) values (to_jsonb(new)); return null; end $$;
    create trigger copy after insert on notes for each row execute function copy_note();
    create table workspaces (id int primary key, name text);
    create table workspace_users (workspace_id int references workspaces, user_id uuid, primary key (workspace_id, user_id));
    create table boards (id int primary key, workspace_id int references workspaces);
    create table teams (id uuid primary key, name text);
    create table team_members (team_id uuid references teams, user_id uuid, primary key (team_id, user_id));
    create table goals (id int primary key, team_id uuid references teams);"#;

/// Reference tables, counters and settings, whose rows belong to nobody.
const ORDINARY: &str = "
    create table countries (code text primary key, name text);
    create table currencies (id int primary key, code text);
    create table plans (id uuid primary key, price numeric, currency_id int references currencies);
    create table categories (id int primary key, parent_id int references categories, name text);
    create table roles (id int primary key, name text);
    create table permissions (id int primary key, role_id int references roles);
    create table feature_flags (name text primary key, is_on bool, tags text[]);
    create table schema_migrations (version text primary key);
    create table translations (id int primary key, language_id int, key text, value text);
    create table counters (name text primary key, n bigint);
    create function count_plan() returns trigger language plpgsql as $$ begin
      insert into counters values ('plans', 1) on conflict do nothing; return null; end $$;
    create trigger counted after insert on plans for each statement execute function count_plan();";

async fn migrate(db: &TestDb) -> Run {
    ended(RUN_DEADLINE, warden(db.url(), "migrate")).await
}

#[tokio::test]
async fn candidates_are_found_by_keys_names_members_and_copies() {
    let db = small_db(&format!("{FOUND}{ORDINARY}")).await;
    let run = migrate(&db).await.must(0);
    let (_, list) = run.stdout.split_once("warden migrate --tables '").expect("a command");
    let (list, _) = list.split_once('\'').expect("it ends");
    let mut found: Vec<&str> = list.split(',').map(|name| name.trim_start_matches("public.")).collect();
    found.sort_unstable();
    let expected = [
        "auth_user",
        "boards",
        "bookings",
        "channels",
        "devices",
        "goals",
        "history",
        "invoices",
        "meetings",
        "notes",
        "orders",
        "posts",
        "realm_settings",
        "realtime.presence",
        "storage.files",
        "team_members",
        "teams",
        "tenants",
        "ticket",
        "users",
        "workspace_users",
        "workspaces",
    ];
    assert_eq!(found, expected, "{}", run.stdout);
    run.says(&[
        "organisations of another name, with their members in public.team_members: copy them first (docs/tenancy.md)",
        "organisations of another name, whose ids are no uuids, with their members in public.workspace_users",
        "a trigger of public.notes copies rows to it",
        "team_id references public.teams",
    ]);
}

/// Tables of Supabase's own schemas are no candidates.
#[tokio::test]
async fn schemas_that_supabase_owns_are_skipped() {
    let db = small_db(
        "do $$ begin create role supabase_storage_admin; exception when duplicate_object or unique_violation then null; end $$;
         create schema storage authorization supabase_storage_admin; create schema supabase_functions;
         create table storage.objects (id uuid primary key, owner_id uuid);
         create table supabase_functions.hooks (id int primary key, user_id uuid);",
    )
    .await;
    let run = migrate(&db).await.must(0);
    assert!(!run.stdout.contains("look"), "{}", run.stdout);
}
