//! Counters and gauges, and their text for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why an upgrade was refused, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    /// The code in the error body.
    pub code: &'static str,
}

/// The code of a Close frame, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    /// From the table of close codes.
    pub code: u16,
}

/// All metrics of one gateway. No globals: two gateways can run in one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Sessions now open.
    pub sessions: Gauge,
    /// Upgrades accepted.
    pub accepted: Counter,
    /// Upgrades refused, by reason.
    pub refused: Family<RefusalLabels, Counter>,
    /// Sessions ended, by close code.
    pub closed: Family<CloseLabels, Counter>,
    /// Queries for organisations that were not in memory.
    pub directory_org_queries: Counter,
    /// Replays served from memory.
    pub replays_from_memory: Counter,
    /// Replays served from the log.
    pub replays_from_log: Counter,
    /// Queries that those made.
    pub replay_queries: Counter,
    /// Joins with a cursor that were told to read their state anew.
    pub resyncs: Counter,
    /// Times that the ring of the log was moved on by this node.
    pub rotations: Counter,
    /// 1 while retention is due and can't be done.
    pub retention_late: Gauge,
    /// Reads of the log.
    pub reads: Counter,
    /// Events read from the log.
    pub events: Counter,
    /// Frames handed to sockets.
    pub deliveries: Counter,
    /// Writes that the kernel took whole at once.
    pub direct_writes: Counter,
    /// Writes that had to wait in an outbox.
    pub queued_writes: Counter,
    /// 1 while the node follows the log.
    pub following: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("warden");
        let mut metrics = Self {
            registry: Registry::default(),
            sessions: Gauge::default(),
            accepted: Counter::default(),
            refused: Family::default(),
            closed: Family::default(),
            directory_org_queries: Counter::default(),
            replays_from_memory: Counter::default(),
            replays_from_log: Counter::default(),
            replay_queries: Counter::default(),
            resyncs: Counter::default(),
            rotations: Counter::default(),
            retention_late: Gauge::default(),
            reads: Counter::default(),
            events: Counter::default(),
            deliveries: Counter::default(),
            direct_writes: Counter::default(),
            queued_writes: Counter::default(),
            following: Gauge::default(),
        };
        registry.register("sessions", "Sessions now open", metrics.sessions.clone());
        registry.register("upgrades_accepted", "Upgrades accepted", metrics.accepted.clone());
        registry.register("upgrades_refused", "Upgrades refused, by reason", metrics.refused.clone());
        registry.register("sessions_closed", "Sessions ended, by close code", metrics.closed.clone());
        registry.register(
            "directory_org_queries",
            "Queries for organisations that were not in memory",
            metrics.directory_org_queries.clone(),
        );
        let in_memory = metrics.replays_from_memory.clone();
        registry.register("replays_from_memory", "Replays served from memory", in_memory);
        registry.register(
            "replays_from_log",
            "Replays served from the log",
            metrics.replays_from_log.clone(),
        );
        registry.register("replay_queries", "Queries made by replays", metrics.replay_queries.clone());
        registry.register("resyncs", "Joins with a cursor that could not be served", metrics.resyncs.clone());
        registry.register(
            "log_rotations",
            "Slots by which this node moved the log",
            metrics.rotations.clone(),
        );
        let late = metrics.retention_late.clone();
        registry.register("log_retention_late", "1 while retention is due and can't be done", late);
        registry.register("log_reads", "Reads of the event log", metrics.reads.clone());
        registry.register("log_events", "Events read from the log", metrics.events.clone());
        registry.register("deliveries", "Frames handed to sockets", metrics.deliveries.clone());
        registry.register("writes_direct", "Writes taken whole at once", metrics.direct_writes.clone());
        registry.register("writes_queued", "Writes that waited in an outbox", metrics.queued_writes.clone());
        registry.register("log_following", "1 while the node follows the log", metrics.following.clone());
        metrics.registry = registry;
        metrics
    }
}

impl Metrics {
    /// The text format of Prometheus.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
