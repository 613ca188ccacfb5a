//! Limits of the control state: organisations and revocations in memory.

use super::Value::{Count, Time};
use super::{Limit, Section, Value};
use crate::config::Limits;
use crate::control::{self, CursorKeyLimits, ReconcilerLimits, RevocationLimits};

pub(super) fn section(limits: &Limits) -> Section {
    Section {
        title: "Organisations, revocations and keys of cursors",
        limits: [revocations(limits), orgs(limits), cursor_keys(limits)].concat(),
    }
}

fn revocations(limits: &Limits) -> Vec<Limit> {
    let RevocationLimits { interval, timeout, retry_first, retry_max } = limits.revocations;
    vec![
        Limit::new(
            "entries_max in warden.revoke()",
            Count(100_000),
            "Active revocations in the database. Beyond it `warden.revoke()` fails.",
        )
        .declared_as("entries_max constant int := 100000"),
        Limit::new(
            "entries_of_operators in warden.revoke()",
            Count(10_000),
            "The part of them that is reserved for operators: `POST /v1/revocations` cannot use it.",
        )
        .declared_as("entries_of_operators constant int := 10000"),
        Limit::new(
            "part_of_org in warden.revoke()",
            Count(8),
            "An organisation's back ends may add a revocation while those of the organisation are fewer than this part, \
             an eighth, of those that are left: at most 10,000, and fewer if others have many.",
        )
        .declared_as("part_of_org constant int := 8"),
        Limit::new(
            "control::revocations::ENTRIES_MAX",
            Value::count(control::ENTRIES_MAX),
            "Active revocations in memory. Beyond it the oldest revocations of single logins are ignored, and that is logged.",
        ),
        Limit::new(
            "revocations.interval",
            Time(interval),
            "Interval at which revocations are loaded, even if the log has no event about them.",
        ),
        Limit::new("revocations.timeout", Time(timeout), "Longest load."),
        Limit::new("revocations.retry_first", Time(retry_first), "First delay after a failed load."),
        Limit::new("revocations.retry_max", Time(retry_max), "Longest delay after a failed load."),
    ]
}

fn orgs(limits: &Limits) -> Vec<Limit> {
    let ReconcilerLimits { interval, timeout, retry_first, retry_max } = limits.reconciler;
    vec![
        Limit::new(
            "control::directory::ORGS_MAX",
            Value::count(control::ORGS_MAX),
            "Organisations in memory. Beyond it the memory is cleared.",
        ),
        Limit::new(
            "control::reconciler::ORGS_IN_QUERY_MAX",
            Value::count(control::ORGS_IN_QUERY_MAX),
            "Organisations in one query of the reconciler.",
        ),
        Limit::new("reconciler.interval", Time(interval), "Interval of the reconciler."),
        Limit::new("reconciler.timeout", Time(timeout), "Longest query of the reconciler."),
        Limit::new("reconciler.retry_first", Time(retry_first), "First delay after a failed query."),
        Limit::new("reconciler.retry_max", Time(retry_max), "Longest delay after a failed query."),
    ]
}

fn cursor_keys(limits: &Limits) -> Vec<Limit> {
    let CursorKeyLimits { interval, wake_interval, timeout, retry_first, retry_max } = limits.cursor_keys;
    vec![
        Limit::new(
            "keys_max in warden.rotate_cursor_keys()",
            Value::count(64),
            "Keys of cursors. At this number no new one is created until an old one is deleted.",
        ),
        Limit::new(
            "cursor_keys.interval",
            Time(interval),
            "Interval at which the keys of cursors are loaded.",
        ),
        Limit::new(
            "cursor_keys.wake_interval",
            Time(wake_interval),
            "Shortest time between two loads because of cursors with unknown keys.",
        ),
        Limit::new("cursor_keys.timeout", Time(timeout), "Longest load."),
        Limit::new("cursor_keys.retry_first", Time(retry_first), "First delay after a failed load."),
        Limit::new("cursor_keys.retry_max", Time(retry_max), "Longest delay after a failed load."),
    ]
}
