//! The two sets of migrations: the core alone, the core with the platform, and a database that has both.

use serde_json::json;
use warden::postgres::{SchemaSet, migrate, migrate_platform, reading_options};
use warden::tenancy::audit;

use super::{count, texts};
use crate::harness::{TestDb, TestGateway};

const PUBLIC_TABLES: &str = "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1";
const REGISTRY: &str = "select origin || ' ' || table_name from warden.tenant_tables order by 1";
const PLATFORM_TABLES: i64 = 45;

async fn empty_db() -> TestDb {
    TestDb::create_from("template0").await
}

/// Rules about roles. Other tests create roles, which belong to the whole cluster.
const ROLE_RULES: [&str; 6] =
    ["bypassing-role", "request-role", "all-data-role", "role-creator", "schema-right", "token-hook-caller"];

/// Findings of the audit, except those about roles.
pub async fn audit_findings(db: &TestDb) -> Vec<String> {
    let database = reading_options(db.url()).await.expect("a URL");
    let options = audit::AuditOptions { is_deep: true, ..audit::AuditOptions::default() };
    let report =
        audit::run(&database, options, &mut audit::AuditProgress::silent()).await.expect("the audit runs");
    report
        .findings
        .into_iter()
        .filter(|finding| !ROLE_RULES.contains(&finding.rule))
        .map(|finding| format!("{} {}: {}", finding.rule, finding.object, finding.cause))
        .collect()
}

#[tokio::test]
async fn the_core_alone_creates_organisations_and_nothing_of_the_platform() {
    let db = empty_db().await;
    let migrated = migrate(db.url()).await.expect("migrates");
    assert!(migrated.applied.iter().all(|migration| migration.set == SchemaSet::Core), "{migrated:?}");
    assert_eq!(texts(&db, PUBLIC_TABLES).await, ["organization_members", "organizations"]);
    assert_eq!(texts(&db, REGISTRY).await, ["core organization_members", "core organizations"]);
    assert_eq!(texts(&db, "select relation::text from warden.watches").await, ["organizations"]);
    assert_eq!(audit_findings(&db).await, Vec::<String>::new());
    assert_eq!(migrate(db.url()).await.expect("migrates again").applied, Vec::new());
}

#[tokio::test]
async fn a_gateway_on_the_core_alone_serves_an_adopted_table() {
    let db = empty_db().await;
    migrate(db.url()).await.expect("migrates");
    db.run(
        "create table invoices (id uuid primary key default gen_random_uuid(), total int not null);
         select warden.adopt_table('invoices');
         select warden.watch('invoices', 'invoices', 'invoice')",
    )
    .await;
    assert_eq!(audit_findings(&db).await, Vec::<String>::new());
    let t = TestGateway::start_with(db, |_| {}).await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut client = t.connect(org).await;
    client.join("invoices").await;
    t.db.run(format!("insert into invoices (org_id, total) values ('{other}', 1), ('{org}', 2)")).await;
    let event = client.expect_only("invoices", "invoice.created").await;
    assert_eq!(event.data("total"), &json!(2));
    let reply = client.push("calls", "phx_join", json!({})).await;
    assert_eq!(reply.response["reason"], "unmatched topic");
}

/// The name of a table means nothing to the core.
#[tokio::test]
async fn the_core_does_not_touch_an_application_table_named_calls() {
    let db = empty_db().await;
    db.run("create table calls (id int primary key, org_id text); insert into calls values (1, 'mine')")
        .await;
    let calls = "select format('%s %s %s %s', relrowsecurity, relhastriggers, relacl,
                   (select count(*) from pg_index where indrelid = c.oid)) from pg_class c where relname = 'calls'";
    let before = texts(&db, calls).await;
    migrate(db.url()).await.expect("migrates");
    assert_eq!(texts(&db, calls).await, before);
    assert_eq!(texts(&db, "select id || org_id from calls").await, ["1mine"]);
    assert_eq!(texts(&db, REGISTRY).await, ["core organization_members", "core organizations"]);
}

