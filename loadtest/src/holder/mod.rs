//! A process that holds sockets: one thread, one loop, no task or buffer per socket. It does what its
//! orders say, checks everything that its sockets read, and reports every interval. It publishes
//! nothing, and ends when who directs it does.

mod hearing;
mod orders;
mod population;
mod recent;
mod slot;

use std::io::{Write as _, stdout};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::Context as _;
use bench_support::endpoint::Endpoint;
use bench_support::handshake;
use bench_support::token::TokenSigner;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use self::orders::Orders;
use self::population::Population;
use self::recent::Recent;
use self::slot::{Books, End, Slot, State};
use crate::check::Ledger;
use crate::clock::{Nanos, now};
use crate::message::{Order, Progress, Seat, SocketCounts, Task, Word};
use crate::meters::Meters;

const ORDERS: Token = Token(usize::MAX);
/// How often everything is looked over: time limits, heartbeats, who may leave.
const TICK: Duration = Duration::from_millis(50);
const TICK_NANOS: Nanos = 50_000_000;
const EVENTS_PER_POLL: usize = 1024;
/// One for all sockets.
const READ_BYTES: usize = 64 * 1024;
/// When everything has arrived, the sockets stay this long: what comes twice or to the wrong place may
/// come last.
const LINGER: Nanos = 500_000_000;

/// The sockets of this process, and what they share.
struct Holder {
    poll: Poll,
    books: Books,
    slots: Vec<Slot>,
    seats: Vec<Seat>,
    gateways: Vec<Endpoint>,
    signer: TokenSigner,
    counts: SocketCounts,
    population: Population,
    /// Until when to wait for what is missing, once nothing is published any more.
    deadline: Option<Nanos>,
    hurry: bool,
    told_first: bool,
    epoch: Nanos,
    interval: Nanos,
    /// Intervals that were reported.
    reported: usize,
    was_idle: bool,
}

/// Runs until all is closed, or who directs it is gone.
pub(crate) fn run() -> anyhow::Result<()> {
    let (orders, task) = Orders::begin()?;
    let poll = Poll::new().context("cannot wait for sockets")?;
    let Task { run, orgs, gateways, topics, seats, signing, epoch, interval, first_org_apart } = task;
    let ledger = Ledger::new(&orgs);
    let (meters, recent) = (Meters::default(), Recent::new(orgs.len()));
    let slots: Vec<Slot> = seats.iter().enumerate().map(|(n, seat)| Slot::new(n, seat.org)).collect();
    Holder {
        poll,
        books: Books { run, topics, ledger, orders, meters, recent, first_org_apart },
        population: Population::new(slots.len()),
        slots,
        seats,
        gateways,
        signer: TokenSigner::new(signing),
        counts: SocketCounts::default(),
        deadline: None,
        hurry: false,
        told_first: false,
        epoch,
        interval: interval.max(1),
        reported: 0,
        was_idle: true,
    }
    .run()
}

