//! The fair queue: organisations with queued work, served round-robin, and the work of each.
//!
//! It is plain state under a lock. The sender adds work at the back; the worker takes it at the front.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::broadcast::Broadcast;
use super::marks::BatchEnd;
use super::{Batch, FanoutLimits, ROUND_COST};
use crate::cursor::CursorPrefix;
use crate::hub::marks::FirstMark;
use crate::hub::questions::Answer;
use crate::org::OrgId;
use crate::wire::{CloseCode, Event, RESYNC_EVENT};

/// Events that are encoded in one step. A page of the log has up to 5,000.
pub(crate) const ENCODE_EVENTS_MAX: usize = 256;

/// Data of the resync that replaces an overloaded organisation's events.
const OVERLOAD_DATA: &str = r#"{"reason":"overload"}"#;

/// All queued work.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    orgs: HashMap<OrgId, OrgWork>,
    /// The organisations with work, each once; the first is served now.
    rotation: VecDeque<OrgId>,
    /// Cost of the first organisation's round so far.
    round_cost: usize,
    /// Bytes of the queued events of all organisations.
    event_bytes: usize,
    /// The sender was dropped, so no more work is added.
    pub(super) is_closed: bool,
}

/// The work of one organisation, in the order of the fields.
#[derive(Debug, Default)]
struct OrgWork {
    /// Broadcasts of encoded events that are not complete yet.
    broadcasts: VecDeque<Arc<Broadcast>>,
    /// Events that are not encoded yet, and answers and marks behind them.
    events: VecDeque<QueuedItem>,
    /// Bytes of `events`.
    event_bytes: usize,
    /// Number of answers in `events`.
    answers: usize,
    /// How the organisation's sessions are closed after everything else.
    close: Option<OrgClose>,
}

/// The end of an organisation's sessions, because a batch reports its deletion.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrgClose {
    pub(super) code: CloseCode,
    /// Number of that batch. Sessions that are registered later belong to another incarnation.
    pub(super) batch: u64,
}

/// An event, or what must follow it. Rare items are boxed, so that events take less memory.
#[derive(Debug)]
enum QueuedItem {
    Event(QueuedEvent),
    /// Marks are due here, unless more events are encoded in the same step.
    BatchEnd(Box<BatchEnd>),
    /// The answer to one session.
    Answer(Answer),
    /// The mark of one subscription.
    FirstMark(Box<FirstMark>),
}

/// An event that waits for its organisation's round.
#[derive(Debug)]
pub(super) struct QueuedEvent {
    pub(super) batch: u64,
    pub(super) read_at: Instant,
    /// The points of the event's cursor.
    pub(super) points: Arc<CursorPrefix>,
    /// The id of the event's cursor.
    pub(super) cursor_id: i64,
    pub(super) event: Arc<Event>,
}

impl QueuedEvent {
    pub(super) fn new(batch: &Batch, event: &Arc<Event>) -> Self {
        Self::with_points(batch, &batch.points, Arc::clone(event))
    }

    /// The last events of an organisation in a batch, which has this [`Batch::end_id`].
    pub(super) fn last_of<'a>(
        batch: &'a Batch,
        events: &'a [Arc<Event>],
        end_id: Option<i64>,
    ) -> impl Iterator<Item = Self> + Clone + 'a {
        events.iter().enumerate().map(move |(n, event)| {
            let mut queued = Self::new(batch, event);
            if let Some(end_id) = end_id.filter(|_| n + 1 == events.len()) {
                queued.cursor_id = queued.cursor_id.max(end_id);
            }
            queued
        })
    }

    fn with_points(batch: &Batch, points: &Arc<CursorPrefix>, event: Arc<Event>) -> Self {
        let (points, cursor_id) = (Arc::clone(points), event.id);
        Self { batch: batch.number, read_at: batch.read_at, points, cursor_id, event }
    }

    /// Bytes that count against the limits of the queue. Each event counts the points of its cursor, although
    /// it shares them: with many transactions in progress they are larger than most events.
    fn bytes(&self) -> usize {
        self.event.memory_bytes() + self.points.bytes()
    }
}

/// The next step of an organisation's work.
pub(super) enum Task {
    /// Send a slice of this broadcast.
    Broadcast(Arc<Broadcast>),
    /// Send this answer.
    Answer(Answer),
    /// Send this mark.
    FirstMark(Box<FirstMark>),
    /// Encode queued events, if any.
    Encode,
}

