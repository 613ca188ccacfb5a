//! Queues in which the requests of each holder wait for a capacity.
//!
//! Only the first request of a holder waits for the capacity itself; the others wait behind it. So a holder
//! with many requests takes no more places there than one with a single request. Freed units wake one request
//! of each holder. A holder's requests are served in order of arrival.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::sync::lock;

/// A queue for each holder that has requests.
#[derive(Debug)]
pub(crate) struct HolderQueues<K> {
    queues: Mutex<HashMap<K, Arc<Semaphore>>>,
}

/// A request in the queue of its holder, which counts it until this is dropped.
#[derive(Debug)]
pub(crate) struct QueuedRequest {
    /// One permit, which the first request holds while it waits for the capacity.
    front: Arc<Semaphore>,
}

impl<K: Copy + Eq + Hash> HolderQueues<K> {
    /// Queues without a request.
    pub(crate) fn new() -> Self {
        Self { queues: Mutex::default() }
    }

    /// Adds a request of this holder.
    pub(crate) fn enter(&self, holder: K) -> QueuedRequest {
        let mut queues = lock(&self.queues);
        if let Some(front) = queues.get(&holder) {
            return QueuedRequest { front: Arc::clone(front) };
        }
        // Queues without requests are dropped whenever another holder enters.
        queues.retain(|_, front| Arc::strong_count(front) > 1);
        let front = Arc::new(Semaphore::new(1));
        queues.insert(holder, Arc::clone(&front));
        QueuedRequest { front }
    }

    /// Number of queues, including those without requests that were not dropped yet.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.queues).len()
    }
}

impl QueuedRequest {
    /// Requests of the holder, including this one and those that no longer wait.
    pub(crate) fn count(&self) -> usize {
        // The map holds one reference.
        Arc::strong_count(&self.front) - 1
    }

    /// Waits until this is the first request of its holder. The next one follows when the result is dropped.
    pub(crate) async fn first(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.front.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_and_unused_queues_are_dropped() {
        let queues = HolderQueues::new();
        let (first, second) = (queues.enter(1), queues.enter(1));
        assert_eq!((first.count(), second.count(), queues.enter(2).count()), (2, 2, 1));
        drop(second);
        assert_eq!((first.count(), queues.len()), (1, 2));
        let _third = queues.enter(3);
        assert_eq!(queues.len(), 2, "the queue without requests was dropped");
    }
}
