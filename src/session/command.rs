//! What a client can ask: join, leave and heartbeat; a fresh token is in `refresh`. Everything else gets an
//! answer that says so.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::joined::{Joined, Membership};
use super::{Next, Session};
use crate::hub::SendOutcome;
use crate::wire::{ClientMessage, CloseCode, Status, Topic, decode, push, reply};

/// The protocol's own topic, for heartbeats.
const PHOENIX_TOPIC: &str = "phoenix";

impl Session {
    pub(super) fn on_text(&mut self, text: &str, is_allowed: bool) -> Next {
        let Ok(message) = decode(text) else {
            // Without a ref there is nothing to reply to.
            return Next::Close(CloseCode::MALFORMED);
        };
        if !is_allowed {
            let hint = format!("a socket sends {} messages a second", self.shared.limits.messages.per_second);
            self.refuse(&message, "too many messages", &hint);
            return Next::Continue;
        }
        match message.event.as_str() {
            "heartbeat" if message.topic == PHOENIX_TOPIC => self.reply(&message, Status::Ok, json!({})),
            "phx_join" => self.join(&message),
            "phx_leave" => self.leave(&message),
            "access_token" => return self.refresh(message),
            _ if self.joined_topic(&message).is_some() => self.refuse(
                &message,
                "unknown event",
                "clients send phx_join, phx_leave, access_token and heartbeat; events are published by the backend",
            ),
            _ => self.unmatched(&message),
        }
        Next::Continue
    }

    fn join(&mut self, message: &ClientMessage) {
        let topic = Topic::parse(&message.topic).and_then(|topic| self.shared.directory.known(topic));
        let Some(topic) = topic else { return self.unmatched(message) };
        let Ok(since) = since(&message.payload) else {
            return self.refuse(
                message,
                "invalid payload",
                "the payload of a join is {} or {\"since\": cursor}",
            );
        };
        if self.identity.expires_at <= SystemTime::now() {
            // In the grace after a token's end what is there goes on, and nothing is added.
            return self.refuse(message, "token expired", "send a fresh token (access_token), then join");
        }
        if let Err(why) = self.shared.topics.check(&self.identity.topics, &topic) {
            return self.refuse(message, "forbidden topic", &why.to_string());
        }
        if let Some(former) = self.joined.remove(&topic) {
            // As Phoenix does: the former join is closed, then the new one is answered.
            self.end_membership(&topic, &former);
            let join_ref = former.join_ref.as_deref();
            self.send(&push(join_ref, join_ref, &message.topic, "phx_close", json!({})));
        } else if self.joined.len() >= self.shared.limits.joins_max {
            self.shared.metrics.limit_reached("joins");
            let hint =
                format!("a socket joins at most {} topics; `org` has them all", self.shared.limits.joins_max);
            return self.refuse(message, "too many channels joined", &hint);
        }
        let is_stale = match since {
            Some(since) if self.resume(&topic, message, &since) => return,
            Some(_) => true,
            None => false,
        };
        let subscribed = self.registration.subscribe(&topic, |cursor| {
            // What is no cursor of this database, or of another history of it: the client reads anew.
            let response =
                if is_stale { json!({"cursor": cursor, "resync": true}) } else { json!({"cursor": cursor}) };
            reply(
                message.join_ref.as_deref(),
                message.reference.as_deref(),
                &message.topic,
                Status::Ok,
                response,
            )
        });
        if is_stale {
            self.shared.metrics.resyncs.inc();
        }
        let (join, membership) = (self.next_join(), Membership::Live(subscribed));
        self.joined
            .insert(topic, Joined { join_ref: message.join_ref.as_deref().map(Box::from), join, membership });
    }

    fn leave(&mut self, message: &ClientMessage) {
        // A leave of an earlier join must not end the present one.
        if let Some(topic) = self.joined_topic(message)
            && let Some(joined) = self.joined.remove(&topic)
        {
            self.end_membership(&topic, &joined);
            self.reply(message, Status::Ok, json!({}));
            let join_ref = joined.join_ref.as_deref();
            self.send(&push(join_ref, join_ref, &message.topic, "phx_close", json!({})));
        } else {
            // As Phoenix does: who leaves what it has not joined has what it wants.
            self.reply(message, Status::Ok, json!({}));
        }
    }

    /// The topic of a message, where this session has joined it by the join that the message names.
    fn joined_topic(&self, message: &ClientMessage) -> Option<Topic> {
        let topic = Topic::parse(&message.topic)?;
        let joined = self.joined.get(&topic)?;
        (message.join_ref.is_none() || message.join_ref.as_deref() == joined.join_ref.as_deref())
            .then_some(topic)
    }

    fn unmatched(&self, message: &ClientMessage) {
        let hint = format!(
            "topics: {}; none names an organisation, yours comes from your token",
            self.shared.directory.topic_names().join(", ")
        );
        let response = json!({"reason": "unmatched topic", "message": hint});
        let join_ref = if message.event == "phx_join" { message.join_ref.as_deref() } else { None };
        self.send(&reply(join_ref, message.reference.as_deref(), &message.topic, Status::Error, response));
    }

    pub(super) fn refuse(&self, message: &ClientMessage, reason: &str, hint: &str) {
        self.reply(message, Status::Error, json!({"reason": reason, "message": hint}));
    }

    pub(super) fn reply(&self, message: &ClientMessage, status: Status, response: Value) {
        self.send(&reply(
            message.join_ref.as_deref(),
            message.reference.as_deref(),
            &message.topic,
            status,
            response,
        ));
    }

    /// A sealed outbox ends the loop by itself, so its answer needs no look.
    pub(super) fn send(&self, frame: &bytes::Bytes) {
        let _: SendOutcome = self.outbox.offer(frame);
    }
}

/// The cursor in a join's payload. `supabase` clients send a payload of their own, so unknown keys are
/// passed over; a cursor that is no string is not.
fn since(payload: &RawValue) -> Result<Option<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Payload {
        #[serde(default)]
        since: Option<String>,
    }
    serde_json::from_str::<Payload>(payload.get()).map(|payload| payload.since)
}
