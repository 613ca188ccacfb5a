//! The life of sockets: connecting, failing, reconnecting after a storm, and leaving so that a new socket
//! replaces it (churn). This file does not handle their messages.

use anyhow::anyhow;
use bench_support::connect::{ConnectError, connect};
use mio::net::TcpStream;
use mio::{Interest, Token};

use super::failure::SocketFailure;
use super::schedule::offset;
use super::socket::{Socket, SocketState};
use super::state::Worker;
use crate::clock::{Nanos, now};

/// Time limit for the handshake and all joins together.
const OPEN_TIMEOUT: Nanos = 15_000_000_000;
/// The interval of phoenix.js. A heartbeat without an answer when the next is due ends the socket.
const HEARTBEAT_EVERY: Nanos = 30_000_000_000;
/// How long a leaving socket waits for the events that it must still receive.
const LEAVE_TIMEOUT: Nanos = 10_000_000_000;
/// Connections of this process that are not yet upgraded.
const CONNECTING_MAX: u64 = 512;
/// Attempts after a temporary failure, for a new socket and for one that reconnects.
const RETRIES_MAX: u32 = 3;
const RECONNECT_RETRIES_MAX: u32 = 12;
/// Pause before an attempt: the first one, and the limit of its doubling.
const RETRY_FIRST: Nanos = 200_000_000;
const RETRY_MAX: Nanos = 3_000_000_000;

impl Worker {
    /// When the next socket may connect.
    pub(super) fn next_connect(&self) -> Option<Nanos> {
        // At the limit one of the connecting sockets must finish first, and its events wake the loop.
        self.schedule.next_due().filter(|_| self.counts.connecting < CONNECTING_MAX)
    }

    /// Cancels first connections. Sockets that were open before the storm still reconnect.
    pub(super) fn cancel_first_connects(&mut self) {
        let sockets = &self.sockets;
        self.schedule.retain(|index| sockets[index].reconnect_due.is_some());
    }

    /// Starts the next connection that is due; `None` if there is none, or too many are in progress.
    pub(super) fn connect_next(&mut self, moment: Nanos) -> Option<(usize, anyhow::Result<TcpStream>)> {
        if self.counts.connecting >= CONNECTING_MAX {
            return None;
        }
        let index = self.schedule.pop_due(moment)?;
        self.counts.connecting += 1;
        Some((index, self.connect(index)))
    }

    fn connect(&self, index: usize) -> anyhow::Result<TcpStream> {
        let spec = &self.specs[index];
        let address = self.gateways[spec.gateway].address;
        let stream = connect(address, spec.from).map_err(|error| match error {
            ConnectError::Bind { .. } | ConnectError::NoFreePort(_) => anyhow!("{error}: check --bind"),
            ConnectError::Connect { .. } => anyhow!("{error} See --url"),
            ConnectError::Socket(_) => anyhow!("{error}, or use more --processes"),
        })?;
        let mut stream = TcpStream::from_std(stream);
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }

    /// Counts a socket whose last join was answered.
    pub(super) fn socket_joined(&mut self, index: usize) {
        self.counts.connecting -= 1;
        self.counts.open += 1;
        let socket = &mut self.sockets[index];
        socket.retries = 0;
        // Random, so that the heartbeats of all sockets are not due at the same moment.
        socket.next_heartbeat = now() + HEARTBEAT_EVERY / 2 + fastrand::u64(0..HEARTBEAT_EVERY / 2);
        if socket.reconnect_due.is_some() {
            self.counts.reconnected += 1;
        } else {
            self.counts.opened += 1;
        }
    }

    /// Handles the unwanted end of a socket, and schedules another attempt after a temporary failure. Returns
    /// the error if the socket could not be opened.
    pub(super) fn socket_failed(&mut self, index: usize, failure: &SocketFailure) -> Option<String> {
        let socket = &mut self.sockets[index];
        socket.stream = None;
        let was = std::mem::replace(&mut socket.state, SocketState::Gone);
        let (SocketFailure::Temporary(error) | SocketFailure::Final(error)) = failure;
        if matches!(was, SocketState::Open | SocketState::Leaving) {
            self.counts.open -= 1;
            self.counts.dropped += 1;
            self.schedule.leaving.remove(&index);
            self.books.ledger.add_finding(|| format!("socket {index} dropped: {error:#}"));
            return None;
        }
        self.counts.connecting -= 1;
        let retries_max = if socket.reconnect_due.is_some() { RECONNECT_RETRIES_MAX } else { RETRIES_MAX };
        let is_temporary = matches!(failure, SocketFailure::Temporary(_));
        // The first socket is not retried: its failure ends the run with advice.
        if is_temporary && self.reported_first && socket.retries < retries_max {
            let pause = (RETRY_FIRST << socket.retries.min(5)).min(RETRY_MAX);
            socket.retries += 1;
            socket.state = SocketState::Closed;
            self.counts.retries += 1;
            self.schedule.connect_at(now() + pause / 2 + fastrand::u64(0..pause), index);
            return None;
        }
        self.counts.failed += 1;
        self.books.ledger.add_finding(|| format!("socket {index} could not be opened: {error:#}"));
        Some(format!("{error:#}"))
    }

