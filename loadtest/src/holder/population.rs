//! Who is there and who is not: when sockets connect, leave, are dropped, and come back. What they
//! read is none of its business.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use anyhow::anyhow;
use bench_support::connect::{ConnectError, connect};
use mio::net::TcpStream;
use mio::{Interest, Token};

use super::Holder;
use super::slot::{End, Slot, State};
use crate::clock::{Nanos, now, seconds};

/// Handshake and joins together.
const OPEN_TIMEOUT: Nanos = 15_000_000_000;
/// What phoenix.js does. A heartbeat that is unanswered when the next one is due ends the socket.
const HEARTBEAT_EVERY: Nanos = 30_000_000_000;
/// How long a socket that leaves waits for what it must still see.
const LEAVE_TIMEOUT: Nanos = 10_000_000_000;
/// Connections of this process that are not yet upgraded.
const CONNECTING_MAX: u64 = 512;
/// How often a socket is turned away before it counts as refused, a new one and one that comes back,
/// and how long it waits in between, at first and at most.
const TRIES_MAX: u32 = 3;
const RETURN_TRIES_MAX: u32 = 12;
const RETRY_FIRST: Nanos = 200_000_000;
const RETRY_MAX: Nanos = 3_000_000_000;

/// Times at which sockets connect.
pub(super) struct Population {
    slots: usize,
    /// Slots that were ever told to open.
    opened: usize,
    due: BinaryHeap<Reverse<(Nanos, usize)>>,
    churn: Option<Churn>,
    /// Sockets that the churn let go.
    leaving: HashSet<usize>,
}

struct Churn {
    every: Nanos,
    next: Nanos,
}

impl Population {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots, opened: 0, due: BinaryHeap::new(), churn: None, leaving: HashSet::new() }
    }

    pub(super) fn open(&mut self, until: usize, per_second: f64) {
        let (begin, end) = (now(), until.clamp(self.opened, self.slots));
        for (n, slot) in (self.opened..end).enumerate() {
            self.due.push(Reverse((begin + spread(n, per_second), slot)));
        }
        self.opened = end;
    }

    pub(super) fn churn(&mut self, per_second: f64) {
        let every = seconds(1.0 / per_second).max(1);
        self.churn = (per_second > 0.0).then(|| Churn { every, next: now() + every });
    }

    /// When the next socket connects.
    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }
}

/// How long after the first the `n`th is due; at a rate of 0 all are at once.
fn spread(n: usize, per_second: f64) -> Nanos {
    if per_second > 0.0 { seconds(n as f64 / per_second) } else { 0 }
}

impl Holder {
    /// When the next socket may connect.
    pub(super) fn next_connect(&self) -> Option<Nanos> {
        // Where too many are on their way, one of them must come first, and that wakes the loop.
        self.population.next_due().filter(|_| self.counts.connecting < CONNECTING_MAX)
    }

    /// Who was to come for the first time need not any more; who was here must come back.
    pub(super) fn forget_newcomers(&mut self) {
        let slots = &self.slots;
        self.population.due.retain(|Reverse((_, index))| slots[*index].returns.is_some());
    }

    pub(super) fn connect_due(&mut self) {
        let moment = now();
        while self.counts.connecting < CONNECTING_MAX
            && let Some(Reverse((due, index))) = self.population.due.peek().copied()
            && due <= moment
        {
            self.population.due.pop();
            self.counts.connecting += 1;
            match self.connect(index) {
                Ok(stream) => self.slots[index].begin(&self.books, stream),
                Err(error) => self.ended(index, &End::Broken(error)),
            }
        }
    }

    fn connect(&self, index: usize) -> anyhow::Result<TcpStream> {
        let seat = &self.seats[index];
        let address = self.gateways[seat.gateway].address;
        let connected = connect(address, seat.from).map_err(|error| match error {
            ConnectError::Bind { .. } | ConnectError::NoFreePort(_) => anyhow!("{error} See --bind"),
            ConnectError::Connect { .. } => anyhow!("{error} See --url"),
            ConnectError::Socket(_) => anyhow!(error),
        })?;
        let mut stream = TcpStream::from_std(connected);
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }

    pub(super) fn has_joined(&mut self, index: usize) {
        self.counts.connecting -= 1;
        self.counts.open += 1;
        let slot = &mut self.slots[index];
        slot.tries = 0;
        // Spread over the interval, so that the heartbeats of all sockets don't come at one moment.
        slot.next_beat = now() + HEARTBEAT_EVERY / 2 + fastrand::u64(0..HEARTBEAT_EVERY / 2);
        if slot.returns.is_some() {
            self.counts.returned += 1;
        } else {
            self.counts.opened += 1;
        }
        self.tell_first(index, None);
    }

