//! One socket's way out.
//!
//! All bytes to a socket go through its outbox: events, replies, pongs and the Close. An offered
//! frame is written here and now if nothing waits before it; what the kernel does not take is queued,
//! and the session's task drains it when the socket is writable. So nothing is torn or reordered, and
//! in the usual case an event costs one system call and no wake-up. Over TLS everything is queued, and
//! encrypted by the session's task.
//!
//! Nothing here awaits: the lock is held for synchronous work only.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::transport::{Kind, Transport};
use crate::sync::lock;
use crate::wire::{CloseCode, close_frame};

/// How much may wait in one outbox.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// Bytes that the kernel has not taken.
    pub queue_bytes_max: usize,
    /// Chunks of bytes, each one frame or several.
    pub queue_chunks_max: usize,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// The kernel took it all.
    Written,
    /// It waits its turn.
    Queued,
    /// Refused: the outbox was sealed before, or by this offer, because its queue was full.
    Sealed,
}

/// How a socket's way out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseState {
    /// A Close frame was queued behind everything else: with this code, or the peer's own.
    Closing(Option<CloseCode>),
    /// The socket failed; nothing more can be sent.
    Broken,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Outbox {
    transport: Transport,
    limits: OutboxLimits,
    state: Mutex<State>,
    /// Notified when nothing waits any more, or never will.
    drained: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Bytes>,
    queue_bytes: usize,
    /// Part of the first chunk is already on the wire: it must be finished before a Close.
    front_is_begun: bool,
    /// TLS has taken bytes that the kernel has not.
    must_flush: bool,
    ending: Option<CloseState>,
    /// The session's task, waiting for something to drain.
    waker: Option<Waker>,
}

impl Outbox {
    /// The outbox of this socket.
    #[must_use]
    pub fn new(transport: Transport, limits: OutboxLimits) -> Self {
        Self { transport, limits, state: Mutex::default(), drained: Notify::new() }
    }

    /// The socket, for who reads it.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Sends whole frames, now or later. When the queue is full the session ends as too slow:
    /// nobody else is held up, and resuming loses nothing.
    pub fn offer(&self, frames: &Bytes) -> SendOutcome {
        let mut state = lock(&self.state);
        if state.ending.is_some() {
            return SendOutcome::Sealed;
        }
        let mut written = 0;
        if let Kind::Plain(stream) = &self.transport.0
            && state.queue.is_empty()
        {
            match write_unasked(stream, frames) {
                Ok(all) if all == frames.len() => return SendOutcome::Written,
                Ok(some) => {
                    written = some;
                    state.front_is_begun = some > 0;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    state.end(CloseState::Broken);
                    return SendOutcome::Sealed;
                }
            }
        }
        let rest = frames.slice(written..);
        if state.queue_bytes + rest.len() > self.limits.queue_bytes_max
            || state.queue.len() >= self.limits.queue_chunks_max
        {
            if rest.len() < frames.len() {
                // Begun just now: it must be finished before the Close.
                state.push(rest);
            }
            state.seal(CloseCode::SLOW);
            return SendOutcome::Sealed;
        }
        state.push(rest);
        state.wake();
        SendOutcome::Queued
    }

    /// Ends the session: what is queued goes out, then the Close, then nothing more.
    /// Only the first ending counts.
    pub fn close(&self, close: CloseCode) {
        let mut state = lock(&self.state);
        if state.ending.is_none() {
            state.push(close_frame(close));
            state.end(CloseState::Closing(Some(close)));
        }
    }

    /// Answers the peer's Close with this Close frame.
    pub fn close_reply(&self, frame: Bytes) {
        let mut state = lock(&self.state);
        if state.ending.is_none() {
            state.push(frame);
            state.end(CloseState::Closing(None));
        }
    }

    /// How the outbox ended, if it has.
    pub fn ending(&self) -> Option<CloseState> {
        lock(&self.state).ending
    }

    /// Resolves when nothing waits, or the outbox has ended: what is sent in answer to that goes at the
    /// pace of its reader. The session's task must go on draining meanwhile.
    pub async fn drained(&self) {
        loop {
            // Made before the look, so that nothing is missed between the two.
            let drained = self.drained.notified();
            {
                let state = lock(&self.state);
                if state.queue.is_empty() || state.ending.is_some() {
                    return;
                }
            }
            drained.await;
        }
    }

