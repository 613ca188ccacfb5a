//! Limits between the log and the outboxes: the tailer, the doorbell, fan-out and replay.

use super::Value::{Count, Rate, Time};
use super::{Limit, Section, Value};
use crate::config::Limits;
use crate::cursor::{CURSOR_BYTES_MAX, IN_PROGRESS_MAX};
use crate::http;
use crate::hub::{self, FanoutLimits};
use crate::log::DoorbellLimits;
use crate::replay::{self, RecentLimits, ReplayLimits};
use crate::session;
use crate::tailer::{self, TailerLimits};

pub(super) fn section(limits: &Limits) -> Section {
    let rows = [
        tailer_rows(limits),
        log_rows(limits),
        fanout_rows(limits),
        filter_rows(),
        question_rows(),
        replay_rows(limits),
        replay_times(limits),
    ];
    Section { title: "Delivery and replay", limits: rows.concat() }
}

fn tailer_rows(limits: &Limits) -> Vec<Limit> {
    let TailerLimits {
        page_rows_max,
        page_bytes_max,
        warm_rows_max,
        warm_time_max,
        poll_interval,
        retry_first,
        retry_max,
        busy_interval,
        cursor_interval,
        read_timeout,
        reconnect_first,
        reconnect_max,
    } = limits.tailer;
    vec![
        Limit::new(
            "tailer.page_rows_max",
            Count(page_rows_max.into()),
            "Rows that one statement reads. More rows are read in pages.",
        ),
        Limit::new("tailer.page_bytes_max", Value::bytes(page_bytes_max), "Bytes of these rows."),
        Limit::new(
            "tailer.warm_rows_max",
            Count(warm_rows_max.into()),
            "Last rows of the log that a node reads into memory when it starts.",
        ),
        Limit::new("tailer.warm_time_max", Time(warm_time_max), "Longest time for that warm-up."),
        Limit::new("tailer.poll_interval", Time(poll_interval), "Interval of the unconditional poll."),
        Limit::new(
            "tailer.retry_first",
            Time(retry_first),
            "First delay before another poll while transactions are in progress.",
        ),
        Limit::new("tailer.retry_max", Time(retry_max), "Longest delay before such a poll."),
        Limit::new(
            "tailer.busy_interval",
            Time(busy_interval),
            "Pause between two polls under load, while the doorbell is silenced.",
        ),
        Limit::new(
            "tailer.cursor_interval",
            Time(cursor_interval),
            "Interval at which every topic gets a fresh cursor.",
        ),
        Limit::new(
            "tailer.read_timeout",
            Time(read_timeout),
            "Longest read of the log. After it the connection counts as broken.",
        ),
        Limit::new("tailer.reconnect_first", Time(reconnect_first), "First delay before a reconnect."),
        Limit::new("tailer.reconnect_max", Time(reconnect_max), "Longest delay before a reconnect."),
    ]
}

fn log_rows(limits: &Limits) -> Vec<Limit> {
    let DoorbellLimits { watchdog_interval, watchdog_timeout } = limits.doorbell;
    vec![
        Limit::new(
            "doorbell.watchdog_interval",
            Time(watchdog_interval),
            "Silence after which the doorbell's connection is checked.",
        ),
        Limit::new(
            "doorbell.watchdog_timeout",
            Time(watchdog_timeout),
            "Longest wait for the answer to that check, and for a new connection.",
        ),
        Limit::new(
            "tailer::EMPTY_READS",
            Rate(tailer::EMPTY_READS),
            "Reads of the log that find nothing, whatever requests them. Beyond it reads wait up to 20 ms.",
        ),
        Limit::new(
            "tailer::EMPTY_READS_PER_READ_WITH_EVENTS",
            Count(tailer::EMPTY_READS_PER_READ_WITH_EVENTS.into()),
            "Further reads without events that each read with events allows.",
        ),
        Limit::new(
            "cursor::CURSOR_BYTES_MAX",
            Value::bytes(CURSOR_BYTES_MAX),
            "Longest cursor that is decoded.",
        ),
        Limit::new(
            "cursor::IN_PROGRESS_MAX",
            Value::count(IN_PROGRESS_MAX),
            "Transactions in progress in one cursor. Beyond it, a resume with the cursor resyncs.",
        ),
        Limit::new(
            "warden.event_bytes_max()",
            Value::bytes(64 * 1024),
            "Largest row in an event. A larger row is logged without its largest columns.",
        )
        .declared_as("warden.event_bytes_max() returns int\nlanguage sql immutable set search_path = pg_catalog, pg_temp as $$ select 65536 $$"),
        Limit::new(
            "warden.convertible_columns()",
            Value::bytes(1024 * 1024),
            "Bytes of the columns of a larger row that are converted, to find those that fit.",
        )
        .declared_as("s.total <= 1048576"),
        Limit::new(
            "data_bytes_max in warden.publish()",
            Value::bytes(64 * 1024),
            "Largest `data` of a published event.",
        )
        .declared_as("data_bytes_max constant int := 65536"),
        Limit::new(
            "events_max in warden.publish_all()",
            Value::count(10_000),
            "Events that one call publishes.",
        )
        .declared_as("events_max constant int := 10000"),
    ]
}

