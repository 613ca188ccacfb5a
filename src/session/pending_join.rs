//! A join that is prepared beside the session's loop: its filter is compiled, or rows are read for it. Its
//! reply follows.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Value, json};

use super::join_options::JoinStart;
use super::joined_topics::{JoinRequest, JoinState, JoinedTopic, PendingReply};
use super::org_rate::MESSAGE_UNITS;
use super::pending::{MessageRefs, ResumeEnd};
use super::resume::{Resume, reason};
use super::revocation_check::RevocationCheck;
use super::{Session, SessionContext};
use crate::auth::{FilterClaim, TopicRule};
use crate::cursor::Cursor;
use crate::hub::{FilterHandle, FilterLimit, Outbox, Registration};
use crate::metrics::RejectionLabels;
use crate::org::OrgId;
use crate::reading::{Caller, FilterRequest, ReadError};
use crate::replay::ReplayError;
use crate::wire::{ClientMessage, RESYNC_EVENT, Status, Topic, push};

/// Joins of one session that have a filter.
pub(crate) const SESSION_FILTERS_MAX: usize = 32;

/// The parts of a session that one join uses.
pub(super) struct PendingJoin {
    pub(super) context: Arc<SessionContext>,
    pub(super) registration: Arc<Registration>,
    pub(super) outbox: Arc<Outbox>,
    /// Knows the session's current token.
    check: Arc<RevocationCheck>,
    pub(super) org: OrgId,
    pub(super) topic: Topic,
    pub(super) topic_name: String,
    pub(super) reply: Arc<PendingReply>,
    /// Whether the client gets marks.
    marks: bool,
    /// The channel of the join's filter.
    pub(super) filter: Option<Arc<FilterHandle>>,
    /// Identifies the filter for the client.
    pub(super) digest: Option<String>,
}

impl Session {
    pub(super) fn pending_join(&self, topic: &Topic, message: &ClientMessage, marks: bool) -> PendingJoin {
        self.new_pending_join(topic, message.into(), marks)
    }

    fn new_pending_join(&self, topic: &Topic, refs: MessageRefs, marks: bool) -> PendingJoin {
        PendingJoin {
            context: Arc::clone(&self.context),
            registration: Arc::clone(&self.registration),
            outbox: Arc::clone(&self.outbox),
            check: Arc::clone(&self.revocation_check),
            org: self.identity.org,
            topic: topic.clone(),
            topic_name: topic.to_string(),
            reply: Arc::new(PendingReply::new(refs)),
            marks,
            filter: None,
            digest: None,
        }
    }

    /// Checks whether the session may join one more topic with a filter, of the client or of its token.
    /// Returns reason and hint of an error.
    pub(super) fn check_filter_count(&self, topic: &Topic) -> Result<(), (&'static str, String)> {
        if self.joined.filters_besides(topic) >= SESSION_FILTERS_MAX {
            self.context.metrics.limit_reached("filters_per_socket");
            let hint = format!("a socket may join {SESSION_FILTERS_MAX} topics with a filter: leave one");
            return Err(("filters_per_socket", hint));
        }
        Ok(())
    }

    /// Starts to compile the filters of a join: that of the client, and the rule of the token. The join is
    /// answered when it has its channel.
    pub(super) fn join_with_filter(
        &mut self,
        topic: Topic,
        message: &ClientMessage,
        filters: JoinFilters,
        start: JoinStart,
        marks: bool,
    ) {
        let join = self.pending_join(&topic, message, marks);
        let state = match start {
            JoinStart::Snapshot(_) => JoinState::Reading,
            _ => JoinState::Resuming,
        };
        let request = JoinRequest { asked: filters.asked.clone(), has_filter: true, ..join.request() };
        self.start_join(topic, request, state, async move { join.run_filtered(&filters, start).await });
    }

