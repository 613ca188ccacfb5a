//! One socket: what it has read of the gateway, and what that means. It hands every event to the
//! ledger and judges none; when it connects, leaves or comes back is decided elsewhere.

use std::io::{ErrorKind, Read as _, Write as _};
use std::rc::Rc;

use anyhow::{Context as _, anyhow, bail, ensure};
use mio::net::TcpStream;

use super::frames;
use super::handshake::{self, Answer};
use super::orders::Orders;
use super::recent::Recent;
use crate::check::{Arrival, Ledger, Subscription, Verdict};
use crate::clock::{Nanos, now};
use crate::message::{Label, Timed};
use crate::meters::Meters;
use crate::wire::{self, Event, Frame, Position, Reply};

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
    cursor: Option<Cursor>,
    answered: bool,
}

/// A cursor, mostly that of an event which many sockets got.
enum Cursor {
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
    joined_at: Nanos,
    /// It has caught up when it has seen what stands before.
    catching_up: Option<usize>,
    pub(crate) tries: u32,
    pub(crate) topics: Box<[Topic]>,
    pub(crate) next_beat: Nanos,
    beat_unanswered: bool,
    last_ref: usize,
    /// What was read and is no whole message yet.
    partial: Vec<u8>,
    hint: usize,
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

    fn send_frame(&mut self, opcode: u8, payload: &[u8]) -> anyhow::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 14);
        frames::append(opcode, payload, &mut frame);
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
        self.send_frame(frames::TEXT, wire::heartbeat(self.last_ref).as_bytes())
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
            match handshake::answer(bytes, ended) {
                Answer::Incomplete => return Ok((outcome, 0)),
                Answer::Later(error) => return Err(End::Later(error)),
                Answer::Refused(error) => return Err(End::Broken(error)),
                Answer::Upgraded(head) => used = head,
            }
            books.record(Timed::Connect, 0, self.org, at - self.began);
            self.join(books)?;
        }
        while let Some(message) = frames::parse(&bytes[used..])? {
            used += message.bytes;
            let step = self.message(books, message.opcode, message.payload, at)?;
            outcome.add(step);
        }
        Ok((outcome, used))
    }

    fn join(&mut self, books: &Books) -> anyhow::Result<()> {
        self.state = State::Joining;
        for (n, name) in books.topics.iter().enumerate() {
            let since = self.topics[n].cursor.as_ref().map(Cursor::text);
            let join = wire::join(n + 1, name, since);
            self.send_frame(frames::TEXT, join.as_bytes())?;
        }
        Ok(())
    }

    fn message(&mut self, books: &mut Books, opcode: u8, payload: &[u8], at: Nanos) -> anyhow::Result<Read> {
        match opcode {
            frames::TEXT => {
                if let Some(event) = books.recent.find(self.org, &mut self.hint, payload) {
                    return self.event(books, &event, at);
                }
                return self.text(books, payload, at);
            }
            frames::PING => self.send_frame(frames::PONG, payload)?,
            frames::PONG => {}
            frames::CLOSE => bail!("the gateway closed it: {}", frames::close_words(payload)),
            frames::BINARY => self.odd(books, "a binary message"),
            opcode => bail!("the gateway sent a frame with opcode {opcode}"),
        }
        Ok(Read::default())
    }

    fn text(&mut self, books: &mut Books, payload: &[u8], at: Nanos) -> anyhow::Result<Read> {
        let Ok(frame) = Frame::parse(payload) else {
            self.odd(books, "a message that is no V2 frame");
            return Ok(Read::default());
        };
        match &*frame.event {
            "phx_reply" => return self.reply(books, &frame, at),
            "phx_error" | "phx_close" => {
                bail!("the gateway ended topic {}: {}", frame.topic, frame.payload)
            }
            "warden.cursor" | "warden.resync" => self.position(books, &frame)?,
            _ => match Event::read(&frame, &books.run) {
                Some(event) => {
                    let event = books.recent.keep(self.org, &mut self.hint, payload, event);
                    return self.event(books, &event, at);
                }
                None => {
                    let what = format!(
                        "{} on topic {} without id, at, cursor, data.id or org_id",
                        frame.event, frame.topic
                    );
                    self.odd(books, &what);
                }
            },
        }
        Ok(Read::default())
    }

    fn position(&mut self, books: &mut Books, frame: &Frame<'_>) -> anyhow::Result<()> {
        let position: Position = serde_json::from_str(frame.payload.get())
            .with_context(|| format!("{} without a cursor", frame.event))?;
        if let Some(topic) = self.joined_topic(books, &frame.topic) {
            self.topics[topic].cursor = Some(Cursor::Own(position.cursor.into()));
        }
        if frame.event == "warden.resync" {
            self.resync(books, &frame.topic, frame.payload.get());
        }
        Ok(())
    }

    fn resync(&self, books: &mut Books, topic: &str, payload: &str) {
        books.ledger.counts.resyncs += 1;
        books.ledger.sample(|| format!("resync of topic {topic} at socket {}: {payload}", self.index));
    }

    fn reply(&mut self, books: &mut Books, frame: &Frame<'_>, at: Nanos) -> anyhow::Result<Read> {
        let reference: usize = frame.reference.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        if frame.topic == "phoenix" && reference == self.last_ref {
            self.beat_unanswered = false;
            return Ok(Read::default());
        }
        let n = reference.wrapping_sub(1);
        if books.topics.get(n).is_none_or(|name| *name != frame.topic) || self.topics[n].answered {
            self.odd(books, "a reply to nothing that was asked");
            return Ok(Read::default());
        }
        let reply: Reply<'_> =
            serde_json::from_str(frame.payload.get()).context("the reply to a join has no status")?;
        ensure!(
            reply.status == "ok",
            "join of topic {} was refused: {}. See --topics",
            frame.topic,
            reply.response
        );
        let position: Position =
            serde_json::from_str(reply.response.get()).context("the reply to a join has no cursor")?;
        if position.resync {
            self.resync(books, &frame.topic, reply.response.get());
        }
        let topic = &mut self.topics[n];
        topic.answered = true;
        topic.cursor = Some(Cursor::Own(position.cursor.into()));
        if self.returns.is_none() {
            // What is not known by now has not been committed when the answer came.
            books.orders.take_in(&mut books.ledger)?;
            books.ledger.joined(&mut topic.subscription);
        }
        if self.topics.iter().all(|topic| topic.answered) {
            return self.all_joined(books, at);
        }
        Ok(Read::default())
    }

    fn all_joined(&mut self, books: &mut Books, at: Nanos) -> anyhow::Result<Read> {
        self.state = State::Open;
        self.joined_at = at;
        books.record(Timed::Join, 0, self.org, at - self.began);
        if let Some(returns) = self.returns {
            books.orders.take_in(&mut books.ledger)?;
            books.record(Timed::Back, 0, self.org, at.saturating_sub(returns));
            self.catching_up = Some(books.ledger.end(self.org));
        }
        Ok(Read { joined: true, caught_up: self.has_caught_up(books, at) })
    }

    fn joined_topic(&self, books: &Books, name: &str) -> Option<usize> {
        let n = books.topics.iter().position(|topic| topic == name)?;
        self.topics[n].answered.then_some(n)
    }

    /// Another organisation's event is one whatever else is wrong with it, so that is looked at first.
    fn event(&mut self, books: &mut Books, event: &Rc<Event>, at: Nanos) -> anyhow::Result<Read> {
        let (index, org) = (self.index, self.org);
        let name = || format!("{} on topic {}, at socket {index}", event.name, event.topic);
        if event.org != books.ledger.org_id(org) {
            books.ledger.stray(&name(), true);
            return Ok(Read::default());
        }
        let Some(n) = self.joined_topic(books, &event.topic) else {
            books.ledger.stray(&format!("{}, which is not joined", name()), false);
            return Ok(Read::default());
        };
        self.topics[n].cursor = Some(Cursor::Event(Rc::clone(event)));
        let named = match event.change {
            Ok(named) => named,
            Err("") => return Ok(Read::default()),
            Err(why) => {
                books.ledger.stray(&format!("{}: {why}", name()), false);
                return Ok(Read::default());
            }
        };
        if !books.ledger.knows(org, named.n) {
            books.orders.take_in(&mut books.ledger)?;
        }
        let arrival = Arrival {
            org: event.org,
            entity: event.entity,
            kind: named.kind,
            n: named.n,
            seq: named.seq,
            at,
        };
        let verdict = books.ledger.arrived(&mut self.topics[n].subscription, &arrival, name);
        let Verdict::Delivered(delivery) = verdict else { return Ok(Read::default()) };
        if delivery.sent < self.joined_at && self.returns.is_some() {
            books.ledger.counts.replayed += 1;
        } else {
            books.record(Timed::Commit, delivery.phase, org, delivery.since_sent);
            books.record(Timed::Due, delivery.phase, org, delivery.since_due);
        }
        Ok(Read { caught_up: self.has_caught_up(books, at), ..Read::default() })
    }

    /// Whether it has just seen the last of what it missed.
    pub(crate) fn has_caught_up(&mut self, books: &mut Books, at: Nanos) -> bool {
        let (Some(end), Some(returns)) = (self.catching_up, self.returns) else { return false };
        let has_all = |topic: &Topic| books.ledger.has_all_before(&topic.subscription, end);
        if !self.topics.iter().all(has_all) {
            return false;
        }
        self.catching_up = None;
        books.record(Timed::CaughtUp, 0, self.org, at.saturating_sub(returns));
        true
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

    fn odd(&self, books: &mut Books, what: &str) {
        books.ledger.stray(&format!("{what}, at socket {}", self.index), false);
    }
}

/// How a socket ended without being told to.
#[derive(Debug)]
pub(crate) enum End {
    /// The gateway is at a limit for now.
    Later(anyhow::Error),
    Broken(anyhow::Error),
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        Self::Broken(error)
    }
}