    /// Writes what waits, for as long as the outbox lives. Ready when it has ended: at once, with
    /// its remains still queued; [`Self::poll_flush`] sends those.
    pub fn poll_ending(&self, cx: &mut Context<'_>) -> Poll<CloseState> {
        loop {
            let mut state = lock(&self.state);
            if let Some(ending) = state.ending {
                return Poll::Ready(ending);
            }
            if state.queue.is_empty() && !state.must_flush {
                state.wait(cx);
                return Poll::Pending;
            }
            let drained = match &self.transport.0 {
                Kind::Plain(stream) => poll_drain(&mut state, stream, cx),
                Kind::Tls(_) => {
                    drop(state);
                    let drained = self.poll_encrypt(cx);
                    state = lock(&self.state);
                    drained
                }
            };
            if drained.is_ready() {
                self.drained.notify_waiters();
            } else {
                state.wait(cx);
                // It may have ended in that moment; that is looked at before there is a pause.
                match state.ending {
                    Some(ending) => return Poll::Ready(ending),
                    None => return Poll::Pending,
                }
            }
        }
    }

    /// Writes what waits. Ready when nothing does, or the socket failed.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.transport.0 {
            Kind::Plain(stream) => poll_drain(&mut lock(&self.state), stream, cx),
            Kind::Tls(_) => self.poll_encrypt(cx),
        }
    }

    /// The same over TLS. Only the session's task comes here, so the first chunk stays the first; the lock is
    /// not held meanwhile, because encrypting takes longer than anybody who offers should wait.
    fn poll_encrypt(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let (front, was_begun) = {
                let mut state = lock(&self.state);
                let Some(front) = state.queue.front().cloned() else { break };
                // Whoever seals the outbox meanwhile must leave this chunk in its place.
                (front, std::mem::replace(&mut state.front_is_begun, true))
            };
            let written = self.transport.poll_write(cx, &front);
            let mut state = lock(&self.state);
            match written {
                Poll::Ready(Ok(written)) if written > 0 => {
                    state.must_flush = true;
                    state.advance(written);
                }
                Poll::Ready(_) => state.end(CloseState::Broken),
                Poll::Pending => {
                    state.front_is_begun = was_begun;
                    return Poll::Pending;
                }
            }
        }
        let flushed = std::task::ready!(self.transport.poll_flush(cx));
        let mut state = lock(&self.state);
        state.must_flush = false;
        if flushed.is_err() {
            state.end(CloseState::Broken);
        }
        Poll::Ready(())
    }
}

/// Writes without asking the runtime whether the socket takes anything: the kernel says so as well, and what the runtime
/// remembers lies in a place of its own, which for each of thousands of sockets has to be fetched from memory.
fn write_unasked(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    (&*SockRef::from(stream)).write(bytes)
}

/// Writes what waits, in plain text.
fn poll_drain(state: &mut State, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    while let Some(front) = state.queue.front() {
        match stream.try_write(front) {
            Ok(written) => state.advance(written),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => match stream.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => state.end(CloseState::Broken),
                Poll::Pending => return Poll::Pending,
            },
            Err(_) => state.end(CloseState::Broken),
        }
    }
    Poll::Ready(())
}

impl State {
    fn push(&mut self, bytes: Bytes) {
        self.queue_bytes += bytes.len();
        self.queue.push_back(bytes);
    }

    /// So many bytes of the first chunk are written.
    fn advance(&mut self, written: usize) {
        let Some(front) = self.queue.front_mut() else { return };
        front.advance(written);
        let is_done = front.is_empty();
        self.queue_bytes -= written;
        self.front_is_begun = !is_done;
        if is_done {
            self.queue.pop_front();
        }
    }

    /// Drops what has not begun, so that a slow client's Close is not stuck behind its backlog.
    fn seal(&mut self, close: CloseCode) {
        self.queue.truncate(usize::from(self.front_is_begun));
        self.queue_bytes = self.queue.iter().map(Bytes::len).sum();
        self.push(close_frame(close));
        self.end(CloseState::Closing(Some(close)));
    }

    fn end(&mut self, ending: CloseState) {
        if ending == CloseState::Broken {
            self.queue.clear();
            self.queue_bytes = 0;
            self.ending = Some(ending);
        }
        self.ending.get_or_insert(ending);
        self.wake();
    }

    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
