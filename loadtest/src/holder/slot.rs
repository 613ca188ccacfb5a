//! One socket: its state, what it sends, and the bytes that it reads. What they say is heard in
//! `hearing`; when it connects, leaves or comes back is decided elsewhere.

use std::io::{ErrorKind, Read as _, Write as _};
use std::rc::Rc;

use anyhow::{Context as _, anyhow, bail, ensure};
use bench_support::handshake::{Answer, Rejection, parse_answer};
use bench_support::{frames, phoenix};
use mio::net::TcpStream;

use super::orders::Orders;
use super::recent::Recent;
use crate::check::{Ledger, Subscription};
use crate::clock::{Nanos, now};
use crate::message::{Label, Timed};
use crate::meters::Meters;
use crate::wire::Event;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not wanted yet, or waiting to come back.
    Closed,
    Connecting,
    /// The request is sent.
    Upgrading,
    Joining,
    Open,
    /// Waits for what it must still see.
    Leaving,
    /// Refused or dropped: it does not come back.
    Gone,
}

/// A topic that a socket joins.
pub(crate) struct Topic {
    pub(crate) subscription: Subscription,
    /// Of the last event that was read; kept while the socket is away.
    pub(super) cursor: Option<Cursor>,
    pub(super) answered: bool,
}

/// A cursor, mostly that of an event which many sockets got.
pub(super) enum Cursor {
    Event(Rc<Event>),
    Own(Box<str>),
}

impl Cursor {
    fn text(&self) -> &str {
        match self {
            Self::Event(event) => &event.cursor,
            Self::Own(text) => text,
        }
    }
}

/// What all sockets of a holder share.
pub(crate) struct Books {
    pub(crate) run: String,
    pub(crate) topics: Vec<String>,
    pub(crate) ledger: Ledger,
    pub(crate) orders: Orders,
    pub(crate) meters: Meters,
    pub(crate) recent: Recent,
    pub(crate) first_org_apart: bool,
}

impl Books {
    pub(crate) fn group(&self, org: usize) -> usize {
        usize::from(!(self.first_org_apart && org == 0))
    }

    pub(crate) fn record(&mut self, timed: Timed, phase: usize, org: usize, nanos: Nanos) {
        let group = self.group(org);
        self.meters.record(Label { timed, phase, group }, nanos);
    }
}

/// What came of reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    /// The last join was answered.
    pub(crate) joined: bool,
    /// All that was missed while away has been seen.
    pub(crate) caught_up: bool,
}

impl Read {
    fn add(&mut self, step: Self) {
        self.joined |= step.joined;
        self.caught_up |= step.caught_up;
    }
}

pub(crate) struct Slot {
    pub(crate) index: usize,
    pub(crate) org: usize,
    pub(crate) state: State,
    pub(crate) stream: Option<TcpStream>,
    /// When it connected last.
    pub(crate) began: Nanos,
    /// When it was to come back; a socket that returns brings its cursors.
    pub(crate) returns: Option<Nanos>,
    /// Since the last join: events of earlier changes are replayed ones.
    pub(super) joined_at: Nanos,
    /// It has caught up when it has seen what stands before.
    pub(super) catching_up: Option<usize>,
    pub(crate) tries: u32,
    pub(crate) topics: Box<[Topic]>,
    pub(crate) next_beat: Nanos,
    pub(super) beat_unanswered: bool,
    pub(super) last_ref: usize,
    /// What was read and is no whole message yet.
    partial: Vec<u8>,
    pub(super) hint: usize,
}

impl Slot {
    pub(crate) fn new(index: usize, org: usize) -> Self {
        Self {
            index,
            org,
            state: State::Closed,
            stream: None,
            began: 0,
            returns: None,
            joined_at: 0,
            catching_up: None,
            tries: 0,
            topics: Box::default(),
            next_beat: Nanos::MAX,
            beat_unanswered: false,
            last_ref: 0,
            partial: Vec::new(),
            hint: 0,
        }
    }

    /// Ready to connect: a new one forgets everything, one that returns keeps what it saw.
    pub(crate) fn begin(&mut self, books: &Books, stream: TcpStream) {
        self.began = now();
        self.state = State::Connecting;
        self.stream = Some(stream);
        self.partial = Vec::new();
        self.beat_unanswered = false;
        self.catching_up = None;
        self.last_ref = books.topics.len();
        if self.returns.is_none() {
            let topic = |name: &String| Topic {
                subscription: Subscription::new(self.org, name),
                cursor: None,
                answered: false,
            };
            self.topics = books.topics.iter().map(topic).collect();
        }
        for topic in &mut self.topics {
            topic.answered = false;
        }
    }

    /// Sends a request for an upgrade, once the connection stands.
    pub(crate) fn request(&mut self, request: &str) -> anyhow::Result<()> {
        self.state = State::Upgrading;
        self.send(request.as_bytes())
    }