impl Holder {
    fn run(mut self) -> anyhow::Result<()> {
        let input = rustix::stdio::stdin().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&input), ORDERS, Interest::READABLE)?;
        let (mut events, mut buffer) = (Events::with_capacity(EVENTS_PER_POLL), vec![0; READ_BYTES]);
        let (mut looked, mut complete_since) = (now(), None);
        self.obey()?;
        loop {
            let wait = self.next_connect().map_or(TICK, |due| crate::clock::until(due).min(TICK));
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.context("cannot wait for sockets")?,
            }
            for event in &events {
                if event.token() == ORDERS {
                    self.obey()?;
                } else if let Some(slot) = self.slots.get(event.token().0) {
                    let index = slot.index;
                    self.ready(index, &mut buffer);
                }
            }
            if self.books.orders.ended {
                return Ok(());
            }
            self.obey_waiting()?;
            self.connect_due();
            self.report_intervals()?;
            self.report_once_idle()?;
            let moment = now();
            if moment >= looked + TICK_NANOS {
                looked = moment;
                self.look_over(moment);
                if self.is_over(moment, &mut complete_since) {
                    return self.end();
                }
            }
        }
    }

    fn obey(&mut self) -> anyhow::Result<()> {
        self.books.orders.take_in(&mut self.books.ledger)?;
        self.obey_waiting()
    }

    fn obey_waiting(&mut self) -> anyhow::Result<()> {
        while let Some(order) = self.books.orders.waiting.pop_front() {
            match order {
                Order::Open { until, per_second } => self.population.open(until, per_second),
                Order::Storm { share, away, per_second } => self.storm(share, away, per_second),
                Order::Churn { per_second } => self.population.churn(per_second),
                Order::Settle { deadline } => {
                    self.deadline = Some(deadline);
                    self.population.churn(0.0);
                    self.forget_newcomers();
                }
                Order::Hurry => self.hurry = true,
                // Taken in by the ledger.
                Order::Sent(_) | Order::Ended { .. } => {}
            }
        }
        Ok(())
    }

    /// Whether the test is over: everything has arrived and a moment has passed, or nobody waits any longer.
    fn is_over(&self, moment: Nanos, complete_since: &mut Option<Nanos>) -> bool {
        let Some(deadline) = self.deadline else { return false };
        let idle = self.population.next_due().is_none() && self.counts.connecting == 0;
        if idle && self.books.ledger.is_complete() {
            let since = *complete_since.get_or_insert(moment);
            return self.hurry || moment >= since + LINGER;
        }
        self.hurry || moment >= deadline
    }

    fn end(mut self) -> anyhow::Result<()> {
        for slot in &mut self.slots {
            let index = slot.index;
            for (topic, name) in slot.topics.iter().zip(&self.books.topics) {
                self.books
                    .ledger
                    .describe_missing(&topic.subscription, || format!("socket {index}, topic {name}"));
            }
            if matches!(slot.state, State::Open | State::Leaving) {
                slot.say_goodbye();
            }
        }
        self.report(self.reported)?;
        let faults = self.books.ledger.samples().to_vec();
        say(&Word::Done { faults })
    }

    /// Something can be read from a socket, or it has connected.
    fn ready(&mut self, index: usize, buffer: &mut [u8]) {
        if self.slots[index].state == State::Connecting && !self.begin_handshake(index) {
            return;
        }
        match self.slots[index].read(&mut self.books, buffer) {
            Ok(read) => {
                if read.joined {
                    self.has_joined(index);
                }
                self.counts.caught_up += u64::from(read.caught_up);
            }
            Err(end) => self.ended(index, &end),
        }
    }

    /// False where it is not connected yet.
    fn begin_handshake(&mut self, index: usize) -> bool {
        let slot = &mut self.slots[index];
        let Some(stream) = &slot.stream else { return false };
        let failed = match (stream.take_error(), stream.peer_addr()) {
            (Ok(None), Ok(_)) => None,
            (Ok(None), Err(_)) => return false, // woken for nothing
            (Ok(Some(error)) | Err(error), _) => Some(error),
        };
        let gateway = &self.gateways[self.seats[index].gateway];
        let result = match failed {
            Some(error) => Err(anyhow::anyhow!(
                "cannot connect to {}: {error}. Is the gateway running there? See --url",
                gateway.address
            )),
            None => {
                let token = self.signer.token(self.books.ledger.org_id(slot.org));
                token.and_then(|token| {
                    let authorization = format!("Authorization: Bearer {token}");
                    slot.request(&handshake::request(&gateway.authority, &gateway.path, &[&authorization]))
                })
            }
        };
        match result {
            Ok(()) => true,
            Err(error) => {
                self.ended(index, &End::Broken(error));
                false
            }
        }
    }

    fn report_intervals(&mut self) -> anyhow::Result<()> {
        let current = usize::try_from(now().saturating_sub(self.epoch) / self.interval)?;
        if current > self.reported {
            self.report(current - 1)?;
            self.reported = current;
        }
        Ok(())
    }

    /// Who waits until all are open need not wait for the end of an interval.
    fn report_once_idle(&mut self) -> anyhow::Result<()> {
        let idle = self.population.next_due().is_none() && self.counts.connecting == 0;
        if idle && !std::mem::replace(&mut self.was_idle, idle) {
            self.report(self.reported)?;
        }
        self.was_idle = idle;
        Ok(())
    }

    fn report(&mut self, interval: usize) -> anyhow::Result<()> {
        let (counts, sockets) = (self.books.ledger.counts, self.counts);
        let timings = self.books.meters.take();
        say(&Word::Progress(Box::new(Progress { interval, counts, sockets, timings })))
    }

    /// Tells how the first socket fared: where that fails, nothing else would do better.
    fn tell_first(&mut self, index: usize, error: Option<String>) {
        if index == 0 && !self.told_first {
            self.told_first = true;
            // Where nobody listens, the orders have ended as well.
            let _ = say(&Word::First(error));
        }
    }
}

fn say(word: &Word) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    let mut out = stdout().lock();
    out.write_all(&line)?;
    out.flush().context("nobody listens")
}
