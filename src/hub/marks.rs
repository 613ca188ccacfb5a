//! The first mark of a subscription.
//!
//! A mark says that a subscription has been sent every event up to a position that is the end of a batch.
//! Marks of later batches are part of fan-out. The first mark is different: it is due when a session has been
//! sent its missed events, whether or not anything happens afterwards. So it takes a place in the
//! organisation's fair queue, like the answer to a question.

use std::sync::Arc;

use super::org::Subscribed;
use super::segments::{Segment, SubscriptionId};
use crate::cursor::{Cursor, CursorSeal};
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{Topic, mark_frame};

/// Requests after which those of ended subscriptions are removed for the first time.
const REQUESTS_BEFORE_CLEANUP: usize = 64;

/// Request of a subscription for its first mark.
#[derive(Debug)]
pub struct MarkRequest {
    seal: CursorSeal,
    topic: Topic,
    segment: Arc<Segment>,
    id: SubscriptionId,
}

/// A first mark that is queued behind the events that it covers.
#[derive(Debug)]
pub(super) struct FirstMark {
    request: MarkRequest,
    cursor: Cursor,
}

/// Requests that wait until the node's position is the end of a batch.
#[derive(Debug)]
pub(super) struct MarkRequests {
    waiting: Vec<MarkRequest>,
    /// Number of requests at which those of ended subscriptions are removed.
    cleanup_at: usize,
}

impl MarkRequest {
    pub(super) fn new(seal: &CursorSeal, topic: &Topic, subscribed: &Subscribed) -> Self {
        let (segment, id) = (Arc::clone(&subscribed.segment), subscribed.id);
        Self { seal: seal.clone(), topic: topic.clone(), segment, id }
    }

    pub(super) fn org(&self) -> OrgId {
        self.seal.org()
    }

    /// The mark at this position.
    pub(super) fn at(self, cursor: Cursor) -> FirstMark {
        FirstMark { request: self, cursor }
    }

    fn is_subscribed(&self) -> bool {
        lock(&self.segment).iter().any(|subscription| subscription.id == self.id)
    }
}

impl FirstMark {
    /// Sends the mark, unless the session has left the topic. A later join of the same topic is another
    /// subscription, and must not get it.
    pub(super) fn send(&self) {
        let MarkRequest { seal, topic, segment, id } = &self.request;
        let frame = mark_frame(topic, &seal.seal(&self.cursor), &[]);
        // The segment stays locked while the mark is sent, so the session cannot leave in between.
        let subscriptions = lock(segment);
        if let Some(subscription) = subscriptions.iter().find(|subscription| subscription.id == *id) {
            subscription.outbox.send(&frame);
        }
    }
}

impl Default for MarkRequests {
    fn default() -> Self {
        Self { waiting: Vec::new(), cleanup_at: REQUESTS_BEFORE_CLEANUP }
    }
}

impl MarkRequests {
    /// Adds a request. Each subscription makes one, so cleaning up bounds the list by the subscriptions.
    pub(super) fn add(&mut self, request: MarkRequest) {
        if self.waiting.len() >= self.cleanup_at {
            self.waiting.retain(MarkRequest::is_subscribed);
            self.cleanup_at = REQUESTS_BEFORE_CLEANUP.max(2 * self.waiting.len());
        }
        self.waiting.push(request);
    }

    pub(super) fn take(&mut self) -> Vec<MarkRequest> {
        std::mem::take(self).waiting
    }
}
