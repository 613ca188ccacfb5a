//! The memory budget of a gateway: everything that clients, back ends and writers can fill, except sessions.
//!
//! Parts with a fixed number of entries come first. The other parts are shares of what remains.

use super::Limits;
use crate::{control, hub};

const MIB: usize = 1024 * 1024;

/// Default of the budget.
pub const BUDGET_DEFAULT: usize = 512 * MIB;

/// Smallest budget. With less, one read for a replay would hardly fit, and a large body not.
pub const BUDGET_MIN: usize = 320 * MIB;

/// Number of units into which the memory of the other parts is divided. A unit is 16 MiB by default.
const UNITS: usize = 23;

/// Units of each of the other parts.
const FANOUT_UNITS: usize = 4;
const FRAME_UNITS: usize = 3;
const REPLAY_UNITS: usize = 5;
const READING_UNITS: usize = 1;
const RECENT_UNITS: usize = 2;
const PUBLISH_UNITS: usize = 1;
const CURSOR_UNITS: usize = 2;
const PAGE_UNITS: usize = 1;
const HANDSHAKE_UNITS: usize = 4;

/// Estimated memory of one organisation: its place in the directory, and its share of the log lines.
const ORG_BYTES: usize = 256;

/// Estimated memory of one address in two rate limiters and among the known ones, and of one organisation in
/// two other limiters.
const ADDRESS_BYTES: usize = 300;

/// Estimated memory of one reading user and organisation in their rate limiters.
const READER_BYTES: usize = 200;

/// Estimated memory of a connection before its upgrade, beside the head of its request: its task, and the
/// buffers of TLS.
const CONNECTION_BYTES: usize = 8 * 1024;

/// Estimated memory for everything that does not depend on clients: code, threads, connections to the
/// database, keys.
const PROCESS_BYTES: usize = 18 * MIB;

/// Connections before their upgrade, whatever the budget.
const PENDING_MAX: usize = 4096;

/// One part of the budget.
#[derive(Clone, Debug)]
pub struct MemoryPart {
    /// Description of the content.
    pub name: &'static str,
    /// Most bytes.
    pub bytes_max: usize,
    /// Names of the limits that bound the part, as in [`Limits::table`].
    pub limits: &'static [&'static str],
}

impl Limits {
    /// Sets the budget, and divides it.
    pub fn share_memory(&mut self, budget: usize) {
        self.memory_bytes_max = budget;
        let unit = self.memory_unit();
        self.fanout.bytes_max = FANOUT_UNITS * unit;
        self.fanout.org_bytes_max = self.fanout.bytes_max * 2 / 3;
        self.outbox.memory_bytes_max = FRAME_UNITS * unit;
        self.replay.memory_bytes_max = REPLAY_UNITS * unit;
        // An organisation may hold half of the memory: two reads.
        self.replay.bytes_max = self.replay.memory_bytes_max / 4;
        self.replay.cursor_bytes_max = CURSOR_UNITS * unit;
        self.reading.memory_bytes_max = READING_UNITS * unit;
        self.recent.bytes_max = RECENT_UNITS * unit;
        self.recent.org_bytes_max = self.recent.bytes_max / 8;
        self.publish.memory_bytes_max = PUBLISH_UNITS * unit;
        self.tailer.page_bytes_max = PAGE_UNITS * unit;
        self.admission.pending_max = (HANDSHAKE_UNITS * unit / self.pending_bytes()).min(PENDING_MAX);
    }

    /// The budget that the configured connections before their upgrade need.
    #[must_use]
    pub fn memory_for_pending(&self) -> usize {
        let handshakes = self.admission.pending_max * self.pending_bytes();
        self.fixed_bytes() + handshakes.div_ceil(HANDSHAKE_UNITS) * UNITS
    }

