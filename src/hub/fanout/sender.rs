//! The tailer's end of fan-out: sends small work inline, and queues the rest for the worker.
//!
//! An event that is sent inline waits for no other thread. It waits neither for a wake-up, nor behind a large
//! organisation, nor for the core that the kernel takes from the worker for milliseconds
//! (`benches/fairness.rs`).

use std::collections::HashSet;
use std::sync::Arc;

use super::fair_queue::{OrgClose, QueuedEvent};
use super::marks::{BatchEnd, mark_cost};
use super::{Batch, Encoded, OrgEvents, ROUND_COST, Shared, Step, encode, evaluation_cost, write_cost};
use crate::hub::org::OrgChannel;
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{CloseCode, Event, Topic};

/// Cost of all inline sends of one batch, in small writes. It is limited because the tailer must continue
/// reading.
pub(crate) const INLINE_COST_MAX: usize = ROUND_COST;

/// Takes batches from the tailer.
///
/// There is exactly one sender, so inline sends overtake nothing: they happen only for an organisation with
/// nothing queued, and nothing can be queued while they happen.
#[derive(Debug)]
pub struct FanoutSender {
    pub(super) shared: Arc<Shared>,
    /// Organisations with marks that have had events since their last mark. Their next one is due at the end
    /// of a batch.
    pub(super) unmarked: HashSet<OrgId>,
}

/// One organisation's part of a batch that is sent inline.
struct InlineSend<'a> {
    org: OrgId,
    channel: Arc<OrgChannel>,
    events: &'a [Arc<Event>],
}

impl FanoutSender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, unmarked: HashSet::new() }
    }

    /// Sends or queues a batch. An organisation without a session costs one look-up.
    pub fn send(&mut self, batch: &Batch) {
        let mut inline = Vec::new();
        // Events for all organisations are an ordering barrier: the whole batch is queued.
        let is_barrier = batch.orgs.iter().any(|part| part.org.is_none());
        let mut budget = if is_barrier { 0 } else { INLINE_COST_MAX };
        let end_id = batch.end_id();
        for part in &batch.orgs {
            match part.org {
                Some(org) => {
                    let Some(channel) = self.shared.hub.channel(org) else { continue };
                    if channel.marked() > 0 {
                        self.unmarked.insert(org);
                    }
                    match self.inline_cost(org, &channel, part, budget) {
                        Some(cost) => {
                            budget -= cost;
                            inline.push(InlineSend { org, channel, events: &part.events });
                        }
                        None => self.queue(org, batch, &part.events, end_id, part.is_gone),
                    }
                }
                None => {
                    for org in self.shared.hub.org_ids() {
                        if self.shared.hub.channel(org).is_some_and(|channel| channel.marked() > 0) {
                            self.unmarked.insert(org);
                        }
                        self.queue(org, batch, &part.events, end_id, part.is_gone);
                    }
                }
            }
        }
        // After the rest was queued, so that the worker has started meanwhile.
        let end = batch.cursor.is_at_point().then(|| BatchEnd {
            batch: batch.number,
            cursor: batch.cursor.clone(),
            read_at: batch.read_at,
        });
        for InlineSend { org, channel, events } in inline {
            // Without an end, the marks follow the rest of the batch.
            let end = end.as_ref().filter(|_| self.unmarked.remove(&org));
            let queued: Vec<QueuedEvent> = QueuedEvent::last_of(batch, events, end_id).collect();
            let Encoded { broadcasts, events: encoded, .. } =
                encode(&channel, &queued, end, Step::Inline, &self.shared.metrics);
            for broadcast in broadcasts {
                while self.shared.send_slice(&broadcast).is_some() {}
            }
            if encoded < events.len() {
                // The marks follow the rest.
                if end.is_some() {
                    self.unmarked.insert(org);
                }
                self.queue(org, batch, &events[encoded..], end_id, false);
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
        // The worker closes the fullest sessions first.
        if part.is_gone || channel.frames.is_crowded() || lock(&self.shared.queue).has_work(org) {
            return None;
        }
        let marked = channel.marked();
        // Topics that the marks will name.
        let mut named = if marked > 0 { channel.unmarked_names() } else { HashSet::new() };
        let mut cost = marked;
        for event in &part.events {
            if event.is_control() {
                return None;
            }
            let write = write_cost(event.memory_bytes());
            let (subscribers, evaluations) = channel.filters.cost_of(event);
            cost += subscribers * write + evaluation_cost(evaluations);
            for topic in event.topics() {
                cost += channel.subscribers_max(&topic) * write;
                if marked > 0 && matches!(topic, Topic::Named(_)) {
                    named.insert(topic);
                }
            }
            if cost > budget {
                return None;
            }
        }
        // Each subscription gets at most one mark.
        let cost = cost + marked * (mark_cost(named.iter().map(Topic::as_str)) - 1);
        (cost <= budget).then_some(cost)
    }

    /// Queues the last events of an organisation in a batch. If the organisation is gone, its sessions are
    /// closed after them.
    fn queue(&self, org: OrgId, batch: &Batch, events: &[Arc<Event>], end_id: Option<i64>, is_gone: bool) {
        let mut queue = lock(&self.shared.queue);
        let was_empty = queue.is_empty();
        let overloads = queue.add(org, batch, events, end_id, self.shared.limits);
        if is_gone {
            let close = OrgClose { code: CloseCode::ORG_GONE, batch: batch.number };
            queue.close_after_work(org, close);
        }
        drop(queue);
        if was_empty {
            self.shared.work_added.notify_one();
        }
        self.shared.metrics.overloads.inc_by(overloads);
    }
}

impl Drop for FanoutSender {
    fn drop(&mut self) {
        lock(&self.shared.queue).is_closed = true;
        self.shared.work_added.notify_one();
    }
}
