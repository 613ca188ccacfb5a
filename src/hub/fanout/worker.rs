//! The worker's end of fan-out: takes slices of work from the fair queue and runs them.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::broadcast::Broadcast;
use super::fair_queue::{ENCODE_EVENTS_MAX, FairQueue, Task};
use super::{Encoded, ROUND_COST, Shared, Step, encode, events_max};
use crate::hub::OUTBOXES_PER_ORG;
use crate::org::OrgId;
use crate::sync::lock;

/// Runs queued work, on a thread of its own.
#[derive(Debug)]
pub struct FanoutWorker(pub(super) Arc<Shared>);

impl FanoutWorker {
    /// Works until the [`super::FanoutSender`] is dropped and the queue is empty.
    pub fn run(&self) {
        while self.wait_for_work() {
            self.run_slice();
        }
        self.0.helpers.close();
    }

    /// Works until the queue is empty, for callers without a thread for [`Self::run`].
    pub fn drain(&self) {
        while !lock(&self.0.queue).is_empty() {
            self.run_slice();
        }
    }

    /// Creates a helper: a function that takes part in large broadcasts until [`Self::run`] ends. Any number
    /// of threads may run one, including none.
    pub fn helper(&self) -> impl FnOnce() + Send + 'static {
        let shared = Arc::clone(&self.0);
        move || shared.helpers.run(|broadcast| shared.send_slice(broadcast).is_some())
    }

    /// Blocks until there is work. Returns false if no more will be added.
    fn wait_for_work(&self) -> bool {
        let mut queue = lock(&self.0.queue);
        while queue.is_empty() {
            if queue.is_closed {
                return false;
            }
            queue = self.0.work_added.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Runs one slice of work of the first organisation in the queue. The queue is not locked meanwhile, so
    /// the sender is not blocked.
    pub(super) fn run_slice(&self) {
        let mut queue = lock(&self.0.queue);
        let Some((org, task)) = queue.next_task() else { return };
        drop(queue);
        let mut queue = match task {
            Task::Broadcast(broadcast) => self.continue_broadcast(&broadcast),
            Task::Answer(answer) => {
                answer.send();
                let mut queue = lock(&self.0.queue);
                queue.charge(1);
                queue
            }
            Task::FirstMark(mark) => {
                mark.send();
                let mut queue = lock(&self.0.queue);
                queue.charge(1);
                queue
            }
            Task::Encode => self.encode_next(org),
        };
        let close = queue.finish_slice(org);
        drop(queue);
        if let Some(close) = close {
            self.0.hub.close_org_before(org, close.batch, close.code);
        }
    }

    fn continue_broadcast(&self, broadcast: &Broadcast) -> MutexGuard<'_, FairQueue> {
        let sent = self.0.send_slice(broadcast);
        if sent.is_none() && !broadcast.is_done() {
            // A helper is sending the last slices. Other organisations are served meanwhile; if there are
            // none, the wait is short.
            std::thread::yield_now();
        }
        let mut queue = lock(&self.0.queue);
        match sent {
            Some(stats) => queue.charge(stats.cost),
            None if broadcast.is_done() => {
                if let Some(next) = queue.next_broadcast().filter(|next| next.is_large()) {
                    self.0.helpers.share(&next);
                }
            }
            None => queue.charge(ROUND_COST),
        }
        queue
    }

    /// Encodes the next events of an organisation, and their marks.
    fn encode_next(&self, org: OrgId) -> MutexGuard<'_, FairQueue> {
        let channel = self.0.hub.channel(org);
        let events_max = channel.as_ref().map_or(ENCODE_EVENTS_MAX, |channel| events_max(channel));
        let (mut events, end) = lock(&self.0.queue).take_events(org, events_max);
        let Some(channel) = channel else { return lock(&self.0.queue) };
        if channel.relieve_memory() > 0 {
            self.0.metrics.limit_reached(OUTBOXES_PER_ORG);
        }
        let step = encode(&channel, &events, end.as_ref(), Step::Worker, &self.0.metrics);
        let cost = step.cost();
        let Encoded { broadcasts, events: encoded, .. } = step;
        if let Some(first) = broadcasts.first().filter(|first| first.is_large()) {
            self.0.helpers.share(first);
        }
        let rest = events.split_off(encoded);
        let mut queue = lock(&self.0.queue);
        if !rest.is_empty() {
            queue.put_back(org, rest, end);
        }
        queue.add_broadcasts(org, broadcasts);
        queue.charge(cost);
        queue
    }
}
