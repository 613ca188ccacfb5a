//! Everything that sessions share.

use std::sync::Arc;
use std::time::Duration;

use super::grant::TopicPolicy;
use crate::auth::Verifier;
use crate::control::{Directory, Revocations};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::rate::Rate;
use crate::replay::Replay;

/// What all sessions of a gateway share.
#[derive(Debug)]
pub struct SessionContext {
    /// Who listens to what.
    pub hub: Arc<Hub>,
    /// Which topics and organisations exist.
    pub directory: Arc<Directory>,
    /// Whose tokens count no longer.
    pub revocations: Arc<Revocations>,
    /// What was missed by those who come back.
    pub replay: Arc<Replay>,
    /// Of tokens that replace the first.
    pub verifier: Arc<Verifier>,
    /// Which topics a token must name.
    pub topics: TopicPolicy,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Limits.
    pub limits: SessionLimits,
}

/// Limits of one session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Longest message from a client, in bytes.
    pub message_bytes_max: usize,
    /// Messages from a client, pings among them.
    pub messages: Rate,
    /// Messages beyond it that are answered with an error; beyond this the session ends.
    pub refused_messages: Rate,
    /// Bytes from a client, whatever is in them.
    pub received_bytes: Rate,
    /// Topics that one socket may have joined.
    pub joins_max: usize,
    /// A session that sent nothing for so long ends; clients send a heartbeat every 30 s.
    pub idle_timeout: Duration,
    /// A session goes on for so long after its token's end, for a fresh one that is on its way. Nothing
    /// new can be joined meanwhile.
    pub expiry_grace: Duration,
    /// Fresh tokens of one session that wait for their key.
    pub refreshes_max: usize,
    /// How long the peer may take to answer a Close, and to read what precedes it.
    pub close_timeout: Duration,
    /// Kernel's send buffer, in bytes: else it hides up to 4 MiB of a slow client's backlog.
    pub send_buffer_bytes: usize,
}
