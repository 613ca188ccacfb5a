//! Plans of the product's queries on large tables: each uses an index that begins with the organisation, and
//! evaluates the policy once per statement. The queries themselves name no organisation.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use crate::harness::TestDb;

const ROWS: u32 = 50_000;
const ORGS: u32 = 50;
const ROWS_OF_ORG: i64 = (ROWS / ORGS) as i64;

/// SQL expression for the organisation of row n. The first organisation has the rows with n % 50 = 1.
const ORG: &str = "('00000000-0000-4000-8000-' || lpad((n % 50)::text, 12, '0'))::uuid";
/// Rest of the SQL expression for an id of row n, after the table's prefix.
const ID: &str = "-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid";

/// SQL that fills the tables. Triggers and keys are off, because only plans are tested.
fn fill() -> String {
    let id = |prefix: &str| format!("('{prefix}{ID}");
    let at = "now() - n * interval '1 minute'";
    let call = id("ca110000");
    let recording = id("ec000000");
    format!(
        "set session_replication_role = replica;
         insert into organizations (id, name) select {ORG}, 'org ' || n from generate_series(0, {ORGS} - 1) n;
         insert into calls (id, org_id, user_id, twilio_call_sid, vapi_call_id, status, created_at)
           select {call}, {ORG}, gen_random_uuid(), 'CA' || n, 'v' || n, (array['completed','completed','completed','busy','in-progress'])[1 + n / 50 % 5], {at}
           from generate_series(1, {ROWS}) n;
         insert into call_logs (org_id, call_id, vapi_call_id, summary, created_at)
           select {ORG}, {call}, 'v' || n, 's', {at} from generate_series(1, {ROWS}) n;
         insert into recordings (id, org_id, call_id, twilio_recording_sid, created_at)
           select {recording}, {ORG}, {call}, 'RE' || n, {at} from generate_series(1, {ROWS}) n;
         insert into recording_upload_queue (org_id, recording_id, source_url, state, storage_key, next_attempt_at)
           select {ORG}, {recording}, 'https://example.org', case when n / 50 % 20 = 0 then 'pending' else 'done' end, 'k', {at} from generate_series(1, {ROWS}) n;
         insert into leads (id, org_id, phone_number, status, created_at)
           select {}, {ORG}, '+1415' || 1000000 + n, (array['new','new','contacted','qualified','lost'])[1 + n / 50 % 5], {at} from generate_series(1, {ROWS}) n;
         insert into campaign_leads (org_id, campaign_id, status)
           select {ORG}, ('ca300000-0000-4000-8000-' || lpad((n / 50 % 10)::text, 12, '0'))::uuid, (array['pending','done','done','done'])[1 + n / 500 % 4] from generate_series(1, {ROWS}) n;
         insert into usage_events (org_id, event_type, occurred_at)
           select {ORG}, (array['call','sms','token'])[1 + n / 50 % 3], {at} from generate_series(1, {ROWS}) n;
         set session_replication_role = origin;
         analyze calls, call_logs, recordings, recording_upload_queue, leads, campaign_leads, usage_events, organizations",
        id("1ead0000"),
    )
}

/// Queries, each with the index that its plan must use.
const QUERIES: [(&str, &str); 17] = [
    ("select * from calls order by created_at desc limit 50", "idx_calls_org_created"),
    (
        "select * from calls where status = 'in-progress' order by created_at desc limit 50",
        "idx_calls_org_status_created",
    ),
    ("select * from calls where twilio_call_sid = 'CA51'", "idx_calls_org_twilio_call_sid"),
    ("select * from calls where vapi_call_id = 'v51'", "idx_calls_org_vapi_call_id"),
    ("select * from call_logs order by created_at desc limit 50", "idx_call_logs_org_created"),
    (
        "select * from call_logs where call_id = 'ca110000-0000-4000-8000-000000000051'",
        "idx_call_logs_org_call_id",
    ),
    ("select * from call_logs where vapi_call_id = 'v51'", "idx_call_logs_org_vapi_call_id"),
    ("select * from recordings order by created_at desc limit 50", "idx_recordings_org_created"),
    (
        "select * from recordings where call_id = 'ca110000-0000-4000-8000-000000000051'",
        "idx_recordings_org_call_id",
    ),
    ("select * from recordings where twilio_recording_sid = 'RE51'", "idx_recordings_org_twilio_sid"),
    (
        "select * from recording_upload_queue where state = 'pending' and next_attempt_at <= now()
      order by next_attempt_at limit 10 for update skip locked",
        "idx_recording_upload_queue_org_due",
    ),
    (
        "select * from recording_upload_queue where recording_id = 'ec000000-0000-4000-8000-000000000051'",
        "idx_recording_upload_queue_org_recording_id",
    ),
    (
        "select * from leads where status = 'new' order by created_at desc limit 50",
        "idx_leads_org_status_created",
    ),
    ("select * from leads where phone_number = '+14151000051'", "idx_leads_org_phone_number"),
    (
        "select * from campaign_leads where campaign_id = 'ca300000-0000-4000-8000-000000000001' and status = 'pending'",
        "idx_campaign_leads_org_campaign_id_status",
    ),
    (
        "select sum(quantity) from usage_events where event_type = 'call' and occurred_at >= now() - interval '1 day'",
        "idx_usage_events_org_type_occurred",
    ),
    (
        "select event_type, sum(quantity) from usage_events where occurred_at >= now() - interval '1 day' group by 1",
        "idx_usage_events_org_occurred",
    ),
];