    /// All that is sent is short, and the kernel's buffer empty: what does not go out at once never will.
    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let stream = self.stream.as_mut().context("is not connected")?;
        match stream.write(bytes) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) => bail!("the gateway reads nothing"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("the gateway reads nothing"),
            Err(error) => bail!("cannot send: {error}"),
        }
    }

    pub(super) fn send_frame(&mut self, opcode: u8, payload: &[u8]) -> anyhow::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 14);
        frames::append_client(opcode, payload, &mut frame);
        self.send(&frame)
    }

    pub(crate) fn say_goodbye(&mut self) {
        // Only politeness.
        let _ = self.send_frame(frames::CLOSE, &1000_u16.to_be_bytes());
    }

    pub(crate) fn beat(&mut self) -> anyhow::Result<()> {
        ensure!(!self.beat_unanswered, "no answer to a heartbeat until the next was due");
        self.last_ref += 1;
        self.beat_unanswered = true;
        self.send_frame(frames::TEXT, phoenix::heartbeat(self.last_ref).as_bytes())
    }

    /// Reads all that is there. The error says how the socket ended.
    pub(crate) fn read(&mut self, books: &mut Books, buffer: &mut [u8]) -> Result<Read, End> {
        let mut outcome = Read::default();
        loop {
            let Some(stream) = self.stream.as_mut() else { return Ok(outcome) };
            let count = match stream.read(buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(outcome),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(End::Broken(anyhow!("the connection broke: {error}"))),
            };
            let step = self.take(books, &buffer[..count], count == 0)?;
            outcome.add(step);
            if count == 0 {
                return Err(End::Broken(anyhow!("the gateway cut the connection")));
            }
            if count < buffer.len() {
                return Ok(outcome);
            }
        }
    }

    fn take(&mut self, books: &mut Books, bytes: &[u8], ended: bool) -> Result<Read, End> {
        let at = now();
        if self.partial.is_empty() {
            let (outcome, used) = self.consume(books, bytes, at, ended)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(outcome);
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(bytes);
        let (outcome, used) = self.consume(books, &whole, at, ended)?;
        if used < whole.len() {
            whole.drain(..used);
            self.partial = whole;
        }
        Ok(outcome)
    }

    /// Handles every whole message; gives how many bytes that were.
    fn consume(
        &mut self,
        books: &mut Books,
        bytes: &[u8],
        at: Nanos,
        ended: bool,
    ) -> Result<(Read, usize), End> {
        let (mut used, mut outcome) = (0, Read::default());
        if self.state == State::Upgrading {
            match parse_answer(bytes, ended)? {
                Answer::Incomplete => return Ok((outcome, 0)),
                Answer::Rejected(rejection) => return Err(refused(&rejection)),
                Answer::Upgraded { head_bytes } => used = head_bytes,
            }
            books.record(Timed::Connect, 0, self.org, at - self.began);
            self.join(books)?;
        }
        while let Some(message) = frames::parse(&bytes[used..])? {
            used += message.frame_bytes;
            let step = self.message(books, message.opcode, message.payload, at)?;
            outcome.add(step);
        }
        Ok((outcome, used))
    }

    fn join(&mut self, books: &Books) -> anyhow::Result<()> {
        self.state = State::Joining;
        for (n, name) in books.topics.iter().enumerate() {
            let since = self.topics[n].cursor.as_ref().map(Cursor::text);
            let join = phoenix::join(n + 1, name, since);
            self.send_frame(frames::TEXT, join.as_bytes())?;
        }
        Ok(())
    }

    /// From now on nothing new is required; the socket ends when it has seen the rest.
    pub(crate) fn leave(&mut self, books: &mut Books) -> anyhow::Result<()> {
        books.orders.take_in(&mut books.ledger)?;
        self.state = State::Leaving;
        for topic in &mut self.topics {
            books.ledger.leaves(&mut topic.subscription);
        }
        Ok(())
    }

    pub(crate) fn has_all(&self, ledger: &Ledger) -> bool {
        self.topics.iter().all(|topic| ledger.has_all_before(&topic.subscription, usize::MAX))
    }
}

/// How a socket ended without being told to.
#[derive(Debug)]
pub(crate) enum End {
    /// The gateway is at a limit for now.
    Later(anyhow::Error),
    Broken(anyhow::Error),
}

fn refused(rejection: &Rejection) -> End {
    let Rejection { status, body, .. } = rejection;
    let advice = match status {
        401 | 403 => "Compare --jwt-secret, --jwt-audience and --jwt-issuer with the gateway's settings",
        404 => "Compare the path of --url with the gateway's",
        429 if body.contains("per_address") => {
            "Use more source addresses (--bind) or a lower --connect-rate, or raise the gateway's limit per address"
        }
        429 if body.contains("_connections") => {
            "Use more gateways (repeat --url) or more organisations (--orgs), or raise the gateway's limit"
        }
        429 | 503 => {
            "The gateway has reached a limit or is not ready. Try again, or use a lower --connect-rate"
        }
        _ => "See the gateway's log",
    };
    let error = anyhow!("the gateway rejected the handshake: {rejection}. {advice}");
    if matches!(status, 429 | 503) { End::Later(error) } else { End::Broken(error) }
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}
