//! A session as the hub sees it: a number, and a check whether it may stay open.

use std::ops::Deref;
use std::sync::Arc;

use crate::wire::{CloseCode, Topic};

/// Decides whether a session may stay open. The hub knows no tokens, so each session brings its own check.
pub trait SessionCheck: std::fmt::Debug + Send + Sync {
    /// The close code, if the session must end.
    fn close_reason(&self) -> Option<CloseCode>;

    /// Whether the session's token names a topic that needs a claim.
    fn names(&self, topic: &str) -> bool;

    /// Whether an aggregate topic carries events of one of these topics to the session. A token without
    /// filters gets all events, also those that were published on the aggregate topic itself.
    fn is_carried(&self, topics: &NamedTopics) -> bool;

    /// Which of these topics the session's token may join.
    fn joinable(&self, topics: &Arc<NamedTopics>) -> JoinableTopics;
}

/// The topics that the marks of one batch name. All of these marks share them.
#[derive(Debug)]
pub struct NamedTopics(Box<[Topic]>);

/// Which of the named topics a token may join.
#[derive(Debug)]
pub struct JoinableTopics {
    /// One value for each topic; none if the token may join all of them.
    pub topics: Option<Arc<[bool]>>,
    /// Number of topics that had to be checked for this answer.
    pub checked: usize,
}

impl NamedTopics {
    /// A list of topics.
    #[must_use]
    pub fn new(topics: Vec<Topic>) -> Self {
        Self(topics.into())
    }
}

impl Deref for NamedTopics {
    type Target = [Topic];

    fn deref(&self) -> &[Topic] {
        &self.0
    }
}

/// A session of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub(super) u64);
