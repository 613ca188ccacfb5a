//! The topics that a session has joined. A client joins one to five topics, so a linear search in a vector is
//! fast enough, and a session without joins allocates nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pending::MessageRefs;
use crate::hub::Subscribed;
use crate::reading::FilterRequest;
use crate::wire::Topic;

/// Capacity of the vector after the first join.
const USUAL_JOINS: usize = 2;

/// One join of a topic.
pub(super) struct JoinedTopic {
    /// Distinguishes this join from an earlier join of the same topic.
    pub(super) join_id: u64,
    pub(super) request: JoinRequest,
    pub(super) state: JoinState,
}

/// Request of a client that has joined a topic.
#[derive(Default)]
pub(super) struct JoinRequest {
    pub(super) join_ref: Option<Box<str>>,
    /// Filter and columns.
    pub(super) asked: Option<Arc<FilterRequest>>,
    /// Whether the client gets marks.
    pub(super) marks: bool,
    /// Whether the join has a filter: that of the client, or one of the token.
    pub(super) has_filter: bool,
    /// The reply of a join that is being prepared.
    pub(super) reply: Option<Arc<PendingReply>>,
}

/// The reply of a join that is prepared beside the session's loop.
pub(super) struct PendingReply {
    pub(super) refs: MessageRefs,
    is_sent: AtomicBool,
}

impl PendingReply {
    pub(super) fn new(refs: MessageRefs) -> Self {
        Self { refs, is_sent: AtomicBool::new(false) }
    }

    pub(super) fn is_sent(&self) -> bool {
        self.is_sent.load(Ordering::Relaxed)
    }

    pub(super) fn set_sent(&self) {
        self.is_sent.store(true, Ordering::Relaxed);
    }
}

/// Progress of a join.
pub(super) enum JoinState {
    /// The session receives live events.
    Live(Subscribed),
    /// The session still receives missed events.
    Resuming,
    /// The session still receives rows of its snapshot, or the events that it missed meanwhile.
    Reading,
}

/// Joined topics, each at most once.
#[derive(Default)]
pub(super) struct JoinedTopics(Vec<(Topic, JoinedTopic)>);

impl JoinedTopics {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Number of other topics whose snapshot is still being sent.
    pub(super) fn snapshots_besides(&self, topic: &Topic) -> usize {
        let is_other = |(joined, state): &&(Topic, JoinedTopic)| {
            joined != topic && matches!(state.state, JoinState::Reading)
        };
        self.0.iter().filter(is_other).count()
    }

    /// Number of other topics that are joined with a filter.
    pub(super) fn filters_besides(&self, topic: &Topic) -> usize {
        self.0.iter().filter(|(joined, state)| joined != topic && state.request.has_filter).count()
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.0.iter().map(|(topic, _)| topic)
    }

    pub(super) fn get(&self, topic: &Topic) -> Option<&JoinedTopic> {
        self.0.iter().find(|(joined, _)| joined == topic).map(|(_, joined)| joined)
    }

    pub(super) fn get_mut(&mut self, topic: &Topic) -> Option<&mut JoinedTopic> {
        self.0.iter_mut().find(|(joined, _)| joined == topic).map(|(_, joined)| joined)
    }

    /// Adds a topic that is not joined yet.
    pub(super) fn insert(&mut self, topic: Topic, joined: JoinedTopic) {
        debug_assert!(self.get(&topic).is_none(), "topic {topic} is already joined");
        if self.0.is_empty() {
            self.0.reserve_exact(USUAL_JOINS);
        }
        self.0.push((topic, joined));
    }

    pub(super) fn remove(&mut self, topic: &Topic) -> Option<JoinedTopic> {
        let at = self.0.iter().position(|(joined, _)| joined == topic)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Removes and returns all joined topics.
    pub(super) fn take(&mut self) -> Vec<(Topic, JoinedTopic)> {
        std::mem::take(&mut self.0)
    }
}
