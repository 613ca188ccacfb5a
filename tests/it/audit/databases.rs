//! Audits of databases in other states: without Warden, partly migrated, of another version, locked, or read
//! by a role without privileges.

use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use warden::tenancy::audit::{self, AuditOptions, AuditProgress, Finding, RULES, RemedyKind, Severity};
use warden_devkit::cluster::SUPERUSER;

use super::{Key, execute, findings, inspect, key};
use crate::harness::{TestDb, shared_cluster_url};

/// Rules that are broken here, or in `access::conditions`, instead of in the list of breaks.
pub const RULES_BROKEN: [&str; 4] = ["not-checked", "policy-condition", "schema", "token-hook-caller"];

/// An empty database, and its URL.
async fn empty_database() -> (PgConnection, String) {
    let db = TestDb::create().await;
    let name = format!("{}_audited", db.name);
    db.run(format!("create database {name}")).await;
    let url = shared_cluster_url(&name, SUPERUSER);
    (PgConnection::connect(&url).await.expect("connects"), url)
}

fn keys(findings: &[Finding]) -> Vec<Key> {
    let mut keys: Vec<Key> = findings.iter().map(key).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn wanted(keys: &[(&str, &str)]) -> Vec<Key> {
    keys.iter().map(|(rule, place)| ((*rule).to_owned(), (*place).to_owned())).collect()
}

#[tokio::test]
async fn without_warden_the_remedy_is_to_migrate() {
    let (mut connection, _) = empty_database().await;
    execute(&mut connection, "create table calls (id uuid); begin").await;
    let report = inspect(&mut connection).await;
    assert_eq!(keys(&report.findings), wanted(&[("schema", "warden")]));
    assert_eq!(
        (report.findings[0].remedy.kind, report.findings[0].remedy.text.as_str()),
        (RemedyKind::Shell, "warden migrate")
    );
    assert_eq!((report.rules, report.is_clean()), (1, false));
}

#[tokio::test]
async fn migrations_of_another_version_are_findings() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    execute(
        &mut connection,
        "begin; delete from warden._sqlx_migrations where version = 4;
         update warden._sqlx_migrations set success = false where version = 5;
         update warden._sqlx_migrations set checksum = '' where version = 3;
         insert into warden._sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'of a later version', true, '', 0);
         create or replace function warden.topics_changed() returns trigger language plpgsql as 'begin return null; end'",
    )
    .await;
    let report = inspect(&mut connection).await;
    assert!(report.rules < RULES.len(), "functions of another version are not judged");
    let found = findings(report);
    let schema = ["0003", "0004", "0005", "9999"]
        .map(|version| ("schema".to_owned(), format!("core migration {version}")));
    assert_eq!(keys(&found), schema);
    assert!(found[0].cause.contains("another version"), "{found:?}");
    assert_eq!(found[1].remedy.text, "warden migrate");
}

/// The database was in use before Warden was installed.
#[tokio::test]
async fn a_partly_migrated_database_gets_the_next_step_as_remedy() {
    let (mut connection, url) = empty_database().await;
    execute(
        &mut connection,
        "create table leads (id uuid primary key default gen_random_uuid(), user_id uuid);
         insert into leads default values;
         create view contacts as select * from leads;
         create table recordings (id uuid primary key, call_id text);
         create table calls (id uuid primary key);
         create table campaigns (id uuid primary key);
         create table campaign_leads (id uuid primary key, campaign_id uuid);
         create table invoices (id uuid primary key, user_id uuid)",
    )
    .await;
    warden::postgres::migrate_platform(&url).await.expect("migrates");
    execute(&mut connection, "begin").await;
    let found = findings(inspect(&mut connection).await);
    let organizations =
        [("not-enforced", "public.organization_members"), ("not-enforced", "public.organizations")];
    let mut all = wanted(&organizations);
    all.extend(wanted(&[
        ("org-column", "public.calls"),
        ("org-column", "public.campaign_leads"),
        ("org-column", "public.campaigns"),
        ("org-column", "public.leads"),
        ("org-column", "public.recordings"),
        ("parent-link", "public.recordings"),
        ("table-kind", "public.contacts"),
        ("unregistered-table", "public.invoices"),
    ]));
    assert_eq!(keys(&found), all);
    assert!(
        found.iter().filter(|f| f.rule == "org-column").all(|f| f.remedy.text == "warden migrate"),
        "{found:?}"
    );

    // The platform's own index on (org_id, campaign_id, status) needs a column that is not here.
    let indexes: Vec<String> = sqlx::query_scalar(
        "select definition from warden.tenant_objects where table_name = 'campaign_leads' and kind = 'index' and applies",
    )
    .fetch_all(&mut connection)
    .await
    .expect("reads");
    assert_eq!(indexes, ["org_id, campaign_id"]);

    // Only the column, as a person might add it by hand.
    execute(&mut connection, "alter table leads add org_id uuid").await;
    let found = findings(inspect(&mut connection).await);
    let leads: Vec<&str> =
        found.iter().filter(|f| f.table.as_deref() == Some("public.leads")).map(|f| f.rule).collect();
    let rules = [
        "null-rows",
        "fill-trigger",
        "not-enforced",
        "organization-key",
        "org-index",
        "org-plan",
        "immutability",
    ];
    assert_eq!(leads, rules, "{found:#?}");
    let plan = found.iter().find(|f| f.rule == "org-plan").expect("just now");
    assert_eq!(plan.remedy.text, "warden migrate --enforce", "nothing is enforced yet");
}

