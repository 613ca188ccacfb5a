//! The fair queue of replay reads: round-robin over organisations, one read at a time for each, within a
//! memory budget.
//!
//! This is pure bookkeeping. It does no I/O, and does not know what a waiter is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::sync::lock;

/// Limits of the queue and its memory budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplayQueueLimits {
    /// Most waiters of all organisations together.
    pub(super) waiting_max: usize,
    /// Bytes that are reserved for a read when it begins.
    pub(super) read_bytes: usize,
    /// Most reserved bytes of all organisations together.
    pub(super) bytes_max: usize,
    /// Most reserved bytes of one organisation.
    pub(super) org_bytes_max: usize,
}

/// Waiters by organisation, the order in which organisations are served, and the reserved memory.
#[derive(Debug)]
pub(super) struct ReplayQueue<W> {
    limits: ReplayQueueLimits,
    metrics: Arc<Metrics>,
    state: Mutex<State<W>>,
    /// Signals that there may be a job. A task that takes one signals the next task.
    changed: Notify,
}

#[derive(Debug)]
struct State<W> {
    orgs: HashMap<OrgId, OrgQueue<W>>,
    /// Organisations that have waiters and no read, each once.
    order: VecDeque<OrgId>,
    waiting: usize,
    bytes: usize,
}

#[derive(Debug)]
struct OrgQueue<W> {
    /// Waiters that arrived while no read was under way, or during the current one. They share the next read.
    waiters: Vec<W>,
    /// Groups of waiters from reads that were split. Each group has a read of its own.
    groups: VecDeque<Vec<W>>,
    is_reading: bool,
    is_queued: bool,
    bytes: usize,
}

/// One read of the log, for the waiters of an organisation that share it. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct ReadJob<W> {
    pub(super) org: OrgId,
    pub(super) waiters: Vec<W>,
    pub(super) reservation: MemoryReservation<W>,
}

/// Bytes that are reserved for a read and its events. Dropping it releases them.
#[derive(Debug)]
pub(super) struct MemoryReservation<W> {
    queue: Arc<ReplayQueue<W>>,
    org: OrgId,
    bytes: usize,
    /// Whether the read is under way. Until it ends, its organisation gets no other.
    is_reading: bool,
}

impl<W> ReplayQueue<W> {
    pub(super) fn new(limits: ReplayQueueLimits, metrics: Arc<Metrics>) -> Self {
        let state = State { orgs: HashMap::new(), order: VecDeque::new(), waiting: 0, bytes: 0 };
        Self { limits, metrics, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Adds a waiter. Returns false if too many wait.
    pub(super) fn push(&self, org: OrgId, waiter: W) -> bool {
        {
            let mut state = lock(&self.state);
            if state.waiting >= self.limits.waiting_max {
                return false;
            }
            state.waiting += 1;
            state.org(org).waiters.push(waiter);
            state.enqueue(org);
        }
        self.changed.notify_one();
        true
    }

    /// Waits for the next job: an organisation with waiters, and memory for its read.
    pub(super) async fn next_job(self: &Arc<Self>) -> ReadJob<W> {
        loop {
            if let Some(job) = self.try_next_job() {
                self.changed.notify_one();
                return job;
            }
            self.changed.notified().await;
        }
    }

    fn try_next_job(self: &Arc<Self>) -> Option<ReadJob<W>> {
        let mut state = lock(&self.state);
        let bytes = self.limits.read_bytes;
        if state.bytes + bytes > self.limits.bytes_max {
            return None;
        }
        // An organisation whose clients still hold too much memory is skipped, and keeps its place in the
        // order.
        let has_budget = |org: &OrgId| {
            state.orgs.get(org).is_some_and(|queue| queue.bytes + bytes <= self.limits.org_bytes_max)
        };
        let index = state.order.iter().position(has_budget)?;
        let org = state.order.remove(index)?;
        let queue = state.org(org);
        queue.is_queued = false;
        queue.is_reading = true;
        queue.bytes += bytes;
        let waiters = queue.groups.pop_front().unwrap_or_else(|| std::mem::take(&mut queue.waiters));
        state.waiting -= waiters.len();
        state.bytes += bytes;
        self.metrics.replay_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        let reservation = MemoryReservation { queue: Arc::clone(self), org, bytes, is_reading: true };
        Some(ReadJob { org, waiters, reservation })
    }

    /// Puts groups of waiters back, because one read was too large for all of them. Each group gets a read of
    /// its own, before the waiters that arrived meanwhile.
    pub(super) fn requeue(&self, org: OrgId, groups: Vec<Vec<W>>) {
        let mut state = lock(&self.state);
        for group in groups.into_iter().rev().filter(|group| !group.is_empty()) {
            state.waiting += group.len();
            state.org(org).groups.push_front(group);
        }
    }
}

impl<W> State<W> {
    fn org(&mut self, org: OrgId) -> &mut OrgQueue<W> {
        self.orgs.entry(org).or_insert_with(|| OrgQueue {
            waiters: Vec::new(),
            groups: VecDeque::new(),
            is_reading: false,
            is_queued: false,
            bytes: 0,
        })
    }

    /// Puts the organisation at the back of the order if it has waiters, unless it is in the order or has a
    /// read.
    fn enqueue(&mut self, org: OrgId) {
        let queue = self.org(org);
        if queue.has_waiters() && !queue.is_reading && !queue.is_queued {
            queue.is_queued = true;
            self.order.push_back(org);
        }
    }
}

impl<W> OrgQueue<W> {
    fn has_waiters(&self) -> bool {
        !self.waiters.is_empty() || !self.groups.is_empty()
    }

    fn is_idle(&self) -> bool {
        !self.is_reading && self.bytes == 0 && !self.has_waiters()
    }
}

impl<W> MemoryReservation<W> {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Ends the read, and keeps only the bytes that its events take. The organisation moves to the back of
    /// the order.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        {
            let mut state = lock(&self.queue.state);
            let freed = self.bytes.saturating_sub(bytes);
            self.bytes -= freed;
            let was_reading = std::mem::replace(&mut self.is_reading, false);
            state.bytes -= freed;
            let queue = state.org(self.org);
            queue.bytes -= freed;
            // Only the reservation of the current read ends it: an older one is released while another read
            // runs.
            queue.is_reading &= !was_reading;
            state.enqueue(self.org);
            if state.orgs.get(&self.org).is_some_and(OrgQueue::is_idle) {
                state.orgs.remove(&self.org);
            }
            self.queue.metrics.replay_bytes.set(i64::try_from(state.bytes).unwrap_or(i64::MAX));
        }
        self.queue.changed.notify_one();
    }
}

