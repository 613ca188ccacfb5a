//! The loop itself: accepts, and writes each event of a plan to each socket of its group, one write an event.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::socket::{Fate, Socket};
use super::{Done, Plan};

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// Readiness that is taken from the kernel at once.
const READY_MAX: usize = 1024;
const SCRATCH_BYTES: usize = 16 * 1024;
/// Groups beyond this are a mistake in a path.
const GROUPS_MAX: usize = 1_000_000;
/// How long what the kernel did not take may wait after the last event.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Server {
    poll: Poll,
    listener: TcpListener,
    /// By token.
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

    /// Waits for readiness, at most so long, and serves it.
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
                Err(error) => return Err(error).context("cannot accept: raise `ulimit -n`"),
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
            Ok(Fate::Stays) => {}
            Ok(Fate::Opened(group)) if group < GROUPS_MAX => {
                if self.groups.len() <= group {
                    self.groups.resize_with(group + 1, Vec::new);
                }
                self.groups[group].push(n);
                self.open += 1;
            }
            Ok(Fate::Opened(_) | Fate::Left) | Err(_) => self.remove(n),
        }
    }

    fn remove(&mut self, n: usize) {
        let Some(mut socket) = self.sockets[n].take() else { return };
        // Dropping it closes it whether this works or not.
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

    /// Writes every event of the plan when it is due, and then what still waits.
    pub(super) fn publish(&mut self, plan: &Plan) -> anyhow::Result<Done> {
        let frame = text_frame(plan.body().as_bytes());
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
                    self.write_to_all(group, &frame, &mut done);
                }
            }
        }
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while Instant::now() < deadline && self.sockets.iter().flatten().any(Socket::is_backlogged) {
            self.poll(Some(Duration::from_millis(10)))?;
        }
        done.left = self.left - left_before;
        Ok(done)
    }

    fn write_to_all(&mut self, group: usize, frame: &[u8], done: &mut Done) {
        let mut gone = Vec::new();
        for n in self.groups.get(group).into_iter().flatten() {
            let Some(socket) = self.sockets[*n].as_mut() else { continue };
            match socket.send(frame) {
                Ok(whole) => {
                    done.writes += 1;
                    done.queued += u64::from(!whole);
                }
                Err(_) => gone.push(*n),
            }
        }
        for n in gone {
            self.remove(n);
        }
    }
}

/// A whole text message as a server sends it: unmasked.
fn text_frame(payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
    let mut frame = Vec::with_capacity(payload.len() + 10);
    // Writing to memory does not fail.
    let _ = header.format(payload.len() as u64, &mut frame);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_that_of_the_standard() {
        assert_eq!(text_frame(b"Hello"), [0x81, 5, b'H', b'e', b'l', b'l', b'o']);
        assert_eq!(text_frame(&[b'x'; 246])[..4], [0x81, 126, 0, 246]);
    }
}
