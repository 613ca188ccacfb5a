//! What a socket is told: replies, events, cursors. Every event goes to the ledger, which judges it.

use std::rc::Rc;

use anyhow::{Context as _, bail, ensure};
use bench_support::frames;

use super::slot::{Books, Cursor, Read, Slot, State, Topic};
use crate::check::{Arrival, Verdict};
use crate::clock::Nanos;
use crate::message::Timed;
use crate::wire::{Event, Frame, Position, Reply};

impl Slot {
    pub(super) fn message(
        &mut self,
        books: &mut Books,
        opcode: u8,
        payload: &[u8],
        at: Nanos,
    ) -> anyhow::Result<Read> {
        match opcode {
            frames::TEXT => {
                if let Some(event) = books.recent.find(self.org, &mut self.hint, payload) {
                    return self.event(books, &event, at);
                }
                return self.text(books, payload, at);
            }
            frames::PING => self.send_frame(frames::PONG, payload)?,
            frames::PONG => {}
            frames::CLOSE => bail!("the gateway closed it: {}", frames::close_reason(payload)),
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

    fn odd(&self, books: &mut Books, what: &str) {
        books.ledger.stray(&format!("{what}, at socket {}", self.index), false);
    }
}
