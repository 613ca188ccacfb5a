//! Changes of a watched table: calls that are inserted and pass through their states, as an application would
//! change them. The gateway learns of them from the table's triggers alone.

use std::sync::{Arc, Mutex};

use bench_support::database::{Database, explain};
use sqlx::PgConnection;
use uuid::Uuid;

use super::change::{PlannedChange, PreparedChange, Publish};
use crate::check::ChangeKind;
use crate::filters::{Row, RowChange, STATUSES, agent_name, agent_number};
use crate::sync::lock;

/// Updates in the life of a call: ringing, in-progress, completed.
const UPDATES_PER_CALL: u32 = 3;
/// Share of inserts among all changes. It keeps the number of open calls constant.
const INSERT_SHARE: f64 = 1.0 / (1.0 + UPDATES_PER_CALL as f64);

const INSERT: &str = "
    insert into public.calls (id, org_id, direction, from_number, to_number, twilio_call_sid, metadata, assistant_id)
    values ($1, $2, 'inbound', '+15005550006', '+15005550010', 'CA' || replace($1::text, '-', ''),
            jsonb_build_object('lt_run', $3::text, 'lt_change', $4::bigint, 'lt_seq', 1), $5)
    returning (metadata->>'lt_seq')::int, pg_current_xact_id()::text, null, null, assistant_id, status";
/// The database counts the sequence number under the row's lock, because two writers may update one call at
/// the same time. The events must then arrive in the order in which the writers commit.
const UPDATE: &str = "
    update public.calls
    set status = case status when 'queued' then 'ringing' when 'ringing' then 'in-progress' else 'completed' end,
        updated_at = clock_timestamp(),
        metadata = metadata || jsonb_build_object('lt_run', $3::text, 'lt_change', $4::bigint,
                                                  'lt_seq', (metadata->>'lt_seq')::int + 1)
    where id = $1 and org_id = $2
    returning (metadata->>'lt_seq')::int, pg_current_xact_id()::text, null, null, assistant_id, status";
/// An update that may give the call to another agent. It reads the former row under the row's lock.
const UPDATE_WITH_AGENT: &str = "
    with before as materialized (
      select id, assistant_id, status from public.calls where id = $1 and org_id = $2 for update)
    update public.calls c
    set status = case c.status when 'queued' then 'ringing' when 'ringing' then 'in-progress' else 'completed' end,
        updated_at = clock_timestamp(), assistant_id = coalesce($5, c.assistant_id),
        metadata = c.metadata || jsonb_build_object('lt_run', $3::text, 'lt_change', $4::bigint,
                                                    'lt_seq', (c.metadata->>'lt_seq')::int + 1)
    from before where c.id = before.id
    returning (c.metadata->>'lt_seq')::int, pg_current_xact_id()::text, before.assistant_id, before.status,
              c.assistant_id, c.status";
/// One in this many updates gives a call to another agent.
const NEW_AGENT_ONE_IN: usize = 4;
/// Result of a statement: sequence number and transaction, then agent and status before and after.
type Returned = (i32, String, Option<String>, Option<String>, Option<String>, Option<String>);

/// A call that can still be updated.
#[derive(Clone, Copy)]
struct OpenCall {
    id: Uuid,
    updates_left: u32,
}

/// The open calls of each organisation, shared by all writers.
pub(crate) struct CallPool {
    calls: Vec<Mutex<Vec<OpenCall>>>,
    /// Sums of the weights of agents. Empty without filters.
    agents: Vec<f64>,
}

impl CallPool {
    pub(crate) fn new(orgs: usize, agents: Vec<f64>) -> Self {
        Self { calls: (0..orgs).map(|_| Mutex::default()).collect(), agents }
    }

    /// A random agent, by their weights. `None` without filters.
    fn agent(&self) -> Option<String> {
        let at = self.agents.last()? * fastrand::f64();
        let agent = self.agents.partition_point(|sum| *sum <= at).min(self.agents.len() - 1);
        u32::try_from(agent).ok().map(agent_name)
    }

    /// Picks a call to update; `None` if a new one is to be inserted. A picked call stays in the pool while
    /// it has updates left, so that writers sometimes update one row at the same time. An exclusive call
    /// leaves the pool, because transactions that update several calls could otherwise deadlock.
    fn pick(&self, org: usize, exclusive: bool) -> Option<OpenCall> {
        if fastrand::f64() < INSERT_SHARE {
            return None;
        }
        let mut pool = lock(&self.calls[org]);
        let n = fastrand::usize(0..pool.len().max(1));
        let call = pool.get_mut(n)?;
        call.updates_left -= 1;
        let picked = *call;
        if exclusive || picked.updates_left == 0 {
            pool.swap_remove(n);
        }
        Some(picked)
    }

