//! The life of one socket, from its accepted upgrade to its close code.
//!
//! Each session is one task. Its loop (`event_loop`) handles a closed set of events. The session alone reads
//! from its socket. Everything that it writes goes through its outbox, because fan-out writes to the same
//! socket. This module must not know HTTP.

mod command;
mod context;
mod covers;
mod current_token;
mod event_loop;
mod join_channel;
mod join_options;
mod joined_topics;
mod loop_action;
mod message_rate;
mod message_reader;
mod org_rate;
mod pending;
mod pending_join;
mod refresh;
mod resume;
mod revocation_check;
mod snapshot;
mod topic_policy;

pub use context::{CoversQuestion, SessionContext, SessionLimits};
pub use org_rate::OrgRates;
pub(crate) use pending_join::SESSION_FILTERS_MAX;
pub use revocation_check::token_subject;
pub use topic_policy::{ForbiddenTopic, TopicPolicy};

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::audit_trail::{self, AuditSubject, LineAllowed, SessionShare};
use crate::auth::Identity;
use crate::cursor::CursorSeal;
pub use crate::hub::Transport;
use crate::hub::{Outbox, Registration};
use crate::metrics::CloseLabels;
use crate::org::Incarnation;
use crate::wire::CloseCode;
use joined_topics::JoinedTopics;
use message_rate::MessageRateLimiter;
use message_reader::MessageReader;
use org_rate::OrgRate;
use pending::{PendingQuestion, RefreshFuture, Resuming};
use revocation_check::RevocationCheck;

/// An accepted upgrade, from which a session begins.
#[derive(Debug)]
pub struct Admitted<Permit> {
    /// Identifier of this session in the audit trail.
    pub id: Uuid,
    /// Address of the client.
    pub address: IpAddr,
    /// Identity from the verified token.
    pub identity: Identity,
    /// Incarnation of the identity's organisation.
    pub incarnation: Incarnation,
    /// Admission's permit, dropped when the session has ended.
    pub permit: Permit,
    /// The client's socket.
    pub transport: Transport,
    /// Bytes that the client sent right behind its request, read before the 101 was sent.
    pub received: Bytes,
}

/// State of one open socket.
struct Session {
    context: Arc<SessionContext>,
    id: Uuid,
    address: IpAddr,
    identity: Arc<Identity>,
    /// Checks the token behind `identity` when something was revoked.
    revocation_check: Arc<RevocationCheck>,
    message_rate: MessageRateLimiter,
    /// Shared by all sessions of the organisation.
    org_rate: Arc<OrgRate>,
    /// The socket is not read before this moment, because the organisation is beyond its rate.
    paused_until: Instant,
    outbox: Arc<Outbox>,
    registration: Arc<Registration>,
    joined: JoinedTopics,
    /// Joins whose missed events are still being sent.
    resuming: Vec<Resuming>,
    /// Fresh tokens that wait for their key, in the order of arrival.
    refreshing: VecDeque<RefreshFuture>,
    /// Questions on topics whose missed events are still being sent.
    questions: Vec<PendingQuestion>,
    last_join_id: u64,
    last_heard: Instant,
    /// The outbox at the last check of its backlog.
    backlog: Option<Backlog>,
    /// Log lines that the client may still cause.
    log_share: SessionShare,
}

/// A queue of frames that the client had not accepted at one moment.
#[derive(Clone, Copy)]
struct Backlog {
    since: Instant,
    /// Number of times that the queue had been empty.
    drains: u32,
}

/// Runs a session until it ends. If `shutdown` is already cancelled, the session ends immediately with 1012.
///
/// A later shutdown closes the session through its outbox.
///
/// The arguments come in a box, and [`Session::begin`] moves them out of it. Otherwise the future of a
/// waiting session would store them twice, and a node has tens of thousands of such futures.
pub async fn run<Permit: Send>(
    context: Arc<SessionContext>,
    admitted: Box<Admitted<Permit>>,
    shutdown: CancellationToken,
) {
    let (mut session, mut reader, _permit) = Session::begin(context, admitted);
    // Shutdown first cancels the token, then closes every registered outbox. This session is registered by
    // now, so it sees the one or the other.
    if shutdown.is_cancelled() {
        session.outbox.close(CloseCode::RESTART);
    }
    drop(shutdown);
    let started = Instant::now();
    session.context.metrics.sessions.inc();
    let close = session.serve(&mut reader).await;
    let metrics = &session.context.metrics;
    metrics.sessions.dec();
    metrics.closed.get_or_create(&CloseLabels { code: close.code }).inc();
    let allowed = session.context.log_shares.take_for_session(session.identity.org, Instant::now());
    if let Some(allowed) = allowed {
        let lasted = started.elapsed();
        audit_trail::ended(session.audit_subject(), close.code, close.reason, lasted, allowed);
    }
}

impl Session {
    /// Registers the session with the hub. Frees the box of the arguments here instead of at the session's
    /// end.
    #[expect(clippy::boxed_local, reason = "the box keeps the arguments out of the session's future")]
    fn begin<Permit>(
        context: Arc<SessionContext>,
        admitted: Box<Admitted<Permit>>,
    ) -> (Self, MessageReader, Box<Permit>) {
        let Admitted { id, address, identity, incarnation, permit, transport, received } = *admitted;
        let limits = context.limits;
        // A session also works with the kernel's default buffers, so a failure here does not end it.
        let _ = transport.configure(limits.send_buffer_bytes);
        let outbox = Arc::new(Outbox::new(transport, context.hub.outbox_limits()));
        let identity = Arc::new(identity);
        let revocation_check = Arc::new(RevocationCheck::new(Arc::clone(&identity), Arc::clone(&context)));
        let seal = CursorSeal::new(context.cursor_keys.ring(), identity.org, incarnation);
        let registration =
            context.hub.register(&seal, Arc::clone(&outbox), Arc::clone(&revocation_check) as _);
        let now = Instant::now();
        let org_rate = context.org_rates.of(identity.org, now);
        let session = Self {
            context,
            id,
            address,
            identity,
            revocation_check,
            message_rate: MessageRateLimiter::new(),
            org_rate,
            paused_until: now,
            outbox,
            registration: Arc::new(registration),
            joined: JoinedTopics::default(),
            resuming: Vec::new(),
            refreshing: VecDeque::new(),
            questions: Vec::new(),
            last_join_id: 0,
            last_heard: now,
            backlog: None,
            log_share: SessionShare::new(now),
        };
        // The permit is used only once, at the end, so it is boxed to keep the session's future small.
        (session, MessageReader::new(received, &limits), Box::new(permit))
    }

    /// Takes one of the log lines that the client and its organisation may still cause.
    fn take_log_line(&mut self) -> Option<LineAllowed> {
        self.context.log_shares.take(self.identity.org, &mut self.log_share, Instant::now())
    }

    fn audit_subject(&self) -> AuditSubject<'_> {
        let Identity { org, subject, .. } = &*self.identity;
        AuditSubject { session: self.id, user: subject, org: *org, address: self.address }
    }
}
