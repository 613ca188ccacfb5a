//! The tables of recordings, as an operator named them, and the statements of the jobs on them.
//!
//! Names come from the catalogs, through `warden.recording_schema()`, and are quoted here. No value is ever
//! part of a statement's text.

use std::collections::BTreeMap;

use serde::Deserialize;
use sqlx::PgPool;
use sqlx::types::Json;

use super::RecordingsError;

/// A table, and the worker's columns in it.
#[derive(Clone, Debug, Deserialize)]
struct Table {
    /// Qualified and quoted.
    relation: String,
    /// Names in the table, by the worker's names. Optional columns may be missing.
    columns: BTreeMap<String, String>,
    is_isolated: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Tables {
    recordings: Table,
    queue: Table,
    calls: Option<Table>,
}

impl Table {
    /// A column, quoted.
    fn get(&self, name: &str) -> Option<String> {
        self.columns.get(name).map(|actual| quoted(actual))
    }

    /// A column that `warden.enable_recordings()` has found.
    fn column(&self, name: &str) -> String {
        self.get(name).unwrap_or_else(|| quoted(name))
    }

    /// A column as an expression of a type, or NULL of this type.
    fn value(&self, alias: &str, name: &str, sql_type: &str) -> String {
        match self.get(name) {
            Some(column) => format!("{alias}.{column}::{sql_type}"),
            None => format!("null::{sql_type}"),
        }
    }

