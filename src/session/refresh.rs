//! Refresh: a fresh token replaces the current one while the session stays open.
//!
//! A token whose key is in memory is verified immediately. If the key must be fetched first, the token waits
//! beside the session's loop, and later tokens wait behind it, because tokens take effect in the order of
//! arrival. A failed refresh never ends a session before its current token does.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::Session;
use super::joined_topics::JoinRequest;
use super::loop_action::LoopAction;
use super::org_rate::TOKEN_UNITS;
use super::pending::{RefreshFuture, RefreshOutcome};
use crate::audit_trail::{self, TokenHash};
use crate::auth::{AuthError, Token};
use crate::hub::SessionCheck as _;
use crate::wire::{ClientMessage, CloseCode, Status, push};

impl Session {
    /// Handles `access_token`: verifies the token now, or queues it until its key arrives.
    pub(super) fn refresh(&mut self, message: ClientMessage) -> LoopAction {
        #[derive(Deserialize)]
        struct Payload {
            access_token: String,
        }
        let Ok(payload) = serde_json::from_str::<Payload>(message.payload.get()) else {
            self.reply_error(&message, "invalid payload", "send {\"access_token\": \"<token>\"}");
            return LoopAction::Continue;
        };
        self.take_from_org(TOKEN_UNITS);
        let token = Token::new(payload.access_token);
        let hash = token.hash();
        if self.refreshing.is_empty() {
            match self.context.verifier.verify_now(&token) {
                Err(AuthError::UnknownKey | AuthError::KeysUnavailable) => {}
                verified => return self.on_refreshed(RefreshOutcome { message, token: hash, verified }),
            }
        }
        if self.refreshing.len() >= self.context.limits.refreshes_max {
            let hint = "too many tokens of this session wait for their key: try again in a few seconds";
            self.reply_error(&message, "unavailable", hint);
            return LoopAction::Continue;
        }
        let verifier = Arc::clone(&self.context.verifier);
        self.refreshing.push_back(Box::pin(async move {
            let verified = verifier.verify(&token).await;
            RefreshOutcome { message, token: hash, verified }
        }));
        LoopAction::ResetTimer
    }

    /// Applies a verified token, or reports why it was rejected.
    pub(super) fn on_refreshed(&mut self, outcome: RefreshOutcome) -> LoopAction {
        let RefreshOutcome { message, token, verified } = outcome;
        match verified {
            Ok(identity) if identity.is_same_user(&self.identity) => {
                let identity = Arc::new(identity);
                self.revocation_check.replace(Arc::clone(&identity));
                if let Some(close) = self.revocation_check.close_reason() {
                    self.log_refresh_rejected(close.reason, token);
                    return LoopAction::Close(close);
                }
                let former = std::mem::replace(&mut self.identity, identity);
                if let Some(allowed) = self.take_log_line() {
                    audit_trail::refreshed(
                        self.audit_subject(),
                        token,
                        self.identity.filters.json(),
                        allowed,
                    );
                }
                let mut frames = self.leave_forbidden_topics();
                let (moved, rejected) = self.end_changed_joins(&former.filters);
                frames.extend(rejected);
                self.reply(&message, Status::Ok, json!({}));
                for frame in frames {
                    self.send(&frame);
                }
                for (topic, request) in moved {
                    self.move_join(topic, request);
                }
                LoopAction::ResetTimer
            }
            Ok(_) => {
                let close = CloseCode::IDENTITY_CHANGED;
                self.log_refresh_rejected(close.reason, token);
                LoopAction::Close(close)
            }
            Err(error) => {
                let reason = match error {
                    AuthError::KeysUnavailable => "unavailable",
                    _ => "invalid token",
                };
                let error = error.to_string();
                self.log_refresh_rejected(&error, token);
                self.reply_error(&message, reason, &error);
                LoopAction::ResetTimer
            }
        }
    }

    fn log_refresh_rejected(&mut self, reason: &str, token: TokenHash) {
        if let Some(allowed) = self.take_log_line() {
            audit_trail::refresh_rejected(self.audit_subject(), reason, token, allowed);
        }
    }

    /// Leaves the topics that the current token no longer allows. Returns the frames for the client, which
    /// must be sent after the reply. They are `phx_close` because clients rejoin after `phx_error`, and would
    /// do so without end.
    fn leave_forbidden_topics(&mut self) -> Vec<Bytes> {
        let check = |topic| self.context.check_topic(self.identity.access(), topic);
        let forbidden: Vec<_> = self
            .joined
            .topics()
            .filter_map(|topic| check(topic).err().map(|forbidden| (topic.clone(), forbidden)))
            .collect();
        let mut frames = Vec::new();
        for (topic, forbidden) in forbidden {
            let Some(joined) = self.remove_join(&topic) else { continue };
            let JoinRequest { join_ref, reply, .. } = joined.request;
            let payload = json!({"reason": "forbidden topic", "message": forbidden.to_string()});
            frames.push(match reply.filter(|reply| !reply.is_sent()) {
                Some(reply) => reply.refs.reply(Status::Error, payload),
                None => {
                    push(join_ref.as_deref(), join_ref.as_deref(), &topic.to_string(), "phx_close", payload)
                }
            });
        }
        frames
    }
}

/// Resolves when the first verification in the queue has finished, and removes it.
pub(super) fn next_refreshed(queue: &mut VecDeque<RefreshFuture>) -> impl Future<Output = RefreshOutcome> {
    poll_fn(move |cx| {
        let Some(first) = queue.front_mut() else { return Poll::Pending };
        let outcome = ready!(first.as_mut().poll(cx));
        queue.pop_front();
        Poll::Ready(outcome)
    })
}
