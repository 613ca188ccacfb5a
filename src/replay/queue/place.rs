//! The place of one resume in the queue. Each organisation has a share of the places.

use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::ReplayQueue;
use crate::org::OrgId;
use crate::sync::lock;

/// Identifies a place, in the order in which places were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::replay) struct PlaceId(pub(super) u64);

/// A waiter, of which the queue knows only the place.
pub(in crate::replay) trait Queued {
    /// The place that the waiter belongs to.
    fn place(&self) -> PlaceId;
}

/// The place of one resume, from its start until its missed events are sent. Dropping it frees the place and
/// removes its waiter from the queue, so a cancelled resume takes no memory.
pub(in crate::replay) struct Place<W: Queued> {
    pub(super) queue: Arc<ReplayQueue<W>>,
    pub(super) org: OrgId,
    pub(super) id: PlaceId,
    pub(super) evicted: CancellationToken,
}

impl<W: Queued> Place<W> {
    pub(in crate::replay) fn org(&self) -> OrgId {
        self.org
    }

    pub(in crate::replay) fn id(&self) -> PlaceId {
        self.id
    }

    /// Waits until the place has been given to another organisation. The resume must then end.
    pub(in crate::replay) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl<W: Queued> fmt::Debug for Place<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("org", &self.org).field("id", &self.id).finish_non_exhaustive()
    }
}

impl<W: Queued> Drop for Place<W> {
    fn drop(&mut self) {
        let waiter = {
            let mut state = lock(&self.queue.state);
            let waiter = state.leave(self.org, self.id);
            self.queue.report(&state);
            waiter
        };
        // Dropped without the lock, because this wakes the task that waits for the answer.
        drop(waiter);
    }
}
