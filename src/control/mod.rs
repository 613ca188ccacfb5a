//! Control state of a node: existing topics and organisations, and revoked tokens, kept current by the log.
//!
//! | file | job |
//! |---|---|
//! | `cursor_keys` | the keys with which cursors are sealed |
//! | `directory` | organisations and topics in memory |
//! | `filtered_tables` | tables that have changed since the filters of joins were compiled |
//! | `reconciler` | the search for organisations that were deleted without a log event |
//! | `revocations` | revocations in memory, and the end of the sessions that they concern |
//! | `revoke` | one revocation on behalf of a back end |
//!
//! This module reads no events itself: the tailer calls it. It knows no sockets.

mod cursor_keys;
mod directory;
mod filtered_tables;
mod reconciler;
mod revocations;
mod revoke;

pub use cursor_keys::{CursorKeyLimits, CursorKeys};
pub use directory::Directory;
pub(crate) use directory::ORGS_MAX;
pub use filtered_tables::FilteredTables;
pub(crate) use reconciler::ORGS_IN_QUERY_MAX;
pub use reconciler::{Reconciler, ReconcilerLimits};
pub(crate) use revocations::{ENTRIES_MAX, ENTRY_BYTES};
pub use revocations::{RevocationLimits, Revocations, Revoked, TokenSubject};
pub use revoke::{MAX_TOKEN_AGE_DEFAULT, NewRevocation, RevokeError, RevokeRequest, Subject};