    /// The assignments of an UPDATE, without missing columns.
    fn set(&self, assignments: &[(&str, &str)]) -> String {
        let assignments: Vec<String> = assignments
            .iter()
            .filter_map(|(name, value)| self.get(name).map(|column| format!("{column} = {value}")))
            .collect();
        assignments.join(", ")
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// SQL of the jobs, for one set of tables. Each statement runs in a transaction that is bound to an
/// organisation.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    pub(super) claims: ClaimSql,
    pub(super) rows: RowSql,
    pub(super) recordings: RecordingSql,
}

/// Statements that claim rows of the queue.
#[derive(Clone, Debug)]
pub(super) struct ClaimSql {
    /// Makes rows pending whose worker has ended. Returns their ids.
    pub(super) reclaim: String,
    /// Claims due rows: $1 rows at most, $2 worker, $3 seconds of the lease. Returns a `ClaimedRow` each.
    pub(super) claim: String,
    /// Whether due rows are left.
    pub(super) has_due: String,
    /// Extends the leases of rows: $1 ids, $2 worker, $3 seconds. Returns the ids of those still held.
    pub(super) extend: String,
}

/// Statements that record how a claimed row ended, and those for operators.
#[derive(Clone, Debug)]
pub(super) struct RowSql {
    /// Makes a row done: $1 id, $2 worker, $3 key in the store.
    pub(super) finish: String,
    /// Makes a row pending for another attempt: $1 id, $2 worker, $3 seconds until then, $4 error.
    pub(super) retry: String,
    /// Makes a row failed: $1 id, $2 worker, $3 error.
    pub(super) fail: String,
    /// Rows of the queue: $1 whether only failed ones, $2 at most, $3 an id or NULL.
    pub(super) list: String,
    /// Makes failed rows pending: $1 id or NULL for all. Returns the ids of their recordings.
    pub(super) revive: String,
}

/// Statements on recordings and calls.
#[derive(Clone, Debug)]
pub(super) struct RecordingSql {
    /// Ids of recordings that exist, of $1.
    pub(super) existing: String,
    /// Completed recordings: $1 an id or NULL, $2 seconds without a change, $3 at most.
    pub(super) completed: String,
    /// Marks a recording whose object is gone: $1 id, $2 its path. Returns its call.
    pub(super) mark_absent: String,
    /// Marks the recordings with these ids ($1) as being copied. Returns their ids.
    pub(super) mark_processing: String,
    /// Completes a recording: $1 id, $2 key in the store, $3 bytes, $4 media type, $5 SHA-256. Returns its
    /// call.
    pub(super) finish: String,
    /// Counts the stored recordings of a call, $1. None if there is no table of calls.
    pub(super) count_in_call: Option<String>,
    /// Makes a recording failed: $1 id.
    pub(super) fail: String,
}

impl Statements {
    /// Reads the names of the tables.
    ///
    /// # Errors
    /// If the tables were not named, or nothing isolates organisations in one of them.
    pub(crate) async fn load(pool: &PgPool) -> Result<Self, RecordingsError> {
        let described: Option<Json<Tables>> =
            sqlx::query_scalar("select warden.recording_schema()").fetch_one(pool).await?;
        let Some(Json(tables)) = described else { return Err(RecordingsError::NoTables) };
        let all = [Some(&tables.recordings), Some(&tables.queue), tables.calls.as_ref()];
        if let Some(open) = all.into_iter().flatten().find(|table| !table.is_isolated) {
            return Err(RecordingsError::NotIsolated(open.relation.clone()));
        }
        Ok(Self {
            claims: ClaimSql::of(&tables.queue),
            rows: RowSql::of(&tables.queue),
            recordings: RecordingSql::of(&tables),
        })
    }
}

/// Assignments to the columns of a row that no worker holds any more.
fn released(q: &Table, assignments: &[(&str, &str)]) -> String {
    let free = [("locked_by", "null"), ("locked_until", "null"), ("updated_at", "now()")];
    q.set(&[assignments, free.as_slice()].concat())
}

impl ClaimSql {
    fn of(q: &Table) -> Self {
        let (queue, id, state) = (&q.relation, q.column("id"), q.column("state"));
        let (due, until) = (q.column("next_attempt_at"), q.column("locked_until"));
        let (worker, attempts) = (q.column("locked_by"), q.column("attempts"));
        Self {
            reclaim: format!(
                "update {queue} set {} where {id} in (
                   select {id} from {queue} where {state} = 'uploading' and {until} <= now() for update skip locked)
                 returning {id}",
                released(q, &[("state", "'pending'"), ("next_attempt_at", "now()")])
            ),
            claim: format!(
                "with due as (
                   select x.{id} from {queue} x where x.{state} = 'pending' and x.{due} <= now()
                   order by x.{due} limit $1 for update skip locked)
                 update {queue} q set {} from due where q.{id} = due.{id}
                 returning q.{id} as id, q.org_id, q.{} as recording_id, {} as provider, {} as account,
                           q.{} as source_url, q.{attempts} as attempts, q.{} as last_error",
                q.set(&[
                    ("state", "'uploading'"),
                    ("attempts", &format!("q.{attempts} + 1")),
                    ("locked_by", "$2"),
                    ("locked_until", "now() + make_interval(secs => $3)"),
                    ("updated_at", "now()"),
                ]),
                q.column("recording_id"),
                q.value("q", "provider", "text"),
                q.value("q", "account", "text"),
                q.column("source_url"),
                q.column("last_error"),
            ),
            has_due: format!(
                "select exists (select from {queue} where {state} = 'pending' and {due} <= now()
                                or {state} = 'uploading' and {until} <= now())"
            ),
            extend: format!(
                "update {queue} set {until} = now() + make_interval(secs => $3)
                 where {id} = any ($1) and {state} = 'uploading' and {worker} = $2 returning {id}"
            ),
        }
    }
}