impl<W> Drop for MemoryReservation<W> {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    const LIMITS: ReplayQueueLimits =
        ReplayQueueLimits { waiting_max: 1000, read_bytes: 10, bytes_max: 40, org_bytes_max: 20 };

    fn queue() -> Arc<ReplayQueue<u32>> {
        Arc::new(ReplayQueue::new(LIMITS, Arc::default()))
    }

    fn org(n: u128) -> OrgId {
        OrgId::for_tests(n)
    }

    #[test]
    fn an_organisation_waits_for_at_most_one_read_of_each_other() {
        let queue = queue();
        for n in 0..500 {
            assert!(queue.push(org(1), n));
        }
        let first = queue.try_next_job().expect("a job");
        assert_eq!((first.org, first.waiters.len()), (org(1), 500));
        for n in 0..200 {
            assert!(queue.push(org(1), n));
        }
        assert!(queue.push(org(2), 0));
        // An organisation has one read at a time.
        let second = queue.try_next_job().expect("a job");
        assert_eq!(second.org, org(2));
        assert!(queue.try_next_job().is_none());
        // Waiters that arrived during the read share the next one.
        drop(first);
        assert!(queue.push(org(3), 0));
        let third = queue.try_next_job().expect("a job");
        assert_eq!((third.org, third.waiters.len()), (org(1), 200));
        assert_eq!(queue.try_next_job().expect("a job").org, org(3));
    }

    #[test]
    fn other_organisations_are_served_between_the_groups_of_a_split_read() {
        let queue = queue();
        for n in 0..4 {
            queue.push(org(1), n);
        }
        let mut job = queue.try_next_job().expect("a job");
        queue.push(org(1), 4);
        queue.push(org(2), 0);
        let older = job.waiters.split_off(2);
        queue.requeue(org(1), vec![std::mem::take(&mut job.waiters), older]);
        drop(job);
        let orders: Vec<_> =
            std::iter::from_fn(|| queue.try_next_job().map(|job| (job.org, job.waiters.clone()))).collect();
        assert_eq!(
            orders,
            [(org(2), vec![0]), (org(1), vec![0, 1]), (org(1), vec![2, 3]), (org(1), vec![4])]
        );
    }

    #[test]
    fn reserved_memory_is_bounded_in_total_and_per_organisation() {
        let queue = queue();
        let mut jobs = Vec::new();
        for n in 0..2 {
            queue.push(org(1), n);
            let mut job = queue.try_next_job().expect("a job");
            job.reservation.shrink_to(10);
            jobs.push(job);
        }
        // The first organisation has used its share and is skipped. The others are not.
        queue.push(org(1), 2);
        for n in 2..5 {
            queue.push(org(n), 0);
        }
        jobs.push(queue.try_next_job().expect("a job"));
        jobs.push(queue.try_next_job().expect("a job"));
        assert_eq!((jobs[2].org, jobs[3].org), (org(2), org(3)));
        assert!(queue.try_next_job().is_none());
        assert_eq!(lock(&queue.state).bytes, LIMITS.bytes_max);
        // Released memory goes to the organisation that kept its place in the order.
        jobs.swap_remove(0);
        assert_eq!(queue.try_next_job().expect("a job").org, org(1));
        jobs.clear();
        while queue.try_next_job().is_some() {}
        let state = lock(&queue.state);
        assert_eq!((state.bytes, state.waiting, state.orgs.len()), (0, 0, 0));
    }

    #[test]
    fn waiters_above_the_limit_are_rejected() {
        let queue = queue();
        for n in 0..1000 {
            assert!(queue.push(org(1 + u128::from(n % 7)), n));
        }
        assert!(!queue.push(org(9), 0));
    }

    #[tokio::test]
    async fn idle_tasks_are_woken_for_new_jobs() {
        let queue = queue();
        let taken = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..2)
            .map(|_| {
                let (queue, taken) = (Arc::clone(&queue), Arc::clone(&taken));
                tokio::spawn(async move {
                    loop {
                        let job = queue.next_job().await;
                        tokio::task::yield_now().await;
                        taken.fetch_add(job.waiters.len(), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let all = async {
            while taken.load(Ordering::Relaxed) < 200 {
                tokio::task::yield_now().await;
            }
        };
        for n in 0..200 {
            queue.push(org(u128::from(n % 3)), n);
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(Duration::from_secs(10), all).await.expect("every job is taken");
        for task in tasks {
            task.abort();
        }
    }
}
