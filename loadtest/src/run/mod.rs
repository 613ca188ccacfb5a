//! One run from beginning to end: organisations, sockets, changes, the wait for missing events, and the
//! removal of the organisations, even after an error.

mod context;
mod execution;
mod progress;
mod signals;
mod summary;

pub(crate) use self::execution::run;
