//! The application of the legacy database: several connections that write at full speed and count their rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Executor as _, Row as _};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Totals of all writers.
#[derive(Debug, Default, Clone)]
pub struct Totals {
    /// Inserted minus deleted rows, by table.
    pub rows: BTreeMap<&'static str, i64>,
    /// Completed statements.
    pub statements: u64,
    /// Failed statements, each with its SQL and error.
    pub errors: Vec<String>,
    /// Longest statement: its duration, its SQL, and its start since the writers' start.
    pub longest: (Duration, &'static str, Duration),
}

impl Totals {
    fn merge(&mut self, other: Self) {
        for (table, rows) in other.rows {
            *self.rows.entry(table).or_default() += rows;
        }
        self.statements += other.statements;
        self.errors.extend(other.errors);
        self.longest = self.longest.max(other.longest);
    }
}

/// The application: several connections that write concurrently.
pub struct Writers {
    is_stopped: Arc<AtomicBool>,
    statements: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Totals>>,
}

impl Writers {
    /// Starts `writers` connections; each runs one statement after the other.
    pub async fn start(url: &str, writers: u64, seed: u64) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let statements = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let mut tasks = Vec::new();
        for n in 0..writers {
            let mut connection = PgConnection::connect(url).await.expect("the application connects");
            let is_partitioned =
                sqlx::query_scalar("select relkind = 'p' from pg_class where oid = 'call_logs'::regclass")
                    .fetch_one(&mut connection)
                    .await
                    .expect("call_logs exists");
            let mut writer = Writer {
                connection,
                upserts: if is_partitioned { UPSERTS_PARTITIONED } else { UPSERTS },
                random: fastrand::Rng::with_seed(seed + n),
                number: n,
                made: 0,
                calls: Vec::new(),
                totals: Totals::default(),
                begun,
            };
            let (is_stopped, statements) = (is_stopped.clone(), statements.clone());
            tasks.push(tokio::spawn(async move {
                while !is_stopped.load(Ordering::Relaxed) {
                    if let Err(error) = writer.act().await {
                        let text = error.to_string();
                        writer.totals.errors.push(text);
                        let _ = writer.connection.execute("rollback").await;
                    }
                    statements.store(
                        statements.load(Ordering::Relaxed).max(writer.totals.statements),
                        Ordering::Relaxed,
                    );
                }
                writer.totals
            }));
        }
        Self { is_stopped, statements, tasks }
    }

    /// Statements of the busiest writer.
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// Stops the writers and adds up their totals.
    pub async fn stop(self) -> Totals {
        self.is_stopped.store(true, Ordering::Relaxed);
        let mut totals = Totals::default();
        for task in self.tasks {
            totals.merge(task.await.expect("a writer ends well"));
        }
        totals
    }
}

/// A call that this writer inserted, with the number of its dependent rows.
struct Call {
    id: Uuid,
    logs: i64,
    recordings: i64,
}

/// Upserts of a call log: one that inserts, and one that meets an existing row.
const UPSERTS: [&str; 2] = [
    "insert into call_logs (user_id, vapi_call_id, summary) values ($1, 'again-' || gen_random_uuid(), 'x')
     on conflict (vapi_call_id) do update set summary = excluded.summary returning (xmax = 0)",
    "insert into call_logs (user_id, vapi_call_id, summary) values ($1, 'vapi-' || (1 + floor(random() * 5)::int), 'x')
     on conflict (vapi_call_id) do update set summary = excluded.summary returning (xmax = 0)",
];

/// Upserts of a call log that is partitioned by month. PostgreSQL does not return xmax there.
const UPSERTS_PARTITIONED: [&str; 2] = [
    "with i as (insert into call_logs (user_id, vapi_call_id, summary) values ($1, 'again-' || gen_random_uuid(), 'x')
       on conflict (vapi_call_id, created_at) do nothing returning true)
     select exists (select from i)",
    "with i as (insert into call_logs (user_id, vapi_call_id, summary, created_at)
       values ($1, 'vapi-' || (1 + floor(random() * 5)::int), 'x', '2024-03-05')
       on conflict (vapi_call_id, created_at) do nothing returning true)
     select exists (select from i)",
];