    /// A socket has ended, and nobody here wanted it.
    pub(super) fn ended(&mut self, index: usize, end: &End) {
        let slot = &mut self.slots[index];
        slot.stream = None;
        let was = std::mem::replace(&mut slot.state, State::Gone);
        let (End::Later(error) | End::Broken(error)) = end;
        if matches!(was, State::Open | State::Leaving) {
            self.counts.open -= 1;
            self.counts.dropped += 1;
            self.population.leaving.remove(&index);
            self.books.ledger.sample(|| format!("socket {index} dropped: {error:#}"));
            return;
        }
        self.counts.connecting -= 1;
        let tries_max = if slot.returns.is_some() { RETURN_TRIES_MAX } else { TRIES_MAX };
        if matches!(end, End::Later(_)) && self.told_first && slot.tries < tries_max {
            let wait = (RETRY_FIRST << slot.tries.min(5)).min(RETRY_MAX);
            slot.tries += 1;
            slot.state = State::Closed;
            self.counts.retries += 1;
            let due = now() + wait / 2 + fastrand::u64(0..wait);
            self.population.due.push(Reverse((due, index)));
            return;
        }
        self.counts.refused += 1;
        self.books.ledger.sample(|| format!("socket {index} refused: {error:#}"));
        let text = format!("{error:#}");
        self.tell_first(index, Some(text));
    }

    /// Cuts a share of the open sockets without a word, as a network does that fails.
    pub(super) fn storm(&mut self, share: f64, away: Nanos, per_second: f64) {
        let begin = now() + away;
        let open: Vec<usize> =
            self.slots.iter().filter(|slot| slot.state == State::Open).map(|slot| slot.index).collect();
        let wanted = open.len() as f64 * share.clamp(0.0, 1.0);
        for (n, index) in open.into_iter().enumerate() {
            if n as f64 >= wanted {
                break;
            }
            let due = begin + spread(n, per_second);
            let slot = &mut self.slots[index];
            if let Some(stream) = slot.stream.take() {
                // A reset, so that no port is kept waiting for what the gateway may still say.
                let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
            }
            slot.state = State::Closed;
            slot.returns = Some(due);
            slot.next_beat = Nanos::MAX;
            self.counts.open -= 1;
            self.counts.stormed += 1;
            self.population.due.push(Reverse((due, index)));
        }
    }

    /// Time limits, heartbeats, and who may leave.
    pub(super) fn look_over(&mut self, moment: Nanos) {
        self.choose_leavers(moment);
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            match slot.state {
                State::Connecting | State::Upgrading | State::Joining
                    if moment > slot.began + OPEN_TIMEOUT =>
                {
                    let error = anyhow!(
                        "no answer to handshake and joins within 15 s: is the gateway overloaded? Try a lower --connect-rate"
                    );
                    self.ended(index, &End::Later(error));
                }
                State::Open if moment >= slot.next_beat => {
                    slot.next_beat = moment + HEARTBEAT_EVERY;
                    if let Err(error) = slot.beat() {
                        self.ended(index, &End::Broken(error));
                    }
                }
                State::Open => self.look_for_the_end_of_catching_up(index, moment),
                _ => {}
            }
        }
        self.let_go(moment);
    }

    /// A change that was missed may turn out to be none: rolled back.
    fn look_for_the_end_of_catching_up(&mut self, index: usize, moment: Nanos) {
        let has = self.slots[index].has_caught_up(&mut self.books, moment);
        self.counts.caught_up += u64::from(has);
    }

    fn choose_leavers(&mut self, moment: Nanos) {
        let Some(churn) = &mut self.population.churn else { return };
        let mut due = 0_u32;
        while churn.next <= moment {
            churn.next += churn.every;
            due += 1;
        }
        for _ in 0..due {
            let index = fastrand::usize(0..self.slots.len());
            let slot = &mut self.slots[index];
            if slot.state != State::Open {
                continue;
            }
            slot.began = moment;
            match slot.leave(&mut self.books) {
                Ok(()) => drop(self.population.leaving.insert(index)),
                Err(error) => self.ended(index, &End::Broken(error)),
            }
        }
    }

    /// Ends those who have seen everything that was theirs, or waited long enough, and lets new ones in.
    fn let_go(&mut self, moment: Nanos) {
        let ledger = &self.books.ledger;
        let may_go = |slot: &Slot| slot.has_all(ledger) || moment > slot.began + LEAVE_TIMEOUT;
        let gone: Vec<usize> =
            self.population.leaving.iter().copied().filter(|index| may_go(&self.slots[*index])).collect();
        for index in gone {
            self.population.leaving.remove(&index);
            let slot = &mut self.slots[index];
            let topics = self.books.topics.iter();
            for (topic, name) in slot.topics.iter().zip(topics) {
                self.books.ledger.describe_missing(&topic.subscription, || {
                    format!("socket {index}, topic {name}, when it left")
                });
            }
            slot.say_goodbye();
            slot.stream = None;
            slot.state = State::Closed;
            slot.returns = None;
            self.counts.open -= 1;
            self.counts.left += 1;
            if self.deadline.is_none() {
                self.population.due.push(Reverse((moment, index)));
            }
        }
    }
}
