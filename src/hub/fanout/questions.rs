//! Questions through fan-out: the answer is queued behind the organisation's events.

use std::sync::Arc;
use std::time::Duration;

use super::{FanoutSender, Shared};
use crate::hub::questions::{Answer, ORG_QUESTIONS_MAX, Question, TooManyQuestions};
use crate::org::OrgId;
use crate::sync::lock;

/// Interval at which questions that have waited too long are answered.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Handle with which sessions ask whether a transaction was dispatched.
#[derive(Clone, Debug)]
pub struct CoverageQuestions(Arc<Shared>);

impl CoverageQuestions {
    /// Answers a question now, or once the node's position covers what it asks for.
    ///
    /// # Errors
    /// If too many questions wait.
    pub fn ask(&self, question: Question) -> Result<(), TooManyQuestions> {
        // The position stays locked until the answer is queued, so no batch is announced in between.
        let mut position = lock(&self.0.hub.position);
        let result = match &position.cursor {
            // The events of an announced batch may not be queued yet.
            Some(now) if position.is_dispatched => question.result(now),
            _ => None,
        };
        let Some(result) = result else { return position.questions.add(question) };
        if lock(&self.0.queue).answers_of(question.org) >= ORG_QUESTIONS_MAX {
            return Err(TooManyQuestions);
        }
        self.0.queue_answers(vec![question.answer(result)]);
        Ok(())
    }

    /// Answers questions that have waited too long, for ever. The tailer does the same after each poll, but
    /// while the database is unreachable it does not poll.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(EXPIRY_INTERVAL).await;
            let expired = lock(&self.0.hub.position).questions.take_expired();
            self.0.queue_answers(expired);
        }
    }
}

impl FanoutSender {
    /// The end of fan-out that takes questions.
    #[must_use]
    pub fn questions(&self) -> CoverageQuestions {
        CoverageQuestions(Arc::clone(&self.0))
    }

    /// Answers the questions that the node's position covers. The tailer calls it after every poll, when
    /// everything that it has announced was sent or queued.
    pub fn answer_questions(&mut self) {
        let mut position = lock(&self.0.hub.position);
        position.is_dispatched = true;
        let position = &mut *position;
        let Some(now) = &position.cursor else { return };
        let answers = position.questions.take_answered(now);
        self.0.queue_answers(answers);
    }
}

impl Shared {
    fn queue_answers(&self, answers: Vec<(OrgId, Answer)>) {
        if answers.is_empty() {
            return;
        }
        let mut queue = lock(&self.queue);
        for (org, answer) in answers {
            queue.add_answer(org, answer);
        }
        drop(queue);
        self.work_added.notify_one();
    }
}