impl FairQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.rotation.is_empty()
    }

    /// Whether the organisation has queued work. Later events of the organisation must be queued behind it.
    pub(super) fn has_work(&self, org: OrgId) -> bool {
        self.orgs.contains_key(&org)
    }

    /// Adds a batch's last events of one organisation. Returns the number of organisations that this has
    /// overloaded.
    pub(super) fn add(
        &mut self,
        org: OrgId,
        batch: &Batch,
        events: &[Arc<Event>],
        end_id: Option<i64>,
        limits: FanoutLimits,
    ) -> u64 {
        let queued = QueuedEvent::last_of(batch, events, end_id);
        let bytes: usize = queued.clone().map(|queued| queued.bytes()).sum();
        let work = self.work_of(org);
        work.events.extend(queued.map(QueuedItem::Event));
        work.event_bytes += bytes;
        let is_overloaded = work.event_bytes > limits.org_bytes_max;
        self.event_bytes += bytes;
        let mut overloads = 0;
        if is_overloaded {
            self.drop_events(org, batch);
            overloads += 1;
        }
        while self.event_bytes > limits.bytes_max {
            let largest = self.orgs.iter().max_by_key(|(_, work)| work.event_bytes).map(|(org, _)| *org);
            let Some(org) = largest else { break };
            self.drop_events(org, batch);
            overloads += 1;
        }
        overloads
    }

    /// Adds the answer to a question. It is sent behind the events that are queued now.
    pub(super) fn add_answer(&mut self, org: OrgId, answer: Answer) {
        let work = self.work_of(org);
        work.events.push_back(QueuedItem::Answer(answer));
        work.answers += 1;
    }

    /// Adds the first mark of a subscription. It is sent behind the events that are queued now.
    pub(super) fn add_first_mark(&mut self, org: OrgId, mark: FirstMark) {
        self.work_of(org).events.push_back(QueuedItem::FirstMark(Box::new(mark)));
    }

    /// Adds the end of a batch, behind the organisation's events.
    pub(super) fn add_batch_end(&mut self, org: OrgId, end: BatchEnd) {
        self.work_of(org).events.push_back(QueuedItem::BatchEnd(Box::new(end)));
    }

    /// Number of answers that are queued for an organisation.
    pub(super) fn answers_of(&self, org: OrgId) -> usize {
        self.orgs.get(&org).map_or(0, |work| work.answers)
    }

    fn work_of(&mut self, org: OrgId) -> &mut OrgWork {
        self.orgs.entry(org).or_insert_with(|| {
            self.rotation.push_back(org);
            OrgWork::default()
        })
    }

    /// Closes the organisation's sessions when all its work is done.
    pub(super) fn close_after_work(&mut self, org: OrgId, close: OrgClose) {
        if let Some(work) = self.orgs.get_mut(&org) {
            work.close = Some(close);
        }
    }

    /// Drops the events of an organisation that produces them faster than they can be sent, and queues a
    /// resync instead. Its clients read their state again and continue after this batch.
    fn drop_events(&mut self, org: OrgId, batch: &Batch) {
        let Some(work) = self.orgs.get_mut(&org) else { return };
        self.event_bytes -= work.event_bytes;
        work.event_bytes = 0;
        work.events.retain(|item| matches!(item, QueuedItem::Answer(_) | QueuedItem::FirstMark(_)));
        let resync = Event::control(RESYNC_EVENT, OVERLOAD_DATA, batch.cursor.id);
        let points = Arc::new(CursorPrefix::of(&batch.cursor));
        let resync = QueuedEvent::with_points(batch, &points, Arc::new(resync));
        work.events.push_front(QueuedItem::Event(resync));
    }

    /// The first organisation and its next task. It stays the first until [`Self::finish_slice`].
    pub(super) fn next_task(&mut self) -> Option<(OrgId, Task)> {
        let org = *self.rotation.front()?;
        let work = self.orgs.get_mut(&org)?;
        if let Some(broadcast) = work.broadcasts.front() {
            return Some((org, Task::Broadcast(Arc::clone(broadcast))));
        }
        let is_for_one =
            |item: &mut QueuedItem| matches!(item, QueuedItem::Answer(_) | QueuedItem::FirstMark(_));
        match work.events.pop_front_if(is_for_one) {
            Some(QueuedItem::Answer(answer)) => {
                work.answers -= 1;
                Some((org, Task::Answer(answer)))
            }
            Some(QueuedItem::FirstMark(mark)) => Some((org, Task::FirstMark(mark))),
            _ => Some((org, Task::Encode)),
        }
    }

    /// Removes the first organisation's current broadcast, which is done. Returns the next one.
    pub(super) fn next_broadcast(&mut self) -> Option<Arc<Broadcast>> {
        let work = self.orgs.get_mut(self.rotation.front()?)?;
        work.broadcasts.pop_front();
        work.broadcasts.front().cloned()
    }

    /// Takes the next events to be encoded, up to this many, and the end of a batch if the last of them ends
    /// one.
    pub(super) fn take_events(
        &mut self,
        org: OrgId,
        events_max: usize,
    ) -> (Vec<QueuedEvent>, Option<BatchEnd>) {
        let Some(work) = self.orgs.get_mut(&org) else { return (Vec::new(), None) };
        let (mut taken, mut end) = (Vec::new(), None);
        let items = work.step_items(events_max);
        for item in work.events.drain(..items) {
            match item {
                QueuedItem::Event(event) => taken.push(event),
                QueuedItem::BatchEnd(batch_end) => end = Some(*batch_end),
                QueuedItem::Answer(_) | QueuedItem::FirstMark(_) => {}
            }
        }
        // The resync of an overload was added without being counted, hence the minimum.
        let bytes: usize = taken.iter().map(QueuedEvent::bytes).sum();
        let bytes = bytes.min(work.event_bytes);
        work.event_bytes -= bytes;
        self.event_bytes -= bytes;
        (taken, end)
    }

    /// Returns events to the front that did not fit into a step, and the end of a batch behind them.
    pub(super) fn put_back(&mut self, org: OrgId, events: Vec<QueuedEvent>, end: Option<BatchEnd>) {
        let Some(work) = self.orgs.get_mut(&org) else { return };
        let bytes: usize = events.iter().map(QueuedEvent::bytes).sum();
        work.event_bytes += bytes;
        self.event_bytes += bytes;
        if let Some(end) = end {
            work.events.push_front(QueuedItem::BatchEnd(Box::new(end)));
        }
        for event in events.into_iter().rev() {
            work.events.push_front(QueuedItem::Event(event));
        }
    }

    pub(super) fn add_broadcasts(&mut self, org: OrgId, broadcasts: Vec<Arc<Broadcast>>) {
        if let Some(work) = self.orgs.get_mut(&org) {
            work.broadcasts.extend(broadcasts);
        }
    }

    /// Adds to the cost of the first organisation's round.
    pub(super) fn charge(&mut self, cost: usize) {
        self.round_cost += cost;
    }

    /// Ends a slice of the first organisation: it stays first, or moves to the back if its round is used up,
    /// or leaves the queue if its work is done. In the last case the code to close its sessions with is
    /// returned, if any.
    pub(super) fn finish_slice(&mut self, org: OrgId) -> Option<OrgClose> {
        let work = &self.orgs[&org];
        if !work.broadcasts.is_empty() || !work.events.is_empty() {
            if self.round_cost >= ROUND_COST {
                self.rotation.rotate_left(1);
                self.round_cost = 0;
            }
            return None;
        }
        self.rotation.pop_front();
        self.round_cost = 0;
        self.orgs.remove(&org)?.close
    }

    /// The broadcast that an organisation is sending now.
    #[cfg(test)]
    pub(super) fn current_broadcast(&self, org: OrgId) -> Arc<Broadcast> {
        Arc::clone(&self.orgs[&org].broadcasts[0])
    }
}

impl OrgWork {
    /// Number of queued items that are encoded in the next step. The step ends with the last batch that fits
    /// into it, so that a mark follows. Without marks, or within a large batch, it has as many events as fit.
    fn step_items(&self, events_max: usize) -> usize {
        let (mut events, mut items, mut end_of_batch) = (0, 0, None);
        for item in &self.events {
            match item {
                QueuedItem::Event(_) if events == events_max => break,
                QueuedItem::Event(_) => events += 1,
                QueuedItem::BatchEnd(_) => end_of_batch = Some(items + 1),
                QueuedItem::Answer(_) | QueuedItem::FirstMark(_) => break,
            }
            items += 1;
        }
        end_of_batch.unwrap_or(items)
    }
}
