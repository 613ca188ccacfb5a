//! What the process that directs a run and those that hold its sockets tell each other: one JSON object
//! a line, orders on standard input, words on standard output. Secrets go this way and no other, for
//! arguments and the environment can be read by others. It knows nothing of sockets or SQL.

use std::net::IpAddr;

use bench_support::endpoint::Endpoint;
use bench_support::token::TokenSettings;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::check::{Counts, Outcome, Sent};
use crate::clock::Nanos;

/// The first line that a holder reads.
#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) run: String,
    pub(crate) orgs: Vec<Uuid>,
    pub(crate) gateways: Vec<Endpoint>,
    pub(crate) topics: Vec<String>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) signing: TokenSettings,
    /// Intervals of the report are counted from here.
    pub(crate) epoch: Nanos,
    pub(crate) interval: Nanos,
    /// The latencies of the first organisation are kept apart from those of the others.
    pub(crate) first_org_apart: bool,
}

/// A socket that a holder may open: whose it is, where to, and from which address.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) org: usize,
    pub(crate) gateway: usize,
    pub(crate) from: Option<IpAddr>,
}

/// What a holder is told while it runs.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Order {
    /// The COMMIT of a change is sent as soon as this line is written.
    #[serde(rename = "s")]
    Sent(Sent),
    /// How the transaction of a change ended.
    #[serde(rename = "e")]
    Ended { org: usize, n: usize, outcome: Outcome },
    /// Open sockets until there are so many, so many a second.
    Open { until: usize, per_second: f64 },
    /// Drop this share of the open sockets without a word, all at once. They come back after a while,
    /// so many a second, with their cursors.
    Storm { share: f64, away: Nanos, per_second: f64 },
    /// So many sockets a second leave, each followed by a new one; 0 ends it.
    Churn { per_second: f64 },
    /// Nothing is published any more: wait for what is missing until this moment, then close and report.
    Settle { deadline: Nanos },
    /// Don't wait.
    Hurry,
}

/// What a holder says.
#[derive(Serialize, Deserialize)]
pub(crate) enum Word {
    /// The first socket is open, or could not be opened.
    First(Option<String>),
    /// Every interval.
    Progress(Box<Progress>),
    /// The last line: all is closed.
    Done { faults: Vec<String> },
}

/// What happened in one interval, and where things stand at its end.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct Progress {
    pub(crate) interval: usize,
    /// Since the beginning.
    pub(crate) counts: Counts,
    pub(crate) sockets: SocketCounts,
    /// In this interval.
    pub(crate) timings: Vec<Timing>,
}

/// How many sockets are in which state, or have been.
#[derive(Serialize, Deserialize, Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct SocketCounts {
    /// Joined all topics, at present.
    pub(crate) open: u64,
    /// Between the start of their connection and the last join, at present.
    pub(crate) connecting: u64,
    /// Opened for the first time, ever.
    pub(crate) opened: u64,
    /// Handshake or join failed.
    pub(crate) refused: u64,
    /// Ended by the gateway or the network.
    pub(crate) dropped: u64,
    /// Dropped by the storm.
    pub(crate) stormed: u64,
    /// Back with their cursors after it.
    pub(crate) returned: u64,
    /// Back, and nothing that was missed is missing.
    pub(crate) caught_up: u64,
    /// Left as the churn wanted it, and had seen all that was theirs.
    pub(crate) left: u64,
    /// Connections of the storm that were refused for now and tried again.
    pub(crate) retries: u64,
}

impl SocketCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.open += other.open;
        self.connecting += other.connecting;
        self.opened += other.opened;
        self.refused += other.refused;
        self.dropped += other.dropped;
        self.stormed += other.stormed;
        self.returned += other.returned;
        self.caught_up += other.caught_up;
        self.left += other.left;
        self.retries += other.retries;
    }
}

/// What is timed.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Timed {
    /// COMMIT sent to event read.
    Commit,
    /// The moment at which the change was due to event read.
    Due,
    /// Start of the TCP connection to the 101.
    Connect,
    /// The same, to the last answer to a join.
    Join,
    /// The moment at which a socket was to come back after a storm to the last answer to a join.
    Back,
    /// The same, to the last event that it had missed.
    CaughtUp,
}

/// Some durations of one kind, of changes of one phase, at one group of organisations.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Label {
    pub(crate) timed: Timed,
    pub(crate) phase: usize,
    /// 0: the organisation that stands apart, where one does; 1: the others.
    pub(crate) group: usize,
}

/// A histogram on its way: microseconds and how often.
#[derive(Serialize, Deserialize)]
pub(crate) struct Timing {
    pub(crate) label: Label,
    pub(crate) counts: Vec<(u64, u64)>,
}