/// Supabase grants every right on new tables to requests by default.
#[tokio::test]
async fn organisations_that_warden_creates_are_protected_from_the_start() {
    for tables in ["select", "create table calls (id int primary key)"] {
        let db = empty_db().await;
        db.run("alter default privileges in schema public grant all on tables to anon, authenticated").await;
        db.run(tables).await;
        migrate(db.url()).await.expect("migrates");
        for table in ["organizations", "organization_members"] {
            let error = db.error(format!("set role anon; select * from {table}")).await;
            assert!(error.contains("permission denied"), "{error}");
            let error = db.error(format!("set role authenticated; delete from {table}")).await;
            assert!(error.contains("permission denied"), "{error}");
        }
        let visible = "begin; set local role authenticated; select count(*) from organizations";
        assert_eq!(last_count(&db, visible).await, 0, "after {tables}");
    }
}

/// The value of the last of several statements.
async fn last_count(db: &TestDb, sql: &str) -> i64 {
    use sqlx::{AssertSqlSafe, Row as _};
    let mut connection = db.pool.acquire().await.expect("connects");
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&mut *connection).await.expect("runs");
    sqlx::raw_sql("rollback").execute(&mut *connection).await.expect("rolls back");
    rows.last().expect("a row").get(0)
}

#[tokio::test]
async fn the_platform_can_be_chosen_after_the_core() {
    let db = empty_db().await;
    migrate(db.url()).await.expect("migrates");
    migrate_platform(db.url()).await.expect("migrates");
    let created =
        "select count(*) from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'";
    assert_eq!(count(&db, created).await, PLATFORM_TABLES + 2);
    let registered = "select count(*) from warden.tenant_tables where origin = 'platform'";
    assert_eq!(count(&db, registered).await, PLATFORM_TABLES);
    assert_eq!(
        texts(&db, "select relation::text from warden.watches order by 1").await,
        ["call_logs", "calls", "organizations", "recordings"]
    );
    assert_eq!(audit_findings(&db).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_platform_creates_no_table_beside_those_of_an_application() {
    let db = empty_db().await;
    db.run("create table invoices (id uuid primary key); create table calls (id uuid primary key)").await;
    migrate_platform(db.url()).await.expect("migrates");
    assert_eq!(
        texts(&db, PUBLIC_TABLES).await,
        ["calls", "invoices", "organization_members", "organizations"]
    );
    // Later tables of the platform's names are the application's.
    assert_eq!(
        texts(&db, "select table_name from warden.tenant_tables where origin = 'platform'").await,
        ["calls"]
    );
}

/// The choice is recorded: an upgrade needs no flag.
#[tokio::test]
async fn a_later_run_keeps_the_platform_up_to_date() {
    let db = TestDb::create().await;
    db.run(
        "drop table notification_templates, notification_history, notification_rate_limits, onboarding_events;
         delete from warden._platform_migrations where version = 8",
    )
    .await;
    let migrated = migrate(db.url()).await.expect("migrates");
    let applied: Vec<String> = migrated.applied.iter().map(ToString::to_string).collect();
    assert_eq!(applied, ["platform 0008 notifications"]);
    assert_eq!(count(&db, "select count(*) from notification_history").await, 0);
    assert_eq!(audit_findings(&db).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_operators_registration_takes_precedence_over_the_platforms() {
    let db = empty_db().await;
    migrate(db.url()).await.expect("migrates");
    db.run(
        "create table leads (id int primary key, owner uuid); select warden.adopt_table('leads', 'owner')",
    )
    .await;
    migrate_platform(db.url()).await.expect("migrates");
    let leads =
        "select format('%s %s', origin, user_column) from warden.tenant_tables where table_name = 'leads'";
    assert_eq!(texts(&db, leads).await, ["application owner"]);
}
