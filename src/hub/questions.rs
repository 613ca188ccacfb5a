//! Questions of sessions whether the node has dispatched a transaction.
//!
//! A question waits until the node's position covers what it asks for. Its answer then takes its place in the
//! organisation's fair queue, behind the events that it covers. No question needs a query.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Outbox;
use crate::cursor::{Cursor, Epoch, Point, Snapshot, Transaction};
use crate::org::OrgId;

/// Questions of one session that may wait at the same time.
pub(crate) const SESSION_QUESTIONS_MAX: usize = 8;

/// Questions of one organisation that may wait while no other organisation has any. Otherwise it may have an
/// eighth of the free places. Also the number of answers that may be queued for one organisation.
pub(crate) const ORG_QUESTIONS_MAX: usize = QUESTIONS_MAX / 8;

/// Questions of a node that may wait at the same time. The tailer compares each of them with every position.
pub(crate) const QUESTIONS_MAX: usize = 1024;

/// Transactions in progress that a question about a cursor keeps. If a cursor has more, the answer may be a
/// false no until all of them have ended.
const IN_PROGRESS_KEPT: usize = 64;

/// Time after which a question is answered although the position does not cover it.
pub(crate) const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Subject of a question.
#[derive(Clone, Debug)]
pub enum CoverageTarget {
    /// All events of a transaction.
    Transaction(Transaction),
    /// Everything that a point of a cursor covers, such as that of a page of rows.
    Point(Epoch, Box<Point>),
}

/// Result of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Every event in question was sent before the answer.
    Covered,
    /// The position did not cover it in time.
    NotCovered,
    /// The database was restored or failed over meanwhile.
    OtherEpoch,
}

/// Turns a result into the frame that the client receives.
type AnswerFrame = Box<dyn FnOnce(Coverage) -> Bytes + Send>;

/// A question that one session asks.
pub struct Question {
    pub(super) org: OrgId,
    pub(super) outbox: Arc<Outbox>,
    target: CoverageTarget,
    frame: AnswerFrame,
    asked_at: Instant,
}

/// The answer to a question, which is sent to one session.
#[derive(Debug)]
pub(super) struct Answer {
    outbox: Arc<Outbox>,
    frame: Bytes,
}

/// A session or organisation has asked too many questions that are not answered yet, or all sessions have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyQuestions;

/// Questions that wait.
#[derive(Debug, Default)]
pub(super) struct Questions(Vec<Question>);

impl CoverageTarget {
    /// Everything that the cursor covers. It takes little memory, whatever the cursor contains.
    #[must_use]
    pub fn of_cursor(cursor: Cursor) -> Self {
        let mut point = Arc::unwrap_or_clone(cursor.to);
        let snapshot = &mut point.snapshot;
        if snapshot.in_progress.len() > IN_PROGRESS_KEPT {
            *snapshot = Snapshot { xmin: snapshot.xmax, xmax: snapshot.xmax, in_progress: Vec::new() };
        }
        Self::Point(cursor.epoch, Box::new(point))
    }

    /// The epoch in which the string was issued.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Transaction(transaction) => transaction.epoch,
            Self::Point(epoch, _) => *epoch,
        }
    }

    /// Whether a client with the cursor `now` has certainly seen all of it.
    #[must_use]
    pub fn is_covered_by(&self, now: &Cursor) -> bool {
        match self {
            Self::Transaction(transaction) => now.covers_transaction(transaction.xid),
            Self::Point(_, point) => now.includes(point),
        }
    }
}

impl Question {
    /// A question about an organisation's events. `frame` builds the answer for the session with this outbox.
    #[must_use]
    pub fn new(
        org: OrgId,
        outbox: Arc<Outbox>,
        target: CoverageTarget,
        frame: impl FnOnce(Coverage) -> Bytes + Send + 'static,
    ) -> Self {
        Self { org, outbox, target, frame: Box::new(frame), asked_at: Instant::now() }
    }

    /// The result at this position of the node, if it is known yet.
    pub(super) fn result(&self, now: &Cursor) -> Option<Coverage> {
        if self.target.epoch() != now.epoch {
            Some(Coverage::OtherEpoch)
        } else if self.target.is_covered_by(now) {
            Some(Coverage::Covered)
        } else {
            self.is_expired().then_some(Coverage::NotCovered)
        }
    }

    fn is_expired(&self) -> bool {
        self.asked_at.elapsed() >= QUESTION_TIMEOUT
    }

    /// Whether the session can still receive the answer.
    fn is_open(&self) -> bool {
        self.outbox.close_state().is_none()
    }

    pub(super) fn answer(self, result: Coverage) -> (OrgId, Answer) {
        (self.org, Answer { outbox: self.outbox, frame: (self.frame)(result) })
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("org", &self.org)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Answer {
    pub(super) fn send(&self) {
        self.outbox.send(&self.frame);
    }
}

/// Number of questions up to which an organisation may add one, if this number waits in all.
fn org_share(waiting: usize) -> usize {
    QUESTIONS_MAX.saturating_sub(waiting) * ORG_QUESTIONS_MAX / QUESTIONS_MAX
}

impl Questions {
    /// Adds a question that cannot be answered yet.
    pub(super) fn add(&mut self, question: Question) -> Result<(), TooManyQuestions> {
        self.0.retain(Question::is_open);
        let of_org = self.0.iter().filter(|other| other.org == question.org);
        let of_session = of_org.clone().filter(|other| Arc::ptr_eq(&other.outbox, &question.outbox));
        if of_session.count() >= SESSION_QUESTIONS_MAX || of_org.count() >= org_share(self.0.len()) {
            return Err(TooManyQuestions);
        }
        self.0.push(question);
        Ok(())
    }

    /// Removes the questions whose result is known at this position, and those of closed sessions.
    pub(super) fn take_answered(&mut self, now: &Cursor) -> Vec<(OrgId, Answer)> {
        self.take(|question| question.result(now))
    }

    /// Removes the questions that have waited too long, and those of closed sessions.
    pub(super) fn take_expired(&mut self) -> Vec<(OrgId, Answer)> {
        self.take(|question| question.is_expired().then_some(Coverage::NotCovered))
    }

    fn take(&mut self, result: impl Fn(&Question) -> Option<Coverage>) -> Vec<(OrgId, Answer)> {
        self.0.retain(Question::is_open);
        let mut taken = Vec::new();
        let mut at = 0;
        while let Some(question) = self.0.get(at) {
            match result(question) {
                Some(result) => taken.push(self.0.swap_remove(at).answer(result)),
                None => at += 1,
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organisations_that_ask_all_they_may_leave_places_for_others() {
        let mut waiting = 0;
        for org in 0..30 {
            let before = waiting;
            while waiting - before < org_share(waiting) {
                waiting += 1;
            }
            assert!(waiting > before, "organisation {org} gets no place");
            assert!(waiting - before <= ORG_QUESTIONS_MAX);
        }
        assert!(waiting <= QUESTIONS_MAX);
    }
}
