//! The writers: organisations made and removed, and calls inserted and updated on a schedule that
//! does not wait for anyone, each change in a transaction of its own. Every change is entered in
//! the ledger before it is made.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::check::{ChangeId, Kind, Outcome};
use crate::client::Shared;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// After the end of the schedule, how long late changes are still made. What is later is dropped and
/// shows as changes that were due but not made.
const LATE_MAX: Duration = Duration::from_secs(1);
/// Updates in the life of a call: ringing, in-progress, completed.
const UPDATES_PER_CALL: u32 = 3;
/// Of all changes, the share that inserts, which keeps the number of open calls level.
const INSERT_SHARE: f64 = 1.0 / (1.0 + UPDATES_PER_CALL as f64);

const INSERT: &str = "
    insert into public.calls (id, org_id, direction, from_number, to_number, twilio_call_sid, metadata)
    values ($1, $2, 'inbound', '+15005550006', '+15005550010', 'CA' || replace($1::text, '-', ''),
            jsonb_build_object('lt_run', $3::text, 'lt_change', $4::bigint, 'lt_seq', 1))
    returning (metadata->>'lt_seq')::int, pg_current_xact_id()::text";
/// The sequence number is counted by the database, under the row's lock: two writers may meet on one
/// call, and the order in which they commit is the order in which events must come.
const UPDATE: &str = "
    update public.calls
    set status = case status when 'queued' then 'ringing' when 'ringing' then 'in-progress' else 'completed' end,
        updated_at = clock_timestamp(),
        metadata = metadata || jsonb_build_object('lt_run', $3::text, 'lt_change', $4::bigint,
                                                  'lt_seq', (metadata->>'lt_seq')::int + 1)
    where id = $1 and org_id = $2
    returning (metadata->>'lt_seq')::int, pg_current_xact_id()::text";

/// Puts what to do before an error of sqlx, whose text already holds that of its source.
fn explain(what: &str) -> impl FnOnce(sqlx::Error) -> anyhow::Error {
    move |error| anyhow!("{what}: {error}")
}

/// Connects within a time limit; the error says what to check, and never holds the password.
pub(crate) async fn connect(options: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    timeout(CONNECT_TIMEOUT, options.connect())
        .await
        .with_context(|| {
            format!("PostgreSQL did not answer within {CONNECT_TIMEOUT:?}: check --database-url")
        })?
        .map_err(explain("cannot connect to PostgreSQL: check --database-url"))
}

/// Makes the organisations of a run, and gives their ids.
pub(crate) async fn create_orgs(
    connection: &mut PgConnection,
    run: &str,
    count: usize,
) -> anyhow::Result<Vec<Uuid>> {
    sqlx::query_scalar(
        "insert into public.organizations (name)
         select format('loadtest %s %s', $1, k) from generate_series(1, $2::bigint) k returning id",
    )
    .bind(run)
    .bind(i64::try_from(count)?)
    .fetch_all(connection)
    .await
    .map_err(explain("cannot make organisations: is it the database of the gateway, has `warden migrate` run, and may this role write public.organizations?"))
}

/// Tries one insert and takes it back, so that a missing right is found before anyone connects.
pub(crate) async fn try_insert(connection: &mut PgConnection, org: Uuid) -> anyhow::Result<()> {
    const HELP: &str = "cannot insert calls: may this role write public.calls?";
    let mut transaction = connection.begin().await.map_err(explain(HELP))?;
    let query = sqlx::query(INSERT).bind(Uuid::new_v4()).bind(org).bind("").bind(0_i64);
    query.execute(&mut *transaction).await.map_err(explain(HELP))?;
    transaction.rollback().await.map_err(explain(HELP))
}

/// Removes the organisations, and by cascade their calls, one at a time to keep transactions short.
pub(crate) async fn remove_orgs(options: &PgConnectOptions, orgs: &[Uuid]) -> anyhow::Result<()> {
    let mut connection = connect(options).await?;
    for org in orgs {
        sqlx::query("delete from public.organizations where id = $1")
            .bind(org)
            .execute(&mut connection)
            .await
            .map_err(explain("delete"))?;
    }
    connection.close().await.map_err(explain("cannot close the connection"))
}

/// A call that can still be updated.
struct OpenCall {
    id: Uuid,
    updates_left: u32,
}