    /// Memory of one connection before its upgrade.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.serve.head_bytes_max + CONNECTION_BYTES
    }

    /// All parts of the budget.
    #[must_use]
    pub fn memory_parts(&self) -> Vec<MemoryPart> {
        let part = |name, bytes_max, limits| MemoryPart { name, bytes_max, limits };
        let mut parts = vec![
            part("Queues of fan-out", self.fanout.bytes_max, &["fanout.bytes_max", "fanout.org_bytes_max"]),
            part(
                "Frames that wait in fan-out, in outboxes and in replay buffers",
                self.outbox.memory_bytes_max,
                &[
                    "outbox.memory_bytes_max",
                    "outbox.queue_bytes_max",
                    "outbox.queue_chunks_max",
                    "hub::ORG_FRAMES_MIN",
                    "hub::fanout::STEP_BYTES_MAX",
                    "hub::fanout::EVENT_FRAMES_BYTES_MAX",
                ],
            ),
            part(
                "Events of replays that are read or sent",
                self.replay.memory_bytes_max,
                &[
                    "replay.memory_bytes_max",
                    "replay.bytes_max",
                    "replay.events_max",
                    "replay.concurrent_reads_max",
                ],
            ),
            part(
                "Pages of rows that are read or sent",
                self.reading.memory_bytes_max,
                &[
                    "reading.memory_bytes_max",
                    "reading.page_bytes_max",
                    "reading.requests_per_org_max",
                    "reading.snapshot_page_bytes_max",
                ],
            ),
            part("Recent events", self.recent.bytes_max, &["recent.bytes_max", "recent.org_bytes_max"]),
            part(
                "Requests that publish",
                self.publish.memory_bytes_max,
                &["publish.memory_bytes_max", "publish.body_bytes_max", "publish.events_max"],
            ),
            part(
                "Cursors of resumes",
                self.replay.cursor_bytes_max,
                &[
                    "replay.cursor_bytes_max",
                    "replay.resumes_max",
                    "replay::IN_PROGRESS_MAX",
                    "cursor::CURSOR_BYTES_MAX",
                    "cursor::IN_PROGRESS_MAX",
                ],
            ),
            part(
                "Page of the log that is being dispatched",
                self.tailer.page_bytes_max,
                &["tailer.page_bytes_max", "tailer.page_rows_max", "tailer.warm_rows_max"],
            ),
            self.pending_part(),
        ];
        parts.extend(self.fixed_parts());
        parts
    }

    /// Connections before their upgrade.
    fn pending_part(&self) -> MemoryPart {
        MemoryPart {
            name: "Connections before their upgrade",
            bytes_max: self.admission.pending_max * self.pending_bytes(),
            limits: &[
                "admission.pending_max",
                "admission.pending_per_address_max",
                "admission.delayed_max",
                "admission.delayed_per_address_max",
                "admission.rejected_max",
                "serve.head_bytes_max",
                "serve.headers_max",
                "token_bytes_max",
                "keys.waiting_max",
                "http::serve::REJECT_BYTES_MAX",
                "http::revocations::BODY_BYTES_MAX",
                "http::covers::COVERS_BODY_BYTES_MAX",
            ],
        }
    }

    /// Parts that do not grow with the budget.
    fn fixed_parts(&self) -> [MemoryPart; 5] {
        let part = |name, bytes_max, limits| MemoryPart { name, bytes_max, limits };
        [
            part(
                "Filters of joins",
                hub::FILTER_MEMORY_MAX,
                &["hub::FILTER_MEMORY_MAX", "hub::ORG_FILTERS_MAX", "hub::ORG_SCANNED_FILTERS_MAX"],
            ),
            part(
                "Revocations, twice while they are loaded",
                2 * control::ENTRIES_MAX * control::ENTRY_BYTES,
                &["control::revocations::ENTRIES_MAX"],
            ),
            part(
                "Organisations",
                control::ORGS_MAX * ORG_BYTES,
                &["control::directory::ORGS_MAX", "control::reconciler::ORGS_IN_QUERY_MAX"],
            ),
            part(
                "Addresses of clients, and users that read",
                self.admission.addresses_max * ADDRESS_BYTES + self.admission.readers_max * READER_BYTES,
                &["admission.addresses_max", "admission.readers_max"],
            ),
            part(
                "The process itself: code, threads, keys, connections to the database",
                PROCESS_BYTES,
                &[
                    "keys.bytes_max",
                    "auth::JWKS_KEYS_MAX",
                    "auth::KID_BYTES_MAX",
                    "keys_max in warden.rotate_cursor_keys()",
                    "postgres::address::ADDRESSES_MAX",
                    "postgres::primary::pool::CONNECTIONS_MAX",
                    "postgres::primary::pool::PUBLISH_CONNECTIONS_MAX",
                    "postgres::primary::pool::READ_CONNECTIONS_MAX",
                    "reading::CONVERTED_BYTES_MAX",
                    "reading::CONVERTED_VALUES_MAX",
                    "reading::TABLES_MAX",
                    "warden_connect::BUFFER_BYTES",
                    "hub::fanout::HELPERS_MAX",
                    "hub::questions::QUESTIONS_MAX",
                    "hub::questions::ORG_QUESTIONS_MAX",
                ],
            ),
        ]
    }

    fn fixed_bytes(&self) -> usize {
        let bytes: usize = self.fixed_parts().iter().map(|part| part.bytes_max).sum();
        // Whole units are easier to read.
        bytes.next_multiple_of(16 * MIB)
    }

    fn memory_unit(&self) -> usize {
        self.memory_bytes_max.saturating_sub(self.fixed_bytes()) / UNITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::table::Value;
    use crate::org::OrgId;
    use crate::publish::PublishShares;

    /// Limits of bytes and counts that are no part of the budget, with the reason.
    const OUTSIDE: &[(&str, &[&str])] = &[
        (
            "memory of a session, which comes in addition",
            &[
                "admission.sessions_max",
                "admission.org_sessions_max",
                "admission.user_sessions_max",
                "auth::TOPICS_MAX",
                "auth::SIGNED_FILTERS_MAX",
                "auth::SIGNED_FILTER_BYTES_MAX",
                "auth::SIGNED_VALUE_BYTES_MAX",
                "session::SESSION_FILTERS_MAX",
                "hub::questions::SESSION_QUESTIONS_MAX",
                "reading.snapshots_per_org_max",
                "reading.snapshots_waiting_per_org_max",
                "session.joins_max",
                "session.snapshots_max",
                "session.message_bytes_max",
                "session.refreshes_max",
                "session.send_buffer_bytes",
                "wire::codec::NAME_BYTES_MAX",
                "wire::codec::REF_BYTES_MAX",
            ],
        ),
        (
            "in the database",
            &[
                "bucket_keys_max in warden.take_idempotency_keys()",
                "entries_max in warden.revoke()",
                "entries_of_operators in warden.revoke()",
                "events_max in warden.publish_all()",
                "part_of_org in warden.revoke()",
                "retention.bytes_max",
                "retention.org_bytes_max",
            ],
        ),
        (
            "size of one value, of which another limit bounds the number",
            &[
                "config::signing::JWT_SECRET_BYTES_MIN",
                "data_bytes_max in warden.publish()",
                "warden.convertible_columns()",
                "warden.event_bytes_max()",
                "http::admission::HOPS_MAX",
                "http::revocations::REASON_BYTES_MAX",
                "http::revocations::TEXT_BYTES_MAX",
                "publish::KEY_BYTES_MAX",
                "publish::SMALL_BODY_BYTES_MAX",
                "publish::cloudevents::PROBLEMS_MAX",
                "publish::strict::DEPTH_MAX",
                "publish::strict::KEYS_MAX",
                "publish::strict::NUMBER_DIGITS_MAX",
                "filter::CONDITIONS_MAX",
                "filter::DEPTH_MAX",
                "filter::LIST_VALUES_MAX",
                "filter::DIGITS_MAX",
                "filter::FLOATING_CHARS_MAX",
                "reading::FILTER_BYTES_MAX",
                "reading::FILTER_VALUE_BYTES_MAX",
                "reading::ORDER_COLUMNS_MAX",
                "reading::POSITION_BYTES_MAX",
                "reading::SELECT_COLUMNS_MAX",
            ],
        ),
        (
            "amount of work at a time, which takes no memory",
            &[
                "config::connections::RESERVED_DESCRIPTORS",
                "drain.sessions_per_second_min",
                "filter::PATTERN_STEPS_MAX",
                "hub::EVENT_EVALUATIONS_MAX",
                "hub::FILTERS_PER_VALUE_MAX",
                "hub::SEGMENT_SUBSCRIPTIONS_MAX",
                "hub::fanout::CHUNK_BYTES",
                "hub::fanout::ENCODE_EVENTS_MAX",
                "hub::fanout::EVALUATIONS_MAX",
                "hub::fanout::INLINE_COST_MAX",
                "hub::fanout::ROUND_COST",
                "reading.cost_max",
                "reading.count_max",
                "reading::DESCRIPTIONS_MAX",
                "reading::ROWS_DEFAULT",
                "reading::ROWS_MAX",
                "retention::BUSY_ATTEMPTS_MAX",
                "retention::KEYS_DELETED_MAX",
                "blocks_at_once in warden.move_events()",
                "blocks_max in warden.log_usage()",
                "hard_factor in warden.move_events()",
                "tailer::EMPTY_READS_PER_READ_WITH_EVENTS",
            ],
        ),
        (
            "commands other than `warden serve`",
            &["tenancy::audit::COUNTED_ROWS_MAX", "tenancy::executor::BATCH_ROWS_DEFAULT"],
        ),
    ];

    #[test]
    fn all_parts_together_fit_into_the_budget() {
        for budget in [BUDGET_DEFAULT, BUDGET_MIN, 3 * BUDGET_DEFAULT, 64 * BUDGET_DEFAULT] {
            let mut limits = Limits::default();
            limits.share_memory(budget);
            let sum: usize = limits.memory_parts().iter().map(|part| part.bytes_max).sum();
            assert!(sum <= budget, "{} MiB of {}", sum / MIB, budget / MIB);
            assert!(
                sum > budget * 9 / 10 || budget > BUDGET_DEFAULT,
                "{} MiB are unused",
                (budget - sum) / MIB
            );
            assert!(limits.memory_parts().iter().all(|part| part.bytes_max > 0));
            // Even the largest body leaves as much as it takes.
            let shares = PublishShares::new(limits.publish.memory_bytes_max, 1);
            assert!(shares.reserve(OrgId::for_tests(1), limits.publish.body_bytes_max).is_some());
        }
        assert_eq!(Limits::default().memory_unit(), 16 * MIB);
    }

    #[test]
    fn every_limit_of_memory_belongs_to_a_part_or_is_named_as_outside() {
        let limits = Limits::default();
        let parts = limits.memory_parts();
        let mut classified: Vec<&str> = parts.iter().flat_map(|part| part.limits).copied().collect();
        classified.extend(OUTSIDE.iter().flat_map(|(_, names)| *names));
        classified.push("memory_bytes_max");
        classified.sort_unstable();
        let is_size = |value| matches!(value, Value::Bytes(_) | Value::Count(_));
        let sections = limits.table();
        let rows = sections.iter().flat_map(|section| &section.limits).filter(|limit| is_size(limit.value));
        let mut sizes: Vec<&str> = rows.map(|limit| limit.name).collect();
        sizes.sort_unstable();
        assert_eq!(
            sizes, classified,
            "add a new limit to a part of the budget, or to OUTSIDE with the reason"
        );
    }
}
