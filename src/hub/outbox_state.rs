//! The queue of an outbox, its memory, and how it was closed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::{Buf as _, Bytes};

use super::memory::{FramePortion, OrgFrames};
use crate::wire::{CloseCode, close_frame};

/// Entries of a queue that belong to the memory of an idle session.
pub(super) const ENTRIES_FREE: usize = 64;

/// How an outbox was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseState {
    /// A Close frame is queued behind everything else: with this code, or as an echo of the peer's Close.
    Closing(Option<CloseCode>),
    /// The socket failed, so nothing can be sent any more.
    Broken,
}

/// Content of an outbox, under its lock.
#[derive(Debug, Default)]
pub(super) struct OutboxState {
    pub(super) queue: VecDeque<Bytes>,
    pub(super) queue_bytes: usize,
    /// A part of the first chunk is already on the wire, so it must be completed before a Close frame.
    pub(super) front_is_begun: bool,
    /// TLS has accepted bytes that it has not written to the kernel yet.
    pub(super) must_flush: bool,
    pub(super) close_state: Option<CloseState>,
    /// Wakes the session's task, which waits for something to drain.
    pub(super) waker: Option<Waker>,
    /// Number of times that the queue became empty.
    pub(super) drains: u32,
    /// Memory of the organisation's frames. None until the session is registered.
    pub(super) frames: Option<Arc<OrgFrames>>,
    /// Memory of the queue itself, if it has many entries.
    entries: Option<FramePortion>,
}

/// Bytes of the entries of a queue or buffer beyond those of an idle session.
pub(super) fn entry_bytes(capacity: usize) -> usize {
    capacity.saturating_sub(ENTRIES_FREE) * size_of::<Bytes>()
}

impl OutboxState {
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.queue_bytes += bytes.len();
        self.queue.push_back(bytes);
        self.count_entries();
    }

    fn count_entries(&mut self) {
        let bytes = entry_bytes(self.queue.capacity());
        match &mut self.entries {
            Some(entries) => entries.resize(bytes),
            None if bytes > 0 => self.entries = self.frames.as_ref().map(|frames| frames.take(bytes)),
            None => {}
        }
    }

    /// Removes written bytes from the front of the queue.
    pub(super) fn advance(&mut self, written: usize) {
        let Some(front) = self.queue.front_mut() else { return };
        front.advance(written);
        let is_done = front.is_empty();
        self.queue_bytes -= written;
        self.front_is_begun = !is_done;
        if is_done {
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            self.drains = self.drains.wrapping_add(1);
            self.free_entries();
        }
    }

    /// Frees the memory of an empty queue that was long.
    fn free_entries(&mut self) {
        if self.queue.capacity() > ENTRIES_FREE {
            self.queue = VecDeque::new();
        }
        self.entries = None;
    }

    /// Drops all chunks of which no byte is on the wire, so that a slow client's Close frame does not wait
    /// behind its backlog.
    pub(super) fn drop_backlog_and_close(&mut self, close: CloseCode) {
        self.queue.truncate(usize::from(self.front_is_begun));
        self.queue.shrink_to(ENTRIES_FREE);
        self.queue_bytes = self.queue.iter().map(Bytes::len).sum();
        self.push(close_frame(close));
        self.close(CloseState::Closing(Some(close)));
    }

    pub(super) fn close(&mut self, close_state: CloseState) {
        if close_state == CloseState::Broken {
            self.queue.clear();
            self.queue_bytes = 0;
            self.free_entries();
            self.close_state = Some(close_state);
        }
        self.close_state.get_or_insert(close_state);
        self.wake();
    }

    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