/// The schedule and what the writers share.
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    options: PgConnectOptions,
    rate: f64,
    duration: Duration,
    start: Instant,
    /// Number of the next change on the schedule; a writer that is free takes it.
    next: AtomicU64,
    open_calls: Vec<Mutex<Vec<OpenCall>>>,
    /// Changes whose connection broke during COMMIT, with their transaction.
    unknown: Mutex<Vec<(ChangeId, String)>>,
}

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>, options: PgConnectOptions, rate: f64, duration: Duration) -> Self {
        let open_calls = (0..shared.ledger.orgs()).map(|_| Mutex::default()).collect();
        let (start, next, unknown) = (Instant::now(), AtomicU64::new(0), Mutex::default());
        Self { shared, options, rate, duration, start, next, open_calls, unknown }
    }

    /// One writer: takes changes off the schedule until its end. The sleeps keep time, no more.
    pub(crate) async fn write(&self, mut connection: PgConnection, stop: &CancellationToken) {
        let end = self.start + self.duration;
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            // At rate 0 nothing is ever due, and the division gives infinity or NaN.
            let offset = Duration::try_from_secs_f64(number as f64 / self.rate).unwrap_or(Duration::MAX);
            let due = if offset < self.duration { self.start + offset } else { end };
            tokio::select! {
                () = sleep_until(due.into()) => {}
                () = stop.cancelled() => return,
            }
            if offset >= self.duration || Instant::now() > end + LATE_MAX {
                return;
            }
            if let Err(error) = self.change(&mut connection, number, due).await {
                self.shared.ledger.sample(|| format!("a change failed: {error:#}"));
                let Some(fresh) = self.reconnect(end + LATE_MAX, stop).await else {
                    return;
                };
                connection = fresh;
            }
        }
    }

    async fn reconnect(&self, deadline: Instant, stop: &CancellationToken) -> Option<PgConnection> {
        while Instant::now() < deadline && !stop.is_cancelled() {
            match connect(&self.options).await {
                Ok(connection) => return Some(connection),
                Err(_) => sleep(RECONNECT_PAUSE).await,
            }
        }
        None
    }

    async fn change(&self, connection: &mut PgConnection, number: u64, due: Instant) -> anyhow::Result<()> {
        let ledger = &self.shared.ledger;
        let org = usize::try_from(number)? % ledger.orgs();
        let known = self.take_open_call(org);
        let (kind, mut call) = match known {
            Some(call) => (Kind::Updated, call),
            None => (Kind::Created, OpenCall { id: Uuid::new_v4(), updates_left: UPDATES_PER_CALL }),
        };
        let id = ledger.plan(org, call.id, kind);
        let written = self.write_row(connection, id, kind, call.id).await;
        let (seq, transaction) = written.inspect_err(|_| ledger.settle(id, Outcome::RolledBack))?;
        let sent = Instant::now();
        ledger.commit_sent(id, seq, sent);
        if let Err(error) = sqlx::raw_sql("commit").execute(connection).await {
            ledger.settle(id, Outcome::Unknown);
            self.unknown.lock().unwrap_or_else(PoisonError::into_inner).push((id, transaction));
            return Err(explain("commit")(error));
        }
        ledger.settle(id, Outcome::Committed);
        self.shared.timings.commit.record(sent.elapsed());
        self.shared.timings.lag.record(sent.saturating_duration_since(due));
        if kind == Kind::Created {
            call.updates_left = UPDATES_PER_CALL;
            self.open_calls[org].lock().unwrap_or_else(PoisonError::into_inner).push(call);
        }
        Ok(())
    }

    async fn write_row(
        &self,
        connection: &mut PgConnection,
        id: ChangeId,
        kind: Kind,
        call: Uuid,
    ) -> anyhow::Result<(u32, String)> {
        sqlx::raw_sql("begin").execute(&mut *connection).await.map_err(explain("begin"))?;
        let statement = if kind == Kind::Created { INSERT } else { UPDATE };
        let (seq, transaction): (i32, String) = sqlx::query_as(statement)
            .bind(call)
            .bind(self.shared.ledger.org_id(id.org))
            .bind(&self.shared.run)
            .bind(i64::try_from(id.n)?)
            .fetch_one(connection)
            .await
            .map_err(explain(if kind == Kind::Created { "insert" } else { "update" }))?;
        Ok((u32::try_from(seq)?, transaction))
    }

    /// Picks the call to update, or none where a new one is to be made. A call stays in the pool
    /// while it has updates left, so that writers sometimes meet on one row.
    fn take_open_call(&self, org: usize) -> Option<OpenCall> {
        if fastrand::f64() < INSERT_SHARE {
            return None;
        }
        let mut pool = self.open_calls[org].lock().unwrap_or_else(PoisonError::into_inner);
        let n = fastrand::usize(0..pool.len().max(1));
        let call = pool.get_mut(n)?;
        call.updates_left -= 1;
        if call.updates_left == 0 {
            return Some(pool.swap_remove(n));
        }
        Some(OpenCall { id: call.id, updates_left: call.updates_left })
    }

    /// How long publishing has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Asks the database how the transactions ended that broke during COMMIT. Returns how many are
    /// still unknown at the deadline.
    pub(crate) async fn resolve_unknown(&self, deadline: Instant, hurry: &CancellationToken) -> usize {
        let mut unknown = std::mem::take(&mut *self.unknown.lock().unwrap_or_else(PoisonError::into_inner));
        while !unknown.is_empty() && Instant::now() < deadline && !hurry.is_cancelled() {
            if let Ok(mut connection) = connect(&self.options).await {
                let mut open = Vec::new();
                for (id, transaction) in unknown {
                    match outcome(&mut connection, &transaction).await {
                        Some(outcome) => self.shared.ledger.settle(id, outcome),
                        None => open.push((id, transaction)),
                    }
                }
                unknown = open;
            }
            if !unknown.is_empty() {
                sleep(RECONNECT_PAUSE).await;
            }
        }
        unknown.len()
    }
}

async fn outcome(connection: &mut PgConnection, transaction: &str) -> Option<Outcome> {
    let query = sqlx::query_scalar("select pg_xact_status($1::text::xid8)").bind(transaction);
    let status: Option<String> = query.fetch_one(connection).await.ok()?;
    match status.as_deref() {
        Some("committed") => Some(Outcome::Committed),
        Some("aborted") => Some(Outcome::RolledBack),
        _ => None,
    }
}