impl RowSql {
    fn of(q: &Table) -> Self {
        let (queue, id, state) = (&q.relation, q.column("id"), q.column("state"));
        let (due, attempts) = (q.column("next_attempt_at"), q.column("attempts"));
        let held = format!("{id} = $1 and {state} = 'uploading' and {} = $2", q.column("locked_by"));
        Self {
            finish: format!(
                "update {queue} set {} where {held}",
                released(q, &[("state", "'done'"), ("storage_key", "$3"), ("last_error", "null")])
            ),
            retry: format!(
                "update {queue} set {} where {held}",
                released(q, &[
                    ("state", "'pending'"),
                    ("next_attempt_at", "now() + make_interval(secs => $3)"),
                    ("last_error", "$4"),
                ])
            ),
            fail: format!(
                "update {queue} set {} where {held}",
                released(q, &[("state", "'failed'"), ("last_error", "$3")])
            ),
            list: format!(
                "select q.{id} as id, q.org_id, q.{} as recording_id, q.{state}::text as state, q.{attempts} as attempts,
                        q.{due} as next_attempt_at, q.{} as last_error
                 from {queue} q
                 where (not $1 or q.{state} = 'failed') and q.{state} <> 'done' and ($3::uuid is null or q.{id} = $3)
                 order by q.{due}, q.{id} limit $2",
                q.column("recording_id"),
                q.column("last_error"),
            ),
            revive: format!(
                "update {queue} q set {} where q.{state} = 'failed' and ($1::uuid is null or q.{id} = $1)
                 returning q.{}",
                q.set(&[
                    ("state", "'pending'"),
                    ("attempts", "0"),
                    ("next_attempt_at", "now()"),
                    ("updated_at", "now()"),
                ]),
                q.column("recording_id"),
            ),
        }
    }
}

impl RecordingSql {
    fn of(tables: &Tables) -> Self {
        let Tables { recordings: r, calls, .. } = tables;
        Self {
            existing: format!("select {id} from {} where {id} = any ($1)", r.relation, id = r.column("id")),
            completed: format!(
                "select r.{id}, r.{path} from {} r
                 where r.{} = 'completed' and r.{path} is not null and ($1::uuid is null or r.{id} > $1)
                   and coalesce({}, '-infinity') <= now() - make_interval(secs => $2)
                 order by r.{id} limit $3",
                r.relation,
                r.column("status"),
                r.value("r", "updated_at", "timestamptz"),
                id = r.column("id"),
                path = r.column("storage_path"),
            ),
            mark_absent: format!(
                "update {} r set {} where r.{} = $1 and r.{} = 'completed' and r.{} = $2 returning {} as call_id",
                r.relation,
                r.set(&[("status", "'absent'"), ("storage_path", "null"), ("updated_at", "now()")]),
                r.column("id"),
                r.column("status"),
                r.column("storage_path"),
                r.value("r", "call_id", "uuid"),
            ),
            mark_processing: format!(
                "update {} set {} where {id} = any ($1) returning {id}",
                r.relation,
                r.set(&[("status", "'processing'"), ("updated_at", "now()")]),
                id = r.column("id"),
            ),
            finish: format!(
                "update {} r set {} where r.{} = $1 returning {} as call_id",
                r.relation,
                r.set(&[
                    ("status", "'completed'"),
                    ("storage_path", "$2"),
                    ("size_bytes", "$3"),
                    ("content_type", "$4"),
                    ("sha256", "$5"),
                    ("updated_at", "now()"),
                ]),
                r.column("id"),
                r.value("r", "call_id", "uuid"),
            ),
            count_in_call: calls.as_ref().and_then(|c| {
                let call_id = r.get("call_id")?;
                Some(format!(
                    "update {} c set {} where c.{} = $1",
                    c.relation,
                    c.set(&[
                        (
                            "recording_count",
                            &format!(
                                "(select count(*) from {} r where r.{call_id} = $1 and r.{} = 'completed')",
                                r.relation,
                                r.column("status")
                            ),
                        ),
                        ("updated_at", "now()"),
                    ]),
                    c.column("id"),
                ))
            }),
            fail: format!(
                "update {} set {} where {} = $1",
                r.relation,
                r.set(&[("status", "'failed'"), ("updated_at", "now()")]),
                r.column("id"),
            ),
        }
    }
}
