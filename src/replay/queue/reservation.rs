//! Memory that is reserved for a read, and then for the events that it found until their clients have been
//! sent them.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::state::Held;
use super::{Queued, ReplayQueue};
use crate::org::OrgId;
use crate::sync::lock;

/// Bytes that are reserved for a read and its events. Dropping it releases them.
#[derive(Debug)]
pub(in crate::replay) struct MemoryReservation<W: Queued> {
    queue: Arc<ReplayQueue<W>>,
    org: OrgId,
    id: u64,
    bytes: usize,
    /// Whether the read is under way. Until it ends, its organisation gets no other.
    is_reading: bool,
    reclaimed: CancellationToken,
}

impl<W: Queued> MemoryReservation<W> {
    pub(super) fn new(queue: Arc<ReplayQueue<W>>, org: OrgId, id: u64, bytes: usize) -> Self {
        Self { queue, org, id, bytes, is_reading: true, reclaimed: CancellationToken::new() }
    }

    /// A reservation for events that are sent without a read.
    pub(super) fn held(
        queue: Arc<ReplayQueue<W>>,
        org: OrgId,
        id: u64,
        bytes: usize,
        reclaimed: CancellationToken,
    ) -> Self {
        Self { queue, org, id, bytes, is_reading: false, reclaimed }
    }

    pub(in crate::replay) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Ends the read, and keeps only the bytes that its events take. The organisation moves to the back of
    /// the order.
    pub(in crate::replay) fn shrink_to(&mut self, bytes: usize) {
        let kept = self.bytes.min(bytes);
        let freed = self.bytes - kept;
        {
            let mut state = lock(&self.queue.state);
            if std::mem::take(&mut self.is_reading) {
                state.end_read(self.org);
            }
            let reclaimed = self.reclaimed.clone();
            let held = (kept > 0).then(|| Held { bytes: kept, since: Instant::now(), reclaimed });
            state.shrink(self.org, self.id, freed, held, self.reclaimed.is_cancelled());
            self.queue.report(&state);
        }
        self.bytes = kept;
        self.queue.changed.notify_one();
    }

    /// Waits until another organisation needs this memory. The holders must then drop the reservation.
    pub(in crate::replay) async fn reclaimed(&self) {
        self.reclaimed.cancelled().await;
    }
}

impl<W: Queued> Drop for MemoryReservation<W> {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}
