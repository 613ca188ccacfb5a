//! State and limits that all sessions of a gateway share.
//!
//! Only sessions use it. HTTP handlers have handles of their own and pass this on when an upgrade begins a
//! session.

use std::sync::Arc;
use std::time::Duration;

use super::join_options::Since;
use super::org_rate::OrgRates;
use super::topic_policy::{ForbiddenTopic, TopicPolicy};
use crate::audit_trail::LogShares;
use crate::auth::{TopicAccess, Verifier};
use crate::control::{CursorKeys, Directory, Revocations};
use crate::cursor::{Cursor, CursorSeal, InvalidCursor};
use crate::hub::{CoverageQuestions, CoverageTarget, Hub};
use crate::metrics::Metrics;
use crate::org::{Incarnation, OrgId};
use crate::rate::Rate;
use crate::reading::Reader;
use crate::replay::{Replay, ReplayError};
use crate::wire::Topic;

/// Everything that a session uses and does not own.
#[derive(Debug)]
pub struct SessionContext {
    /// Subscriptions of all sessions.
    pub hub: Arc<Hub>,
    /// Takes questions whether a transaction was dispatched.
    pub questions: CoverageQuestions,
    /// Organisations and topics that exist.
    pub directory: Arc<Directory>,
    /// In-memory copy of `warden.revocations`.
    pub revocations: Arc<Revocations>,
    /// Keys of cursors.
    pub cursor_keys: Arc<CursorKeys>,
    /// Missed events for clients that resume.
    pub replay: Arc<Replay>,
    /// Rows of tables, for joins with a snapshot.
    pub reader: Arc<Reader>,
    /// Verifies tokens that replace a session's first one.
    pub verifier: Arc<Verifier>,
    /// Topics that a token must name before it may join them.
    pub topic_policy: TopicPolicy,
    /// Log lines that organisations may still cause.
    pub log_shares: LogShares,
    /// Messages that organisations may still send.
    pub org_rates: OrgRates,
    /// Metrics of the node.
    pub metrics: Arc<Metrics>,
    /// Limits of each session.
    pub limits: SessionLimits,
}

impl SessionContext {
    /// Waits until this node has dispatched every event of the former incarnation.
    ///
    /// # Errors
    /// If the tailer makes no progress.
    pub async fn wait_for(&self, incarnation: Incarnation) -> Result<(), ReplayError> {
        let is_reached =
            || self.hub.cursor().is_some_and(|now| now.from.snapshot.sees(incarnation.since_xid));
        // Usually true, because a node that has no former incarnation to dispatch needs no progress.
        if is_reached() { Ok(()) } else { Box::pin(self.replay.wait_until(is_reached)).await }
    }

    /// Checks whether a token with these claims may read the table of the topic. Unlike a join of `org`, that
    /// shows nothing of other topics.
    ///
    /// # Errors
    /// If the token must name the topic, and does not.
    pub fn check_read(&self, access: TopicAccess<'_>, topic: &Topic) -> Result<(), ForbiddenTopic> {
        self.topic_policy.check_named(access, topic, &self.directory.topics_needing_claim(topic))
    }

    /// Checks whether a token with these claims may join the topic.
    pub(super) fn check_topic(&self, access: TopicAccess<'_>, topic: &Topic) -> Result<(), ForbiddenTopic> {
        self.topic_policy.check(access, topic, &self.directory.topics_needing_claim(topic))
    }

    /// Whether a member of the organisation with this cursor has certainly seen what the question asks for.
    ///
    /// # Errors
    /// If a string was not sealed for this organisation in the present epoch: a code that names it.
    pub fn covers(
        &self,
        org: OrgId,
        incarnation: Incarnation,
        cursor: &str,
        question: CoversQuestion<'_>,
    ) -> Result<bool, &'static str> {
        let seal = CursorSeal::new(self.cursor_keys.ring(), org, incarnation);
        let cursor = self.open_cursor(&seal, cursor).ok_or("unknown_cursor")?;
        let target = match question {
            CoversQuestion::Transaction(tx) => self.open_transaction(&seal, tx).ok_or("unknown_tx")?,
            CoversQuestion::Page(page) => {
                CoverageTarget::of_cursor(self.open_cursor(&seal, page).ok_or("unknown_page")?)
            }
        };
        // A failover between the two could make them strings of two epochs.
        if target.epoch() != cursor.epoch {
            return Err("unknown_cursor");
        }
        Ok(target.is_covered_by(&cursor))
    }

    pub(super) fn open_transaction(&self, seal: &CursorSeal, tx: &str) -> Option<CoverageTarget> {
        let epoch = self.hub.cursor()?.epoch;
        seal.open_transaction(epoch, tx).ok().map(CoverageTarget::Transaction)
    }

    /// The cursors of a client that resumes. None if no gateway of this database issued them for this
    /// organisation in the present epoch.
    pub(super) fn open_since(&self, seal: &CursorSeal, since: &Since) -> Option<(Cursor, Option<Cursor>)> {
        let from = self.open_cursor(seal, &since.cursor)?;
        let Some(seen) = &since.seen else { return Some((from, None)) };
        let seen = self.open_cursor(seal, seen).filter(|seen| seen.epoch == from.epoch)?;
        Some((from, Some(seen)))
    }

    pub(super) fn open_cursor(&self, seal: &CursorSeal, cursor: &str) -> Option<Cursor> {
        let epoch = self.hub.cursor()?.epoch;
        let opened = seal.open(epoch, cursor);
        if opened == Err(InvalidCursor::UnknownKey) {
            self.cursor_keys.wake();
        }
        opened.ok()
    }
}

/// Question of a request over HTTP.
#[derive(Clone, Copy, Debug)]
pub enum CoversQuestion<'a> {
    /// Whether the cursor covers this transaction.
    Transaction(&'a str),
    /// Whether the cursor covers what the cursor of a page covers.
    Page(&'a str),
}

/// Limits of one session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Longest message from a client, in bytes.
    pub message_bytes_max: usize,
    /// Rate of messages from a client, including pings.
    pub messages: Rate,
    /// Rate of messages above `messages` that are answered with an error. Above this rate the session ends.
    pub rejected_messages: Rate,
    /// Messages of all sessions of the organisation, in units of `org_rate`.
    pub messages_per_org: Rate,
    /// Rate of bytes from a client, whatever they contain.
    pub received_bytes: Rate,
    /// Topics that one socket may have joined at the same time.
    pub joins_max: usize,
    /// Snapshots of one socket at the same time.
    pub snapshots_max: usize,
    /// Time without any message after which a session ends. Clients send a heartbeat every 30 to 60 s.
    pub idle_timeout: Duration,
    /// Time that a session stays open after its token has expired, because a fresh token may be on its way.
    /// The session cannot join new topics in this time.
    pub expiry_grace: Duration,
    /// Fresh tokens of one session that may wait for their key at the same time.
    pub refreshes_max: usize,
    /// Time in which a client must accept everything that is queued for it.
    pub backlog_timeout: Duration,
    /// Time that the peer has to read what precedes a Close frame, and to answer it.
    pub close_timeout: Duration,
    /// Size of the kernel's send buffer, in bytes. By default the kernel would hide up to 4 MiB of a slow
    /// client's backlog from the outbox.
    pub send_buffer_bytes: usize,
}
