//! The tailer's end of fan-out: sends small work inline, and queues the rest for the worker.
//!
//! An event that is sent inline waits for no other thread. It waits neither for a wake-up, nor behind a large
//! organisation, nor for the core that the kernel takes from the worker for milliseconds
//! (`benches/fairness.rs`).

use std::sync::Arc;

use super::fair_queue::{OrgClose, QueuedEvent};
use super::{Batch, OrgEvents, ROUND_COST, Shared, encode, write_cost};
use crate::hub::org::OrgChannel;
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{CloseCode, Event};

/// Cost of all inline sends of one batch, in small writes. It is limited because the tailer must continue
/// reading.
pub(crate) const INLINE_COST_MAX: usize = ROUND_COST;

/// Takes batches from the tailer.
///
/// There is exactly one sender, so inline sends overtake nothing: they happen only for an organisation with
/// nothing queued, and nothing can be queued while they happen.
#[derive(Debug)]
pub struct FanoutSender(pub(super) Arc<Shared>);

/// One organisation's part of a batch that is sent inline.
struct InlineSend<'a> {
    channel: Arc<OrgChannel>,
    events: &'a [Arc<Event>],
}

impl FanoutSender {
    /// Sends or queues a batch. An organisation without a session costs one look-up.
    pub fn send(&mut self, batch: &Batch) {
        let mut inline = Vec::new();
        // Events for all organisations are an ordering barrier: the whole batch is queued.
        let is_barrier = batch.orgs.iter().any(|part| part.org.is_none());
        let mut budget = if is_barrier { 0 } else { INLINE_COST_MAX };
        for part in &batch.orgs {
            match part.org {
                Some(org) => {
                    let Some(channel) = self.0.hub.channel(org) else { continue };
                    match self.inline_cost(org, &channel, part, budget) {
                        Some(cost) => {
                            budget -= cost;
                            inline.push(InlineSend { channel, events: &part.events });
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
        // After the rest was queued, so that the worker has started meanwhile.
        for InlineSend { channel, events } in inline {
            let queued: Vec<QueuedEvent> =
                events.iter().map(|event| QueuedEvent::new(batch, event)).collect();
            for broadcast in encode(&channel, &queued) {
                while self.0.send_slice(&broadcast).is_some() {}
            }
        }
    }

    /// Cost of sending these events inline. None if that exceeds the budget, or if they must be queued.
    fn inline_cost(
        &self,
        org: OrgId,
        channel: &OrgChannel,
        part: &OrgEvents,
        budget: usize,
    ) -> Option<usize> {
        if part.is_gone || lock(&self.0.queue).has_work(org) {
            return None;
        }
        let mut cost = 0;
        for event in &part.events {
            if event.is_control() {
                return None;
            }
            let write = write_cost(event.memory_bytes());
            cost += event.topics().map(|topic| channel.subscribers_max(&topic) * write).sum::<usize>();
            if cost > budget {
                return None;
            }
        }
        Some(cost)
    }

    fn queue(&self, org: OrgId, batch: &Batch, part: &OrgEvents) {
        let mut queue = lock(&self.0.queue);
        let was_empty = queue.is_empty();
        let overloads = queue.add(org, batch, &part.events, self.0.limits);
        if part.is_gone {
            let close = OrgClose { code: CloseCode::ORG_GONE, batch: batch.number };
            queue.close_after_work(org, close);
        }
        drop(queue);
        if was_empty {
            self.0.work_added.notify_one();
        }
        self.0.metrics.overloads.inc_by(overloads);
    }
}

impl Drop for FanoutSender {
    fn drop(&mut self) {
        lock(&self.0.queue).is_closed = true;
        self.0.work_added.notify_one();
    }
}
