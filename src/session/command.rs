//! Messages of a client: join, leave and heartbeat. Fresh tokens are handled in `refresh`. Any other message
//! is answered with an error.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::Session;
use super::join_options::{JoinOptions, JoinStart};
use super::joined_topics::{JoinRequest, JoinState, JoinedTopic};
use super::loop_action::LoopAction;
use super::pending_join::JoinFilters;
use crate::hub::{SendOutcome, Subscribed};
use crate::metrics::RejectionLabels;
use crate::wire::{ClientMessage, CloseCode, Status, Topic, decode, push, reply};

/// Topic of Phoenix itself, which carries heartbeats.
const PHOENIX_TOPIC: &str = "phoenix";

impl Session {
    /// Handles one text frame. `is_within_rate` is false if the message exceeds the client's rate.
    pub(super) fn on_text(&mut self, text: &str, is_within_rate: bool) -> LoopAction {
        let Ok(message) = decode(text) else {
            // An error reply needs the message's ref, which could not be read.
            return LoopAction::Close(CloseCode::MALFORMED);
        };
        if !is_within_rate {
            let hint = format!(
                "a socket may send {} messages per second: send fewer",
                self.context.limits.messages.per_second
            );
            self.reply_error(&message, "too many messages", &hint);
            return LoopAction::Continue;
        }
        match message.event.as_str() {
            "heartbeat" if message.topic == PHOENIX_TOPIC => self.reply(&message, Status::Ok, json!({})),
            "phx_join" => self.join(&message),
            "phx_leave" => self.leave(&message),
            "access_token" => return self.refresh(message),
            "warden.covers" => match self.joined_topic(&message) {
                Some(topic) => self.ask(topic, message),
                None => self.reply_unjoined(&message),
            },
            _ if self.joined_topic(&message).is_some() => self.reply_error(
                &message,
                "unknown event",
                "clients send phx_join, phx_leave, access_token, warden.covers and heartbeat; events are published by the \
                 backend",
            ),
            _ => self.reply_unmatched(&message),
        }
        LoopAction::Continue
    }

    fn join(&mut self, message: &ClientMessage) {
        let Some(topic) = self.topic_to_join(message) else { return self.reply_unmatched(message) };
        let JoinOptions { start, filter, marks } = match JoinOptions::parse(&message.payload) {
            Ok(options) => options,
            Err((reason, hint)) => return self.reply_error(message, reason, &hint),
        };
        if self.identity.expires_at <= SystemTime::now() {
            // In the grace after expiry the session keeps its topics and may not join more.
            return self.reply_error(
                message,
                "token expired",
                "send a fresh token (event access_token), then join again",
            );
        }
        if let Err(forbidden) = self.context.check_topic(self.identity.access(), &topic) {
            return self.reply_error(message, "forbidden topic", &forbidden.to_string());
        }
        if let JoinStart::Snapshot(_) = start
            && let Err((reason, hint)) = self.check_snapshot(&topic)
        {
            return self.reply_error(message, reason, &hint);
        }
        let is_asked = filter.is_some();
        let filters = JoinFilters { rule: self.identity.filters.rule(&topic), asked: filter.map(Arc::new) };
        let has_filter = !filters.is_empty();
        let mut checked = if is_asked { self.check_one_table(&topic) } else { Ok(()) };
        if has_filter {
            checked = checked.and_then(|()| self.check_filter_count(&topic));
        }
        if let Err((reason, hint)) = checked {
            self.context.metrics.filters_rejected.get_or_create(&RejectionLabels { code: reason }).inc();
            return self.reply_error(message, reason, &hint);
        }
        if let Some(former) = self.remove_join(&topic) {
            // Phoenix servers close the former join before they answer the new one.
            let join_ref = former.request.join_ref.as_deref();
            self.send(&push(join_ref, join_ref, &message.topic, "phx_close", json!({})));
        } else if self.joined.len() >= self.context.limits.joins_max {
            self.context.metrics.limit_reached("joins");
            let hint = format!(
                "a socket may join {} topics: leave one, or join `org`, which carries all events",
                self.context.limits.joins_max
            );
            return self.reply_error(message, "too many channels joined", &hint);
        }
        if has_filter {
            return self.join_with_filter(topic, message, filters, start, marks);
        }
        match start {
            JoinStart::Since(since) if self.resume(&topic, message, &since, marks) => {}
            JoinStart::Since(_) => self.join_live(topic, message, marks, true),
            JoinStart::Snapshot(request) => self.join_with_snapshot(topic, message, request, marks),
            JoinStart::Now => self.join_live(topic, message, marks, false),
        }
    }

