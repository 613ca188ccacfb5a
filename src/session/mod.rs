//! One socket, from the 101 to its close code: one owner, one loop, a closed set of things that can
//! happen.
//!
//! The session reads; all that it writes goes through its outbox, which the hub's fan-out writes to as
//! well. It knows nothing of HTTP.

mod check;
mod command;
mod context;
mod grant;
mod joined;
mod message_rate;
mod refresh;
mod resume;
mod socket;

pub use check::token_subject;
pub use context::{SessionContext, SessionLimits};
pub use grant::TopicPolicy;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::audit_trail::{self, AuditSubject};
use crate::auth::Identity;
use crate::hub::{CloseState, Outbox, Registration, SessionCheck as _};
use crate::metrics::CloseLabels;
use crate::wire::{CloseCode, Topic};
use check::Bearer;
use joined::{Joined, Joins, Membership};
use message_rate::{Allowed, MessageRateLimiter};
use refresh::{Refreshing, next_refreshed};
use resume::{Resuming, next_resumed};
use socket::{Socket, discard_until_end};

pub use crate::hub::Transport;

/// Somebody whose upgrade was accepted, and the socket.
#[derive(Debug)]
pub struct Admitted<Seat> {
    /// Of this session alone, in the audit trail.
    pub id: Uuid,
    /// Where it comes from.
    pub address: IpAddr,
    /// Who it is.
    pub identity: Identity,
    /// Given up when the session has ended.
    pub seat: Seat,
    /// The socket.
    pub transport: Transport,
    /// What was read of it already: it came behind the request, before the 101.
    pub received: Bytes,
}

/// See the module's documentation.
struct Session {
    shared: Arc<SessionContext>,
    id: Uuid,
    address: IpAddr,
    identity: Arc<Identity>,
    /// What the hub asks when something was revoked; follows `identity`.
    standing: Arc<Bearer>,
    allowance: MessageRateLimiter,
    outbox: Arc<Outbox>,
    registration: Arc<Registration>,
    joined: Joins,
    /// Joins that are being told what they missed.
    resuming: Vec<Resuming>,
    /// Fresh tokens that wait for their key, in the order in which they came.
    refreshing: VecDeque<Refreshing>,
    joins: u64,
    last_heard: Instant,
}

/// What the loop goes on with.
enum Next {
    Continue,
    /// The session may end sooner than before, or later.
    Reschedule,
    Close(CloseCode),
}

/// Serves a socket whose upgrade was accepted, until it ends; at once with 1012 if `shutdown` is cancelled already.
/// Later the outbox ends it.
///
/// What is given lies in a box, and what the session needs is made of it here: the future of a session that waits holds
/// nothing twice, and there may be tens of thousands.
pub async fn run<Seat: Send>(
    shared: Arc<SessionContext>,
    admitted: Box<Admitted<Seat>>,
    shutdown: CancellationToken,
) {
    let (mut session, mut socket, _seat) = Session::begin(shared, admitted);
    // The walk over all outboxes at shutdown saw this one, or the token is cancelled by now.
    if shutdown.is_cancelled() {
        session.outbox.close(CloseCode::RESTART);
    }
    drop(shutdown);
    let started = Instant::now();
    session.shared.metrics.sessions.inc();
    let close = session.serve(&mut socket).await;
    let metrics = &session.shared.metrics;
    metrics.sessions.dec();
    metrics.closed.get_or_create(&CloseLabels { code: close.code }).inc();
    audit_trail::ended(session.who(), close.code, close.reason, started.elapsed());
}

impl Session {
    /// Takes the box itself, which is freed here rather than at the session's end.
    #[expect(clippy::boxed_local, reason = "see above")]
    fn begin<Seat>(shared: Arc<SessionContext>, admitted: Box<Admitted<Seat>>) -> (Self, Socket, Box<Seat>) {
        let Admitted { id, address, identity, seat, transport, received } = *admitted;
        let limits = shared.limits;
        // That it fails is no reason to refuse a session.
        let _ = transport.configure(limits.send_buffer_bytes);
        let outbox = Arc::new(Outbox::new(transport, shared.hub.outbox_limits()));
        let identity = Arc::new(identity);
        let standing = Arc::new(Bearer::new(Arc::clone(&identity), Arc::clone(&shared.revocations)));
        let registration = shared.hub.register(identity.org, Arc::clone(&outbox), Arc::clone(&standing) as _);
        let session = Self {
            shared,
            id,
            address,
            identity,
            standing,
            allowance: MessageRateLimiter::new(),
            outbox,
            registration: Arc::new(registration),
            joined: Joins::default(),
            resuming: Vec::new(),
            refreshing: VecDeque::new(),
            joins: 0,
            last_heard: Instant::now(),
        };
        // Boxed, as what is used once only.
        (session, Socket::new(received, &limits), Box::new(seat))
    }