    /// Ends the joins whose part of the topic is another one for the present token than for the former one.
    /// When this returns, they get nothing more. Returns their new joins, and frames for the client.
    pub(super) fn end_changed_joins(
        &mut self,
        former: &FilterClaim,
    ) -> (Vec<(Topic, JoinRequest)>, Vec<Bytes>) {
        let is_changed = |topic: &&Topic| !self.identity.filters.has_same_rule(former, topic);
        let changed: Vec<Topic> = self.joined.topics().filter(is_changed).cloned().collect();
        let (mut moved, mut frames) = (Vec::new(), Vec::new());
        for topic in changed {
            let Some(joined) = self.joined.remove(&topic) else { continue };
            self.end_join(&topic, &joined);
            let JoinedTopic { request, .. } = joined;
            match request.reply.as_ref().filter(|reply| !reply.is_sent()) {
                // Questions wait until it has been sent the resync.
                None => moved.push((topic, request)),
                Some(reply) => {
                    self.ask_pending(&topic);
                    let hint = "the token was replaced by one with other filters: join again";
                    let response = json!({"reason": "token replaced", "message": hint});
                    frames.push(reply.refs.reply(Status::Error, response));
                }
            }
        }
        (moved, frames)
    }

    /// Joins a topic again with the filters of the present token. The client gets a resync.
    pub(super) fn move_join(&mut self, topic: Topic, request: JoinRequest) {
        let refs = MessageRefs::of_push(request.join_ref.as_deref(), &topic);
        let join = self.new_pending_join(&topic, refs, request.marks);
        let rule = self.identity.filters.rule(&topic);
        let filters = JoinFilters { rule, asked: request.asked.clone() };
        self.take_from_org(MESSAGE_UNITS);
        if !filters.is_empty()
            && let Err((code, hint)) = self.check_filter_count(&topic)
        {
            let frame = closed(request.join_ref.as_deref(), &topic.to_string(), "phx_error", code, &hint);
            self.send(&frame);
            return self.ask_pending(&topic);
        }
        let request = JoinRequest { has_filter: !filters.is_empty(), reply: None, ..request };
        self.start_join(topic, request, JoinState::Resuming, join.run_moved(filters));
    }
}

/// The end of a join that the client did not ask for.
fn closed(join_ref: Option<&str>, topic: &str, event: &str, code: &str, hint: &str) -> Bytes {
    push(join_ref, join_ref, topic, event, json!({"reason": code, "message": hint}))
}

/// Filters of a join.
pub(super) struct JoinFilters {
    /// The part of the topic that the token allows.
    pub(super) rule: TopicRule,
    /// Filter and columns of the client.
    pub(super) asked: Option<Arc<FilterRequest>>,
}

impl JoinFilters {
    /// Whether the client gets the whole topic.
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_none() && self.rule == TopicRule::Whole
    }
}

/// Reason why a join has no channel.
pub(super) struct NoChannel {
    pub(super) code: &'static str,
    pub(super) hint: String,
    /// Whether the same join can never succeed with this token.
    pub(super) is_final: bool,
}

impl From<ReadError> for NoChannel {
    fn from(error: ReadError) -> Self {
        Self { code: error.code(), hint: error.to_string(), is_final: error.is_final() }
    }
}

impl From<FilterLimit> for NoChannel {
    fn from(limit: FilterLimit) -> Self {
        Self { code: limit.name, hint: limit.hint.to_owned(), is_final: false }
    }
}

impl PendingJoin {
    async fn run_filtered(mut self, filters: &JoinFilters, start: JoinStart) -> ResumeEnd {
        let conditions = match self.open_channel(filters).await {
            Ok(conditions) => conditions,
            Err(NoChannel { code, hint, .. }) => return self.rejected(code, &hint),
        };
        let opened = match start {
            JoinStart::Snapshot(request) => {
                return self.run_snapshot(request.with_conditions(conditions)).await;
            }
            JoinStart::Now => return self.run_live(false),
            // Of another filter, the client may lack rows that this one selects.
            JoinStart::Since(since) if since.is_of_another(self.digest.as_deref()) => None,
            JoinStart::Since(since) => {
                let opened = self.context.open_since(self.registration.seal(), &since);
                opened.map(|cursors| (since.cursor, cursors))
            }
        };
        let Some((encoded, (since, seen))) = opened else { return self.run_live(true) };
        self.outbox.send(&self.reply(Status::Ok, json!({"cursor": encoded})));
        self.run_resume(since, seen).await
    }

