//! The messages that a socket receives: replies, events and cursors. The ledger judges every event.

use std::rc::Rc;

use anyhow::{Context as _, bail, ensure};
use bench_support::frames;

use super::bookkeeping::Bookkeeping;
use super::socket::{ReadOutcome, Socket, SocketState, TopicCursor};
use crate::check::{Arrival, Verdict};
use crate::clock::Nanos;
use crate::histograms::LatencyKind;
use crate::wire::{CursorPayload, Event, Frame, Reply, Subject};

impl Socket {
    /// Handles one message.
    pub(super) fn receive(
        &mut self,
        books: &mut Bookkeeping,
        opcode: u8,
        payload: &[u8],
        at: Nanos,
    ) -> anyhow::Result<ReadOutcome> {
        match opcode {
            frames::TEXT => {
                if let Some(event) = books.events.find(self.org, &mut self.cache_hint, payload) {
                    return self.receive_event(books, &event, at);
                }
                return self.receive_text(books, payload, at);
            }
            frames::PING => self.send_frame(frames::PONG, payload)?,
            frames::PONG => {}
            frames::CLOSE => bail!("the gateway closed the socket: {}", frames::close_reason(payload)),
            frames::BINARY => self.unmatched(books, "a binary message"),
            opcode => bail!("the gateway sent a frame with the unknown opcode {opcode}"),
        }
        Ok(ReadOutcome::default())
    }

    fn receive_text(
        &mut self,
        books: &mut Bookkeeping,
        payload: &[u8],
        at: Nanos,
    ) -> anyhow::Result<ReadOutcome> {
        let Ok(frame) = Frame::parse(payload) else {
            self.unmatched(books, "a message that is not a V2 frame");
            return Ok(ReadOutcome::default());
        };
        match &*frame.event {
            "phx_reply" => return self.receive_reply(books, &frame, at),
            "phx_error" | "phx_close" => {
                bail!("the gateway ended topic {}: {}", frame.topic, frame.payload)
            }
            "warden.cursor" | "warden.resync" => self.receive_cursor(books, &frame)?,
            _ => match Event::parse(&frame, &books.run) {
                Some(event) => {
                    let event = books.events.insert(self.org, &mut self.cache_hint, payload, event);
                    return self.receive_event(books, &event, at);
                }
                None => {
                    let what = format!(
                        "{} on topic {}, in which id, at, cursor, data.id or data.org_id is missing",
                        frame.event, frame.topic
                    );
                    self.unmatched(books, &what);
                }
            },
        }
        Ok(ReadOutcome::default())
    }

    fn receive_cursor(&mut self, books: &mut Bookkeeping, frame: &Frame<'_>) -> anyhow::Result<()> {
        let payload: CursorPayload = serde_json::from_str(frame.payload.get())
            .with_context(|| format!("{} has no cursor", frame.event))?;
        if let Some(topic) = self.joined_topic(books, &frame.topic) {
            self.topics[topic].cursor = Some(TopicCursor::Own(payload.cursor.into()));
        }
        if frame.event == "warden.resync" {
            self.count_resync(books, &frame.topic, frame.payload.get());
        }
        Ok(())
    }

    fn count_resync(&self, books: &mut Bookkeeping, topic: &str, payload: &str) {
        books.ledger.counts.resyncs += 1;
        books.ledger.add_finding(|| format!("resync of topic {topic} at socket {}: {payload}", self.index));
    }

