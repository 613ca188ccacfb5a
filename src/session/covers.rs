//! Questions whether a client has seen a transaction. `warden.covers` is answered behind the events in
//! question, and a request over HTTP for the cursor that it contains. Neither needs a query.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::Session;
use super::joined_topics::JoinState;
use super::pending::{Asked, PendingQuestion};
use crate::hub::{Coverage, CoverageTarget, Question, SESSION_QUESTIONS_MAX};
use crate::wire::{ClientMessage, Status, Topic};

/// Payload of the message: one of the two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    tx: Option<String>,
    cursor: Option<String>,
}

impl Session {
    /// Answers a question on a topic that is joined.
    pub(super) fn ask(&mut self, topic: Topic, message: ClientMessage) {
        let seal = self.registration.seal();
        let target = match serde_json::from_str(message.payload.get()) {
            Ok(Payload { tx: Some(tx), cursor: None }) => {
                self.context.open_transaction(seal, &tx).ok_or("unknown_tx")
            }
            Ok(Payload { tx: None, cursor: Some(cursor) }) => {
                let cursor = self.context.open_cursor(seal, &cursor);
                cursor.map(CoverageTarget::of_cursor).ok_or("unknown_cursor")
            }
            _ => {
                let hint = "the payload must be {\"tx\": \"<tx of an event>\"} or {\"cursor\": \"<cursor>\"}";
                return self.reply_error(&message, "invalid payload", hint);
            }
        };
        let target = match target {
            Ok(target) => target,
            Err(reason) => {
                return self.reply(&message, Status::Ok, json!({"resync": true, "reason": reason}));
            }
        };
        match self.joined.get(&topic).map(|joined| &joined.state) {
            Some(JoinState::Resuming(_)) if self.questions.len() >= SESSION_QUESTIONS_MAX => {
                self.reject_question(&message.into());
            }
            Some(JoinState::Resuming(_)) => {
                self.questions.push(PendingQuestion { topic, target, asked: message.into() });
            }
            _ => self.ask_hub(target, message.into()),
        }
    }

    /// Asks the questions on a topic whose missed events were sent, or that was left.
    pub(super) fn ask_pending(&mut self, topic: &Topic) {
        let (due, rest) = std::mem::take(&mut self.questions).into_iter().partition(|q| q.topic == *topic);
        self.questions = rest;
        for PendingQuestion { target, asked, .. } in due {
            self.ask_hub(target, asked);
        }
    }

    fn ask_hub(&self, target: CoverageTarget, asked: Asked) {
        let asked = Arc::new(asked);
        let answered = Arc::clone(&asked);
        let frame = move |result| {
            let response = match result {
                Coverage::Covered => json!({"covered": true}),
                Coverage::NotCovered => json!({"covered": false}),
                Coverage::OtherEpoch => json!({"resync": true, "reason": "epoch"}),
            };
            answered.reply(Status::Ok, response)
        };
        let question = Question::new(self.identity.org, Arc::clone(&self.outbox), target, frame);
        if self.context.questions.ask(question).is_err() {
            self.reject_question(&asked);
        }
    }

    fn reject_question(&self, asked: &Asked) {
        self.context.metrics.limit_reached("questions");
        let hint = "too many questions of this socket, of the organisation or of all wait: ask again later";
        self.send(&asked.reply(Status::Error, json!({"reason": "too many questions", "message": hint})));
    }
}
