//! The outbox of one socket: sends bytes to the client, and queues those that the kernel does not accept yet.
//!
//! All bytes to a socket go through its outbox: events, replies, pongs and the Close frame. If the queue is
//! empty, a frame is written directly, by the thread that sends it. Bytes that the kernel does not accept are
//! queued, and so is everything after them; the session's task drains the queue when the socket becomes
//! writable. Frames are therefore never split or reordered, and in the usual case an event costs one system
//! call and no wake-up. Over TLS every frame is queued, and the session's task encrypts it.
//!
//! Nothing here awaits while it holds the lock.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::memory::OrgFrames;
use super::outbox_state::{CloseState, OutboxState};
use super::transport::{Kind, Transport};
use crate::sync::lock;
use crate::wire::{CloseCode, close_frame};

/// Limits of one outbox's queue, and of all of them.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// Bytes that the kernel has not accepted.
    pub queue_bytes_max: usize,
    /// Chunks of bytes; each has one frame or several.
    pub queue_chunks_max: usize,
    /// Bytes of the frames that wait in fan-out, in outboxes and in replay buffers, of all organisations. An
    /// organisation may hold as many as then remain free. Beyond that its fullest outboxes are closed.
    pub memory_bytes_max: usize,
}

/// Result of sending frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// The kernel accepted all bytes.
    Written,
    /// The frames, or a part of them, are in the queue.
    Queued,
    /// The outbox was closed before, or is closed now because its queue is full.
    Closed,
}

/// Bytes that wait for one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backlog {
    /// Bytes in the queue and in replay buffers.
    pub(super) bytes: usize,
    /// Those in replay buffers, which are dropped when the session's task ends.
    pub(super) buffered_bytes: usize,
    /// Whether the outbox is closed.
    pub(super) is_closed: bool,
}

/// A socket with its bounded queue.
#[derive(Debug)]
pub struct Outbox {
    transport: Transport,
    limits: OutboxLimits,
    state: Mutex<OutboxState>,
    /// Bytes in the replay buffers of the session.
    buffered_bytes: AtomicUsize,
    /// Notified when the queue is empty, or the outbox is closed.
    drained: Notify,
}

impl Outbox {
    /// Creates the outbox of a socket.
    #[must_use]
    pub fn new(transport: Transport, limits: OutboxLimits) -> Self {
        Self {
            transport,
            limits,
            state: Mutex::default(),
            buffered_bytes: AtomicUsize::new(0),
            drained: Notify::new(),
        }
    }

    /// Counts what the outbox will hold as memory of its organisation.
    pub(super) fn count_for(&self, frames: Arc<OrgFrames>) {
        lock(&self.state).frames = Some(frames);
    }

    /// The socket, for the task that reads it.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Sends whole frames, directly or through the queue. If the queue is full, the session ends as too slow.
    /// No other session is delayed, and the client loses nothing when it resumes.
    pub fn send(&self, frames: &Bytes) -> SendOutcome {
        self.send_frames(frames, false)
    }

    /// Sends whole frames like [`Self::send`]. Their memory is counted elsewhere: with the broadcast that
    /// other outboxes share, or by the sender until the queue is empty.
    pub fn send_counted(&self, frames: &Bytes) -> SendOutcome {
        self.send_frames(frames, true)
    }

    fn send_frames(&self, frames: &Bytes, is_counted: bool) -> SendOutcome {
        let mut state = lock(&self.state);
        if state.close_state.is_some() {
            return SendOutcome::Closed;
        }
        let mut written = 0;
        if let Kind::Plain(stream) = &self.transport.0
            && state.queue.is_empty()
        {
            match write_directly(stream, frames) {
                Ok(all) if all == frames.len() => return SendOutcome::Written,
                Ok(some) => {
                    written = some;
                    state.front_is_begun = some > 0;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    state.close(CloseState::Broken);
                    return SendOutcome::Closed;
                }
            }
        }
        let mut rest = frames.slice(written..);
        if state.queue_bytes + rest.len() > self.limits.queue_bytes_max
            || state.queue.len() >= self.limits.queue_chunks_max
        {
            if rest.len() < frames.len() {
                // The direct write has sent a part of this chunk, which must be completed before the Close
                // frame.
                state.push(rest);
            }
            state.drop_backlog_and_close(CloseCode::SLOW);
            return SendOutcome::Closed;
        }
        if let Some(frames) = state.frames.as_ref().filter(|_| !is_counted) {
            rest = frames.count(rest, 0);
        }
        state.push(rest);
        state.wake();
        SendOutcome::Queued
    }

    /// Closes the session of a client that is too slow, and drops its queue. Only the first close has an
    /// effect.
    pub fn close_as_slow(&self) {
        let mut state = lock(&self.state);
        if state.close_state.is_none() {
            state.drop_backlog_and_close(CloseCode::SLOW);
            self.drained.notify_waiters();
        }
    }

