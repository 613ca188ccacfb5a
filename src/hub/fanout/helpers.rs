//! Helper threads, which take slices of a large broadcast beside the worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::broadcast::Broadcast;
use crate::sync::lock;

/// Hands broadcasts to helpers. Any number of threads may be in [`Self::run`], including none.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    /// The latest large broadcast. Only one is kept, because the worker sends each of them as well.
    shared: Mutex<Option<Arc<Broadcast>>>,
    changed: Condvar,
    is_closed: AtomicBool,
}

impl Helpers {
    /// Shares a broadcast with all helpers.
    pub(super) fn share(&self, broadcast: &Arc<Broadcast>) {
        *lock(&self.shared) = Some(Arc::clone(broadcast));
        self.changed.notify_all();
    }

    /// Helps until [`Self::close`]. `send_slice` sends a slice, and returns false if none was left.
    pub(super) fn run(&self, mut send_slice: impl FnMut(&Broadcast) -> bool) {
        while let Some(broadcast) = self.wait() {
            while send_slice(&broadcast) {}
            let mut shared = lock(&self.shared);
            if shared.as_ref().is_some_and(|shared| Arc::ptr_eq(shared, &broadcast)) {
                *shared = None;
            }
        }
    }

    /// Ends every [`Self::run`].
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // The lock orders this with a helper that is about to wait: it sees the flag, or gets the
        // notification.
        let _shared = lock(&self.shared);
        self.changed.notify_all();
    }

    fn wait(&self) -> Option<Arc<Broadcast>> {
        let mut shared = lock(&self.shared);
        loop {
            if self.is_closed.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(broadcast) = &*shared {
                return Some(Arc::clone(broadcast));
            }
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