    fn who(&self) -> AuditSubject<'_> {
        let Identity { org, subject, .. } = &*self.identity;
        AuditSubject { session: self.id, user: subject, org: *org, address: self.address }
    }

    /// The loop, then the farewell. Returns the code with which the session ended.
    async fn serve(&mut self, socket: &mut Socket) -> CloseCode {
        // The organisation may have been deleted between the check and the registration.
        if matches!(self.shared.directory.has_org(self.identity.org).await, Ok(false)) {
            self.outbox.close(CloseCode::ORG_GONE);
        }
        // So may its token have been revoked.
        if let Some(close) = self.standing.close_reason() {
            self.outbox.close(close);
        }
        let close = self.run(socket).await;
        self.resuming.clear();
        self.refreshing.clear();
        for (topic, joined) in self.joined.take() {
            self.end_membership(&topic, &joined);
        }
        self.outbox.close(close);
        // What the peer is told: the hub may have ended the session a moment before.
        let close = match self.outbox.ending() {
            Some(CloseState::Closing(Some(sent))) => sent,
            _ => close,
        };
        let farewell = async {
            let (outbox, rate) = (&*self.outbox, self.shared.limits.received_bytes);
            poll_fn(|cx| outbox.poll_flush(cx)).await;
            // Until the peer's Close or its end: a socket that is closed with unread bytes is reset,
            // and the reset may overtake our Close frame.
            while let Some(Ok(_)) = socket.next(outbox, rate).await {}
            // After a frame that could not be read there is no next one, but there may be bytes.
            discard_until_end(outbox).await;
        };
        if self.outbox.ending() != Some(CloseState::Broken) {
            let _ = tokio::time::timeout(self.shared.limits.close_timeout, farewell).await;
        }
        close
    }

    async fn run(&mut self, socket: &mut Socket) -> CloseCode {
        let timer = tokio::time::sleep_until(self.deadline());
        tokio::pin!(timer);
        let rate = self.shared.limits.received_bytes;
        loop {
            let outbox = Arc::clone(&self.outbox);
            let next = tokio::select! {
                message = socket.next(&outbox, rate) => {
                    self.last_heard = Instant::now();
                    self.on_message(message)
                }
                ending = poll_fn(|cx| outbox.poll_ending(cx)) => match ending {
                    CloseState::Closing(close) => Next::Close(close.unwrap_or(CloseCode::NORMAL)),
                    CloseState::Broken => Next::Close(CloseCode::NORMAL),
                },
                resumed = next_resumed(&mut self.resuming), if !self.resuming.is_empty() => {
                    self.on_resumed(resumed);
                    Next::Continue
                }
                refreshed = next_refreshed(&mut self.refreshing), if !self.refreshing.is_empty() => {
                    self.on_refreshed(refreshed)
                }
                () = &mut timer => self.on_timer(),
            };
            match next {
                Next::Close(close) => return close,
                Next::Continue if !timer.is_elapsed() && !self.ends_in().is_zero() => {}
                Next::Continue | Next::Reschedule => timer.as_mut().reset(self.deadline()),
            }
        }
    }

    fn on_message(&mut self, message: Option<Result<Message, WsError>>) -> Next {
        let allowed = match &message {
            Some(Ok(_)) => self.allowance.take(&self.shared.limits, Instant::now()),
            _ => Allowed::Yes,
        };
        if allowed != Allowed::Yes {
            self.shared.metrics.limit_reached("messages");
        }
        match message {
            Some(Ok(_)) if allowed == Allowed::Flood => Next::Close(CloseCode::FLOOD),
            Some(Ok(Message::Text(text))) => self.on_text(&text, allowed == Allowed::Yes),
            Some(Ok(Message::Binary(_))) => Next::Close(CloseCode::UNSUPPORTED),
            // Pings are answered while reading; the Close is, too, and then the stream ends.
            Some(Ok(_)) => Next::Continue,
            Some(Err(WsError::Capacity(CapacityError::MessageTooLong { .. }))) => {
                self.shared.metrics.limit_reached("message_bytes");
                Next::Close(CloseCode::TOO_BIG)
            }
            Some(Err(WsError::Io(error))) if error.kind() == ErrorKind::QuotaExceeded => {
                self.shared.metrics.limit_reached("received_bytes");
                Next::Close(CloseCode::FLOOD)
            }
            Some(Err(WsError::Utf8(_))) => Next::Close(CloseCode::INVALID_UTF8),
            Some(Err(WsError::Protocol(
                tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            ))) => Next::Close(CloseCode::NORMAL),
            Some(Err(WsError::Protocol(_))) => Next::Close(CloseCode::PROTOCOL_ERROR),
            Some(Err(_)) | None => Next::Close(CloseCode::NORMAL),
        }
    }

    fn next_join(&mut self) -> u64 {
        self.joins += 1;
        self.joins
    }

    fn end_membership(&self, topic: &Topic, joined: &Joined) {
        match &joined.membership {
            Membership::Live(subscribed) => self.registration.unsubscribe(topic, subscribed),
            Membership::Resuming(left) => left.cancel(),
        }
    }

    fn on_timer(&self) -> Next {
        if self.ends_in().is_zero() {
            Next::Close(CloseCode::TOKEN_EXPIRED)
        } else if self.last_heard.elapsed() >= self.shared.limits.idle_timeout {
            Next::Close(CloseCode::IDLE)
        } else {
            Next::Continue
        }
    }

    /// When the timer must look next. It is not reset by every message: it looks, and sleeps on.
    fn deadline(&self) -> Instant {
        let idle = self.last_heard + self.shared.limits.idle_timeout;
        idle.min(Instant::now() + self.ends_in())
    }

    /// When the session ends if nothing more comes. Who sent a fresh token in time is not cut while its key
    /// is being fetched.
    fn ends_at(&self) -> SystemTime {
        let wait = if self.refreshing.is_empty() { Duration::ZERO } else { self.shared.verifier.wait() };
        self.identity.expires_at + self.shared.limits.expiry_grace + wait
    }

    fn ends_in(&self) -> Duration {
        self.ends_at().duration_since(SystemTime::now()).unwrap_or_default()
    }
}