async fn explain(connection: &mut PgConnection, query: &str) -> Vec<String> {
    let explain = format!("explain (analyze, verbose, costs off, timing off, summary off) {query}");
    sqlx::query_scalar(AssertSqlSafe(explain))
        .fetch_all(connection)
        .await
        .unwrap_or_else(|e| panic!("{query}: {e}"))
}

/// A filled database, and a connection in a transaction with the role and claims of a request.
async fn request() -> PgConnection {
    let db = TestDb::create().await;
    db.run(fill()).await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let org: Uuid = "00000000-0000-4000-8000-000000000001".parse().expect("an id");
    let request = format!(
        r#"begin; set local role authenticated; set local request.jwt.claims = '{{"app_metadata": {{"org_id": "{org}"}}}}'"#
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(request))).await.expect("begins");
    connection
}

#[tokio::test]
async fn product_queries_use_an_index_that_begins_with_the_organisation() {
    let mut connection = request().await;
    for (query, index) in QUERIES {
        // Requests may not lock rows of the queue.
        let role = if query.contains("for update") { "warden_worker" } else { "authenticated" };
        connection.execute(AssertSqlSafe(format!("set local role {role}"))).await.expect("becomes the role");
        let plan = explain(&mut connection, query).await;
        let text = plan.join("\n");
        let uses = plan
            .iter()
            .any(|line| line.contains(&format!(" {index} ")) || line.ends_with(&format!(" {index}")));
        let uses = uses || plan.iter().any(|line| line.contains(&format!(" on {index} (")));
        assert!(uses, "{query}: not by {index}:\n{text}");
        assert!(!text.contains("Seq Scan on public."), "{query}:\n{text}");
        // Rows come in order from the index: a sort would read rows that the limit then discards.
        assert!(!(query.contains("limit") && text.contains("Sort Key")), "{query}:\n{text}");
        // The organisation is an index condition, not a filter on the rows found.
        let bounded =
            plan.iter().any(|line| line.trim().starts_with("Index Cond: (") && line.contains("org_id = "));
        assert!(bounded, "{query}:\n{text}");
        assert_policy_evaluated_once(&plan);
    }
}

/// Asserts that `auth_org_id()` appears only in InitPlans, which run once per statement.
fn assert_policy_evaluated_once(plan: &[String]) {
    let text = plan.join("\n");
    let mut evaluated = 0;
    for (n, line) in plan.iter().enumerate().filter(|(_, line)| line.contains("auth_org_id()")) {
        evaluated += 1;
        let node = &plan[n - 1];
        assert!(line.trim_start().starts_with("Output: ") && node.contains("loops=1)"), "{line}:\n{text}");
        assert!(plan[n - 2].contains("InitPlan"), "{text}");
    }
    assert!(evaluated >= 1, "{text}");
}

/// The leader evaluates the policy and passes the result to its workers.
#[tokio::test]
async fn parallel_plans_return_one_organisation() {
    let mut connection = request().await;
    let steer = "set local parallel_setup_cost = 0; set local parallel_tuple_cost = 0;
                 set local min_parallel_table_scan_size = 0; set local max_parallel_workers_per_gather = 2;
                 set local enable_indexscan = off; set local enable_bitmapscan = off; set local enable_indexonlyscan = off";
    connection.execute(sqlx::raw_sql(steer)).await.expect("steers");
    for query in [
        "select count(*), max(summary) from call_logs",
        "select count(*), max(c.status) from calls c join call_logs l on l.call_id = c.id",
    ] {
        let plan = explain(&mut connection, query).await;
        let text = plan.join("\n");
        let launched =
            plan.iter().find_map(|line| line.trim().strip_prefix("Workers Launched: ")).unwrap_or("0");
        assert!(launched.parse::<u32>().expect("a number") >= 1, "{text}");
        assert!(text.contains("Parallel Seq Scan on public.call_logs"), "{text}");
        let (seen, _): (i64, Option<String>) =
            sqlx::query_as(AssertSqlSafe(query)).fetch_one(&mut connection).await.expect("counts");
        assert_eq!(seen, ROWS_OF_ORG, "{query}");
    }
}
