//! The event log as this node sees it: cursors and visibility, the SQL that reads it, and the doorbell that wakes
//! its reader.
//!
//! The log is the truth. A lost notification costs latency, never data. This module knows no sockets and no sessions.

pub mod cursor;
mod doorbell;
mod reader;
mod row;
mod silence;
mod status;

pub use doorbell::{Doorbell, DoorbellLimits, DoorbellSignal};
pub use reader::{LogError, LogReader, Read};
pub(crate) use row::{LogRow, LoggedEvent, Names, Since};
pub use status::{TailerProgress, TailerState};
