//! Control state of a node, kept current by the log: which topics and organisations exist, and which tokens are
//! revoked.
//!
//! This module decides about tokens and organisations; it reads no events itself and knows no sockets.

mod directory;
mod reconciler;
mod revocations;
mod revoke;

pub use directory::Directory;
pub(crate) use directory::ORGS_MAX;
pub(crate) use reconciler::ORGS_IN_QUERY_MAX;
pub use reconciler::{Reconciler, ReconcilerLimits};
pub(crate) use revocations::ENTRIES_MAX;
pub use revocations::{RevocationLimits, Revocations, Revoked, TokenSubject};
pub use revoke::{MAX_TOKEN_AGE_DEFAULT, NewRevocation, RevokeError, RevokeRequest, Subject};