    /// Bytes that wait for the client.
    pub(super) fn backlog(&self) -> Backlog {
        let state = lock(&self.state);
        let buffered_bytes = self.buffered_bytes.load(Ordering::Relaxed);
        let is_closed = state.close_state.is_some();
        Backlog { bytes: state.queue_bytes + buffered_bytes, buffered_bytes, is_closed }
    }

    /// Number of times that the queue became empty. None if it is empty now.
    #[must_use]
    pub fn drains(&self) -> Option<u32> {
        let state = lock(&self.state);
        (!state.queue.is_empty()).then_some(state.drains)
    }

    /// Whether the organisation has room for frames that can wait.
    #[must_use]
    pub fn has_room(&self) -> bool {
        lock(&self.state).frames.as_ref().is_none_or(|frames| frames.is_half_free())
    }

    /// Counts bytes in a replay buffer of the session.
    pub(super) fn add_buffered(&self, bytes: usize) {
        self.buffered_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove_buffered(&self, bytes: usize) {
        self.buffered_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Ends the session: the queue is sent, then the Close frame, then nothing more. Only the first call has
    /// an effect.
    pub fn close(&self, close: CloseCode) {
        let mut state = lock(&self.state);
        if state.close_state.is_none() {
            state.push(close_frame(close));
            state.close(CloseState::Closing(Some(close)));
        }
    }

    /// Answers the peer's Close with this Close frame.
    pub fn close_reply(&self, frame: Bytes) {
        let mut state = lock(&self.state);
        if state.close_state.is_none() {
            state.push(frame);
            state.close(CloseState::Closing(None));
        }
    }

    /// How the outbox was closed. None while it is open.
    pub fn close_state(&self) -> Option<CloseState> {
        lock(&self.state).close_state
    }

    /// Resolves when the queue is empty, or the outbox is closed. A sender that waits for it sends at the
    /// pace of the client. The session's task must keep draining meanwhile.
    pub async fn drained(&self) {
        loop {
            // Created before the check, so that a notification between the two is not missed.
            let drained = self.drained.notified();
            {
                let state = lock(&self.state);
                if state.queue.is_empty() || state.close_state.is_some() {
                    return;
                }
            }
            drained.await;
        }
    }

    /// Drains the queue as long as the outbox is open. Ready as soon as it is closed; the queue may still
    /// hold bytes, which [`Self::poll_flush`] sends.
    pub fn poll_until_closed(&self, cx: &mut Context<'_>) -> Poll<CloseState> {
        loop {
            let mut state = lock(&self.state);
            if let Some(close_state) = state.close_state {
                return Poll::Ready(close_state);
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
                // The outbox may have been closed while the lock was released, before the waker was stored.
                match state.close_state {
                    Some(close_state) => return Poll::Ready(close_state),
                    None => return Poll::Pending,
                }
            }
        }
    }

    /// Sends the queue. Ready when it is empty, or the socket has failed.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.transport.0 {
            Kind::Plain(stream) => poll_drain(&mut lock(&self.state), stream, cx),
            Kind::Tls(_) => self.poll_encrypt(cx),
        }
    }

    /// Sends the queue over TLS. Only the session's task calls it, so the first chunk stays the first. The
    /// lock is released while a chunk is encrypted, because that takes longer than a sender should wait.
    fn poll_encrypt(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let (front, was_begun) = {
                let mut state = lock(&self.state);
                let Some(front) = state.queue.front().cloned() else { break };
                // If the queue overflows meanwhile, the overflow must not drop this chunk.
                (front, std::mem::replace(&mut state.front_is_begun, true))
            };
            let written = self.transport.poll_write(cx, &front);
            let mut state = lock(&self.state);
            match written {
                Poll::Ready(Ok(written)) if written > 0 => {
                    state.must_flush = true;
                    state.advance(written);
                }
                Poll::Ready(_) => state.close(CloseState::Broken),
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
            state.close(CloseState::Broken);
        }
        Poll::Ready(())
    }
}

/// Writes without asking the runtime whether the socket is writable, because the kernel reports the same. The
/// runtime's readiness is stored elsewhere, and with thousands of sockets reading it is one more cache miss
/// per delivery.
fn write_directly(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    (&*SockRef::from(stream)).write(bytes)
}

/// Sends the queue in plain text.
fn poll_drain(state: &mut OutboxState, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    while let Some(front) = state.queue.front() {
        match stream.try_write(front) {
            Ok(written) => state.advance(written),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => match stream.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => state.close(CloseState::Broken),
                Poll::Pending => return Poll::Pending,
            },
            Err(_) => state.close(CloseState::Broken),
        }
    }
    Poll::Ready(())
}
