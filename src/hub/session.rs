//! A session as the hub sees it: a number, and a check whether it may stay open.

use crate::wire::{CloseCode, Topic};

/// Decides whether a session may stay open. The hub knows no tokens, so each session brings its own check.
pub trait SessionCheck: std::fmt::Debug + Send + Sync {
    /// The close code, if the session must end.
    fn close_reason(&self) -> Option<CloseCode>;

    /// Whether the session's token names a topic that needs a claim.
    fn names(&self, topic: &str) -> bool;

    /// Whether the session's token may join a topic.
    fn may_join(&self, topic: &Topic) -> bool;
}

/// A session of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub(super) u64);
