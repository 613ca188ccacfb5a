//! The event loop of a worker: commands, sockets that are ready, time limits and reports.

use std::io::{Write as _, stdout};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bench_support::handshake;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::commands::CommandReader;
use super::failure::SocketFailure;
use super::socket::SocketState;
use super::state::Worker;
use crate::clock::{Nanos, now, until};
use crate::message::{Command, Progress, WorkerReport};

const COMMANDS: Token = Token(usize::MAX);
/// Interval of the checks of time limits, heartbeats and leaving sockets.
const TICK: Duration = Duration::from_millis(50);
const TICK_NANOS: Nanos = 50_000_000;
const EVENTS_PER_POLL: usize = 1024;
/// Size of the read buffer, which all sockets share.
const READ_BYTES: usize = 64 * 1024;
/// Time for which the sockets stay open after everything has arrived, because a duplicate or a leaked event
/// may be the last to arrive.
const LINGER: Nanos = 500_000_000;

/// Runs until all sockets are closed, or until the main process is gone.
pub(crate) fn run() -> anyhow::Result<()> {
    let (commands, task) = CommandReader::start()?;
    let poll = Poll::new().context("cannot create an epoll instance")?;
    Worker::new(poll, commands, task).run()
}

impl Worker {
    fn run(mut self) -> anyhow::Result<()> {
        let input = rustix::stdio::stdin().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&input), COMMANDS, Interest::READABLE)?;
        let (mut events, mut buffer) = (Events::with_capacity(EVENTS_PER_POLL), vec![0; READ_BYTES]);
        let (mut last_tick, mut complete_since) = (now(), None);
        self.books.read_commands()?;
        self.execute_commands();
        loop {
            let wait = self.next_connect().map_or(TICK, |due| until(due).min(TICK));
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.context("cannot wait for sockets")?,
            }
            for event in &events {
                if event.token() == COMMANDS {
                    self.books.read_commands()?;
                    self.execute_commands();
                } else if event.token().0 < self.sockets.len() {
                    self.socket_ready(event.token().0, &mut buffer);
                }
            }
            if self.books.commands.ended {
                return Ok(());
            }
            // Sockets read commands too, before they judge an event.
            self.execute_commands();
            self.connect_due();
            self.report_finished_intervals()?;
            self.report_when_idle()?;
            let moment = now();
            if moment >= last_tick + TICK_NANOS {
                last_tick = moment;
                self.tick(moment);
                if self.is_finished(moment, &mut complete_since) {
                    return self.finish();
                }
            }
        }
    }

    fn execute_commands(&mut self) {
        while let Some(command) = self.books.commands.waiting.pop_front() {
            match command {
                Command::Open { until, per_second } => self.schedule.open(until, per_second),
                Command::Storm { share, away, per_second } => self.storm(share, away, per_second),
                Command::Churn { per_second } => self.schedule.set_churn(per_second),
                Command::Settle { deadline } => {
                    self.deadline = Some(deadline);
                    self.schedule.set_churn(0.0);
                    self.cancel_first_connects();
                }
                Command::Hurry => self.hurry = true,
                // The ledger has already processed these.
                Command::Announce(_) | Command::SetOutcome { .. } => {}
            }
        }
    }

    /// Whether the test is over: everything has arrived some time ago, or the deadline has passed.
    fn is_finished(&self, moment: Nanos, complete_since: &mut Option<Nanos>) -> bool {
        let Some(deadline) = self.deadline else { return false };
        if self.is_idle() && self.books.ledger.is_complete() {
            let since = *complete_since.get_or_insert(moment);
            return self.hurry || moment >= since + LINGER;
        }
        self.hurry || moment >= deadline
    }

    fn finish(mut self) -> anyhow::Result<()> {
        for socket in &mut self.sockets {
            let index = socket.index;
            for (topic, name) in socket.topics.iter().zip(&self.books.topics) {
                self.books
                    .ledger
                    .describe_missing(&topic.subscription, || format!("socket {index}, topic {name}"));
            }
            if matches!(socket.state, SocketState::Open | SocketState::Leaving) {
                socket.send_close();
            }
        }
        self.report(self.reported)?;
        let findings = self.books.ledger.findings().to_vec();
        print_report(&WorkerReport::Done { findings })
    }

    /// Handles a socket that has connected, or from which bytes can be read.
    fn socket_ready(&mut self, index: usize, buffer: &mut [u8]) {
        if self.sockets[index].state == SocketState::Connecting && !self.begin_handshake(index) {
            return;
        }
        match self.sockets[index].read(&mut self.books, buffer) {
            Ok(outcome) => {
                if outcome.joined {
                    self.socket_joined(index);
                    self.report_first(index, None);
                }
                self.counts.caught_up += u64::from(outcome.caught_up);
            }
            Err(failure) => self.fail_socket(index, &failure),
        }
    }

    /// Sends the handshake. False if the socket is not connected yet, or has failed.
    fn begin_handshake(&mut self, index: usize) -> bool {
        let socket = &mut self.sockets[index];
        let Some(stream) = &socket.stream else { return false };
        let error = match (stream.take_error(), stream.peer_addr()) {
            (Ok(None), Ok(_)) => None,
            (Ok(None), Err(_)) => return false, // a spurious wake-up
            (Ok(Some(error)) | Err(error), _) => Some(error),
        };
        let gateway = &self.gateways[self.specs[index].gateway];
        let result = match error {
            Some(error) => Err(anyhow!(
                "cannot connect to {}: {error}. Does a gateway listen there? See --url",
                gateway.address
            )),
            None => self.signer.token(self.books.ledger.org_id(socket.org)).and_then(|token| {
                let authorization = format!("Authorization: Bearer {token}");
                let request = handshake::request(&gateway.authority, &gateway.path, &[&authorization]);
                socket.send_request(&request)
            }),
        };
        match result {
            Ok(()) => true,
            Err(error) => {
                self.fail_socket(index, &SocketFailure::Final(error));
                false
            }
        }
    }

    /// Ends a socket, and reports the error if it was the first socket and is not retried.
    fn fail_socket(&mut self, index: usize, failure: &SocketFailure) {
        if let Some(error) = self.socket_failed(index, failure) {
            self.report_first(index, Some(error));
        }
    }

    /// Periodic checks.
    fn tick(&mut self, moment: Nanos) {
        self.choose_leavers(moment);
        for index in 0..self.sockets.len() {
            if let Some(failure) = self.check_socket(index, moment) {
                self.fail_socket(index, &failure);
            }
        }
        self.close_leavers(moment);
    }

    fn connect_due(&mut self) {
        let moment = now();
        while let Some((index, result)) = self.connect_next(moment) {
            match result {
                Ok(stream) => self.sockets[index].begin(&self.books, stream),
                Err(error) => self.fail_socket(index, &SocketFailure::Final(error)),
            }
        }
    }

    fn choose_leavers(&mut self, moment: Nanos) {
        for _ in 0..self.schedule.take_due_leavers(moment) {
            let index = fastrand::usize(0..self.sockets.len());
            if let Err(error) = self.begin_leaving(index, moment) {
                self.fail_socket(index, &SocketFailure::Final(error));
            }
        }
    }

    fn report_finished_intervals(&mut self) -> anyhow::Result<()> {
        let current = usize::try_from(now().saturating_sub(self.epoch) / self.interval)?;
        if current > self.reported {
            self.report(current - 1)?;
            self.reported = current;
        }
        Ok(())
    }

    /// Reports as soon as all sockets are open, so that the main process does not wait for the end of an
    /// interval.
    fn report_when_idle(&mut self) -> anyhow::Result<()> {
        let idle = self.is_idle();
        if idle && !self.was_idle {
            self.report(self.reported)?;
        }
        self.was_idle = idle;
        Ok(())
    }

    fn report(&mut self, interval: usize) -> anyhow::Result<()> {
        let (counts, sockets) = (self.books.ledger.counts, self.counts);
        let histograms = self.books.histograms.take();
        print_report(&WorkerReport::Progress(Box::new(Progress { interval, counts, sockets, histograms })))
    }

    /// Reports the result of the first socket. If it fails, all others would fail as well.
    fn report_first(&mut self, index: usize, error: Option<String>) {
        if index == 0 && !self.reported_first {
            self.reported_first = true;
            // If the main process is gone, the loop notices the end of the commands.
            let _ = print_report(&WorkerReport::FirstSocket(error));
        }
    }
}

fn print_report(report: &WorkerReport) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut out = stdout().lock();
    out.write_all(&line)?;
    out.flush().context("cannot write to standard output")
}
