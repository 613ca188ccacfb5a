//! Limits before a session begins: connections, handshakes, requests of back ends, tokens and keys.

use std::time::Duration;

use super::Value::{Bits, Bytes, Count, Rate, Time};
use super::{Limit, Section, Value};
use crate::auth::KeyLimits;
use crate::config::Limits;
use crate::config::connections::RESERVED_DESCRIPTORS;
use crate::config::signing::JWT_SECRET_BYTES_MIN;
use crate::http::{self, AdmissionLimits, ServeLimits};

pub(super) fn section(limits: &Limits) -> Section {
    let rows = [
        connections(limits),
        rejections(limits),
        handshakes(limits),
        known_addresses(),
        back_ends(limits),
        tokens(limits),
        keys(limits),
    ];
    Section { title: "Connections, handshakes and tokens", limits: rows.concat() }
}

fn connections(limits: &Limits) -> Vec<Limit> {
    let AdmissionLimits {
        connection_rate_per_address,
        pending_max,
        pending_per_address_max,
        sessions_max,
        org_sessions_max,
        user_sessions_max,
        // The other tables of this file.
        rejected_max: _,
        addresses_max: _,
        ipv6_prefix_bits: _,
        handshakes_per_address: _,
        handshakes: _,
        revocations_per_org: _,
        publishes_per_org: _,
        // The table of reading.
        reads_per_user: _,
        reads_per_org: _,
        readers_max: _,
        rejection_delay: _,
        delayed_max: _,
        delayed_per_address_max: _,
    } = limits.admission;
    vec![
        Limit::new(
            "admission.connection_rate_per_address",
            Rate(connection_rate_per_address),
            "New connections of one address. Further ones get 429 `arrivals_per_address`; over TLS they are dropped.",
        )
        .set_by("WARDEN_ARRIVALS_PER_ADDRESS"),
        Limit::new(
            "admission.pending_max",
            Value::count(pending_max),
            "Connections that are not upgraded, in total: what their part of the memory allows, at most 4,096, and at most a quarter of the file descriptors.",
        )
        .set_by("WARDEN_PENDING_MAX"),
        Limit::new(
            "admission.pending_per_address_max",
            Value::count(pending_per_address_max),
            "Connections of one address that are not upgraded.",
        )
        .set_by("WARDEN_PENDING_PER_ADDRESS"),
        Limit::new(
            "admission.sessions_max",
            Value::count(sessions_max),
            "Sessions of one node. At most as many as file descriptors allow.",
        )
        .set_by("WARDEN_CONNECTIONS_MAX"),
        Limit::new(
            "admission.org_sessions_max",
            Value::count(org_sessions_max),
            "Sessions of one organisation on one node.",
        )
        .set_by("WARDEN_CONNECTIONS_PER_ORG"),
        Limit::new(
            "admission.user_sessions_max",
            Value::count(user_sessions_max),
            "Sessions of one user on one node.",
        )
        .set_by("WARDEN_CONNECTIONS_PER_USER"),
    ]
}

fn rejections(limits: &Limits) -> Vec<Limit> {
    let AdmissionLimits { rejected_max, addresses_max, ipv6_prefix_bits, .. } = limits.admission;
    vec![
        Limit::new(
            "config::connections::RESERVED_DESCRIPTORS",
            Count(RESERVED_DESCRIPTORS),
            "File descriptors that are not used for connections of clients.",
        ),
        Limit::new(
            "admission.rejected_max",
            Value::count(rejected_max),
            "Connections beyond a limit that are answered at the same time. Others are dropped without an answer.",
        ),
        Limit::new(
            "http::write_timeout::WRITE_TIMEOUT",
            Time(http::WRITE_TIMEOUT),
            "Longest time in which the client of an answer reads nothing. Then its connection ends.",
        ),
        Limit::new(
            "http::serve::REJECT_TIMEOUT",
            Time(http::REJECT_TIMEOUT),
            "Longest time to send such an answer.",
        ),
        Limit::new(
            "http::serve::REJECT_BYTES_MAX",
            Bytes(http::REJECT_BYTES_MAX),
            "Bytes of the request that are read meanwhile, so that the connection is not reset.",
        ),
        Limit::new(
            "admission.addresses_max",
            Value::count(addresses_max),
            "Addresses whose rates are remembered. Beyond it the addresses that have been idle for longest are evicted.",
        ),
        Limit::new(
            "admission.ipv6_prefix_bits",
            Bits(ipv6_prefix_bits.into()),
            "Prefix of an IPv6 address that identifies one client.",
        )
        .set_by("WARDEN_IPV6_PREFIX"),
        Limit::new(
            "http::admission::HOPS_MAX",
            Value::count(http::HOPS_MAX),
            "Hops of a forwarded address that are read, from the right.",
        ),
        Limit::new(
            "http::serve::ACCEPT_RETRY_DELAY",
            Time(http::ACCEPT_RETRY_DELAY),
            "Pause after a failed `accept`.",
        ),
    ]
}

