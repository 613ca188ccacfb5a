//! The token that a session uses now, and which topics it may join of those that marks name.
//!
//! All marks of a batch name the same topics, and a session gets one on each of its topics that had events.
//! So the answer is kept until another list of topics is asked about, or until the token is replaced.

use std::sync::{Arc, Mutex, Weak};

use crate::hub::{JoinableTopics, NamedTopics};
use crate::sync::lock;
use crate::wire::Topic;

/// A session's current token. `T` is what it says.
#[derive(Debug)]
pub(super) struct CurrentToken<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    token: Arc<T>,
    /// Boxed, because few sessions get marks.
    known: Option<Box<KnownAnswer>>,
}

/// Answer about one list of topics.
#[derive(Debug)]
struct KnownAnswer {
    /// Does not keep the topics in memory.
    topics: Weak<NamedTopics>,
    joinable: Option<Arc<[bool]>>,
}

impl<T> CurrentToken<T> {
    pub(super) fn new(token: Arc<T>) -> Self {
        Self(Mutex::new(State { token, known: None }))
    }

    pub(super) fn get(&self) -> Arc<T> {
        Arc::clone(&lock(&self.0).token)
    }

    /// Replaces the token, and forgets the answer that was given for the former one.
    pub(super) fn replace(&self, token: Arc<T>) {
        *lock(&self.0) = State { token, known: None };
    }

    /// Which of these topics the token may join.
    pub(super) fn joinable(
        &self,
        topics: &Arc<NamedTopics>,
        may_join: impl Fn(&T, &Topic) -> bool,
    ) -> JoinableTopics {
        let state = lock(&self.0);
        if let Some(known) = &state.known
            && known.topics.as_ptr() == Arc::as_ptr(topics)
        {
            return JoinableTopics { topics: known.joinable.clone(), checked: 0 };
        }
        let token = Arc::clone(&state.token);
        // Not locked meanwhile, because the check reads what other threads lock.
        drop(state);
        let each: Vec<bool> = topics.iter().map(|topic| may_join(&token, topic)).collect();
        let joinable: Option<Arc<[bool]>> = each.contains(&false).then(|| each.into());
        let mut state = lock(&self.0);
        if Arc::ptr_eq(&state.token, &token) {
            let known = KnownAnswer { topics: Arc::downgrade(topics), joinable: joinable.clone() };
            state.known = Some(Box::new(known));
        }
        JoinableTopics { topics: joinable, checked: topics.len() }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn named(names: &[&str]) -> Arc<NamedTopics> {
        let topics = names.iter().map(|name| Topic::parse(name).expect("a topic"));
        Arc::new(NamedTopics::new(topics.collect()))
    }

    #[test]
    fn topics_are_checked_once_for_each_list_and_token() {
        let token = CurrentToken::new(Arc::new(vec!["calls", "recordings"]));
        let checks = Cell::new(0);
        let ask = |topics: &Arc<NamedTopics>| {
            let joinable = token.joinable(topics, |token, topic| {
                checks.set(checks.get() + 1);
                token.contains(&topic.as_str())
            });
            joinable.topics.as_deref().map(<[bool]>::to_vec)
        };
        let (first, second) = (named(&["calls", "call_logs"]), named(&["calls", "recordings"]));
        for _ in 0..3 {
            assert_eq!(ask(&first), Some(vec![true, false]));
        }
        assert_eq!(checks.get(), 2);
        // All of them.
        assert_eq!((ask(&second), ask(&second), checks.get()), (None, None, 4));
        token.replace(Arc::new(vec!["recordings"]));
        assert_eq!(
            (ask(&second), checks.get()),
            (Some(vec![false, true]), 6),
            "the answer was for another token"
        );
        // A list that is no longer in memory is not taken for a later one at the same address.
        for _ in 0..3 {
            assert_eq!(ask(&named(&["calls"])), Some(vec![false]));
            assert_eq!(ask(&named(&["recordings"])), None);
        }
    }

    #[test]
    fn a_token_that_is_replaced_meanwhile_leaves_no_answer() {
        let token = CurrentToken::new(Arc::new(vec!["calls"]));
        let topics = named(&["calls"]);
        let joinable = token.joinable(&topics, |names, topic| {
            token.replace(Arc::new(Vec::new()));
            names.contains(&topic.as_str())
        });
        assert_eq!(joinable.topics, None);
        let joinable = token.joinable(&topics, |names, topic| names.contains(&topic.as_str()));
        assert_eq!(joinable.topics.as_deref(), Some(&[false][..]));
    }
}
