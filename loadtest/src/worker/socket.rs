//! One socket: its state, what it sends, and the bytes that it reads. `receive` handles its messages;
//! `population` decides when it connects, leaves or reconnects.

use std::io::{ErrorKind, Read as _, Write as _};
use std::rc::Rc;

use anyhow::{Context as _, anyhow, bail, ensure};
use bench_support::handshake::{Answer, parse_answer};
use bench_support::{frames, phoenix};
use mio::net::TcpStream;

use super::bookkeeping::Bookkeeping;
use super::failure::SocketFailure;
use crate::check::{Ledger, Subscription};
use crate::clock::{Nanos, now};
use crate::filters::Filter;
use crate::histograms::LatencyKind;
use crate::wire::Event;

/// The state of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketState {
    /// Not opened yet, or waiting to reconnect.
    Closed,
    /// The TCP connection is being established.
    Connecting,
    /// The upgrade request is sent.
    Upgrading,
    /// The joins are sent.
    Joining,
    Open,
    /// Waiting for the events that it must still receive.
    Leaving,
    /// Failed or dropped; it does not reconnect.
    Gone,
}

/// A topic that a socket joins.
pub(super) struct Topic {
    pub(super) subscription: Subscription,
    /// Cursor of the last event. It is kept while the socket is away.
    pub(super) cursor: Option<TopicCursor>,
    /// Whether the join was answered.
    pub(super) answered: bool,
}

/// A cursor. In most cases it belongs to an event that many sockets share.
pub(super) enum TopicCursor {
    Event(Rc<Event>),
    Own(Box<str>),
}

impl TopicCursor {
    fn as_str(&self) -> &str {
        match self {
            Self::Event(event) => &event.cursor,
            Self::Own(cursor) => cursor,
        }
    }
}

/// The result of reading from a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReadOutcome {
    /// The last join was answered.
    pub(super) joined: bool,
    /// All events that were missed in the storm have arrived.
    pub(super) caught_up: bool,
}

impl ReadOutcome {
    fn add(&mut self, other: Self) {
        self.joined |= other.joined;
        self.caught_up |= other.caught_up;
    }
}

/// One socket of a worker.
pub(super) struct Socket {
    pub(super) index: usize,
    pub(super) org: usize,
    /// Filter of its join of `calls`.
    filter: Option<Filter>,
    pub(super) state: SocketState,
    pub(super) stream: Option<TcpStream>,
    /// When it began to connect, or to leave.
    pub(super) began: Nanos,
    /// When it was due to reconnect after a storm. Such a socket sends its cursors.
    pub(super) reconnect_due: Option<Nanos>,
    /// When its last join was answered. Events of earlier changes are replayed ones.
    pub(super) joined_at: Nanos,
    /// While it catches up: the position in the ledger before which it must have everything.
    pub(super) catching_up_to: Option<usize>,
    /// Attempts after temporary failures.
    pub(super) retries: u32,
    pub(super) topics: Box<[Topic]>,
    pub(super) next_heartbeat: Nanos,
    pub(super) heartbeat_unanswered: bool,
    pub(super) last_ref: usize,
    /// Bytes of a message that is not complete yet.
    partial: Vec<u8>,
    /// Index of the event that this socket last found in the cache.
    pub(super) cache_hint: usize,
}

impl Socket {
    pub(super) fn new(index: usize, org: usize, filter: Option<Filter>) -> Self {
        Self {
            index,
            org,
            filter,
            state: SocketState::Closed,
            stream: None,
            began: 0,
            reconnect_due: None,
            joined_at: 0,
            catching_up_to: None,
            retries: 0,
            topics: Box::default(),
            next_heartbeat: Nanos::MAX,
            heartbeat_unanswered: false,
            last_ref: 0,
            partial: Vec::new(),
            cache_hint: 0,
        }
    }

    /// Begins to connect. A new socket forgets its subscriptions; one that reconnects keeps them.
    pub(super) fn begin(&mut self, books: &Bookkeeping, stream: TcpStream) {
        self.began = now();
        self.state = SocketState::Connecting;
        self.stream = Some(stream);
        self.partial = Vec::new();
        self.heartbeat_unanswered = false;
        self.catching_up_to = None;
        self.last_ref = books.topics.len();
        if self.reconnect_due.is_none() {
            let topic = |name: &String| Topic {
                subscription: Subscription::new(self.org, name, self.filter),
                cursor: None,
                answered: false,
            };
            self.topics = books.topics.iter().map(topic).collect();
        }
        for topic in &mut self.topics {
            topic.answered = false;
        }
    }

    /// Sends the upgrade request once the TCP connection is established.
    pub(super) fn send_request(&mut self, request: &str) -> anyhow::Result<()> {
        self.state = SocketState::Upgrading;
        self.send(request.as_bytes())
    }