fn handshakes(limits: &Limits) -> Vec<Limit> {
    let AdmissionLimits {
        handshakes_per_address,
        handshakes,
        rejection_delay,
        delayed_max,
        delayed_per_address_max,
        ..
    } = limits.admission;
    let ServeLimits { header_timeout, headers_max, head_bytes_max } = limits.serve;
    vec![
        Limit::new(
            "admission.handshakes_per_address",
            Rate(handshakes_per_address),
            "Handshakes of one address.",
        )
        .set_by("WARDEN_HANDSHAKES_PER_ADDRESS"),
        Limit::new(
            "admission.handshakes",
            Rate(handshakes),
            "Handshakes of all addresses together. Addresses that are not known leave half of the bucket.",
        )
        .set_by("WARDEN_HANDSHAKES"),
        Limit::new(
            "serve.header_timeout",
            Time(header_timeout),
            "Longest time for the TLS handshake, for the head of a request, for the decision on a request, for the body \
             of a request, and between two requests.",
        )
        .set_by("WARDEN_HANDSHAKE_SECONDS"),
        Limit::new("serve.headers_max", Value::count(headers_max), "Headers of one request."),
        Limit::new(
            "serve.head_bytes_max",
            Value::bytes(head_bytes_max),
            "Head of one request. A longer one gets 431 `head_too_long`. By default larger if `WARDEN_TOKEN_BYTES` needs it.",
        )
        .set_by("WARDEN_HEAD_BYTES"),
        Limit::new(
            "admission.rejection_delay",
            Time(rejection_delay),
            "Longest delay of the answer to a failed handshake. The shortest is half of it.",
        )
        .set_by("WARDEN_REFUSAL_DELAY_MS"),
        Limit::new(
            "admission.delayed_max",
            Value::count(delayed_max),
            "Answers that are delayed at the same time. Others are sent without delay.",
        ),
        Limit::new(
            "admission.delayed_per_address_max",
            Value::count(delayed_per_address_max),
            "Answers to one address that are delayed at the same time.",
        ),
        Limit::new(
            "http::admission::LOGGED_REJECTIONS",
            Rate(http::LOGGED_REJECTIONS),
            "Rejections because of a limit that are logged one by one. Of the others only the number is logged.",
        ),
        Limit::new(
            "http::serve::SHUTDOWN_GRACE",
            Time(http::SHUTDOWN_GRACE),
            "Time that connections without an upgrade have to finish on shutdown.",
        ),
        Limit::new(
            "tls_reload_interval",
            Time(limits.tls_reload_interval),
            "Interval at which the files of certificate and key are read again.",
        ),
    ]
}

fn known_addresses() -> Vec<Limit> {
    vec![Limit::new(
        "http::admission::KNOWN_TIME",
        Time(http::KNOWN_TIME),
        "Shortest time for which an address is known after a valid token came from it, unless more than \
         `admission.addresses_max` are known.",
    )]
}

fn back_ends(limits: &Limits) -> Vec<Limit> {
    vec![
        Limit::new(
            "admission.revocations_per_org",
            Rate(limits.admission.revocations_per_org),
            "Revocations that the back ends of one organisation request through HTTP.",
        )
        .set_by("WARDEN_REVOCATIONS_PER_ORG"),
        Limit::new(
            "http::revocations::BODY_BYTES_MAX",
            Value::bytes(http::BODY_BYTES_MAX),
            "Body of a revocation request.",
        ),
        Limit::new(
            "http::revocations::TEXT_BYTES_MAX",
            Value::bytes(http::TEXT_BYTES_MAX),
            "Each of `session_id`, `user_id` and `issuer` in a revocation request.",
        ),
        Limit::new(
            "http::revocations::REASON_BYTES_MAX",
            Value::bytes(http::REASON_BYTES_MAX),
            "`reason` in a revocation request.",
        ),
        Limit::new(
            "http::revocations::TOKEN_AGE_SECONDS_MAX",
            Time(Duration::from_secs(http::TOKEN_AGE_SECONDS_MAX.into())),
            "Longest `max_token_age_seconds` in a revocation request.",
        ),
        Limit::new(
            "control::MAX_TOKEN_AGE_DEFAULT",
            Time(crate::control::MAX_TOKEN_AGE_DEFAULT),
            "Default of `max_token_age_seconds`.",
        ),
    ]
}

