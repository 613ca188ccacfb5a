//! The event log as this node reads it: the SQL of the log, its rows, and the
//! doorbell that wakes the tailer.
//!
//! The log is the source of truth. A lost notification costs latency, never data. This module knows neither
//! sockets nor sessions.

mod bounds;
mod connection;
mod doorbell;
mod page_size;
mod reader;
mod row;
mod silence;
mod status;

pub use bounds::Truncated;
pub use connection::{LogError, LogReader};
pub use doorbell::{Doorbell, DoorbellLimits, DoorbellSignal};
pub use page_size::PageLimits;
pub use reader::{LogPage, LogPosition};
pub use row::LoggedEvent;
pub(crate) use row::{LogRow, PointParameters, RowDecoder};
pub use status::{TailerProgress, TailerState};