    /// Sends a few bytes. The kernel's buffer is empty, so it accepts all of them unless the gateway does not
    /// read.
    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let stream = self.stream.as_mut().context("the socket is not connected")?;
        match stream.write(bytes) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) => bail!("the gateway does not read"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("the gateway does not read"),
            Err(error) => bail!("cannot send to the gateway: {error}"),
        }
    }

    pub(super) fn send_frame(&mut self, opcode: u8, payload: &[u8]) -> anyhow::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 14);
        frames::append_client(opcode, payload, &mut frame);
        self.send(&frame)
    }

    pub(super) fn send_close(&mut self) {
        // A courtesy: the connection is closed in either case.
        let _ = self.send_frame(frames::CLOSE, &1000_u16.to_be_bytes());
    }

    pub(super) fn send_heartbeat(&mut self) -> anyhow::Result<()> {
        ensure!(!self.heartbeat_unanswered, "the gateway did not answer a heartbeat before the next was due");
        self.last_ref += 1;
        self.heartbeat_unanswered = true;
        self.send_frame(frames::TEXT, phoenix::heartbeat(self.last_ref).as_bytes())
    }

    /// Reads and handles everything that has arrived.
    pub(super) fn read(
        &mut self,
        books: &mut Bookkeeping,
        buffer: &mut [u8],
    ) -> Result<ReadOutcome, SocketFailure> {
        let mut outcome = ReadOutcome::default();
        loop {
            let Some(stream) = self.stream.as_mut() else { return Ok(outcome) };
            let count = match stream.read(buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(outcome),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(anyhow!("the connection broke: {error}").into()),
            };
            outcome.add(self.process(books, &buffer[..count], count == 0)?);
            if count == 0 {
                return Err(anyhow!("the gateway cut the connection").into());
            }
            if count < buffer.len() {
                return Ok(outcome);
            }
        }
    }

    /// Handles bytes together with those of an incomplete message.
    fn process(
        &mut self,
        books: &mut Bookkeeping,
        bytes: &[u8],
        ended: bool,
    ) -> Result<ReadOutcome, SocketFailure> {
        let at = now();
        if self.partial.is_empty() {
            let (outcome, used) = self.consume(books, bytes, at, ended)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(outcome);
        }
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let (outcome, used) = self.consume(books, &all, at, ended)?;
        if used < all.len() {
            all.drain(..used);
            self.partial = all;
        }
        Ok(outcome)
    }

    /// Handles every complete message, and returns how many bytes these have.
    fn consume(
        &mut self,
        books: &mut Bookkeeping,
        bytes: &[u8],
        at: Nanos,
        ended: bool,
    ) -> Result<(ReadOutcome, usize), SocketFailure> {
        let (mut used, mut outcome) = (0, ReadOutcome::default());
        if self.state == SocketState::Upgrading {
            used = match parse_answer(bytes, ended)? {
                Answer::Incomplete => return Ok((outcome, 0)),
                Answer::Rejected(rejection) => return Err(SocketFailure::rejected(&rejection)),
                Answer::Upgraded { head_bytes } => head_bytes,
            };
            books.record(LatencyKind::Connect, 0, self.org, at - self.began);
            self.join(books)?;
        }
        while let Some(message) = frames::parse(&bytes[used..])? {
            used += message.frame_bytes;
            outcome.add(self.receive(books, message.opcode, message.payload, at)?);
        }
        Ok((outcome, used))
    }

    fn join(&mut self, books: &Bookkeeping) -> anyhow::Result<()> {
        self.state = SocketState::Joining;
        for (n, name) in books.topics.iter().enumerate() {
            let since = self.topics[n].cursor.as_ref().map(TopicCursor::as_str);
            let filter = self.topics[n].subscription.filter().map(Filter::query);
            let join = phoenix::join(n + 1, name, since, filter.as_deref());
            self.send_frame(frames::TEXT, join.as_bytes())?;
        }
        Ok(())
    }

    /// Begins to leave: no new change is required, and the socket closes when it has received the earlier
    /// ones.
    pub(super) fn leave(&mut self, books: &mut Bookkeeping) -> anyhow::Result<()> {
        books.read_commands()?;
        self.state = SocketState::Leaving;
        for topic in &mut self.topics {
            books.ledger.end_subscription(&mut topic.subscription);
        }
        Ok(())
    }

    /// Whether all topics have received everything that they must receive.
    pub(super) fn has_all(&self, ledger: &Ledger) -> bool {
        self.topics.iter().all(|topic| ledger.has_all_before(&topic.subscription, usize::MAX))
    }

    /// Whether the socket has just received the last event that it had missed.
    pub(super) fn has_caught_up(&mut self, books: &mut Bookkeeping, at: Nanos) -> bool {
        let (Some(end), Some(due)) = (self.catching_up_to, self.reconnect_due) else { return false };
        let has_all = |topic: &Topic| books.ledger.has_all_before(&topic.subscription, end);
        if !self.topics.iter().all(has_all) {
            return false;
        }
        self.catching_up_to = None;
        books.record(LatencyKind::CatchUp, 0, self.org, at.saturating_sub(due));
        true
    }
}