    /// Drops a share of the open sockets without a Close, as a failing network does.
    pub(super) fn storm(&mut self, share: f64, away: Nanos, per_second: f64) {
        let begin = now() + away;
        let is_open = |socket: &&Socket| socket.state == SocketState::Open;
        let open: Vec<usize> = self.sockets.iter().filter(is_open).map(|socket| socket.index).collect();
        let wanted = open.len() as f64 * share.clamp(0.0, 1.0);
        for (n, index) in open.into_iter().enumerate() {
            if n as f64 >= wanted {
                break;
            }
            let due = begin + offset(n, per_second);
            let socket = &mut self.sockets[index];
            if let Some(stream) = socket.stream.take() {
                // A reset, so that the port is free at once and does not wait for the gateway's last bytes.
                let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
            }
            socket.state = SocketState::Closed;
            socket.reconnect_due = Some(due);
            socket.next_heartbeat = Nanos::MAX;
            self.counts.open -= 1;
            self.counts.storm_dropped += 1;
            self.schedule.connect_at(due, index);
        }
    }

    /// Checks the time limits of a socket, sends a heartbeat that is due, and notices the end of catching up.
    pub(super) fn check_socket(&mut self, index: usize, moment: Nanos) -> Option<SocketFailure> {
        let socket = &mut self.sockets[index];
        match socket.state {
            SocketState::Connecting | SocketState::Upgrading | SocketState::Joining
                if moment > socket.began + OPEN_TIMEOUT =>
            {
                Some(SocketFailure::Temporary(anyhow!(
                    "the gateway did not answer handshake and joins within 15 s. It may be overloaded: use a lower \
                     --connect-rate"
                )))
            }
            SocketState::Open if moment >= socket.next_heartbeat => {
                socket.next_heartbeat = moment + HEARTBEAT_EVERY;
                socket.send_heartbeat().err().map(SocketFailure::Final)
            }
            SocketState::Open => {
                // A missed change may have been rolled back, in which case no event ends the catching up.
                let caught_up = socket.has_caught_up(&mut self.books, moment);
                self.counts.caught_up += u64::from(caught_up);
                None
            }
            _ => None,
        }
    }

    /// Lets a socket leave if it is open.
    pub(super) fn begin_leaving(&mut self, index: usize, moment: Nanos) -> anyhow::Result<()> {
        let socket = &mut self.sockets[index];
        if socket.state != SocketState::Open {
            return Ok(());
        }
        socket.began = moment;
        socket.leave(&mut self.books)?;
        self.schedule.leaving.insert(index);
        Ok(())
    }

    /// Closes leaving sockets that have received everything or waited long enough, and schedules new ones.
    pub(super) fn close_leavers(&mut self, moment: Nanos) {
        let ledger = &self.books.ledger;
        let may_close = |socket: &Socket| socket.has_all(ledger) || moment > socket.began + LEAVE_TIMEOUT;
        let leaving = self.schedule.leaving.iter().copied();
        let closing: Vec<usize> = leaving.filter(|index| may_close(&self.sockets[*index])).collect();
        for index in closing {
            self.schedule.leaving.remove(&index);
            let socket = &mut self.sockets[index];
            for (topic, name) in socket.topics.iter().zip(&self.books.topics) {
                self.books.ledger.describe_missing(&topic.subscription, || {
                    format!("socket {index}, topic {name}, when it left")
                });
            }
            socket.send_close();
            socket.stream = None;
            socket.state = SocketState::Closed;
            socket.reconnect_due = None;
            self.counts.open -= 1;
            self.counts.left += 1;
            if self.deadline.is_none() {
                self.schedule.connect_at(moment, index);
            }
        }
    }
}