fn fanout_rows(limits: &Limits) -> Vec<Limit> {
    let FanoutLimits { org_bytes_max, bytes_max } = limits.fanout;
    vec![
        Limit::new(
            "fanout.org_bytes_max",
            Value::bytes(org_bytes_max),
            "Events of one organisation that are queued in fan-out. Beyond it they are dropped, and its topics get a \
             resync (`overload`).",
        ),
        Limit::new(
            "fanout.bytes_max",
            Value::bytes(bytes_max),
            "Events of all organisations that are queued in fan-out. Beyond it the organisation with the most gets the \
             resync.",
        ),
        Limit::new(
            "hub::SEGMENT_SUBSCRIPTIONS_MAX",
            Value::count(hub::SEGMENT_SUBSCRIPTIONS_MAX),
            "Subscriptions in one segment: the writes of one slice of fan-out.",
        ),
        Limit::new(
            "hub::fanout::ROUND_COST",
            Value::count(hub::ROUND_COST),
            "Small writes of one organisation in fan-out before the next organisation is served.",
        ),
        Limit::new(
            "hub::fanout::INLINE_COST_MAX",
            Value::count(hub::INLINE_COST_MAX),
            "Small writes of one batch that the tailer sends inline.",
        ),
        Limit::new(
            "hub::fanout::CHUNK_BYTES",
            Value::bytes(hub::CHUNK_BYTES),
            "Frames that are sent in one write. A larger event is sent alone.",
        ),
        Limit::new(
            "hub::fanout::ENCODE_EVENTS_MAX",
            Value::count(hub::ENCODE_EVENTS_MAX),
            "Events that fan-out encodes in one slice.",
        ),
        Limit::new(
            "hub::fanout::EVALUATIONS_MAX",
            Value::count(hub::EVALUATIONS_MAX),
            "Conditions of filters that fan-out evaluates in one slice, if it has more than one event.",
        ),
        Limit::new(
            "hub::fanout::STEP_BYTES_MAX",
            Value::bytes(hub::STEP_BYTES_MAX),
            "Frames that fan-out encodes in one slice, if it has more than one event.",
        ),
        Limit::new(
            "hub::fanout::EVENT_FRAMES_BYTES_MAX",
            Value::bytes(hub::EVENT_FRAMES_BYTES_MAX),
            "Frames of one event for channels with a filter that select different columns. Further channels resync.",
        ),
        Limit::new(
            "hub::fanout::HELPERS_MAX",
            Value::count(hub::HELPERS_MAX),
            "Threads that help with large broadcasts.",
        ),
    ]
}

fn filter_rows() -> Vec<Limit> {
    vec![
        Limit::new(
            "session::SESSION_FILTERS_MAX",
            Value::count(session::SESSION_FILTERS_MAX),
            "Topics that one socket may have joined with a filter. Beyond it a join gets the error `filters_per_socket`.",
        ),
        Limit::new(
            "hub::ORG_FILTERS_MAX",
            Value::count(hub::ORG_FILTERS_MAX),
            "Distinct filters of the joins of one organisation. Beyond it a join gets the error `filters_per_org`.",
        ),
        Limit::new(
            "hub::ORG_SCANNED_FILTERS_MAX",
            Value::count(hub::ORG_SCANNED_FILTERS_MAX),
            "Of these, filters that most events are compared with, because they require no value of a column, or one that \
             many others require. Beyond it a join gets the error `scanned_filters_per_org`.",
        ),
        Limit::new(
            "hub::EVENT_EVALUATIONS_MAX",
            Value::count(hub::EVENT_EVALUATIONS_MAX),
            "Conditions that one event of an organisation is compared with. Beyond it a join gets the error \
             `scanned_filters_per_org`. If a row lacks a column and so finds more filters, the rest of them resyncs.",
        ),
        Limit::new(
            "hub::FILTERS_PER_VALUE_MAX",
            Value::count(hub::FILTERS_PER_VALUE_MAX),
            "Filters that require the same value of a column, before further ones count as compared with most events.",
        ),
        Limit::new(
            "hub::FILTER_MEMORY_MAX",
            Value::bytes(hub::FILTER_MEMORY_MAX),
            "Estimated memory of the filters of all joins: 1 KiB for each distinct one, and 8 bytes for each byte of it. An \
             organisation leaves free at least as much as it takes. Beyond it a join gets the error `filters_per_org`.",
        ),
    ]
}