    /// Joins again with other filters, and sends a resync. If that is impossible, the topic is closed.
    /// Clients join again after `phx_error`, and not after `phx_close`.
    async fn run_moved(mut self, filters: JoinFilters) -> ResumeEnd {
        if let Err(NoChannel { code, hint, is_final }) = self.open_channel(&filters).await {
            let event = if is_final { "phx_close" } else { "phx_error" };
            let frame = closed(self.reply.refs.join_ref(), &self.topic_name, event, code, &hint);
            return ResumeEnd { rejected: Some(frame), ..ResumeEnd::default() };
        }
        let error = ReplayError::Filter;
        self.context.metrics.resyncs.inc();
        let resync = |cursor: &Cursor| {
            // A whole topic has an empty one, so that the client forgets the former one.
            let payload = json!({
                "cursor": self.registration.seal().seal(cursor), "reason": reason(&error),
                "filter": self.digest.as_deref().unwrap_or_default(),
            });
            push(None, None, &self.topic_name, RESYNC_EVENT, payload)
        };
        let subscribed = self.registration.subscribe(&self.topic, self.filter.as_ref(), self.marks, resync);
        // The client asked for it, so nothing failed.
        ResumeEnd { subscribed: Some(subscribed), resync: None, rejected: None }
    }

    /// Joins for live events only. If `is_stale`, the reply asks the client to read the current state again.
    fn run_live(&self, is_stale: bool) -> ResumeEnd {
        let subscribed =
            self.registration.subscribe(&self.topic, self.filter.as_ref(), self.marks, |cursor| {
                let cursor = self.registration.seal().seal(cursor);
                let response = if is_stale {
                    json!({"cursor": cursor, "resync": true})
                } else {
                    json!({"cursor": cursor})
                };
                self.reply(Status::Ok, response)
            });
        if is_stale {
            self.context.metrics.resyncs.inc();
        }
        ResumeEnd { subscribed: Some(subscribed), ..ResumeEnd::default() }
    }

    async fn run_resume(self, since: Cursor, seen: Option<Cursor>) -> ResumeEnd {
        let resume = self.into_resume(since, seen);
        let subscribed = Some(resume.run().await);
        ResumeEnd { subscribed, resync: resume.resync.into_inner(), rejected: None }
    }

    /// The user with the session's current token.
    pub(super) fn caller(&self) -> Caller {
        let incarnation = self.registration.seal().incarnation();
        Caller { org: self.org, incarnation, claims: self.check.identity().claims.json() }
    }

    pub(super) fn rejected_read(&self, error: &ReadError) -> ResumeEnd {
        let code = error.code();
        self.context.metrics.reads_rejected.get_or_create(&RejectionLabels { code }).inc();
        self.rejected(code, &error.to_string())
    }

    fn rejected(&self, code: &str, hint: &str) -> ResumeEnd {
        let frame: Bytes = self.reply.refs.reply(Status::Error, json!({"reason": code, "message": hint}));
        ResumeEnd { rejected: Some(frame), ..ResumeEnd::default() }
    }

    /// The reply, which must be sent now. It names the filter.
    pub(super) fn reply(&self, status: Status, mut response: Value) -> Bytes {
        self.add_digest(&mut response);
        self.reply.set_sent();
        self.reply.refs.reply(status, response)
    }

    fn add_digest(&self, response: &mut Value) {
        if let Some(digest) = &self.digest {
            response["filter"] = json!(digest);
        }
    }

    /// Request of the client, without a filter.
    pub(super) fn request(&self) -> JoinRequest {
        let join_ref = self.reply.refs.join_ref().map(Box::from);
        let reply = Some(Arc::clone(&self.reply));
        JoinRequest { join_ref, marks: self.marks, reply, ..JoinRequest::default() }
    }

    pub(super) fn into_resume(self, since: Cursor, seen: Option<Cursor>) -> Resume {
        let Self { context, registration, outbox, check, org, topic, topic_name, marks, filter, .. } = self;
        let resync = OnceLock::new();
        Resume {
            context,
            registration,
            outbox,
            check,
            org,
            topic,
            topic_name,
            filter,
            since,
            seen,
            marks,
            resync,
        }
    }
}
