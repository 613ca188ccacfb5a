//! Questions and first marks through fan-out: each is queued behind the organisation's events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::marks::BatchEnd;
use super::{FanoutSender, Shared};
use crate::hub::MarkRequest;
use crate::hub::questions::{Answer, ORG_QUESTIONS_MAX, Question, TooManyQuestions};
use crate::org::OrgId;
use crate::sync::lock;

/// Interval at which questions that have waited too long are answered.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Handle with which sessions ask whether a transaction was dispatched, and request first marks.
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

    /// Sends a subscription its first mark, now or at the end of the batch that the node is reading.
    pub fn request_mark(&self, request: MarkRequest) {
        // The position stays locked until the mark is queued, so no batch is announced in between.
        let mut position = lock(&self.0.hub.position);
        match position.end_of_batch().cloned() {
            Some(now) => {
                lock(&self.0.queue).add_first_mark(request.org(), request.at(now));
                self.0.work_added.notify_one();
            }
            None => position.mark_requests.add(request),
        }
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
        CoverageQuestions(Arc::clone(&self.shared))
    }

    /// Answers the questions that the node's position covers, and queues the marks that are due at it. The
    /// tailer calls it after every page, when everything that it has announced was sent or queued.
    pub fn answer_questions(&mut self) {
        let mut position = lock(&self.shared.hub.position);
        position.is_dispatched = true;
        let end = position.end_of_batch().cloned();
        let position = &mut *position;
        let Some(now) = &position.cursor else { return };
        let answers = position.questions.take_answered(now);
        self.shared.queue_answers(answers);
        let Some(end) = end else { return };
        let requests = position.mark_requests.take();
        if self.unmarked.is_empty() && requests.is_empty() {
            return;
        }
        let mut queue = lock(&self.shared.queue);
        for org in self.unmarked.drain() {
            let end = BatchEnd { batch: position.batch, cursor: end.clone(), read_at: Instant::now() };
            queue.add_batch_end(org, end);
        }
        for request in requests {
            queue.add_first_mark(request.org(), request.at(end.clone()));
        }
        drop(queue);
        self.shared.work_added.notify_one();
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
