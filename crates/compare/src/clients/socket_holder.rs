//! The process that holds sockets. One thread with one epoll opens them, counts events, and answers requests
//! from standard input. The process ends when its standard input is closed.

use std::collections::VecDeque;
use std::io::{BufRead as _, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use bench_support::frames;
use mio::{Events, Interest, Poll, Token, Waker};

use super::connection::Connection;
use super::protocol::{Answer, Count, Dial, Request};

const WAKER: Token = Token(usize::MAX);
const READY_MAX: usize = 1024;
const SCRATCH_BYTES: usize = 64 * 1024;
/// Below the gateway's idle timeout of 60 s. The comparison requests heartbeats between measurements; this
/// interval matters in long ones.
const BEAT_EVERY: Duration = Duration::from_secs(40);

/// Runs until standard input ends.
pub(crate) fn run() -> anyhow::Result<()> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let (sender, requests) = channel();
    std::thread::spawn(move || read_requests(&sender, &waker));
    let mut sockets = SocketHolder {
        poll,
        connections: Vec::new(),
        waiting: VecDeque::new(),
        opening: None,
        heartbeat: Vec::new(),
        last_beat: Instant::now(),
        scratch: vec![0; SCRATCH_BYTES],
        ready: Events::with_capacity(READY_MAX),
    };
    sockets.serve(&requests)
}

fn read_requests(requests: &Sender<Request>, waker: &Waker) {
    for line in std::io::stdin().lock().lines() {
        let Ok(request) = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str(&line)?))
        else {
            eprintln!("warden-compare hold-sockets: a line on standard input is not a request");
            break;
        };
        if requests.send(request).is_err() || waker.wake().is_err() {
            return;
        }
    }
    std::process::exit(0);
}

/// Progress of opening sockets.
struct Opening {
    server: SocketAddr,
    sources: Vec<Ipv4Addr>,
    concurrency: usize,
    in_flight: usize,
    wanted: usize,
    open: usize,
}

/// The sockets of this process.
struct SocketHolder {
    poll: Poll,
    connections: Vec<Option<Connection>>,
    waiting: VecDeque<Dial>,
    opening: Option<Opening>,
    heartbeat: Vec<u8>,
    last_beat: Instant,
    scratch: Vec<u8>,
    ready: Events,
}

impl SocketHolder {
    fn serve(&mut self, requests: &Receiver<Request>) -> anyhow::Result<()> {
        loop {
            match requests.try_recv() {
                Ok(request) => self.execute(request)?,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
            let until_beat = (self.last_beat + BEAT_EVERY).saturating_duration_since(Instant::now());
            if until_beat.is_zero() {
                self.beat();
            }
            match self.poll.poll(&mut self.ready, Some(until_beat.max(Duration::from_millis(1)))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            self.sockets_ready()?;
        }
    }

    fn execute(&mut self, request: Request) -> anyhow::Result<()> {
        match request {
            Request::Open { server, sources, dials, concurrency, heartbeat } => {
                self.heartbeat.clear();
                if let Some(text) = heartbeat {
                    frames::append_client(frames::TEXT, text.as_bytes(), &mut self.heartbeat);
                }
                let wanted = dials.len();
                self.opening = Some(Opening { server, sources, concurrency, in_flight: 0, wanted, open: 0 });
                self.waiting = dials.into();
                // The answer follows when the last socket is open.
                return self.open_more().or_else(|error| self.fail(&error));
            }
            Request::Beat => self.beat(),
            Request::Reset => {
                for connection in self.connections.iter_mut().flatten() {
                    (connection.events, connection.bytes) = (0, 0);
                }
            }
            Request::Count => {}
            Request::Close => self.connections.clear(),
        }
        print_answer(&Answer::Count(self.count()))
    }

    fn count(&self) -> Count {
        let mut count = Count { least: u64::MAX, ..Count::default() };
        for connection in self.connections.iter().flatten().filter(|connection| connection.is_open()) {
            count.open += 1;
            count.events += connection.events;
            count.bytes += connection.bytes;
            count.least = count.least.min(connection.events);
            count.most = count.most.max(connection.events);
        }
        count.least = if count.open == 0 { 0 } else { count.least };
        count
    }

    fn beat(&mut self) {
        self.last_beat = Instant::now();
        if self.heartbeat.is_empty() {
            return;
        }
        for connection in self.connections.iter_mut().flatten().filter(|connection| connection.is_open()) {
            // If this fails the socket is closed, and the next count shows it.
            let _ = connection.send(&self.heartbeat);
        }
    }

    fn open_more(&mut self) -> anyhow::Result<()> {
        let Some(opening) = &mut self.opening else { return Ok(()) };
        while opening.in_flight < opening.concurrency {
            let Some(dial) = self.waiting.pop_front() else { break };
            let n = self.connections.len();
            let has_sources = opening.server.is_ipv4() && opening.server.ip().is_loopback();
            let source = has_sources.then(|| IpAddr::V4(opening.sources[n % opening.sources.len()]));
            let mut connection = Connection::connect(opening.server, source, dial)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(connection.stream(), Token(n), interest)?;
            self.connections.push(Some(connection));
            opening.in_flight += 1;
        }
        Ok(())
    }

    fn sockets_ready(&mut self) -> anyhow::Result<()> {
        let ready: Vec<(usize, bool)> = self
            .ready
            .iter()
            .filter(|event| event.token() != WAKER)
            .map(|event| (event.token().0, event.is_writable()))
            .collect();
        for (n, is_writable) in ready {
            if let Err(error) = self.socket_ready(n, is_writable) {
                self.connections[n] = None;
                if self.opening.is_some() {
                    self.fail(&error)?;
                }
            }
        }
        Ok(())
    }

    fn socket_ready(&mut self, n: usize, is_writable: bool) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(n).and_then(Option::as_mut) else { return Ok(()) };
        if connection.is_open() {
            if !connection.read(&mut self.scratch)? {
                self.connections[n] = None;
            }
            return Ok(());
        }
        if is_writable {
            connection.send_request()?;
        }
        if !connection.read(&mut self.scratch)? {
            return Err(anyhow!(
                "the server closed a connection before the socket was open; received: {}",
                connection.received()
            ));
        }
        if connection.is_open() {
            let opening = self.opening.as_mut().context("a socket opened without a request")?;
            opening.in_flight -= 1;
            opening.open += 1;
            if opening.open == opening.wanted {
                self.opening = None;
                self.last_beat = Instant::now();
                return print_answer(&Answer::Count(self.count()));
            }
            self.open_more()?;
        }
        Ok(())
    }

    /// Gives up opening sockets.
    fn fail(&mut self, error: &anyhow::Error) -> anyhow::Result<()> {
        self.opening = None;
        self.waiting.clear();
        print_answer(&Answer::Failed(format!("{error:#}")))
    }
}

fn print_answer(answer: &Answer) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = std::io::stdout();
    out.write_all(&line).and_then(|()| out.flush()).context("cannot write to standard output")
}