fn tokens(limits: &Limits) -> Vec<Limit> {
    vec![
        Limit::new(
            "config::signing::JWT_SECRET_BYTES_MIN",
            Value::bytes(JWT_SECRET_BYTES_MIN),
            "Shortest HS256 secret.",
        ),
        Limit::new(
            "token_bytes_max",
            Value::bytes(limits.token_bytes_max),
            "Longest token, in a request or a message. A longer one is rejected with `token_too_long`. At most 64 KiB.",
        )
        .set_by("WARDEN_TOKEN_BYTES"),
        Limit::new(
            "auth::KID_BYTES_MAX",
            Value::bytes(crate::auth::KID_BYTES_MAX),
            "Longest `kid` of a token or key.",
        ),
        Limit::new(
            "auth::TOPICS_MAX",
            Value::count(crate::auth::TOPICS_MAX),
            "Topics in a token's claim `warden_topics`.",
        ),
        Limit::new(
            "auth::SIGNED_FILTERS_MAX",
            Value::count(crate::auth::SIGNED_FILTERS_MAX),
            "Topics in a token's claim `warden_filters`. More make the token invalid.",
        ),
        Limit::new(
            "auth::SIGNED_FILTER_BYTES_MAX",
            Value::bytes(crate::auth::SIGNED_FILTER_BYTES_MAX),
            "All filters of a token's claim `warden_filters`. Longer ones make the token invalid.",
        ),
        Limit::new(
            "auth::SIGNED_VALUE_BYTES_MAX",
            Value::bytes(crate::auth::SIGNED_VALUE_BYTES_MAX),
            "These filters with the values of the claims that they name. Longer ones make the token invalid.",
        ),
    ]
}

fn keys(limits: &Limits) -> Vec<Limit> {
    let KeyLimits {
        interval,
        fetch_timeout,
        bytes_max,
        cooldown,
        wait,
        waiting_max,
        stale_max,
        retry_first,
        retry_max,
    } = limits.keys;
    vec![
        Limit::new(
            "auth::jwks::RSA_BITS_MIN",
            Bits(crate::auth::RSA_BITS_MIN as u64),
            "Shortest RSA key. Shorter ones are ignored.",
        ),
        Limit::new(
            "auth::jwks::RSA_BITS_MAX",
            Bits(crate::auth::RSA_BITS_MAX as u64),
            "Longest RSA key. Longer ones are ignored.",
        ),
        Limit::new(
            "auth::JWKS_KEYS_MAX",
            Value::count(crate::auth::JWKS_KEYS_MAX),
            "Keys in the answer of a key server.",
        ),
        Limit::new(
            "keys.interval",
            Time(interval),
            "Longest time from one fetch of an issuer's keys to the next. It is up to a tenth shorter, at random.",
        ),
        Limit::new("keys.fetch_timeout", Time(fetch_timeout), "Longest request to a key server."),
        Limit::new("keys.bytes_max", Value::bytes(bytes_max), "Answer of a key server."),
        Limit::new(
            "keys.cooldown",
            Time(cooldown),
            "Shortest time between two requests that unknown keys cause.",
        ),
        Limit::new(
            "keys.wait",
            Time(wait),
            "Longest time that a handshake or a token refresh waits for keys. Then the client must retry.",
        ),
        Limit::new(
            "keys.waiting_max",
            Value::count(waiting_max),
            "Handshakes and refreshes that wait for one issuer's keys.",
        ),
        Limit::new(
            "keys.stale_max",
            Time(stale_max),
            "Time for which keys are used after they were last fetched.",
        ),
        Limit::new("keys.retry_first", Time(retry_first), "First delay after a failed request."),
        Limit::new("keys.retry_max", Time(retry_max), "Longest delay after a failed request."),
    ]
}
