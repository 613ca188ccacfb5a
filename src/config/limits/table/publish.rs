//! Limits of publishing through HTTP.

use std::time::Duration;

use super::Value::{Count, Rate, Time};
use super::{Limit, Section, Value};
use crate::config::Limits;
use crate::publish::{self, PublishLimits};
use crate::retention;

pub(super) fn section(limits: &Limits) -> Section {
    Section { title: "Publishing through HTTP", limits: [requests(limits), keys()].concat() }
}

fn requests(limits: &Limits) -> Vec<Limit> {
    let PublishLimits { events_max, body_bytes_max, memory_bytes_max, timeout } = limits.publish;
    vec![
        Limit::new(
            "admission.publishes_per_org",
            Rate(limits.admission.publishes_per_org),
            "Events that the back ends of one organisation publish on one node. Beyond it requests get 429 `publishes_per_org`.",
        )
        .set_by("WARDEN_PUBLISHES_PER_ORG"),
        Limit::new("publish.events_max", Value::count(events_max), "Events of one request."),
        Limit::new("publish.body_bytes_max", Value::bytes(body_bytes_max), "Body of one request to publish."),
        Limit::new(
            "publish.memory_bytes_max",
            Value::bytes(memory_bytes_max),
            "Memory of the requests in progress: three times their bodies, and 16 KiB each. One organisation gets at most half, and no more than it leaves free. Beyond it requests get 503 `busy`.",
        ),
        Limit::new(
            "publish::SMALL_BODY_BYTES_MAX",
            Value::bytes(publish::SMALL_BODY_BYTES_MAX),
            "Largest body of a request that may take all memory that is free, if its organisation has no other request in progress.",
        ),
        Limit::new(
            "publish.timeout",
            Time(timeout),
            "Longest time to publish, with the wait for a connection. A body must arrive within `serve.header_timeout`.",
        ),
        Limit::new(
            "publish::strict::DEPTH_MAX",
            Value::count(publish::DEPTH_MAX),
            "Levels to which an event is nested.",
        ),
        Limit::new(
            "publish::strict::NUMBER_DIGITS_MAX",
            Value::count(publish::NUMBER_DIGITS_MAX),
            "Characters of a number, and its largest exponent.",
        ),
        Limit::new(
            "publish::strict::KEYS_MAX",
            Value::count(publish::KEYS_MAX),
            "Keys of all objects in an event. More do not fit into its data.",
        ),
        Limit::new(
            "publish::cloudevents::PROBLEMS_MAX",
            Value::count(publish::cloudevents::PROBLEMS_MAX),
            "Problems of the attributes of one event that an answer names.",
        ),
    ]
}

fn keys() -> Vec<Limit> {
    vec![
        Limit::new(
            "publish::KEY_BYTES_MAX",
            Value::bytes(publish::KEY_BYTES_MAX),
            "Longest `Idempotency-Key`.",
        ),
        Limit::new(
            "interval in warden.idempotency_window()",
            Time(Duration::from_hours(24)),
            "Time for which an idempotency key is known.",
        )
        .declared_as("select interval '24 hours'"),
        Limit::new(
            "bucket_keys_max in warden.take_idempotency_keys()",
            Count(1000),
            "Idempotency keys of one organisation in each of 256 buckets: some 200,000 before one of the buckets is full. Beyond it requests with a new key get 429 `idempotency_keys`.",
        )
        .declared_as("bucket_keys_max constant int := 1000"),
        Limit::new(
            "retention::KEYS_DELETED_MAX",
            Value::count(retention::KEYS_DELETED_MAX),
            "Expired idempotency keys that one statement deletes.",
        ),
    ]
}
