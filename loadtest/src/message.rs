//! Messages between the main process and its workers, which hold the sockets: one JSON object per line.
//! Commands go to a worker's standard input, and reports come from its standard output. Secrets are sent only
//! this way, because other users can read a process's arguments and, at times, its environment.

use std::net::IpAddr;

use bench_support::endpoint::Endpoint;
use bench_support::token::TokenSettings;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::check::{Change, Counts, Outcome};
use crate::clock::Nanos;
use crate::filters::Filter;
use crate::histograms::HistogramCounts;

/// The first line that a worker reads.
#[derive(Serialize, Deserialize)]
pub(crate) struct WorkerTask {
    /// Id of the run.
    pub(crate) run: String,
    pub(crate) orgs: Vec<Uuid>,
    pub(crate) gateways: Vec<Endpoint>,
    /// Topics that each socket joins.
    pub(crate) topics: Vec<String>,
    pub(crate) sockets: Vec<SocketSpec>,
    pub(crate) tokens: TokenSettings,
    /// Beginning of the report's first interval.
    pub(crate) epoch: Nanos,
    /// Length of the report's intervals.
    pub(crate) interval: Nanos,
    /// Whether latencies of the first organisation are recorded separately from those of the others.
    pub(crate) separate_first_org: bool,
}

/// A socket that a worker may open.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketSpec {
    /// Index of its organisation.
    pub(crate) org: usize,
    /// Index of its gateway.
    pub(crate) gateway: usize,
    /// Source address; `None` leaves the choice to the kernel.
    pub(crate) from: Option<IpAddr>,
    /// Filter of its join of `calls`.
    pub(crate) filter: Option<Filter>,
}

/// A command for a worker.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Command {
    /// The COMMIT of a change will be sent as soon as this line is written.
    #[serde(rename = "a")]
    Announce(Change),
    /// How the transaction of a change ended.
    #[serde(rename = "o")]
    SetOutcome { org: usize, number: usize, outcome: Outcome },
    /// Open sockets until this many were opened.
    Open { until: usize, per_second: f64 },
    /// Drop this share of the open sockets at once, without a Close. They reconnect with their cursors after
    /// `away`.
    Storm { share: f64, away: Nanos, per_second: f64 },
    /// Let this many sockets per second leave, each followed by a new one. 0 ends it.
    Churn { per_second: f64 },
    /// Publishing has ended: wait for missing events until the deadline, then close the sockets and report.
    Settle { deadline: Nanos },
    /// Stop waiting.
    Hurry,
}

/// A report from a worker.
#[derive(Serialize, Deserialize)]
pub(crate) enum WorkerReport {
    /// Result of the first connection: `None` if the socket is open, otherwise the error.
    FirstSocket(Option<String>),
    /// Durations and counts, sent every interval.
    Progress(Box<Progress>),
    /// The last report of a worker: all its sockets are closed.
    Done { findings: Vec<String> },
}

/// The durations of one interval, and the counts at its end.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct Progress {
    pub(crate) interval: usize,
    /// Counts since the beginning of the run.
    pub(crate) counts: Counts,
    pub(crate) sockets: SocketCounts,
    /// Durations of this interval.
    pub(crate) histograms: Vec<HistogramCounts>,
}

/// Numbers of sockets.
#[derive(Serialize, Deserialize, Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct SocketCounts {
    /// Sockets that have joined all topics, at present.
    pub(crate) open: u64,
    /// Sockets between the start of their connection and their last join, at present.
    pub(crate) connecting: u64,
    /// First opens since the beginning, including the sockets that replaced others.
    pub(crate) opened: u64,
    /// Sockets whose handshake or join failed.
    pub(crate) failed: u64,
    /// Sockets that the gateway or the network ended.
    pub(crate) dropped: u64,
    /// Sockets that the storm dropped.
    pub(crate) storm_dropped: u64,
    /// Sockets that have reconnected after the storm.
    pub(crate) reconnected: u64,
    /// Reconnected sockets that have received all missed events.
    pub(crate) caught_up: u64,
    /// Sockets that left for the churn.
    pub(crate) left: u64,
    /// Connections that were attempted again after a 429, a 503 or a timeout.
    pub(crate) retries: u64,
}

impl SocketCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.open += other.open;
        self.connecting += other.connecting;
        self.opened += other.opened;
        self.failed += other.failed;
        self.dropped += other.dropped;
        self.storm_dropped += other.storm_dropped;
        self.reconnected += other.reconnected;
        self.caught_up += other.caught_up;
        self.left += other.left;
        self.retries += other.retries;
    }
}