struct Writer {
    connection: PgConnection,
    upserts: [&'static str; 2],
    random: fastrand::Rng,
    number: u64,
    made: u64,
    calls: Vec<Call>,
    totals: Totals,
    begun: Instant,
}

/// Rows of each fixture table that exist at every size.
const ROWS_AT_LEAST: i64 = 10;

impl Writer {
    /// Runs a statement and measures its duration. `id` is bound to $1 if the statement has a parameter.
    async fn run(&mut self, what: &'static str, id: Option<Uuid>) -> Result<Vec<PgRow>, sqlx::Error> {
        let begun = Instant::now();
        let mut query = sqlx::query(what);
        if let Some(id) = id {
            query = query.bind(id);
        }
        let result = query.fetch_all(&mut self.connection).await;
        let took = begun.elapsed();
        self.totals.statements += 1;
        self.totals.longest = self.totals.longest.max((took, what, begun.duration_since(self.begun)));
        result.map_err(|e| sqlx::Error::Protocol(format!("{what}: {e}")))
    }

    fn count(&mut self, table: &'static str, rows: i64) {
        *self.totals.rows.entry(table).or_default() += rows;
    }

    /// Id of a random row of the fixture.
    async fn fixture_id(&mut self, kind: &str) -> Result<Uuid, sqlx::Error> {
        let n = self.random.i64(1..=ROWS_AT_LEAST);
        sqlx::query_scalar("select legacy_id($1, $2)")
            .bind(kind)
            .bind(n)
            .fetch_one(&mut self.connection)
            .await
    }

    async fn act(&mut self) -> Result<(), sqlx::Error> {
        match self.random.u32(0..100) {
            0..20 => self.make_call().await,
            20..35 => self.log_call().await,
            35..42 => self.record_call().await,
            42..52 => self.drop_call().await,
            52..72 => self.update().await,
            72..82 => self.upsert().await,
            82..88 => self.pay().await,
            88..92 => self.learn().await,
            92..96 => self.change_phone().await,
            _ => self.campaign().await,
        }
    }

    async fn make_call(&mut self) -> Result<(), sqlx::Error> {
        let user = self.fixture_id("user").await?;
        let rows = self
            .run(
                "insert into calls (user_id, status, started_at) values ($1, 'ringing', now()) returning id",
                Some(user),
            )
            .await?;
        self.calls.push(Call { id: rows[0].get(0), logs: 0, recordings: 0 });
        self.count("calls", 1);
        self.run("insert into usage_events (user_id, label) values ($1, 'call')", Some(user)).await?;
        self.count("usage_events", 1);
        Ok(())
    }

    async fn log_call(&mut self) -> Result<(), sqlx::Error> {
        let Some(at) = self.any_call() else { return Ok(()) };
        let id = self.calls[at].id;
        self.run(
            "insert into call_logs (call_id, summary, duration_seconds) values ($1, 'new', 7)",
            Some(id),
        )
        .await?;
        self.calls[at].logs += 1;
        self.count("call_logs", 1);
        Ok(())
    }

    async fn record_call(&mut self) -> Result<(), sqlx::Error> {
        let Some(at) = self.any_call() else { return Ok(()) };
        let id = self.calls[at].id;
        self.run("begin", None).await?;
        let rows = self.run("insert into recordings (call_id) values ($1) returning id", Some(id)).await?;
        self.run("insert into recording_upload_queue (recording_id) values ($1)", Some(rows[0].get(0)))
            .await?;
        self.run("insert into voicemail_audit_log (call_id, note) values ($1, 'left')", Some(id)).await?;
        self.run("commit", None).await?;
        self.calls[at].recordings += 1;
        for table in ["recordings", "recording_upload_queue", "voicemail_audit_log"] {
            self.count(table, 1);
        }
        Ok(())
    }

    /// Deletes a call. Foreign keys cascade to logs, recordings and uploads, but not to voicemail notes.
    async fn drop_call(&mut self) -> Result<(), sqlx::Error> {
        if self.calls.len() < 20 {
            return Ok(());
        }
        let at = self.random.usize(..self.calls.len());
        let id = self.calls[at].id;
        self.run("delete from calls where id = $1", Some(id)).await?;
        let call = self.calls.swap_remove(at);
        self.count("calls", -1);
        self.count("call_logs", -call.logs);
        self.count("recordings", -call.recordings);
        self.count("recording_upload_queue", -call.recordings);
        Ok(())
    }