    fn receive_reply(
        &mut self,
        books: &mut Bookkeeping,
        frame: &Frame<'_>,
        at: Nanos,
    ) -> anyhow::Result<ReadOutcome> {
        let reference: usize = frame.reference.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        if frame.topic == "phoenix" && reference == self.last_ref {
            self.heartbeat_unanswered = false;
            return Ok(ReadOutcome::default());
        }
        // Joins have the references from 1 on, in the order of the topics.
        let n = reference.wrapping_sub(1);
        if books.topics.get(n).is_none_or(|name| *name != frame.topic) || self.topics[n].answered {
            self.unmatched(books, "a reply to a request that was not sent");
            return Ok(ReadOutcome::default());
        }
        let reply: Reply<'_> =
            serde_json::from_str(frame.payload.get()).context("the reply to a join has no status")?;
        ensure!(
            reply.status == "ok",
            "the gateway rejected the join of topic {}: {}. See --topics",
            frame.topic,
            reply.response
        );
        let payload: CursorPayload =
            serde_json::from_str(reply.response.get()).context("the reply to a join has no cursor")?;
        if payload.resync {
            self.count_resync(books, &frame.topic, reply.response.get());
        }
        let topic = &mut self.topics[n];
        topic.answered = true;
        topic.cursor = Some(TopicCursor::Own(payload.cursor.into()));
        if self.reconnect_due.is_none() {
            // A change that has not been announced by now was not committed when the answer was sent.
            books.read_commands()?;
            books.ledger.add_subscription(&mut topic.subscription);
        }
        if self.topics.iter().all(|topic| topic.answered) {
            return self.finish_joins(books, at);
        }
        Ok(ReadOutcome::default())
    }

    fn finish_joins(&mut self, books: &mut Bookkeeping, at: Nanos) -> anyhow::Result<ReadOutcome> {
        self.state = SocketState::Open;
        self.joined_at = at;
        books.record(LatencyKind::Join, 0, self.org, at - self.began);
        if let Some(due) = self.reconnect_due {
            books.read_commands()?;
            books.record(LatencyKind::Reconnect, 0, self.org, at.saturating_sub(due));
            self.catching_up_to = Some(books.ledger.end(self.org));
        }
        Ok(ReadOutcome { joined: true, caught_up: self.has_caught_up(books, at) })
    }

    fn joined_topic(&self, books: &Bookkeeping, name: &str) -> Option<usize> {
        let n = books.topics.iter().position(|topic| topic == name)?;
        self.topics[n].answered.then_some(n)
    }

    fn receive_event(
        &mut self,
        books: &mut Bookkeeping,
        event: &Rc<Event>,
        at: Nanos,
    ) -> anyhow::Result<ReadOutcome> {
        let (index, org) = (self.index, self.org);
        let name = || format!("{} on topic {}, at socket {index}", event.name, event.topic);
        // Checked first: an event of another organisation is a leak, even if something else is wrong with it.
        if event.org != books.ledger.org_id(org) {
            books.ledger.receive_unmatched(&name(), true);
            return Ok(ReadOutcome::default());
        }
        let Some(n) = self.joined_topic(books, &event.topic) else {
            let what = format!("{}, although the topic is not joined", name());
            books.ledger.receive_unmatched(&what, false);
            return Ok(ReadOutcome::default());
        };
        self.topics[n].cursor = Some(TopicCursor::Event(Rc::clone(event)));
        let change = match event.subject {
            Subject::Change(change) => change,
            Subject::Other => return Ok(ReadOutcome::default()),
            Subject::Unexpected(reason) => {
                books.ledger.receive_unmatched(&format!("{}: {reason}", name()), false);
                return Ok(ReadOutcome::default());
            }
        };
        if !books.ledger.knows(org, change.number) {
            books.read_commands()?;
        }
        let arrival = Arrival {
            org: event.org,
            entity: event.entity,
            kind: change.kind,
            number: change.number,
            seq: change.seq,
            moved: event.moved,
            at,
        };
        let verdict = books.ledger.receive(&mut self.topics[n].subscription, &arrival, name);
        let Verdict::Delivered(delivery) = verdict else { return Ok(ReadOutcome::default()) };
        if delivery.sent < self.joined_at && self.reconnect_due.is_some() {
            books.ledger.counts.replayed += 1;
        } else {
            books.record(LatencyKind::Commit, delivery.phase, org, delivery.since_sent);
            books.record(LatencyKind::Schedule, delivery.phase, org, delivery.since_due);
        }
        Ok(ReadOutcome { caught_up: self.has_caught_up(books, at), ..ReadOutcome::default() })
    }

    /// Counts a message that belongs to no change.
    fn unmatched(&self, books: &mut Bookkeeping, what: &str) {
        books.ledger.receive_unmatched(&format!("{what}, at socket {}", self.index), false);
    }
}
