//! Limits of connections to the database, and of the event log in it.

use std::time::Duration;

use super::Value::{Bytes, Count, Time};
use super::{Limit, Section, Value};
use crate::config::Limits;
use crate::postgres;
use crate::retention::{self, RetentionLimits};

pub(super) fn section(limits: &Limits) -> Section {
    Section { title: "Database", limits: [connections(limits), log(limits)].concat() }
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
            "postgres::primary::pool::CONNECTIONS_MAX",
            Count(postgres::CONNECTIONS_MAX.into()),
            "Connections of the pool.",
        ),
        Limit::new(
            "postgres::primary::pool::PUBLISH_CONNECTIONS_MAX",
            Count(postgres::PUBLISH_CONNECTIONS_MAX.into()),
            "Connections that publish for back ends. One organisation uses at most half of them at a time.",
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

fn log(limits: &Limits) -> Vec<Limit> {
    let RetentionLimits { keep, bytes_max, interval } = limits.retention;
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
        Limit::new("retention.interval", Time(interval), "Interval of the retention job."),
        Limit::new(
            "retention::ROTATION_TIMEOUT",
            Time(retention::ROTATION_TIMEOUT),
            "Longest run of the retention job.",
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
            "lock_timeout of warden.rotate_events()",
            Time(Duration::from_millis(50)),
            "Longest wait of the TRUNCATE for a lock. Writers wait no longer for it.",
        )
        .declared_as("set local lock_timeout = '50ms'"),
    ]
}
