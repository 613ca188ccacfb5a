//! Counters, gauges and histograms of one gateway, and their text format for Prometheus.
//!
//! Names of metrics are an interface for operators and stay as they are.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

/// Label of a rejected request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RejectionLabels {
    /// Code in the error body.
    pub code: &'static str,
}

/// Label of a closed session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabels {
    /// Close code of the table in `wire::close`.
    pub code: u16,
}

/// Label of a broadcast's size, which shows whether small topics wait for large ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AudienceLabels {
    /// Range of subscribers that [`Metrics::fanout_slice`] chooses.
    pub subscribers: &'static str,
}

/// Label of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    /// Name in error bodies and in `docs/security.md`.
    pub limit: &'static str,
}

/// Label of a token issuer with a key server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct IssuerLabels {
    /// Name in the configuration.
    pub issuer: String,
}

/// Label of a comparison of an event with a filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FilterOutcomeLabels {
    /// `selected`, `entered`, `left`, `none` or `unknown`.
    pub outcome: &'static str,
}

/// Label of a kind of filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FilterKindLabels {
    /// `indexed` or `scanned`.
    pub kind: &'static str,
}

impl FilterKindLabels {
    /// The kind of a filter, by whether it is evaluated for every event.
    #[must_use]
    pub fn of(is_scanned: bool) -> Self {
        Self { kind: if is_scanned { "scanned" } else { "indexed" } }
    }
}

