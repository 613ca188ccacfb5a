//! Messages between the comparison and the processes that hold sockets: one JSON object per line.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// How to open one socket. The process that holds it knows nothing else about the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Dial {
    /// The complete head of the upgrade request.
    pub(crate) request: String,
    /// Text messages to send after the 101.
    pub(crate) hello: Vec<String>,
    /// A string and a number: the socket is open once the string has occurred that often after the 101.
    pub(crate) ready: Option<(String, usize)>,
}

/// A request to a process that holds sockets.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Opens sockets, and answers when all are open.
    Open {
        server: SocketAddr,
        /// Source addresses, which are used in round-robin order.
        sources: Vec<Ipv4Addr>,
        dials: Vec<Dial>,
        /// Handshakes in progress at the same time.
        concurrency: usize,
        /// A message that keeps a connection from being idle.
        heartbeat: Option<String>,
    },
    /// Sends the heartbeat on every socket.
    Beat,
    /// Sets every count to zero.
    Reset,
    /// Reports the counts.
    Count,
    /// Closes every socket.
    Close,
}

/// The answer to a request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Count(Count),
    Failed(String),
}

/// Events and bytes that sockets have received since the last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// Open sockets.
    pub(crate) open: usize,
    /// Events over all sockets.
    pub(crate) events: u64,
    /// Bytes over all sockets.
    pub(crate) bytes: u64,
    /// Events of the socket that has received the fewest; 0 if no socket is open.
    pub(crate) least: u64,
    /// Events of the socket that has received the most.
    pub(crate) most: u64,
}

impl Count {
    /// The counts of two processes together.
    pub(super) fn merge(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            events: self.events + other.events,
            bytes: self.bytes + other.bytes,
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_counts_keep_the_extremes() {
        let one = Count { open: 1, events: 10, bytes: 100, least: 10, most: 10 };
        let two = Count { open: 2, events: 17, bytes: 170, least: 8, most: 9 };
        assert_eq!(one.merge(two), Count { open: 3, events: 27, bytes: 270, least: 8, most: 10 });
    }
}
