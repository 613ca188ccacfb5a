//! Changes of a watched table: calls that are inserted and go through their states, as an application
//! does it. What is watched tells the gateway; nothing here does.

use std::sync::{Arc, Mutex};

use bench_support::database::{Database, explain};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Made, Planned, Publish, lock};
use crate::check::Kind;

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

/// A call that can still be updated.
#[derive(Clone, Copy)]
struct OpenCall {
    id: Uuid,
    updates_left: u32,
}

/// The calls of each organisation that can still be updated, for all writers.
pub(crate) struct OpenCalls(Vec<Mutex<Vec<OpenCall>>>);

impl OpenCalls {
    pub(crate) fn new(orgs: usize) -> Self {
        Self((0..orgs).map(|_| Mutex::default()).collect())
    }

    /// Picks a call to update, or none where a new one is to be made. It stays in the pool while it has
    /// updates left, so that writers sometimes meet on one row; an exclusive one is gone from it, for
    /// transactions that update several calls could otherwise wait for each other in a circle.
    fn pick(&self, org: usize, exclusive: bool) -> Option<OpenCall> {
        if fastrand::f64() < INSERT_SHARE {
            return None;
        }
        let mut pool = lock(&self.0[org]);
        let n = fastrand::usize(0..pool.len().max(1));
        let call = pool.get_mut(n)?;
        call.updates_left -= 1;
        let picked = *call;
        if exclusive || picked.updates_left == 0 {
            pool.swap_remove(n);
        }
        Some(picked)
    }

    fn give(&self, org: usize, call: OpenCall) {
        if call.updates_left > 0 {
            lock(&self.0[org]).push(call);
        }
    }
}

/// A writer of calls.
pub(crate) struct Calls {
    database: Database,
    connection: PgConnection,
    open: Arc<OpenCalls>,
    /// What goes into the pool with the commit, by organisation.
    made: Vec<(usize, OpenCall)>,
    transaction: Option<String>,
}

impl Calls {
    pub(crate) async fn connect(database: &Database, open: &Arc<OpenCalls>) -> anyhow::Result<Self> {
        let connection = database.connect().await?;
        let (database, open) = (database.clone(), Arc::clone(open));
        Ok(Self { database, connection, open, made: Vec::new(), transaction: None })
    }

    /// Tries one insert and takes it back, so that a missing right is found before anyone connects.
    pub(crate) async fn rehearse(&mut self, org: Uuid) -> anyhow::Result<()> {
        const HELP: &str = "cannot insert calls: may this role write public.calls?";
        sqlx::raw_sql("begin").execute(&mut self.connection).await.map_err(explain(HELP))?;
        let query = sqlx::query(INSERT).bind(Uuid::new_v4()).bind(org).bind("").bind(0_i64);
        query.execute(&mut self.connection).await.map_err(explain(HELP))?;
        sqlx::raw_sql("rollback").execute(&mut self.connection).await.map_err(explain(HELP))?;
        Ok(())
    }

    async fn change(&mut self, run: &str, change: &Planned, exclusive: bool) -> anyhow::Result<Made> {
        let picked = self.open.pick(change.org, exclusive);
        let (kind, call) = match picked {
            Some(call) => (Kind::Updated, call),
            None => (Kind::Created, OpenCall { id: Uuid::new_v4(), updates_left: UPDATES_PER_CALL }),
        };
        let (statement, what) = if kind == Kind::Created { (INSERT, "insert") } else { (UPDATE, "update") };
        let (seq, transaction): (i32, String) = sqlx::query_as(statement)
            .bind(call.id)
            .bind(change.org_id)
            .bind(run)
            .bind(i64::try_from(change.n)?)
            .fetch_one(&mut self.connection)
            .await
            .map_err(explain(what))?;
        if exclusive || kind == Kind::Created {
            self.made.push((change.org, call));
        }
        self.transaction = Some(transaction);
        Ok(Made { entity: call.id, kind, seq: u32::try_from(seq)? })
    }
}

impl Publish for Calls {
    async fn make(&mut self, run: &str, changes: &[Planned]) -> anyhow::Result<Vec<Made>> {
        self.made.clear();
        self.transaction = None;
        sqlx::raw_sql("begin").execute(&mut self.connection).await.map_err(explain("begin"))?;
        let mut all = Vec::with_capacity(changes.len());
        for change in changes {
            all.push(self.change(run, change, changes.len() > 1).await?);
        }
        Ok(all)
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        sqlx::raw_sql("commit").execute(&mut self.connection).await.map_err(explain("commit"))?;
        for (org, call) in self.made.drain(..) {
            self.open.give(org, call);
        }
        Ok(())
    }

    fn receipt(&self) -> Option<String> {
        self.transaction.clone()
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.connection = self.database.connect().await?;
        Ok(())
    }
}