/// All metrics of one gateway. There are no globals, so several gateways can run in one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open sessions.
    pub sessions: Gauge,
    /// Accepted upgrades.
    pub accepted: Counter,
    /// Rejected upgrades, by code.
    pub rejected: Family<RejectionLabels, Counter>,
    /// Revocations that back ends requested through HTTP and that were stored.
    pub revocations_requested: Counter,
    /// Rejected revocation requests, by code.
    pub revocations_rejected: Family<RejectionLabels, Counter>,
    /// Events that back ends published through HTTP. Repeated ones are not counted again.
    pub published: Counter,
    /// Rejected requests to publish, by code.
    pub publishes_rejected: Family<RejectionLabels, Counter>,
    /// Rejected requests for rows and the OpenAPI document, and rejected questions about cursors, by code.
    pub reads_rejected: Family<RejectionLabels, Counter>,
    /// Rows that requests read.
    pub rows_read: Counter,
    /// Requests for rows that failed for a reason that the log has.
    pub reads_failed: Counter,
    /// Distinct filters and column selections of joins, by kind.
    pub filters: Family<FilterKindLabels, Gauge>,
    /// Comparisons of live events with filters, by outcome.
    pub filter_evaluations: Family<FilterOutcomeLabels, Counter>,
    /// Rejected filters of joins, by code.
    pub filters_rejected: Family<RejectionLabels, Counter>,
    /// Closed sessions, by close code.
    pub closed: Family<CloseLabels, Counter>,
    /// Times that a limit was exceeded, by limit.
    pub limits_reached: Family<LimitLabels, Counter>,
    /// Configured value of each limit.
    pub limits: Family<LimitLabels, Gauge>,
    /// Connections without an upgrade.
    pub connections_pending: Gauge,
    /// Addresses whose handshake rate is remembered.
    pub addresses_tracked: Gauge,
    /// Rejections whose answer was delayed.
    pub rejections_delayed: Counter,
    /// Failed `accept` calls, as when file descriptors run out.
    pub accept_errors: Counter,
    /// Requests to key servers.
    pub key_fetches: Family<IssuerLabels, Counter>,
    /// Known public keys, by issuer.
    pub keys: Family<IssuerLabels, Gauge>,
    /// Handshakes and refreshes that wait for keys, by issuer.
    pub keys_waiting: Family<IssuerLabels, Gauge>,
    /// 1 while the last request to a key server failed.
    pub keys_failing: Family<IssuerLabels, Gauge>,
    /// Tokens with a valid signature that were rejected because their `iat` is in the future, by issuer.
    pub issued_in_future: Family<IssuerLabels, Counter>,
    /// Seconds by which the newest token's `iat` was ahead of this node's clock when it arrived, by issuer.
    pub issuer_clock_offset: Family<IssuerLabels, Gauge>,
    /// Queries for organisations that were not in memory.
    pub directory_org_queries: Counter,
    /// Active revocations in memory.
    pub revocations: Gauge,
    /// Organisations that were deleted without a log event.
    pub orgs_swept: Counter,
    /// Replays served from memory.
    pub replays_from_memory: Counter,
    /// Replays served from the log.
    pub replays_from_log: Counter,
    /// Queries for replays from the log.
    pub replay_queries: Counter,
    /// Bytes that replays from the log hold or have reserved.
    pub replay_bytes: Gauge,
    /// Resumes whose missed events are not yet sent.
    pub replays_waiting: Gauge,
    /// Joins with a cursor that were answered with a resync.
    pub resyncs: Counter,
    /// Log rotations by this node.
    pub rotations: Counter,
    /// Log rotations by this node in which only organisations beyond their share lost events.
    pub rotations_by_share: Counter,
    /// 1 while retention is due and blocked.
    pub retention_late: Gauge,
    /// Watched tables that no longer fit their watch.
    pub unfit_watches: Gauge,
    /// Reads of the log.
    pub reads: Counter,
    /// Reads of the log that waited, because too many found nothing.
    pub reads_deferred: Counter,
    /// 1 while reads of the log wait because too many find nothing.
    pub doorbell_flooded: Gauge,
    /// Events read from the log.
    pub events: Counter,
    /// Frames handed to sockets.
    pub deliveries: Counter,
    /// Writes that the kernel accepted whole and immediately.
    pub direct_writes: Counter,
    /// Writes that waited in an outbox.
    pub queued_writes: Counter,
    /// Times that an organisation's queued events were dropped and its topics told to resync.
    pub overloads: Counter,
    /// Seconds from reading an event to writing it to the sockets of one slice, by size of the topic.
    fanout_seconds: Family<AudienceLabels, Histogram, fn() -> Histogram>,
    /// 1 while the node follows the log.
    pub following: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("warden");
        let r = &mut registry;
        Self {
            fanout_seconds: new_fanout_seconds(r),
            overloads: new(
                r,
                "fanout_overloads",
                "Times that an organisation's queued events were dropped and its topics told to resync",
            ),
            sessions: new(r, "sessions", "Open sessions"),
            accepted: new(r, "upgrades_accepted", "Accepted upgrades"),
            rejected: new(r, "upgrades_refused", "Rejected upgrades, by code"),
            revocations_requested: new(r, "revocations_requested", "Revocations requested through HTTP"),
            published: new(r, "events_published", "Events that back ends published through HTTP"),
            publishes_rejected: new(r, "publishes_refused", "Rejected requests to publish, by code"),
            revocations_rejected: new(
                r,
                "revocations_refused",
                "Rejected revocation requests through HTTP, by code",
            ),
            reads_rejected: new(
                r,
                "row_reads_refused",
                "Rejected requests for rows and the OpenAPI document, and rejected questions about cursors, by code",
            ),
            rows_read: new(r, "rows_read", "Rows that requests read"),
            reads_failed: new(r, "row_reads_failed", "Requests for rows that failed for a logged reason"),
            filters: new(r, "filters", "Distinct filters of joins, by kind"),
            filter_evaluations: new(r, "filter_evaluations", "Filters compared with live events, by outcome"),
            filters_rejected: new(r, "filters_refused", "Rejected filters of joins, by code"),
            closed: new(r, "sessions_closed", "Closed sessions, by close code"),
            limits_reached: new(r, "limits_reached", "Times that a limit was exceeded, by limit"),
            limits: new(r, "limit", "Configured value of each limit"),
            connections_pending: new(r, "connections_pending", "Connections without an upgrade"),
            addresses_tracked: new(r, "addresses_tracked", "Addresses whose handshake rate is remembered"),
            rejections_delayed: new(r, "refusals_delayed", "Rejections whose answer was delayed"),
            accept_errors: new(r, "accept_errors", "Failed accept calls"),
            key_fetches: new(r, "issuer_key_fetches", "Requests to key servers, by issuer"),
            keys: new(r, "issuer_keys", "Known public keys, by issuer"),
            keys_waiting: new(r, "issuer_keys_waiting", "Tokens that wait for keys, by issuer"),
            keys_failing: new(r, "issuer_keys_failing", "1 while the key server fails, by issuer"),
            issued_in_future: new(r, "issuer_tokens_from_future", "Tokens with a future iat, by issuer"),
            issuer_clock_offset: new(r, "issuer_clock_offset_seconds", "Newest iat minus this node's clock"),
            directory_org_queries: new(
                r,
                "directory_org_queries",
                "Queries for organisations that were not in memory",
            ),
            revocations: new(r, "revocations", "Active revocations in memory"),
            orgs_swept: new(r, "orgs_swept", "Organisations that were deleted without a log event"),
            replays_from_memory: new(r, "replays_from_memory", "Replays served from memory"),
            replays_from_log: new(r, "replays_from_log", "Replays served from the log"),
            replay_queries: new(r, "replay_queries", "Queries for replays from the log"),
            replay_bytes: new(r, "replay_bytes", "Bytes that replays from the log hold or have reserved"),
            replays_waiting: new(r, "replays_waiting", "Resumes whose missed events are not yet sent"),
            resyncs: new(r, "resyncs", "Joins with a cursor that were answered with a resync"),
            rotations: new(r, "log_rotations", "Log rotations by this node"),
            rotations_by_share: new(r, "log_rotations_by_share", "Rotations that removed events by share"),
            retention_late: new(r, "log_retention_late", "1 while retention is due and blocked"),
            unfit_watches: new(r, "watches_unfit", "Watched tables that no longer fit their watch"),
            reads: new(r, "log_reads", "Reads of the event log"),
            reads_deferred: new(r, "log_reads_deferred", "Reads that waited, because too many found nothing"),
            doorbell_flooded: new(r, "doorbell_flooded", "1 while reads wait because too many find nothing"),
            events: new(r, "log_events", "Events read from the log"),
            deliveries: new(r, "deliveries", "Frames handed to sockets"),
            direct_writes: new(r, "writes_direct", "Writes that the kernel accepted whole and immediately"),
            queued_writes: new(r, "writes_queued", "Writes that waited in an outbox"),
            following: new(r, "log_following", "1 while the node follows the log"),
            registry,
        }
    }
}

