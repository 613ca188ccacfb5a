//! Control state of a node, kept current by the log: which topics and organisations exist, and which tokens are
//! revoked.
//!
//! This module decides about tokens and organisations; it reads no events itself and knows no sockets.

mod directory;
mod reconciler;
mod revocations;
mod revoke;

pub use directory::Directory;
pub use reconciler::{Reconciler, ReconcilerLimits};
pub use revocations::{RevocationLimits, Revocations, Revoked, TokenSubject};
pub use revoke::{MAX_TOKEN_AGE_DEFAULT, NewRevocation, RevokeError, RevokeRequest, Subject};
