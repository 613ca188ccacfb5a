//! The write loop: accepts sockets, and writes each event of a plan to each socket of its group, with one
//! write per event.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench_support::frames;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};

use super::protocol::Done;
use super::socket::{Readiness, Socket};
use crate::plan::PublishPlan;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// Readiness events that one poll returns at most.
const READY_MAX: usize = 1024;
const SCRATCH_BYTES: usize = 16 * 1024;
/// Limit of the group number in a path, which sizes an array.
const GROUPS_MAX: usize = 1_000_000;
/// How long bytes that the kernel did not accept may wait after the last event.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Server {
    poll: Poll,
    listener: TcpListener,
    /// Indexed by token.
    sockets: Vec<Option<Socket>>,
    free: Vec<usize>,
    /// Tokens of open sockets, by group.
    groups: Vec<Vec<usize>>,
    open: usize,
    ready: Events,
    scratch: Vec<u8>,
    left: u64,
}

impl Server {
    pub(super) fn listen(addr: SocketAddr) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let mut listener =
            TcpListener::bind(addr).with_context(|| format!("cannot listen on {addr}: see --listen"))?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            sockets: Vec::new(),
            free: Vec::new(),
            groups: Vec::new(),
            open: 0,
            ready: Events::with_capacity(READY_MAX),
            scratch: vec![0; SCRATCH_BYTES],
            left: 0,
        })
    }

    pub(super) fn addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    pub(super) fn waker(&self) -> anyhow::Result<Waker> {
        Ok(Waker::new(self.poll.registry(), WAKER)?)
    }

    pub(super) fn wait_for_sockets(&mut self, sockets: usize) -> anyhow::Result<()> {
        while self.open < sockets {
            self.poll(None)?;
        }
        Ok(())
    }

    /// Waits for readiness until the timeout, and handles it.
    pub(super) fn poll(&mut self, timeout: Option<Duration>) -> anyhow::Result<()> {
        match self.poll.poll(&mut self.ready, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let tokens: Vec<Token> = self.ready.iter().map(mio::event::Event::token).collect();
        for token in tokens {
            match token {
                LISTENER => self.accept()?,
                WAKER => {}
                Token(n) => self.socket_ready(n),
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    return Err(error).context("cannot accept a connection: raise `ulimit -n`");
                }
            };
            stream.set_nodelay(true)?;
            let n = self.free.pop().unwrap_or(self.sockets.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(n), interest)?;
            if n == self.sockets.len() {
                self.sockets.push(None);
            }
            self.sockets[n] = Some(Socket::new(stream));
        }
    }

    fn socket_ready(&mut self, n: usize) {
        let Some(socket) = self.sockets.get_mut(n).and_then(Option::as_mut) else { return };
        match socket.ready(&mut self.scratch) {
            Ok(Readiness::Unchanged) => {}
            Ok(Readiness::Opened { group }) if group < GROUPS_MAX => {
                if self.groups.len() <= group {
                    self.groups.resize_with(group + 1, Vec::new);
                }
                self.groups[group].push(n);
                self.open += 1;
            }
            Ok(Readiness::Opened { .. } | Readiness::Closed) | Err(_) => self.remove(n),
        }
    }

    fn remove(&mut self, n: usize) {
        let Some(mut socket) = self.sockets[n].take() else { return };
        // Dropping the socket closes it, even if this fails.
        let _ = self.poll.registry().deregister(socket.stream());
        self.free.push(n);
        for group in &mut self.groups {
            if let Some(at) = group.iter().position(|token| *token == n) {
                group.swap_remove(at);
                self.open -= 1;
                self.left += 1;
                break;
            }
        }
    }

    /// Writes every event of the plan when it is due, and then the bytes that the kernel has not accepted.
    pub(super) fn publish(&mut self, plan: &PublishPlan) -> anyhow::Result<Done> {
        let mut frame = Vec::new();
        frames::append_server(frames::TEXT, plan.body().as_bytes(), &mut frame);
        let mut done = Done { writes: 0, queued: 0, left: 0, lag_ms: 0.0 };
        let left_before = self.left;
        let began = Instant::now();
        for n in 0..plan.bursts {
            let due = plan.due(n);
            while let Some(wait) = due.checked_sub(began.elapsed()).filter(|wait| !wait.is_zero()) {
                self.poll(Some(wait))?;
            }
            done.lag_ms = (began.elapsed().saturating_sub(due)).as_secs_f64() * 1e3;
            if let Some(group) = plan.group(n) {
                for _ in 0..plan.burst {
                    self.write_to_group(group, &frame, &mut done);
                }
            }
        }
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while Instant::now() < deadline && self.sockets.iter().flatten().any(Socket::has_backlog) {
            self.poll(Some(Duration::from_millis(10)))?;
        }
        done.left = self.left - left_before;
        Ok(done)
    }

    fn write_to_group(&mut self, group: usize, frame: &[u8], done: &mut Done) {
        let mut broken = Vec::new();
        for n in self.groups.get(group).into_iter().flatten() {
            let Some(socket) = self.sockets[*n].as_mut() else { continue };
            match socket.send(frame) {
                Ok(complete) => {
                    done.writes += 1;
                    done.queued += u64::from(!complete);
                }
                Err(_) => broken.push(*n),
            }
        }
        for n in broken {
            self.remove(n);
        }
    }
}
