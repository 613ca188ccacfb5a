//! Databases that adoption cannot complete. Each cause is reported as an issue with a remedy, the rest is
//! adopted, and the next run after the remedy completes the adoption.

use sqlx::Executor as _;
use warden_devkit::cluster::{Cluster, ClusterOptions, DataDir, SUPERUSER};

use super::{Run, assert_adopted, bare_db, connect, migrate};
use crate::harness::{TestDb, cluster_options, shared_cluster_url};

/// Two parents and a child, with a few rows.
const CALLS: &str = "
    create table calls (id uuid primary key default gen_random_uuid(), user_id uuid, vapi_call_id text);
    create table call_logs (id uuid primary key default gen_random_uuid(), user_id uuid, vapi_call_id text,
                            call_id uuid references calls on delete cascade);
    create table leads (id uuid primary key default gen_random_uuid(), user_id uuid);
    insert into calls (vapi_call_id) select 'v' || n from generate_series(1, 50) n;
    insert into call_logs (call_id, vapi_call_id) select id, vapi_call_id from calls;
    insert into leads (user_id) select gen_random_uuid() from generate_series(1, 50);";

/// A database with two parents and a child, changed by these statements.
async fn calls_and(changes: &str) -> TestDb {
    bare_db(&format!("{CALLS} {changes}")).await
}

/// Runs `warden migrate` and asserts that it reports exactly these issues, by their first words, and adopts
/// `leads`.
async fn finds(db: &TestDb, args: &[&str], issues: &[&str]) -> Run {
    let run = migrate(db.url(), args).await.must(1);
    let found: Vec<&str> = run.stdout.lines().filter_map(|l| l.strip_prefix("issue: ")).collect();
    assert_eq!(found.len(), issues.len(), "{}", run.stdout);
    for issue in issues {
        assert!(found.iter().any(|f| f.starts_with(issue)), "lacks {issue:?}: {found:#?}");
    }
    assert_adopted(db, "leads").await;
    run
}

/// Asserts that both phases complete, and that a further run has nothing to do.
async fn completes(db: &TestDb) {
    migrate(db.url(), &[]).await.must(0);
    migrate(db.url(), &["--enforce", "--yes"]).await.must(0);
    migrate(db.url(), &["--enforce", "--yes"]).await.must(0).says(&["0 rows filled"]);
}

#[tokio::test]
async fn relations_other_than_ordinary_tables_are_issues() {
    let db = bare_db(
        "create table leads (id uuid primary key, user_id uuid);
         create table base (id uuid primary key);
         create view calls as select * from base;
         create materialized view contacts as select * from base;
         create foreign data wrapper elsewhere; create server s foreign data wrapper elsewhere;
         create foreign table campaigns (id uuid) server s;
         create table all_payments (id uuid, user_id uuid) partition by hash (id);
         create table payments partition of all_payments for values with (modulus 1, remainder 0);
         create table archived (); create table knowledge_base (id uuid primary key);
         create table kb_2023 () inherits (knowledge_base, archived);
         create table kb_sync_log (id int primary key, knowledge_base_id uuid);",
    )
    .await;
    finds(
        &db,
        &[],
        &[
            "calls: is a view",
            "contacts: is a materialized view",
            "campaigns: is a foreign table",
            "payments: is part of public.all_payments",
            "knowledge_base: has the member kb_2023, which also inherits from public.archived",
            "kb_sync_log: inherits its organisation from knowledge_base, which is not adopted",
        ],
    )
    .await
    .says(&["delete from warden.tenant_tables where (schema_name, table_name) = ('public', 'calls');"]);
    migrate(db.url(), &["--enforce", "--yes"]).await.must(1).says(&["not enforced"]);
    db.run("delete from warden.tenant_tables where table_name in ('calls', 'contacts', 'campaigns', 'payments', 'knowledge_base', 'kb_sync_log')")
        .await;
    completes(&db).await;
}

