//! From the event log to the hub: the doorbell wakes the reader, the reader reads what is new since
//! its point, and the hub gets it as a batch.
//!
//! The log is the truth. A ring that is lost costs latency, never data.

mod bell;
pub mod cursor;
mod directory;
mod doorbell;
mod log;
mod pace;
mod recent;
mod replay;
mod retention;
mod revocations;
mod revoke;
mod row;
mod source;
mod sweep;

pub use directory::Directory;
pub use doorbell::{Doorbell, DoorbellLimits, Ring};
pub use log::{LogReader, Read};
pub use recent::{Recent, RecentLimits};
pub use replay::{Missed, Replay, ReplayError, ReplayLimits};
pub use retention::{Retention, RetentionLimits};
pub use revocations::{Holder, RevocationLimits, Revocations, Revoked};
pub use revoke::{MAX_TOKEN_AGE_DEFAULT, NewRevocation, RevokeError, RevokeRequest, Subject};
pub use source::{Progress, ReaderLimits, ReaderState, Source};
pub use sweep::{Sweep, SweepLimits};
