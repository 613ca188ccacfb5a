//! Short steps on a table with all its partitions or inheritance children.
//!
//! Such a step needs a lock on every member at once. A lock that it has already blocks writers while it waits
//! for the next one, so one limit applies to all of them together.
//!
//! Work that takes time is done on each member, concurrently with its writers. The statement on the whole
//! then finds that its members have what they need, and only changes the catalogs.

use std::time::Duration;

use super::connection::{ExecutorConnection, StepError, is_transient};
use crate::tenancy::plan::TablePlan;

/// Time per member for the catalog changes of a step, beyond the lock limit. A statement that takes longer
/// probably reads rows, which a short step must not do: it is cancelled. The machine may also be busy, so
/// each further attempt has twice as long, up to [`WORK_DOUBLINGS_MAX`] times.
const WORK_MAX: Duration = Duration::from_millis(20);
const WORK_DOUBLINGS_MAX: u32 = 4;
/// SQLSTATE of a statement that took too long.
const QUERY_CANCELED: &str = "57014";

/// Lock that a step takes on a table and its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TreeLock {
    /// Blocks readers and writers.
    AccessExclusive,
    /// Blocks writers.
    ShareRowExclusive,
}

impl TreeLock {
    fn sql(self) -> &'static str {
        match self {
            Self::AccessExclusive => "access exclusive",
            Self::ShareRowExclusive => "share row exclusive",
        }
    }
}

impl ExecutorConnection {
    /// Executes short DDL on a table with its members, as [`ExecutorConnection::short`] does on one table.
    /// The statements may also lock other tables.
    pub(super) async fn short_on(
        &mut self,
        plan: &TablePlan,
        lock: TreeLock,
        others: &[i64],
        statements: &[String],
    ) -> Result<(), StepError> {
        let mut locked: Vec<i64> = plan.tree().map(|t| t.table.oid).collect();
        let members = plan.members.len();
        locked.extend(others);
        if members == 0 {
            return self.short(&locked, statements).await;
        }
        let limit = self.lock_limit(1 + others.len());
        let work = limit + WORK_MAX * u32::try_from(members).unwrap_or(u32::MAX);
        let all = |failures: u32| {
            format!(
                "set local statement_timeout = {}; lock table {} in {} mode; set local statement_timeout = {}; {}",
                limit.as_millis().max(1),
                plan.table.sql(),
                lock.sql(),
                (work * 2u32.pow(failures.min(WORK_DOUBLINGS_MAX))).as_millis(),
                statements.join("; ")
            )
        };
        self.retried(&locked, limit, all, |code| is_transient(code) || code == QUERY_CANCELED).await
    }
}