    /// The topic of a message, if it can be joined. A token with filters must not find out which topics exist
    /// beside those that it names, so the others are forbidden whether they exist or not.
    fn topic_to_join(&self, message: &ClientMessage) -> Option<Topic> {
        let topic = Topic::parse(&message.topic)?;
        let is_left_out = matches!(&topic, Topic::Named(name) if self.identity.access().leaves_out(name));
        if is_left_out { Some(topic) } else { self.context.directory.joinable(topic) }
    }

    /// Joins a topic for live events only. If `is_stale`, the client sent a cursor of another database or
    /// epoch: the reply asks it to read the current state again.
    fn join_live(&mut self, topic: Topic, message: &ClientMessage, marks: bool, is_stale: bool) {
        let subscribed = self.registration.subscribe(&topic, None, marks, |cursor| {
            let cursor = self.registration.seal().seal(cursor);
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
            self.context.metrics.resyncs.inc();
        }
        self.request_mark(&topic, &subscribed);
        let (join_id, state) = (self.next_join_id(), JoinState::Live(subscribed));
        let join_ref = message.join_ref.as_deref().map(Box::from);
        let request = JoinRequest { join_ref, marks, ..JoinRequest::default() };
        self.joined.insert(topic, JoinedTopic { join_id, request, state });
    }

    fn leave(&mut self, message: &ClientMessage) {
        // A leave that names an earlier join must not end the current one.
        if let Some(topic) = self.joined_topic(message)
            && let Some(joined) = self.remove_join(&topic)
        {
            self.reply(message, Status::Ok, json!({}));
            let join_ref = joined.request.join_ref.as_deref();
            self.send(&push(join_ref, join_ref, &message.topic, "phx_close", json!({})));
        } else {
            // Phoenix servers also answer ok if the topic was not joined.
            self.reply(message, Status::Ok, json!({}));
        }
    }

    /// Requests the first mark of a subscription that has been sent everything before live events, if it gets
    /// marks.
    pub(super) fn request_mark(&self, topic: &Topic, subscribed: &Subscribed) {
        if let Some(request) = self.registration.mark_request(topic, subscribed) {
            self.context.questions.request_mark(request);
        }
    }

    pub(super) fn next_join_id(&mut self) -> u64 {
        self.last_join_id += 1;
        self.last_join_id
    }

    /// Removes a join, and asks the questions that waited for it.
    pub(super) fn remove_join(&mut self, topic: &Topic) -> Option<JoinedTopic> {
        let joined = self.joined.remove(topic)?;
        self.end_join(topic, &joined);
        self.ask_pending(topic);
        Some(joined)
    }

    /// Ends what a join gets. When this returns, nothing more is sent for it.
    pub(super) fn end_join(&mut self, topic: &Topic, joined: &JoinedTopic) {
        match &joined.state {
            JoinState::Live(subscribed) => self.registration.unsubscribe(topic, subscribed),
            JoinState::Resuming | JoinState::Reading => {
                self.resuming.retain(|resuming| resuming.join_id != joined.join_id);
            }
        }
    }

    /// The message's topic, if this session has joined it and the message names the current join or none.
    fn joined_topic(&self, message: &ClientMessage) -> Option<Topic> {
        let topic = Topic::parse(&message.topic)?;
        let joined = self.joined.get(&topic)?;
        (message.join_ref.is_none() || message.join_ref.as_deref() == joined.request.join_ref.as_deref())
            .then_some(topic)
    }

    fn reply_unjoined(&self, message: &ClientMessage) {
        self.reply_error(message, "not joined", "join the topic, then ask");
    }

    /// Topics for an error message: those that the token's filters name, or all. Entity topics are left out
    /// for a token with filters, because their kinds tell which other tables exist.
    fn known_topics(&self) -> Vec<String> {
        let filters = &self.identity.filters;
        let mut topics = self.context.directory.topic_names();
        topics.retain(|name| !filters.is_present() || filters.of(name).is_some());
        topics
    }

    fn reply_unmatched(&self, message: &ClientMessage) {
        let hint = format!(
            "topics: {}; none of them names an organisation, because yours comes from your token",
            self.known_topics().join(", ")
        );
        let response = json!({"reason": "unmatched topic", "message": hint});
        let join_ref = if message.event == "phx_join" { message.join_ref.as_deref() } else { None };
        self.send(&reply(join_ref, message.reference.as_deref(), &message.topic, Status::Error, response));
    }

    /// Replies with a reason code and a hint for people.
    pub(super) fn reply_error(&self, message: &ClientMessage, reason: &str, hint: &str) {
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

    /// Sends a frame. The result does not matter: if the outbox is closed, the loop ends anyway.
    pub(super) fn send(&self, frame: &bytes::Bytes) {
        let _: SendOutcome = self.outbox.send(frame);
    }
}