    async fn update(&mut self) -> Result<(), sqlx::Error> {
        let kind = ["log", "call", "lead", "contact", "clead"][self.random.usize(..5)];
        let id = self.fixture_id(kind).await?;
        let sql = match kind {
            "log" => "update call_logs set duration_seconds = duration_seconds + 1 where id = $1",
            "call" => "update calls set status = 'completed', metadata = '{\"seen\": true}' where id = $1",
            "lead" => "update leads set score = score + 1 where id = $1",
            "contact" => "update contacts set name = 'Someone else' where id = $1",
            _ => "update campaign_leads set state = 'called' where id = $1",
        };
        self.run(sql, Some(id)).await?;
        Ok(())
    }

    async fn upsert(&mut self) -> Result<(), sqlx::Error> {
        self.made += 1;
        // Every third statement inserts; the others meet an existing row.
        let sql = self.upserts[usize::from(!self.made.is_multiple_of(3))];
        let user = self.fixture_id("user").await?;
        let rows = self.run(sql, Some(user)).await?;
        self.count("call_logs", i64::from(rows[0].get::<bool, _>(0)));
        let rows = self
            .run(
                "insert into contacts (user_id, email, name) values ($1, floor(random() * 40) || '@example.net', 'New')
                 on conflict (user_id, email) do update set name = excluded.name returning (xmax = 0)",
                Some(user),
            )
            .await?;
        self.count("contacts", i64::from(rows[0].get::<bool, _>(0)));
        Ok(())
    }

    /// Deletes a payment before its events, which no foreign key prevents.
    async fn pay(&mut self) -> Result<(), sqlx::Error> {
        let user = self.fixture_id("user").await?;
        let rows =
            self.run("insert into payments (user_id, cents) values ($1, 5) returning id", Some(user)).await?;
        let id: Uuid = rows[0].get(0);
        self.run("insert into payment_events_log (payment_id, kind) values ($1, 'made')", Some(id)).await?;
        self.count("payments", 1);
        self.count("payment_events_log", 1);
        if self.random.bool() {
            self.run("delete from payments where id = $1", Some(id)).await?;
            self.run("delete from payment_events_log where payment_id = $1", Some(id)).await?;
            self.count("payments", -1);
            self.count("payment_events_log", -1);
        }
        Ok(())
    }

    async fn learn(&mut self) -> Result<(), sqlx::Error> {
        let user = self.fixture_id("user").await?;
        self.run("begin isolation level repeatable read", None).await?;
        let rows = self
            .run("insert into knowledge_base (user_id, title) values ($1, 'T') returning id", Some(user))
            .await?;
        let id: Uuid = rows[0].get(0);
        self.run(
            "insert into knowledge_base_changelog (knowledge_base_id, change) values ($1, 'made')",
            Some(id),
        )
        .await?;
        self.run("insert into kb_sync_log (knowledge_base_id) values ($1)", Some(id)).await?;
        let old = self.fixture_id("kb").await?;
        self.run(
            "insert into knowledge_base_documents (knowledge_base_id, title) values ($1, 'D')",
            Some(old),
        )
        .await?;
        self.run("commit", None).await?;
        for table in ["knowledge_base", "knowledge_base_changelog", "kb_sync_log", "knowledge_base_documents"]
        {
            self.count(table, 1);
        }
        Ok(())
    }

    async fn change_phone(&mut self) -> Result<(), sqlx::Error> {
        let id = self.fixture_id("phone").await?;
        self.run("begin", None).await?;
        self.run("set local app.user_id = 'me'", None).await?;
        self.run("update user_phone_numbers set number = '+1999' where id = $1", Some(id)).await?;
        self.run("commit", None).await?;
        Ok(())
    }

    async fn campaign(&mut self) -> Result<(), sqlx::Error> {
        let user = self.fixture_id("user").await?;
        let rows = self.run("insert into leads (user_id) values ($1) returning id", Some(user)).await?;
        let lead: Uuid = rows[0].get(0);
        self.count("leads", 1);
        self.run("insert into cold_call_logs (lead_id, outcome) values ($1, 'busy')", Some(lead)).await?;
        self.count("cold_call_logs", 1);
        self.run(
            "insert into campaign_leads (lead_id, campaign_id) values ($1, legacy_id('campaign', 3))",
            Some(lead),
        )
        .await?;
        if self.number.is_multiple_of(2) {
            self.run("delete from leads where id = $1", Some(lead)).await?;
            self.count("leads", -1);
        } else {
            self.count("campaign_leads", 1);
        }
        Ok(())
    }

    fn any_call(&mut self) -> Option<usize> {
        (!self.calls.is_empty()).then(|| self.random.usize(..self.calls.len()))
    }
}