fn question_rows() -> Vec<Limit> {
    vec![
        Limit::new(
            "hub::questions::SESSION_QUESTIONS_MAX",
            Value::count(hub::SESSION_QUESTIONS_MAX),
            "Questions (`warden.covers`) of one session that wait for their answers. Beyond it they get the error `too \
             many questions`.",
        ),
        Limit::new(
            "hub::questions::ORG_QUESTIONS_MAX",
            Value::count(hub::ORG_QUESTIONS_MAX),
            "Questions of one organisation that wait if no others do. Otherwise an eighth of the places that are free.",
        ),
        Limit::new(
            "hub::questions::QUESTIONS_MAX",
            Value::count(hub::QUESTIONS_MAX),
            "Questions of a node that wait, because the tailer compares each with every position.",
        ),
        Limit::new(
            "hub::questions::QUESTION_TIMEOUT",
            Time(hub::QUESTION_TIMEOUT),
            "Time after which a question that waits is answered with `false`.",
        ),
        Limit::new(
            "http::covers::COVERS_BODY_BYTES_MAX",
            Value::bytes(http::COVERS_BODY_BYTES_MAX),
            "Body of `POST /v1/covers`. A longer one gets 413 `body_too_long`.",
        ),
    ]
}

fn replay_rows(limits: &Limits) -> Vec<Limit> {
    let RecentLimits { bytes_max: recent_bytes_max, org_bytes_max } = limits.recent;
    let ReplayLimits {
        concurrent_reads_max,
        resumes_max,
        cursor_bytes_max,
        events_max,
        bytes_max,
        memory_bytes_max,
        // The next table.
        hold_min: _,
        tailer_timeout: _,
        wait_timeout: _,
        log_read_timeout: _,
        send_timeout: _,
    } = limits.replay;
    vec![
        Limit::new(
            "recent.bytes_max",
            Value::bytes(recent_bytes_max),
            "Recent events of all organisations in memory.",
        ),
        Limit::new(
            "recent.org_bytes_max",
            Value::bytes(org_bytes_max),
            "Recent events of one organisation in memory.",
        ),
        Limit::new(
            "replay.concurrent_reads_max",
            Value::count(concurrent_reads_max),
            "Reads of the log for replays at the same time, each for another organisation.",
        ),
        Limit::new(
            "replay.resumes_max",
            Value::count(resumes_max),
            "Resumes at the same time, from the join until the missed events are sent. One organisation gets at most half \
             of them, and less if others need them. Further ones get a resync (`unavailable`).",
        ),
        Limit::new(
            "replay.cursor_bytes_max",
            Value::bytes(cursor_bytes_max),
            "Cursors of these resumes. One organisation gets at most half of it, and less if others need it.",
        ),
        Limit::new(
            "replay::IN_PROGRESS_MAX",
            Value::count(replay::IN_PROGRESS_MAX),
            "Transactions in progress in the cursors of one read's clients. One cursor is always allowed.",
        ),
        Limit::new(
            "replay.events_max",
            Value::count(events_max),
            "Events of one replay. A client that missed more gets a resync (`too_many`).",
        ),
        Limit::new("replay.bytes_max", Value::bytes(bytes_max), "Events of one replay, and of one read."),
        Limit::new(
            "replay.memory_bytes_max",
            Value::bytes(memory_bytes_max),
            "Events from the log that replays read or send at the same time. One organisation gets at most half of it.",
        ),
    ]
}

fn replay_times(limits: &Limits) -> Vec<Limit> {
    let ReplayLimits { hold_min, tailer_timeout, wait_timeout, log_read_timeout, send_timeout, .. } =
        limits.replay;
    vec![
        Limit::new(
            "replay.hold_min",
            Time(hold_min),
            "Time that a client has to receive its missed events if their memory is exhausted and an organisation that \
             holds less waits for it. Then it gets a resync (`too_many`).",
        ),
        Limit::new(
            "replay.tailer_timeout",
            Time(tailer_timeout),
            "Longest time that a resume waits for a tailer that makes no progress.",
        ),
        Limit::new(
            "replay.wait_timeout",
            Time(wait_timeout),
            "Longest time that a replay waits in the queue and for its read.",
        ),
        Limit::new("replay.log_read_timeout", Time(log_read_timeout), "Longest read for replays."),
        Limit::new(
            "replay.send_timeout",
            Time(send_timeout),
            "Longest time that a client may take to receive its missed events. Then it gets a resync (`too_many`).",
        ),
    ]
}
