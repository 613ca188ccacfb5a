//! Migrating the database of an application: its tables are used as they are, and the error names what does
//! not fit.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::{count, texts};
use crate::harness::{TestDb, shared_cluster_url};

/// Migrates an application's database as its owner, who is not a superuser.
async fn migrate(name: &str, tables: &str) -> (TestDb, anyhow::Result<warden::postgres::Migrated>) {
    let first = TestDb::create().await;
    let name = format!("{name}_{}", first.name);
    let mut admin = PgConnection::connect(first.url()).await.expect("connects");
    let owner = format!("app_{name}");
    for sql in [
        format!("create role {owner} login createrole"),
        format!("grant warden_owner to {owner}"),
        format!("create database {name} owner {owner} template template0"),
    ] {
        admin.execute(AssertSqlSafe(sql)).await.expect("sets up");
    }
    let url = shared_cluster_url(&name, &owner);
    let mut app = PgConnection::connect(&url).await.expect("connects");
    app.execute("alter schema public owner to current_user").await.ok();
    app.execute(sqlx::raw_sql(AssertSqlSafe(tables.to_owned()))).await.expect("creates");
    let migrated = warden::postgres::migrate_platform(&url).await;
    (TestDb::at(&name, &shared_cluster_url(&name, "postgres"), &url).await, migrated)
}

#[tokio::test]
async fn existing_tables_are_not_changed() {
    let (db, migrated) = migrate(
        "legacy",
        "create table organizations (id uuid unique not null, slug text not null default 'x', name varchar(50));
         create table calls (id uuid primary key, user_id uuid, created_at timestamptz);
         insert into calls values (gen_random_uuid());
         create table call_logs (id bigint generated always as identity primary key, call_id uuid references calls on delete cascade,
                                 vapi_call_id text);
         create view payments as select 1 as id",
    )
    .await;
    migrated.expect("migrates");
    let tables = "select tablename::text from pg_tables where schemaname = 'public' order by 1";
    assert_eq!(texts(&db, tables).await, ["call_logs", "calls", "organization_members", "organizations"]);
    assert_eq!(count(&db, "select count(*) from organizations").await, 0, "rows for the application");
    // Nothing was done to the application's tables.
    let touched = "select count(*) from pg_attribute where attrelid in ('calls'::regclass, 'call_logs'::regclass) and attname = 'org_id'";
    assert_eq!(count(&db, touched).await, 0);
    let secured =
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relrowsecurity";
    assert_eq!(texts(&db, secured).await, ["organization_members"], "the one that Warden created");
    // The view lists what adoption will do. A view is not a table.
    let objects =
        "select format('%s %s %s: %s', table_name, kind, name, definition) from warden.tenant_objects
                   where table_name = 'call_logs' and kind = 'foreign_key' order by 1";
    assert_eq!(
        texts(&db, objects).await,
        [
            "call_logs foreign_key call_logs_org_id_call_id_fkey: foreign key (org_id, call_id) references public.calls (org_id, id) on delete cascade on update cascade",
            "call_logs foreign_key call_logs_org_id_fkey: foreign key (org_id) references public.organizations (id) on delete cascade",
        ]
    );
    let payments = "select distinct problem from warden.tenant_objects where table_name = 'payments' and problem is not null";
    assert_eq!(texts(&db, payments).await, Vec::<String>::new());
    // An index on columns that the table does not have does not apply.
    let left_out =
        "select name from warden.tenant_objects where table_name = 'calls' and not applies order by 1";
    assert_eq!(
        texts(&db, left_out).await,
        ["idx_calls_org_status_created", "idx_calls_org_twilio_call_sid", "idx_calls_org_vapi_call_id"]
    );
    // Organisations are watched, so gateways learn about new ones.
    db.run("insert into organizations (id) values (gen_random_uuid())").await;
    assert_eq!(count(&db, "select count(*) from warden.events where event = 'org.created'").await, 1);
}

#[tokio::test]
async fn unsuitable_organisation_tables_are_rejected_by_name() {
    for (name, tables, says) in [
        (
            "type",
            "create table organizations (id bigint primary key)",
            "public.organizations has a column \"id\" of type bigint",
        ),
        ("dup", "create table organizations (id uuid)", "public.organizations (id) is not unique"),
        (
            "view",
            "create view organizations as select gen_random_uuid() as id",
            "public.organizations is not an ordinary table",
        ),
        (
            "none",
            "create table organization_members (org_id uuid)",
            "public.organization_members has no column \"user_id\"",
        ),
    ] {
        let (db, migrated) = migrate(name, tables).await;
        let error = format!("{:#}", migrated.expect_err(name));
        assert!(error.contains(says), "{error}");
        // The migration was rolled back, and the next attempt starts with it.
        assert_eq!(count(&db, "select count(*) from pg_proc where proname = 'default_org_for'").await, 0);
    }
}

/// The default organisation may exist already, and memberships may lack the optional columns.
#[tokio::test]
async fn memberships_need_no_optional_columns() {
    let (db, migrated) = migrate(
        "members",
        "create table organizations (id uuid primary key, plan text not null);
         insert into organizations values ('a0000000-0000-0000-0000-000000000001', 'p'), ('b0000000-0000-0000-0000-000000000001', 'p');
         create table organization_members (org_id uuid references organizations, user_id uuid);
         insert into organization_members values ('b0000000-0000-0000-0000-000000000001', 'c0000000-0000-0000-0000-000000000001')",
    )
    .await;
    migrated.expect("migrates");
    let org = "select warden.default_org_for('c0000000-0000-0000-0000-000000000001')::text";
    assert_eq!(texts(&db, org).await, ["b0000000-0000-0000-0000-000000000001"]);
}