    /// Adds a call to the pool, unless it has no updates left.
    fn put(&self, org: usize, call: OpenCall) {
        if call.updates_left > 0 {
            lock(&self.calls[org]).push(call);
        }
    }
}

/// A writer of calls.
pub(crate) struct CallWriter {
    database: Database,
    connection: PgConnection,
    pool: Arc<CallPool>,
    /// Calls that go into the pool after the commit, by organisation.
    prepared: Vec<(usize, OpenCall)>,
    transaction_id: Option<String>,
}

impl CallWriter {
    pub(crate) async fn connect(database: &Database, pool: &Arc<CallPool>) -> anyhow::Result<Self> {
        let connection = database.connect().await?;
        let (database, pool) = (database.clone(), Arc::clone(pool));
        Ok(Self { database, connection, pool, prepared: Vec::new(), transaction_id: None })
    }

    /// Inserts one call and rolls it back, so that a missing privilege is found before any socket connects.
    pub(crate) async fn preflight(&mut self, org: Uuid) -> anyhow::Result<()> {
        const HELP: &str = "cannot insert into public.calls. Check that `warden migrate --platform` has run and that the \
                            role in --database-url may write the table, or use --by publish";
        sqlx::raw_sql("begin").execute(&mut self.connection).await.map_err(explain(HELP))?;
        let query =
            sqlx::query(INSERT).bind(Uuid::new_v4()).bind(org).bind("").bind(0_i64).bind(None::<&str>);
        query.execute(&mut self.connection).await.map_err(explain(HELP))?;
        sqlx::raw_sql("rollback").execute(&mut self.connection).await.map_err(explain(HELP))?;
        Ok(())
    }

    async fn make_change(
        &mut self,
        run: &str,
        change: &PlannedChange,
        exclusive: bool,
    ) -> anyhow::Result<PreparedChange> {
        let (kind, statement, call) = match self.pool.pick(change.org, exclusive) {
            Some(call) if self.pool.agents.is_empty() => (ChangeKind::Updated, UPDATE, call),
            Some(call) => (ChangeKind::Updated, UPDATE_WITH_AGENT, call),
            None => {
                let call = OpenCall { id: Uuid::new_v4(), updates_left: UPDATES_PER_CALL };
                (ChangeKind::Created, INSERT, call)
            }
        };
        let is_insert = kind == ChangeKind::Created;
        let keeps_agent = !is_insert && fastrand::usize(..NEW_AGENT_ONE_IN) > 0;
        let agent = self.pool.agent().filter(|_| !keeps_agent);
        let mut query = sqlx::query_as(statement)
            .bind(call.id)
            .bind(change.org_id)
            .bind(run)
            .bind(i64::try_from(change.number)?);
        if statement != UPDATE {
            query = query.bind(agent);
        }
        let (seq, transaction_id, before, status_before, after, status): Returned = query
            .fetch_one(&mut self.connection)
            .await
            .map_err(explain(if is_insert { "insert into public.calls" } else { "update public.calls" }))?;
        if exclusive || is_insert {
            self.prepared.push((change.org, call));
        }
        self.transaction_id = Some(transaction_id);
        let row = RowChange {
            before: row(before.as_deref(), status_before.as_deref()),
            after: row(after.as_deref(), status.as_deref()),
        };
        Ok(PreparedChange { entity: call.id, kind, seq: u32::try_from(seq)?, row })
    }
}

/// A row as filters see it, if it has an agent.
fn row(agent: Option<&str>, status: Option<&str>) -> Option<Row> {
    let agent = agent_number(agent?)?;
    Some(Row { agent, status: STATUSES.iter().position(|known| Some(*known) == status)? })
}

impl Publish for CallWriter {
    async fn prepare(&mut self, run: &str, changes: &[PlannedChange]) -> anyhow::Result<Vec<PreparedChange>> {
        self.prepared.clear();
        self.transaction_id = None;
        sqlx::raw_sql("begin").execute(&mut self.connection).await.map_err(explain("begin"))?;
        let mut all = Vec::with_capacity(changes.len());
        for change in changes {
            all.push(self.make_change(run, change, changes.len() > 1).await?);
        }
        Ok(all)
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        sqlx::raw_sql("commit").execute(&mut self.connection).await.map_err(explain("commit"))?;
        for (org, call) in self.prepared.drain(..) {
            self.pool.put(org, call);
        }
        Ok(())
    }

    fn transaction_id(&self) -> Option<String> {
        self.transaction_id.clone()
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.connection = self.database.connect().await?;
        Ok(())
    }
}
