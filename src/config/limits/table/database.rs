//! Limits of connections to the database, and of the event log in it.

use std::time::Duration;

use super::Value::{Bytes, Count, Time};
use super::{Limit, Section, Value};
use crate::config::Limits;
use crate::postgres;
use crate::retention::{self, RetentionLimits};

pub(super) fn section(limits: &Limits) -> Section {
    Section { title: "Database", limits: [connections(limits), pools(), log(limits), moves()].concat() }
}

fn connections(limits: &Limits) -> Vec<Limit> {
    vec![
        Limit::new(
            "postgres::address::ADDRESSES_MAX",
            Value::count(postgres::ADDRESSES_MAX),
            "Addresses in `DATABASE_URL`.",
        ),
        Limit::new(
            "warden_connect::NEGOTIATION_TIMEOUT",
            Time(warden_connect::NEGOTIATION_TIMEOUT),
            "Longest time to connect to an address and to negotiate TLS, up to the server's first message.",
        ),
        Limit::new(
            "warden_connect::CLOSE_TIMEOUT",
            Time(warden_connect::CLOSE_TIMEOUT),
            "Longest time in which the end of a connection is passed on to the server.",
        ),
        Limit::new(
            "warden_connect::BUFFER_BYTES",
            Value::bytes(warden_connect::BUFFER_BYTES),
            "Bytes in transit in each direction of a connection by TCP, unless `sslmode` is `disable`.",
        ),
        Limit::new(
            "postgres::primary::discovery::ADDRESS_TIMEOUT",
            Time(postgres::ADDRESS_TIMEOUT),
            "Longest wait for one address to connect and to answer.",
        ),
        Limit::new(
            "postgres::primary::discovery::RIVAL_WAIT",
            Time(postgres::RIVAL_WAIT),
            "Time that the other addresses have to present a primary of a later timeline, after one primary answered.",
        ),
        Limit::new(
            "postgres::backend_mode::PROBE_TIMEOUT",
            Time(postgres::PROBE_TIMEOUT),
            "Time in which a NOTIFY of one connection must reach another. Otherwise a pooler shares the sessions.",
        ),
        Limit::new(
            "look_up_timeout",
            Time(limits.look_up_timeout),
            "Longest lookup of an organisation, for all requests that wait for it.",
        ),
    ]
}

/// The pools.
fn pools() -> Vec<Limit> {
    vec![
        Limit::new(
            "postgres::primary::pool::CONNECTIONS_MAX",
            Count(postgres::CONNECTIONS_MAX.into()),
            "Connections of the pool.",
        ),
        Limit::new(
            "postgres::primary::pool::PUBLISH_CONNECTIONS_MAX",
            Count(postgres::PUBLISH_CONNECTIONS_MAX.into()),
            "Connections that publish for back ends. One organisation uses at most half of them, and beyond the first no more than it leaves free.",
        ),
        Limit::new(
            "postgres::primary::pool::READ_CONNECTIONS_MAX",
            Count(postgres::READ_CONNECTIONS_MAX.into()),
            "Connections that read rows for users. Of these, one organisation uses at most two at a time, and a second one only if two remain.",
        ),
        Limit::new(
            "postgres::primary::pool::ACQUIRE_TIMEOUT",
            Time(postgres::ACQUIRE_TIMEOUT),
            "Longest wait for a connection of the pool.",
        ),
        Limit::new(
            "postgres::primary::pool::CHECK_TIMEOUT",
            Time(postgres::CHECK_TIMEOUT),
            "Longest check of a pool's connection when it is taken and returned.",
        ),
        Limit::new(
            "postgres::primary::pool::LOCK_TIMEOUT",
            Time(postgres::LOCK_TIMEOUT),
            "Longest wait of a statement of the pool for a lock.",
        ),
    ]
}

fn log(limits: &Limits) -> Vec<Limit> {
    let RetentionLimits { keep, bytes_max, org_bytes_max, interval } = limits.retention;
    let watch_check = limits.watch_check;
    vec![
        Limit::new("retention.keep", Time(keep), "Time for which events are kept.")
            .set_by("WARDEN_RETENTION_HOURS"),
        Limit::new(
            "retention.bytes_max",
            Bytes(bytes_max),
            "Size of the event log with its indexes. A larger log loses its oldest events earlier.",
        )
        .set_by("WARDEN_RETENTION_GIB"),
        Limit::new(
            "retention.org_bytes_max",
            Bytes(org_bytes_max),
            "Share of one organisation in the event log. If the log is full, organisations beyond it lose their oldest \
             events, and no other does.",
        )
        .set_by("WARDEN_RETENTION_ORG_PERCENT"),
        Limit::new("retention.interval", Time(interval), "Interval of the retention job."),
        Limit::new(
            "retention::ROTATION_TIMEOUT",
            Time(retention::ROTATION_TIMEOUT),
            "Longest step of the retention job: the move of a batch of events, or a rotation.",
        ),
        Limit::new(
            "retention::BUSY_ATTEMPTS_MAX",
            Count(retention::BUSY_ATTEMPTS_MAX.into()),
            "Runs in a row that find another node rotating. From then on retention counts as late, and `readyz` warns.",
        ),
        Limit::new(
            "watch_check.interval",
            Time(watch_check.interval),
            "Interval of the check of the watches.",
        ),
        Limit::new(
            "watch_check.timeout",
            Time(watch_check.timeout),
            "Longest query of the check of the watches.",
        ),
        Limit::new(
            "lock_timeout of warden.truncate_slot()",
            Time(Duration::from_millis(50)),
            "Longest wait of the TRUNCATE for a lock. Writers wait no longer for it.",
        )
        .declared_as("set local lock_timeout = '50ms'"),
    ]
}

/// Limits of the moves out of the oldest slot.
fn moves() -> Vec<Limit> {
    vec![
        Limit::new(
            "blocks_max in warden.log_usage()",
            Count(512),
            "Blocks of each slot that are read to estimate how much of the log each organisation uses.",
        )
        .declared_as("blocks_max int default 512"),
        Limit::new(
            "blocks_at_once in warden.move_events()",
            Count(1024),
            "Blocks of the oldest slot whose events are moved in one transaction.",
        )
        .declared_as("blocks_at_once constant int := 1024"),
        Limit::new(
            "hard_factor in warden.move_events()",
            Count(2),
            "If the log is larger than its size times this while events are moved for longer than `pass_time_max`, all \
             organisations lose their oldest events.",
        )
        .declared_as("hard_factor constant int := 2"),
        Limit::new(
            "pass_time_max in warden.move_events()",
            Time(Duration::from_mins(5)),
            "See `hard_factor`.",
        )
        .declared_as("pass_time_max constant interval := '5 minutes'"),
    ]
}
