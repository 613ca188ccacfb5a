//! The standard mutex without poisoning, for locks that are held briefly.
//!
//! Every mutex in Warden guards plain data that is valid between any two statements. So a panic of another
//! holder leaves nothing half changed, and the data can still be used. No guard lives across an await; a lint
//! enforces that.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks the mutex, even if another holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
