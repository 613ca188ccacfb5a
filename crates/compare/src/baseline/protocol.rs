//! Lines that the baseline prints, one JSON object each.

use serde::{Deserialize, Serialize};

/// The first line: the baseline accepts connections.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Address on which it listens.
    pub(crate) listen: std::net::SocketAddr,
}

/// The line that follows a plan, once all of its bytes are written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Buffers passed to the kernel, including those that it accepted in parts.
    pub(crate) writes: u64,
    /// Buffers that the kernel did not accept completely at the first write.
    pub(crate) queued: u64,
    /// Sockets that left, or that were dropped because they read too little.
    pub(crate) left: u64,
    /// Delay of the last burst behind its schedule, in milliseconds.
    pub(crate) lag_ms: f64,
}
