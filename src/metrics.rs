//! Counters and gauges, and their text for Prometheus.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

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

/// How many listen to what was sent, as a label: whether those who are few wait for those who are many.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AudienceLabels {
    /// A range, by [`Metrics::fanout_slice`].
    pub subscribers: &'static str,
}

/// The name of a limit, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    /// As in error bodies and in the table of `docs/security.md`.
    pub limit: &'static str,
}

/// An issuer of tokens whose keys come from a key server, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct IssuerLabels {
    /// From the configuration.
    pub issuer: String,
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
    /// Revocations that back ends asked for through HTTP, and that stand.
    pub revocations_requested: Counter,
    /// Revocations that were asked for and refused, by reason.
    pub revocations_refused: Family<RefusalLabels, Counter>,
    /// Sessions ended, by close code.
    pub closed: Family<CloseLabels, Counter>,
    /// Times that a limit was reached, by limit.
    pub limits_reached: Family<LimitLabels, Counter>,
    /// What the limits are, by limit.
    pub limits: Family<LimitLabels, Gauge>,
    /// Connections that are not upgraded (yet).
    pub connections_pending: Gauge,
    /// Addresses whose handshakes are remembered.
    pub addresses_tracked: Gauge,
    /// Refusals whose answer was delayed.
    pub refusals_delayed: Counter,
    /// Connections that could not be accepted, as when file descriptors run out.
    pub accept_errors: Counter,
    /// Requests to key servers.
    pub key_fetches: Family<IssuerLabels, Counter>,
    /// Keys known, by issuer.
    pub keys: Family<IssuerLabels, Gauge>,
    /// Handshakes and refreshes that wait for keys, by issuer.
    pub keys_waiting: Family<IssuerLabels, Gauge>,
    /// 1 while the last request to a key server failed.
    pub keys_failing: Family<IssuerLabels, Gauge>,
    /// Queries for organisations that were not in memory.
    pub directory_org_queries: Counter,
    /// Revocations that stand.
    pub revocations: Gauge,
    /// Organisations that were found gone without a word in the log.
    pub orgs_swept: Counter,
    /// Replays served from memory.
    pub replays_from_memory: Counter,
    /// Replays served from the log.
    pub replays_from_log: Counter,
    /// Queries that those made.
    pub replay_queries: Counter,
    /// Bytes of events from the log that replays hold, or have set aside.
    pub replay_bytes: Gauge,
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
    /// Times that an organisation made events faster than they could be sent, and was told to resync.
    pub overloads: Counter,
    /// Seconds from an event's read to its write to the sockets of one slice, by size of the topic.
    fanout_seconds: Family<AudienceLabels, Histogram, fn() -> Histogram>,
    /// 1 while the node follows the log.
    pub following: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("warden");
        let registered = &mut registry;
        let fanout_seconds = Family::new_with_constructor(latency_histogram as fn() -> Histogram);
        registered.register(
            "fanout_seconds",
            "From reading an event to having written it to a slice of sockets, by size of the topic",
            fanout_seconds.clone(),
        );
        Self {
            fanout_seconds,
            overloads: new(
                registered,
                "fanout_overloads",
                "Times that an organisation fell too far behind in fan-out, and was told to resync",
            ),
            sessions: new(registered, "sessions", "Sessions now open"),
            accepted: new(registered, "upgrades_accepted", "Upgrades accepted"),
            refused: new(registered, "upgrades_refused", "Upgrades refused, by reason"),
            revocations_requested: new(
                registered,
                "revocations_requested",
                "Revocations that back ends asked for through HTTP",
            ),
            revocations_refused: new(
                registered,
                "revocations_refused",
                "Revocations through HTTP refused, by reason",
            ),
            closed: new(registered, "sessions_closed", "Sessions ended, by close code"),
            limits_reached: new(registered, "limits_reached", "Times that a limit was reached, by limit"),
            limits: new(registered, "limit", "What the limits are, by limit"),
            connections_pending: new(
                registered,
                "connections_pending",
                "Connections that are not upgraded (yet)",
            ),
            addresses_tracked: new(
                registered,
                "addresses_tracked",
                "Addresses whose handshakes are remembered",
            ),
            refusals_delayed: new(registered, "refusals_delayed", "Refusals whose answer was delayed"),
            accept_errors: new(registered, "accept_errors", "Connections that could not be accepted"),
            key_fetches: new(registered, "issuer_key_fetches", "Requests to key servers, by issuer"),
            keys: new(registered, "issuer_keys", "Public keys known, by issuer"),
            keys_waiting: new(
                registered,
                "issuer_keys_waiting",
                "Handshakes and refreshes that wait for keys, by issuer",
            ),
            keys_failing: new(
                registered,
                "issuer_keys_failing",
                "1 while the last request to a key server failed, by issuer",
            ),
            directory_org_queries: new(
                registered,
                "directory_org_queries",
                "Queries for organisations that were not in memory",
            ),
            revocations: new(registered, "revocations", "Revocations that stand, as this node knows them"),
            orgs_swept: new(registered, "orgs_swept", "Organisations found gone without a word in the log"),
            replays_from_memory: new(registered, "replays_from_memory", "Replays served from memory"),
            replays_from_log: new(registered, "replays_from_log", "Replays served from the log"),
            replay_queries: new(registered, "replay_queries", "Queries made by replays"),
            replay_bytes: new(registered, "replay_bytes", "Bytes that replays from the log hold"),
            resyncs: new(registered, "resyncs", "Joins with a cursor that could not be served"),
            rotations: new(registered, "log_rotations", "Slots by which this node moved the log"),
            retention_late: new(
                registered,
                "log_retention_late",
                "1 while retention is due and can't be done",
            ),
            reads: new(registered, "log_reads", "Reads of the event log"),
            events: new(registered, "log_events", "Events read from the log"),
            deliveries: new(registered, "deliveries", "Frames handed to sockets"),
            direct_writes: new(registered, "writes_direct", "Writes taken whole at once"),
            queued_writes: new(registered, "writes_queued", "Writes that waited in an outbox"),
            following: new(registered, "log_following", "1 while the node follows the log"),
            registry,
        }
    }
}

/// From 25 us to 1.4 s, each bound half as much again as the one before.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(25e-6, 1.5, 28))
}

/// A metric that starts at nothing, and what reads it out.
fn new<M: Clone + Default + Metric>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// A slice of a topic with at most so many subscribers was sent, so long after its events were read.
    pub fn fanout_slice(&self, subscribers_max: usize, since_read: Duration) {
        let subscribers = match subscribers_max {
            0..=64 => "up to 64",
            65..=1024 => "up to 1024",
            _ => "more",
        };
        self.fanout_seconds.get_or_create(&AudienceLabels { subscribers }).observe(since_read.as_secs_f64());
    }

    /// Counts that a limit was reached.
    pub fn limit_reached(&self, limit: &'static str) {
        self.limits_reached.get_or_create(&LimitLabels { limit }).inc();
    }

    /// Shows what a limit is.
    pub fn set_limit(&self, limit: &'static str, value: usize) {
        self.limits.get_or_create(&LimitLabels { limit }).set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// The text format of Prometheus.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