#[tokio::test]
async fn columns_of_wrong_types_are_issues() {
    let db = calls_and("alter table call_logs drop column call_id; alter table calls add column org_id text;
                        create table contacts (id uuid, user_id uuid); create table consent_records (id uuid, contact_id uuid);
                        create table campaigns (id uuid primary key); create table campaign_leads (id int, campaign_id text)")
    .await;
    finds(
        &db,
        &[],
        &[
            "calls: has an org_id that is text, and must be a plain uuid",
            "call_logs: has no column call_id",
            "consent_records: inherits from contacts, where id is not unique",
            "campaign_leads: has a campaign_id of type text, but campaigns.id is uuid",
        ],
    )
    .await;
    db.run("alter table calls rename column org_id to former_org_id; alter table call_logs add column call_id uuid;
            alter table contacts add unique (id); alter table campaign_leads alter column campaign_id type uuid using null")
        .await;
    completes(&db).await;
}

#[tokio::test]
async fn a_cycle_of_parents_is_an_issue() {
    let db = calls_and("").await;
    migrate(db.url(), &[]).await.must(0);
    db.run("update warden.tenant_tables set parent_schema = 'public', parent_table = 'call_logs', parent_column = 'id' where table_name = 'calls'")
        .await;
    finds(
        &db,
        &[],
        &["call_logs: inherits its organisation from itself", "calls: inherits its organisation from itself"],
    )
    .await;
}

#[tokio::test]
async fn objects_of_the_same_name_are_issues() {
    let db = calls_and(
        "alter table calls add constraint calls_org_id_fkey check (true);
         alter table calls add constraint calls_org_id_id_key check (true);
         create index idx_calls_org_vapi_call_id on calls (user_id);
         create index idx_call_logs_org_call_id on leads (id);
         alter table call_logs add constraint call_logs_org_id_present check (id is not null)",
    )
    .await;
    let run = finds(
        &db,
        &[],
        &[
            "calls: constraint \"calls_org_id_fkey\" has a name of Warden's",
            "calls: constraint \"calls_org_id_id_key\" has a name of Warden's",
            "calls: index \"idx_calls_org_vapi_call_id\" has a name of Warden's",
            "call_logs: index \"idx_call_logs_org_call_id\" has a name of Warden's",
            "call_logs: constraint \"call_logs_org_id_present\" has a name of Warden's",
        ],
    )
    .await
    .says(&[
        "  CHECK (true)",
        "  foreign key (org_id) references public.organizations (id) on delete cascade",
        "  unique (org_id, id)",
        "  CREATE INDEX idx_calls_org_vapi_call_id ON public.calls USING btree (user_id)",
        "  create index idx_calls_org_vapi_call_id on public.calls (org_id, vapi_call_id)",
        "  CREATE INDEX idx_call_logs_org_call_id ON public.leads USING btree (id)",
        "  check (org_id is not null)",
    ]);
    migrate(db.url(), &["--plan"]).await.must(1).says(&["\"calls_org_id_fkey\" has a name of Warden's"]);
    let untouched = "select count(*) from pg_attribute where attname = 'org_id'
                     and attrelid in ('calls'::regclass, 'call_logs'::regclass)";
    let columns: i64 = sqlx::query_scalar(untouched).fetch_one(&mut connect(&db).await).await.expect("reads");
    assert_eq!(columns, 0, "these tables wait");
    for (_, rename) in run.stdout.lines().filter_map(|l| l.split_once("Rename it: ")) {
        db.run(rename).await;
    }
    completes(&db).await;
}

#[tokio::test]
async fn duplicate_keys_are_issues_and_writes_continue() {
    let db =
        calls_and("insert into call_logs (vapi_call_id) select 'twice' from generate_series(1, 2)").await;
    finds(
        &db,
        &[],
        &["call_logs: index idx_call_logs_org_vapi_call_id: (org_id, vapi_call_id) is not unique"],
    )
    .await
    .says(&["\"twice\"", "group by"]);
    // Everything else is adopted, and the application can still insert duplicates.
    db.run("insert into call_logs (vapi_call_id) values ('twice')").await;
    migrate(db.url(), &["--enforce", "--yes"]).await.must(1).says(&["not enforced"]);
    db.run("update call_logs set vapi_call_id = null where vapi_call_id = 'twice'").await;
    completes(&db).await;
    let error = db.error("insert into call_logs (org_id, vapi_call_id) select org_id, vapi_call_id from call_logs where vapi_call_id = 'v1'").await;
    assert!(error.contains("idx_call_logs_org_vapi_call_id"), "{error}");
}

/// Without a foreign key, the application may delete parents first until the second phase.
#[tokio::test]
async fn orphaned_rows_are_issues_of_the_second_phase() {
    let db = calls_and(
        "alter table call_logs drop constraint call_logs_call_id_fkey;
                        insert into call_logs (call_id) values (gen_random_uuid())",
    )
    .await;
    migrate(db.url(), &[]).await.must(0);
    db.run("insert into call_logs (call_id) values (gen_random_uuid())").await;
    let run = finds(&db, &["--enforce", "--yes"], &["call_logs: has rows whose parent does not exist"]).await;
    let query = run.stdout.lines().find_map(|l| l.split_once("command again: select")).expect("a query").1;
    let shown = sqlx::query(sqlx::AssertSqlSafe(format!("select{query}")))
        .fetch_all(&mut connect(&db).await)
        .await
        .expect("the query runs");
    assert_eq!(shown.len(), 2);
    db.run("delete from call_logs where call_id not in (select id from calls)").await;
    completes(&db).await;
}

#[tokio::test]
async fn wrong_existing_org_ids_are_issues() {
    let db = calls_and(
        "create table organizations (id uuid primary key, name text);
         insert into organizations values ('b0000000-0000-0000-0000-000000000001', 'b'), ('b0000000-0000-0000-0000-000000000002', 'c');
         alter table calls add org_id uuid references organizations;
         alter table call_logs add org_id uuid;
         update calls set org_id = 'b0000000-0000-0000-0000-000000000001' where vapi_call_id < 'v3';
         update call_logs set org_id = 'b0000000-0000-0000-0000-000000000002' where vapi_call_id = 'v1';
         update call_logs set org_id = gen_random_uuid() where vapi_call_id = 'v2'",
    )
    .await;
    finds(
        &db,
        &[],
        &[
            "calls: constraint calls_org_id_fkey does not cascade",
            "call_logs: has rows of organisations that do not exist",
            "call_logs: foreign keys: insert or update on table \"call_logs\" violates foreign key constraint \"call_logs_org_id_call_id_fkey\"",
        ],
    )
    .await;
    db.run(
        "alter table calls drop constraint calls_org_id_fkey;
            drop trigger warden_org_id_immutable on call_logs;
            update call_logs l set org_id = c.org_id from calls c where c.id = l.call_id",
    )
    .await;
    completes(&db).await;
}

/// The trigger belongs to the application, so the run does not bypass it unasked.
#[tokio::test]
async fn a_table_whose_trigger_rejects_updates_is_an_issue() {
    let db = calls_and(
        "create function no() returns trigger language plpgsql as $$ begin raise exception 'never change a call'; end $$;
         create trigger no before update on calls for each row execute function no();
         alter table calls enable always trigger no",
    )
    .await;
    finds(&db, &[], &["calls: backfill: never change a call", "call_logs: waits for calls"])
        .await
        .says(&["note: calls: its triggers no fire during the backfill"]);
    db.run("update warden.tenant_tables set pauses_triggers = true where table_name = 'calls'").await;
    completes(&db).await;
    let enabled: String = sqlx::query_scalar("select tgenabled::text from pg_trigger where tgname = 'no'")
        .fetch_one(&mut connect(&db).await)
        .await
        .expect("is there");
    assert_eq!(enabled, "A");
}

/// The rest of the adoption continues.
#[tokio::test]
async fn a_table_that_cannot_be_watched_is_an_issue() {
    let db = calls_and("alter table call_logs drop constraint call_logs_pkey").await;
    finds(
        &db,
        &[],
        &["call_logs: watch: warden.watch: column \"id\" of public.call_logs is not unique by itself"],
    )
    .await;
    migrate(db.url(), &["--enforce", "--yes"]).await.must(1).says(&["1 issue remains"]);
    assert!(db.error("insert into calls (user_id) values (null)").await.contains("has no org_id"));
    db.run("alter table call_logs add primary key (id)").await;
    completes(&db).await;
}

/// The role is not a superuser. It owns all tables but one.
#[tokio::test]
async fn a_role_with_few_privileges_adopts_its_own_tables() {
    let db = calls_and(
        "create table contacts (id uuid primary key, user_id uuid, updated int not null default 0);
         create function touch() returns trigger language plpgsql as $$ begin new.updated := old.updated + 1; return new; end $$;
         create trigger touch before update on contacts for each row execute function touch();
         insert into contacts select gen_random_uuid(), gen_random_uuid() from generate_series(1, 50);
         do $$ begin
           if not exists (select from pg_roles where rolname = 'few_rights') then create role few_rights login createrole; end if;
           execute format('grant create on database %I to few_rights', current_database());
         end $$;
         grant create on schema public to few_rights; grant warden_owner to few_rights;
         alter table calls owner to few_rights; alter table call_logs owner to few_rights; alter table contacts owner to few_rights;",
    )
    .await;
    let url = shared_cluster_url(&db.name, "few_rights");
    let run = migrate(&url, &[]).await.must(1);
    assert!(
        run.stdout.contains(
            "issue: leads: belongs to postgres, and the migrating role is not a member of postgres"
        ),
        "{}",
        run.stdout
    );
    // The run reports the triggers that this role cannot disable.
    assert!(
        run.stdout.contains("note: contacts: its triggers touch fire during the backfill"),
        "{}",
        run.stdout
    );
    for table in ["calls", "call_logs", "contacts"] {
        assert_adopted(&db, table).await;
    }
    db.run("alter table leads owner to few_rights").await;
    migrate(&url, &[]).await.must(0);
    migrate(&url, &["--enforce", "--yes"]).await.must(0);
    migrate(&url, &["--relax", "--yes"]).await.must(0);
    migrate(&url, &["--enforce", "--yes"]).await.must(0);
}

/// Uses private clusters: one without Warden's roles, and one that is a standby.
#[tokio::test]
async fn missing_createrole_and_a_standby_are_errors() {
    let dir = std::env::temp_dir().join(format!("warden-standby-{}", std::process::id()));
    let options = ClusterOptions { data_dir: DataDir::Persistent(dir.clone()), ..cluster_options() };
    let mut cluster = Cluster::start(options).await.expect("PostgreSQL starts");
    let url = cluster.url("postgres", SUPERUSER);
    let mut admin = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.expect("connects");
    admin
        .execute("create role nobody_special login; grant create on schema public to nobody_special")
        .await
        .expect("creates");
    let run = migrate(&cluster.url("postgres", "nobody_special"), &[]).await.must(1);
    assert!(run.stderr.contains("error: a migration failed and was rolled back"), "{}", run.stderr);

    migrate(&url, &[]).await.must(0);
    drop(admin);
    cluster.stop().await.expect("stops");
    std::fs::write(dir.join("data/standby.signal"), "").expect("writes");
    cluster.start_again().await.expect("starts");
    for args in [&[][..], &["--plan"]] {
        let run = migrate(&url, args).await.must(1);
        assert!(run.stderr.contains("is a standby"), "{}", run.stderr);
    }
    cluster.close().await.expect("ends");
    std::fs::remove_dir_all(&dir).expect("is removed");
}

/// A table that an issue keeps from getting `org_id` is not queried by the enforce phase.
#[tokio::test]
async fn enforcement_beside_an_open_issue_reports_the_issue() {
    let db = bare_db(
        "create table projects (id int primary key, user_id uuid); insert into projects values (1, null);
         create table notes (id int primary key, project_id int); insert into notes values (1, 1);
         create function log() returns trigger language plpgsql as 'begin return new; end';
         create trigger warden_fill_org_id before insert on notes for each row execute function log()",
    )
    .await;
    let tables = "projects user_column=user_id,notes parent=projects parent_column=project_id";
    let run = migrate(db.url(), &["--tables", tables, "--default-organization", "--enforce", "--yes"])
        .await
        .must(1)
        .says(&["issue: notes: trigger \"warden_fill_org_id\" has a name of Warden's", "not enforced"]);
    assert!(!run.stderr.contains("does not exist"), "{}", run.stderr);
}
