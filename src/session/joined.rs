//! The topics that a session joined. They are few (a client has one to five), so they lie in a row and are searched
//! one by one; what is not there costs no memory.

use tokio_util::sync::CancellationToken;

use crate::hub::Subscribed;
use crate::wire::Topic;

/// Room for so many topics is made at first.
const USUAL_JOINS: usize = 2;

/// A topic that a session joined.
pub(super) struct Joined {
    pub(super) join_ref: Option<Box<str>>,
    /// Tells this join of the topic from an earlier one.
    pub(super) join: u64,
    pub(super) membership: Membership,
}

/// How far a join has come.
pub(super) enum Membership {
    /// Events come as they happen.
    Live(Subscribed),
    /// What was missed comes first; cancelled when the topic is left.
    Resuming(CancellationToken),
}

/// See the module's documentation. Each topic is in it once.
#[derive(Default)]
pub(super) struct Joins(Vec<(Topic, Joined)>);

impl Joins {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.0.iter().map(|(topic, _)| topic)
    }

    pub(super) fn get(&self, topic: &Topic) -> Option<&Joined> {
        self.0.iter().find(|(joined, _)| joined == topic).map(|(_, joined)| joined)
    }

    pub(super) fn get_mut(&mut self, topic: &Topic) -> Option<&mut Joined> {
        self.0.iter_mut().find(|(joined, _)| joined == topic).map(|(_, joined)| joined)
    }

    /// Adds a topic that is not there.
    pub(super) fn insert(&mut self, topic: Topic, joined: Joined) {
        debug_assert!(self.get(&topic).is_none(), "a topic is joined once");
        if self.0.is_empty() {
            self.0.reserve_exact(USUAL_JOINS);
        }
        self.0.push((topic, joined));
    }

    pub(super) fn remove(&mut self, topic: &Topic) -> Option<Joined> {
        let at = self.0.iter().position(|(joined, _)| joined == topic)?;
        Some(self.0.swap_remove(at).1)
    }

    /// All of them, and none is left.
    pub(super) fn take(&mut self) -> Vec<(Topic, Joined)> {
        std::mem::take(&mut self.0)
    }
}
