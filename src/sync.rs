//! Locks that are held for moments: the std mutex, without poisoning.
//!
//! Every mutex in Warden guards plain data that is valid between any two statements, so a panic
//! elsewhere is no reason to refuse it. Guards never live across an await (a lint keeps this).

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whether or not another holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