/// Buckets from 25 us to 1.4 s, each 1.5 times the one before.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(25e-6, 1.5, 28))
}

/// Registers the histograms of fan-out.
fn new_fanout_seconds(registry: &mut Registry) -> Family<AudienceLabels, Histogram> {
    let seconds = Family::new_with_constructor(latency_histogram as fn() -> Histogram);
    registry.register(
        "fanout_seconds",
        "Time from reading an event to writing it to one slice of sockets, by size of the topic",
        seconds.clone(),
    );
    seconds
}

/// Registers a metric with its default value.
fn new<M: Clone + Default + Metric>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// Records one written slice of a topic with at most this many subscribers.
    pub fn fanout_slice(&self, subscribers_max: usize, since_read: Duration) {
        let subscribers = match subscribers_max {
            0..=64 => "up to 64",
            65..=1024 => "up to 1024",
            _ => "more",
        };
        self.fanout_seconds.get_or_create(&AudienceLabels { subscribers }).observe(since_read.as_secs_f64());
    }

    /// Counts an exceeded limit.
    pub fn limit_reached(&self, limit: &'static str) {
        self.limits_reached.get_or_create(&LimitLabels { limit }).inc();
    }

    /// Sets the configured value of a limit.
    pub fn set_limit(&self, limit: &'static str, value: usize) {
        self.limits.get_or_create(&LimitLabels { limit }).set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// All metrics in the text format of Prometheus.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
