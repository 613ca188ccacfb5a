//! The rows that this worker holds: extends their leases, and cancels jobs whose rows it has lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::queue::Queue;
use crate::org::OrgId;
use crate::sync::lock;

/// How often a lease is extended before it would end.
const EXTENSIONS_PER_LEASE: u32 = 3;

/// Rows of the running jobs.
#[derive(Debug, Default)]
pub(super) struct HeldRows(Mutex<HashMap<Uuid, (OrgId, CancellationToken)>>);

/// A row, for as long as its job runs.
#[derive(Debug)]
pub(super) struct HeldRow {
    rows: Arc<HeldRows>,
    id: Uuid,
    /// Cancelled when another worker has the row.
    pub(super) lost: CancellationToken,
}

impl HeldRows {
    pub(super) fn add(self: &Arc<Self>, org: OrgId, id: Uuid) -> HeldRow {
        let lost = CancellationToken::new();
        lock(&self.0).insert(id, (org, lost.clone()));
        HeldRow { rows: Arc::clone(self), id, lost }
    }

    /// Extends the leases, for as long as it is polled. An error is logged only: if a lease ends meanwhile,
    /// the end of its job shows that.
    pub(super) async fn keep(&self, queue: &Queue, lease: Duration) {
        let mut ticks = tokio::time::interval(lease / EXTENSIONS_PER_LEASE);
        loop {
            ticks.tick().await;
            let mut by_org: HashMap<OrgId, Vec<Uuid>> = HashMap::new();
            for (id, (org, _)) in lock(&self.0).iter() {
                by_org.entry(*org).or_default().push(*id);
            }
            for (org, ids) in by_org {
                match queue.extend(org, &ids).await {
                    Ok(held) => self.cancel(ids.iter().filter(|id| !held.contains(id))),
                    Err(error) => tracing::warn!(%org, %error, "leases of recordings could not be extended"),
                }
            }
        }
    }

    fn cancel<'a>(&self, lost: impl Iterator<Item = &'a Uuid>) {
        let rows = lock(&self.0);
        for id in lost {
            if let Some((_, token)) = rows.get(id) {
                token.cancel();
            }
        }
    }
}

impl Drop for HeldRow {
    fn drop(&mut self) {
        lock(&self.rows.0).remove(&self.id);
    }
}