/// The audit itself uses these functions, and a changed one could hide every finding.
#[tokio::test]
async fn a_changed_audit_function_is_a_finding() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    execute(
        &mut connection,
        "begin;
         create or replace function warden.is_policy(policy oid, command \"char\", is_permissive boolean, roles oid[], using_condition text,
           checking_condition text) returns boolean language sql stable set search_path = pg_catalog, pg_temp as 'select true';
         drop policy warden_org on calls;
         create policy warden_org on calls as restrictive using (true)",
    )
    .await;
    let found = findings(inspect(&mut connection).await);
    let is_policy = ("function", "warden.is_policy(oid,\"char\",boolean,oid[],text,text)");
    assert_eq!(keys(&found), wanted(&[is_policy]));
    execute(&mut connection, &found[0].remedy.text).await;
    let found = findings(inspect(&mut connection).await);
    assert_eq!(keys(&found), wanted(&[("policy", "public.calls")]));
    execute(&mut connection, &found[0].remedy.text).await;
    assert_eq!(findings(inspect(&mut connection).await), Vec::new());
}

/// A default audit trusts validated constraints. Only a deep audit reads the rows, and so finds rows that
/// were written while constraints were disabled.
#[tokio::test]
async fn a_deep_audit_finds_rows_written_with_constraints_disabled() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    execute(
        &mut connection,
        "begin; set local session_replication_role = replica;
         insert into contacts (id, org_id) values ('c0000000-0000-0000-0000-000000000002', 'a0000000-0000-0000-0000-000000000001');
         insert into consent_records (org_id, contact_id, is_given) values
           ('b0000000-0000-0000-0000-00000000dead', 'c0000000-0000-0000-0000-000000000002', true)",
    )
    .await;
    assert_eq!(findings(inspect(&mut connection).await), Vec::new());
    let options = AuditOptions { is_deep: true, ..AuditOptions::default() };
    let report = audit::inspect(&mut connection, options, &mut AuditProgress::silent()).await.expect("runs");
    let rows =
        [("parent-rows", "public.consent_records"), ("unknown-organizations", "public.consent_records")];
    assert_eq!(keys(&findings(report)), wanted(&rows));
}

/// The role exists only on Supabase. Another test may create it concurrently.
#[tokio::test]
async fn supabase_auth_must_be_able_to_call_the_token_hook() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    execute(
        &mut connection,
        "begin; do $$ begin create role supabase_auth_admin nologin; exception when duplicate_object or unique_violation then null; end $$",
    )
    .await;
    let callers = |report: warden::tenancy::audit::Report| -> Vec<Finding> {
        report.findings.into_iter().filter(|f| f.rule == "token-hook-caller").collect()
    };
    let found = callers(inspect(&mut connection).await);
    assert_eq!(found.len(), 5, "the hook, its copy, and the functions that they call: {found:?}");
    for finding in &found {
        execute(&mut connection, &finding.remedy.text).await;
    }
    assert_eq!(callers(inspect(&mut connection).await), Vec::new());
}

/// A rule that the role cannot check is reported as not judged, so that no rule passes unchecked.
#[tokio::test]
async fn without_privileges_no_rule_passes_unchecked() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    execute(&mut connection, "begin; create role audited_stranger; set local role audited_stranger").await;
    let report = inspect(&mut connection).await;
    let unjudged: Vec<&str> =
        report.findings.iter().filter(|f| f.rule == "not-checked").map(|f| f.object.as_str()).collect();
    for rule in [
        "policy",
        "row-security",
        "immutability",
        "null-rows",
        "org-plan",
        "log-rights",
        "function",
        "watch-triggers",
    ] {
        assert!(unjudged.contains(&rule) || rule == "log-rights", "{rule}: {unjudged:?}");
    }
    assert_eq!(report.rules + unjudged.len(), RULES.len());
    assert!(
        report.findings.iter().all(|f| f.rule != "not-checked" || f.remedy.text.contains("warden_owner")),
        "{report:#?}"
    );
    assert!(!report.is_clean());
    execute(&mut connection, "rollback").await;

    // Rows that row-level security hides from their owner do not count as absent.
    execute(
        &mut connection,
        "begin; create role audited_keeper; grant warden_owner to audited_keeper; grant usage on schema public to audited_keeper;
         alter table dnc_list owner to audited_keeper; alter table dnc_list alter org_id drop not null; set local role audited_keeper",
    )
    .await;
    let report = inspect(&mut connection).await;
    let hidden = report
        .findings
        .iter()
        .find(|f| f.rule == "not-checked" && f.table.as_deref() == Some("public.dnc_list"));
    assert!(
        hidden.is_some_and(|f| f.object == "null-rows" && f.cause.contains("row-level security")),
        "{report:#?}"
    );
}

/// A lock on one table delays one rule; the audit judges the others.
#[tokio::test]
async fn a_rule_that_times_out_is_a_finding() {
    let db = TestDb::create().await;
    let mut holder = PgConnection::connect(db.url()).await.expect("connects");
    execute(&mut holder, "begin; lock table dnc_list in access exclusive mode").await;
    let options = AuditOptions { timeout: Duration::from_secs(2), is_deep: false };
    let database = warden::postgres::reading_options(db.url()).await.expect("a URL");
    let report = audit::run(&database, options, &mut AuditProgress::silent()).await.expect("the audit runs");
    let plan = report
        .findings
        .iter()
        .find(|f| f.table.as_deref() == Some("public.dnc_list"))
        .expect("the rule timed out");
    assert_eq!(
        (plan.rule, plan.object.as_str(), plan.severity),
        ("not-checked", "org-plan", Severity::Finding)
    );
    assert!(plan.cause.ends_with("it took longer than 2 s"), "{plan:?}");
    assert_eq!(plan.remedy.text, "warden audit --timeout 20");
}
