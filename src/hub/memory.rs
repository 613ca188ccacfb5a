//! Memory of frames that wait in fan-out, in outboxes and in replay buffers, of each organisation and of the
//! node.
//!
//! A frame counts once, whatever the number of sockets it waits for: from its encoding until the last of them
//! has sent it. So counting costs a broadcast a few atomic operations, and a socket nothing. An organisation
//! may hold no more than what it leaves free. Beyond that its own fullest sockets are closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Memory that an organisation may hold in any case.
pub(crate) const ORG_FRAMES_MIN: usize = 256 * 1024;

/// Name of the limit in metrics.
pub(crate) const OUTBOXES_PER_ORG: &str = "outboxes_per_org";

/// Estimated memory of a frame beside its bytes.
const FRAME_BYTES: usize = 128;

/// Memory of the frames of all organisations.
#[derive(Debug)]
pub(super) struct NodeFrames {
    held: AtomicUsize,
    bytes_max: usize,
}

/// Memory of the frames of one organisation.
#[derive(Debug)]
pub(super) struct OrgFrames {
    held: AtomicUsize,
    node: Arc<NodeFrames>,
}

/// Memory of an organisation, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct FramePortion {
    org: Arc<OrgFrames>,
    bytes: usize,
}

/// A frame whose memory is counted.
struct CountedFrame {
    frame: Bytes,
    _portion: FramePortion,
}

impl NodeFrames {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), bytes_max })
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl OrgFrames {
    pub(super) fn new(node: &Arc<NodeFrames>) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), node: Arc::clone(node) })
    }

    /// Counts the memory of a frame until its last reference is dropped. `capacity` is the size of its
    /// buffer.
    pub(super) fn count(self: &Arc<Self>, frame: Bytes, capacity: usize) -> Bytes {
        let portion = self.take(FRAME_BYTES + capacity.max(frame.len()));
        Bytes::from_owner(CountedFrame { frame, _portion: portion })
    }

    /// Counts memory, also beyond the share.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> FramePortion {
        self.add(bytes);
        FramePortion { org: Arc::clone(self), bytes }
    }

    /// Bytes that the organisation may hold: as many as then remain free.
    fn share(&self) -> usize {
        let others = self.node.held.load(Ordering::Relaxed).saturating_sub(self.held());
        (self.node.bytes_max.saturating_sub(others) / 2).max(ORG_FRAMES_MIN)
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that the organisation may encode now.
    pub(super) fn room(&self) -> usize {
        self.share().saturating_sub(self.held())
    }

    /// Whether the organisation holds so much that sockets must be closed. The rest of its share is for the
    /// next step of encoding.
    pub(super) fn is_crowded(&self) -> bool {
        self.held() > self.share() / 4 * 3
    }

    /// Whether the organisation holds less than half of its share.
    pub(super) fn is_half_free(&self) -> bool {
        self.is_half_free_after(0)
    }

    /// Whether the organisation holds less than half of its share once these bytes are free.
    pub(super) fn is_half_free_after(&self, bytes: usize) -> bool {
        self.held().saturating_sub(bytes) <= self.share() / 2
    }

    fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.node.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn free(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.node.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl FramePortion {
    /// Takes or frees memory until the portion has this many bytes.
    pub(super) fn resize(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(0) => return,
            Some(more) => self.org.add(more),
            None => self.org.free(self.bytes - bytes),
        }
        self.bytes = bytes;
    }
}

impl Drop for FramePortion {
    fn drop(&mut self) {
        self.org.free(self.bytes);
    }
}

impl AsRef<[u8]> for CountedFrame {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn a_frame_counts_once_until_its_last_reference_is_dropped() {
        let node = NodeFrames::new(8 * MIB);
        let org = OrgFrames::new(&node);
        let frame = org.count(Bytes::from(vec![1; 1000]), 1000);
        let (copy, part) = (frame.clone(), frame.slice(10..20));
        assert_eq!((org.held(), node.held()), (1000 + FRAME_BYTES, 1000 + FRAME_BYTES));
        drop((frame, copy));
        assert_eq!((&part[..], org.held()), (&[1; 10][..], 1000 + FRAME_BYTES));
        drop(part);
        assert_eq!((org.held(), node.held()), (0, 0));
    }

    #[test]
    fn an_organisation_may_hold_what_it_leaves_free() {
        let node = NodeFrames::new(8 * MIB);
        let (large, small) = (OrgFrames::new(&node), OrgFrames::new(&node));
        assert_eq!((large.room(), small.room()), (4 * MIB, 4 * MIB));
        let mut held = large.take(2 * MIB);
        assert!(large.is_half_free() && !large.is_crowded());
        held.resize(3 * MIB + 4);
        assert!(!large.is_half_free() && large.is_crowded());
        // The other one is not, however much the first one holds.
        assert!(small.is_half_free() && !small.is_crowded() && small.room() > 2 * MIB);
        held.resize(9 * MIB);
        assert_eq!((large.room(), small.room()), (0, ORG_FRAMES_MIN));
        drop(held);
        assert_eq!((large.room(), node.held()), (4 * MIB, 0));
    }
}
