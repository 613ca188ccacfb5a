//! The reader's end of fan-out: sends at once what is soon done, and leaves the rest to the thread that takes turns.
//!
//! A small organisation's event so waits for no other thread: neither for being woken, nor for its place behind a large
//! organisation, nor for a core that the kernel has taken from fan-out for some milliseconds (benches/fairness.rs).

use std::sync::Arc;

use super::fair_queue::QueuedEvent;
use super::{Batch, OrgEvents, Shared, TURN_COST, encode, write_cost};
use crate::hub::org::OrgChannel;
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{CloseCode, Event};

/// What may be sent at once of one batch, in small writes: the reader has to go on reading.
pub(super) const NOW_COST_MAX: usize = TURN_COST;

/// See the module's documentation. There is one, so nothing overtakes what it sends at once: who has nothing waiting
/// gets nothing to wait for meanwhile.
#[derive(Debug)]
pub struct FanoutSender(pub(super) Arc<Shared>);

/// A part of a batch that is sent at once.
struct InlineSend<'a> {
    channel: Arc<OrgChannel>,
    events: &'a [Arc<Event>],
}

impl FanoutSender {
    /// Takes a batch. Organisations without a session here cost one look-up.
    pub fn push(&mut self, batch: &Batch) {
        let mut soon = Vec::new();
        let mut left = NOW_COST_MAX;
        // What concerns all stands between what came before and after it.
        if batch.orgs.iter().any(|part| part.org.is_none()) {
            left = 0;
        }
        for part in &batch.orgs {
            match part.org {
                Some(org) => {
                    let Some(channel) = self.0.hub.channel(org) else { continue };
                    match self.cost_now(org, &channel, part, left) {
                        Some(cost) => {
                            left -= cost;
                            soon.push(InlineSend { channel, events: &part.events });
                        }
                        None => self.queue(org, batch, part),
                    }
                }
                None => {
                    for org in self.0.hub.org_ids() {
                        self.queue(org, batch, part);
                    }
                }
            }
        }
        // Last: the other thread is at work already.
        for InlineSend { channel, events } in soon {
            let waiting: Vec<QueuedEvent> =
                events.iter().map(|event| QueuedEvent::new(batch, event)).collect();
            for send in encode(&channel, &waiting) {
                while self.0.step(&send).is_some() {}
            }
        }
    }

    /// What it costs to send this at once, where that is no more than so much and nothing stands before it.
    fn cost_now(&self, org: OrgId, channel: &OrgChannel, part: &OrgEvents, at_most: usize) -> Option<usize> {
        if part.is_gone || lock(&self.0.turns).has_work(org) {
            return None;
        }
        let mut cost = 0;
        for event in &part.events {
            if event.is_control() {
                return None;
            }
            let write = write_cost(event.memory_bytes());
            cost += event.topics().map(|topic| channel.subscribers_max(&topic) * write).sum::<usize>();
            if cost > at_most {
                return None;
            }
        }
        Some(cost)
    }

    fn queue(&self, org: OrgId, batch: &Batch, part: &OrgEvents) {
        let mut turns = lock(&self.0.turns);
        let was_idle = turns.is_idle();
        let overloads = turns.add(org, batch, &part.events, self.0.limits);
        if part.is_gone {
            turns.close_after(org, CloseCode::ORG_GONE);
        }
        drop(turns);
        if was_idle {
            self.0.bell.notify_one();
        }
        self.0.metrics.overloads.inc_by(overloads);
    }
}

impl Drop for FanoutSender {
    fn drop(&mut self) {
        lock(&self.0.turns).is_closed = true;
        self.0.bell.notify_one();
    }
}
