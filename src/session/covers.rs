//! Questions whether a client has seen a transaction. `warden.covers` is answered behind the events in
//! question. No question needs a query.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::Session;
use super::joined_topics::JoinState;
use super::pending::{MessageRefs, PendingQuestion};
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
            Some(JoinState::Resuming | JoinState::Reading) => {
                if self.questions.len() >= SESSION_QUESTIONS_MAX {
                    return self.reject_question(&message.into());
                }
                self.questions.push(PendingQuestion { topic, target, refs: message.into() });
            }
            _ => self.ask_hub(target, message.into()),
        }
    }

    /// Asks the questions on a topic whose missed events were sent, or that was left.
    pub(super) fn ask_pending(&mut self, topic: &Topic) {
        let (due, rest) = std::mem::take(&mut self.questions).into_iter().partition(|q| q.topic == *topic);
        self.questions = rest;
        for PendingQuestion { target, refs, .. } in due {
            self.ask_hub(target, refs);
        }
    }

    fn ask_hub(&self, target: CoverageTarget, refs: MessageRefs) {
        let refs = Arc::new(refs);
        let answered = Arc::clone(&refs);
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
            self.reject_question(&refs);
        }
    }

    fn reject_question(&self, refs: &MessageRefs) {
        self.context.metrics.limit_reached("questions");
        let hint = "too many questions of this socket, of the organisation or of all wait: ask again later";
        self.send(&refs.reply(Status::Error, json!({"reason": "too many questions", "message": hint})));
    }
}
