//! Limits of one session: its messages, topics and queue.

use super::Value::{ByteRate, Rate, Time};
use super::{Limit, Section, Value};
use crate::audit_trail;
use crate::config::{DrainLimits, Limits};
use crate::hub::{self, OutboxLimits};
use crate::session::SessionLimits;
use crate::wire;

pub(super) fn section(limits: &Limits) -> Section {
    Section {
        title: "Sessions",
        limits: [messages(limits), outbox(limits), lifetime(limits), log_lines()].concat(),
    }
}

fn log_lines() -> Vec<Limit> {
    vec![
        Limit::new(
            "audit_trail::SESSION_LINES",
            Rate(audit_trail::SESSION_LINES),
            "Log lines about refreshes and failed resumes of one session. Of the others only the number is logged.",
        ),
        Limit::new(
            "audit_trail::ORG_LINES",
            Rate(audit_trail::ORG_LINES),
            "Such lines of all sessions of one organisation.",
        ),
        Limit::new(
            "audit_trail::ORG_SESSION_LINES",
            Rate(audit_trail::ORG_SESSION_LINES),
            "Log lines about the begin and the end of the sessions of one organisation. Of the others only the number is \
             logged.",
        ),
    ]
}

fn messages(limits: &Limits) -> Vec<Limit> {
    let SessionLimits {
        message_bytes_max,
        messages,
        rejected_messages,
        messages_per_org,
        received_bytes,
        joins_max,
        snapshots_max,
        // The other tables of this file.
        send_buffer_bytes: _,
        idle_timeout: _,
        expiry_grace: _,
        refreshes_max: _,
        backlog_timeout: _,
        close_timeout: _,
    } = limits.session;
    vec![
        Limit::new(
            "session.message_bytes_max",
            Value::bytes(message_bytes_max),
            "Longest message from a client. A longer one ends the session with 1009. By default larger if `WARDEN_TOKEN_BYTES` \
             needs it.",
        )
        .set_by("WARDEN_MESSAGE_BYTES"),
        Limit::new(
            "session.messages",
            Rate(messages),
            "Messages of one socket, including pings. Further ones get the error `too many messages`.",
        )
        .set_by("WARDEN_MESSAGES"),
        Limit::new(
            "session.rejected_messages",
            Rate(rejected_messages),
            "Messages beyond it that get that error. Further ones end the session with 4428.",
        ),
        Limit::new(
            "session.messages_per_org",
            Rate(messages_per_org),
            "Messages of all sockets of one organisation. Each KiB counts as one more, and a fresh token as 20 more. \
             Beyond it, the gateway reads these sockets more slowly.",
        )
        .set_by("WARDEN_MESSAGES_PER_ORG"),
        Limit::new(
            "session.received_bytes",
            ByteRate(received_bytes),
            "Bytes from one socket, whatever they contain. Beyond it the session ends with 4428.",
        ),
        Limit::new(
            "session.snapshots_max",
            Value::count(snapshots_max),
            "Joins of one socket that are sent a snapshot at the same time. Further ones get the error `too many \
             snapshots`.",
        ),
        Limit::new(
            "session.joins_max",
            Value::count(joins_max),
            "Topics that one socket may join. Further joins get an error.",
        )
        .set_by("WARDEN_JOINS_MAX"),
        Limit::new(
            "wire::codec::NAME_BYTES_MAX",
            Value::bytes(wire::NAME_BYTES_MAX),
            "Longest topic or event name in a message.",
        ),
        Limit::new(
            "wire::codec::REF_BYTES_MAX",
            Value::bytes(wire::REF_BYTES_MAX),
            "Longest `ref` or `join_ref` in a message.",
        ),
    ]
}

fn outbox(limits: &Limits) -> Vec<Limit> {
    let OutboxLimits { queue_bytes_max, queue_chunks_max, memory_bytes_max } = limits.outbox;
    let send_buffer_bytes = limits.session.send_buffer_bytes;
    vec![
        Limit::new(
            "outbox.queue_bytes_max",
            Value::bytes(queue_bytes_max),
            "Bytes queued for one socket. Beyond it the session ends with 4429.",
        ),
        Limit::new(
            "outbox.queue_chunks_max",
            Value::count(queue_chunks_max),
            "Chunks queued for one socket, each of one frame or several. Beyond it the session ends with 4429.",
        ),
        Limit::new(
            "outbox.memory_bytes_max",
            Value::bytes(memory_bytes_max),
            "Frames that wait in fan-out, in outboxes and in replay buffers, of all organisations. A frame that waits for \
             several sockets counts once. An organisation may hold as much as then remains free. Beyond that its fullest \
             sessions end with 4429.",
        ),
        Limit::new(
            "hub::ORG_FRAMES_MIN",
            Value::bytes(hub::ORG_FRAMES_MIN),
            "Frames that an organisation may hold in any case.",
        ),
        Limit::new(
            "session.send_buffer_bytes",
            Value::bytes(send_buffer_bytes),
            "Requested send buffer of the kernel for one socket. Linux doubles it.",
        ),
    ]
}

fn lifetime(limits: &Limits) -> Vec<Limit> {
    let SessionLimits { idle_timeout, expiry_grace, refreshes_max, backlog_timeout, close_timeout, .. } =
        limits.session;
    let DrainLimits { window, sessions_per_second_min } = limits.drain;
    vec![
        Limit::new(
            "session.idle_timeout",
            Time(idle_timeout),
            "Time without any message after which a session ends with 4408. A heartbeat once a minute may be half a minute late.",
        ),
        Limit::new(
            "session.expiry_grace",
            Time(expiry_grace),
            "Time that a session stays open after its token expired. Then it ends with 4401.",
        ),
        Limit::new(
            "session.refreshes_max",
            Value::count(refreshes_max),
            "Fresh tokens of one session that wait for their key.",
        ),
        Limit::new(
            "session.backlog_timeout",
            Time(backlog_timeout),
            "Time in which a client must accept everything that is queued for it. Beyond it the session ends with 4429. The \
             first check is at most `session.idle_timeout` after the queue began to wait.",
        ),
        Limit::new(
            "session.close_timeout",
            Time(close_timeout),
            "Time that a client has to read what precedes a Close frame, and to answer it.",
        ),
        Limit::new("drain.window", Time(window), "Time over which sessions are closed on shutdown.")
            .set_by("WARDEN_DRAIN_SECONDS"),
        Limit::new(
            "drain.sessions_per_second_min",
            Value::Count(sessions_per_second_min.into()),
            "Sessions per second that are closed at least, so that few sessions take less than the window.",
        ),
        Limit::new(
            "drain_timeout",
            Time(limits.drain_timeout),
            "Time after which sessions that have not ended on shutdown are dropped: the window and 15 s.",
        ),
    ]
}
