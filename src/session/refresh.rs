//! A fresh token in place of the old one, while the session goes on.
//!
//! A token whose key is known is judged at once. One whose key must be fetched waits beside the session's
//! loop, and those behind it wait for their turn: tokens count in the order in which they came. A refresh
//! that fails ends nothing before the old token does.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::ready;

use serde::Deserialize;
use serde_json::json;

use super::{Next, Session};
use crate::audit_trail::{self, TokenHash};
use crate::auth::{AuthError, Identity, Token};
use crate::hub::SessionCheck as _;
use crate::wire::{ClientMessage, CloseCode, Status, Topic, push};

/// A token that waits for its key.
pub(super) type Refreshing = Pin<Box<dyn Future<Output = Refreshed> + Send>>;

/// What became of it.
pub(super) struct Refreshed {
    message: ClientMessage,
    token: TokenHash,
    verified: Result<Identity, AuthError>,
}

impl Session {
    /// Judges the token of a message, or has it wait.
    pub(super) fn refresh(&mut self, message: ClientMessage) -> Next {
        #[derive(Deserialize)]
        struct Payload {
            access_token: String,
        }
        let Ok(payload) = serde_json::from_str::<Payload>(message.payload.get()) else {
            self.refuse(&message, "invalid payload", "send {\"access_token\": \"<token>\"}");
            return Next::Continue;
        };
        let token = Token::new(payload.access_token);
        let hash = token.hash();
        if self.refreshing.is_empty() {
            match self.shared.verifier.verify_now(&token) {
                Err(AuthError::UnknownKey | AuthError::KeysUnavailable) => {}
                verified => return self.on_refreshed(Refreshed { message, token: hash, verified }),
            }
        }
        if self.refreshing.len() >= self.shared.limits.refreshes_max {
            self.refuse(&message, "unavailable", "too many tokens wait for their key: try again");
            return Next::Continue;
        }
        let verifier = Arc::clone(&self.shared.verifier);
        self.refreshing.push_back(Box::pin(async move {
            let verified = verifier.verify(&token).await;
            Refreshed { message, token: hash, verified }
        }));
        Next::Reschedule
    }

    pub(super) fn on_refreshed(&mut self, refreshed: Refreshed) -> Next {
        let Refreshed { message, token, verified } = refreshed;
        match verified {
            Ok(identity) if identity.is_same_user(&self.identity) => {
                let identity = Arc::new(identity);
                self.standing.replace(Arc::clone(&identity));
                if let Some(close) = self.standing.close_reason() {
                    audit_trail::refresh_refused(self.who(), close.reason, token);
                    return Next::Close(close);
                }
                self.identity = identity;
                audit_trail::refreshed(self.who(), token);
                let left = self.leave_forbidden();
                self.reply(&message, Status::Ok, json!({}));
                for frame in left {
                    self.send(&frame);
                }
                Next::Reschedule
            }
            Ok(_) => {
                audit_trail::refresh_refused(self.who(), CloseCode::IDENTITY_CHANGED.reason, token);
                Next::Close(CloseCode::IDENTITY_CHANGED)
            }
            Err(error @ AuthError::KeysUnavailable) => {
                audit_trail::refresh_refused(self.who(), &error.to_string(), token);
                self.refuse(&message, "unavailable", &error.to_string());
                Next::Reschedule
            }
            Err(error) => {
                audit_trail::refresh_refused(self.who(), &error.to_string(), token);
                self.refuse(&message, "invalid token", &error.to_string());
                Next::Reschedule
            }
        }
    }

    /// Leaves what the present token does not allow any more. What the client is told is returned: it comes
    /// behind the reply. `phx_close` and not `phx_error`, upon which clients would join again and again.
    fn leave_forbidden(&mut self) -> Vec<bytes::Bytes> {
        let may_stay = |topic: &Topic| self.shared.topics.check(&self.identity.topics, topic);
        let forbidden: Vec<_> = self
            .joined
            .topics()
            .filter_map(|topic| may_stay(topic).err().map(|why| (topic.clone(), why)))
            .collect();
        let mut frames = Vec::new();
        for (topic, why) in forbidden {
            let Some(joined) = self.joined.remove(&topic) else { continue };
            self.end_membership(&topic, &joined);
            let join_ref = joined.join_ref.as_deref();
            let payload = json!({"reason": "forbidden topic", "message": why.to_string()});
            frames.push(push(join_ref, join_ref, &topic.to_string(), "phx_close", payload));
        }
        frames
    }
}

/// Resolves with the first of these when it is through, and takes it out.
pub(super) fn next_refreshed(refreshing: &mut VecDeque<Refreshing>) -> impl Future<Output = Refreshed> {
    poll_fn(move |cx| {
        let Some(first) = refreshing.front_mut() else { return std::task::Poll::Pending };
        let refreshed = ready!(first.as_mut().poll(cx));
        refreshing.pop_front();
        std::task::Poll::Ready(refreshed)
    })
}
