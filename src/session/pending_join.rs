//! A join that is prepared beside the session's loop: its filter is compiled, or rows are read for it. Its
//! reply follows.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Value, json};

use super::join_options::JoinStart;
use super::joined_topics::JoinState;
use super::pending::ResumeEnd;
use super::resume::Resume;
use super::revocation_check::RevocationCheck;
use super::{Session, SessionContext};
use crate::cursor::Cursor;
use crate::filter::Condition;
use crate::hub::{FilterHandle, FilterLimit, Outbox, Registration};
use crate::metrics::RejectionLabels;
use crate::org::OrgId;
use crate::reading::{Caller, FilterRequest, ReadError};
use crate::wire::{ClientMessage, Status, Topic, reply};

/// Joins of one session that have a filter.
pub(crate) const SESSION_FILTERS_MAX: usize = 32;

/// Compilations of a filter while its table may be changing.
const COMPILATIONS_MAX: usize = 5;

/// The parts of a session that one join uses.
pub(super) struct PendingJoin {
    pub(super) context: Arc<SessionContext>,
    pub(super) registration: Arc<Registration>,
    pub(super) outbox: Arc<Outbox>,
    /// Knows the session's current token.
    check: Arc<RevocationCheck>,
    pub(super) org: OrgId,
    topic: Topic,
    pub(super) topic_name: String,
    pub(super) join_ref: Option<String>,
    reference: Option<String>,
    /// Whether the client gets marks.
    marks: bool,
    /// The channel of the join's filter.
    filter: Option<Arc<FilterHandle>>,
}

impl Session {
    pub(super) fn pending_join(&self, topic: &Topic, message: &ClientMessage, marks: bool) -> PendingJoin {
        PendingJoin {
            context: Arc::clone(&self.context),
            registration: Arc::clone(&self.registration),
            outbox: Arc::clone(&self.outbox),
            check: Arc::clone(&self.revocation_check),
            org: self.identity.org,
            topic: topic.clone(),
            topic_name: message.topic.clone(),
            join_ref: message.join_ref.clone(),
            reference: message.reference.clone(),
            marks,
            filter: None,
        }
    }

    /// Checks whether the session may join this topic with a filter. Returns reason and hint of an error.
    pub(super) fn check_filter(&self, topic: &Topic) -> Result<(), (&'static str, String)> {
        self.check_one_table(topic)?;
        if self.joined.filters_besides(topic) >= SESSION_FILTERS_MAX {
            self.context.metrics.limit_reached("filters_per_socket");
            let hint = format!("a socket may join {SESSION_FILTERS_MAX} topics with a filter: leave one");
            return Err(("filters_per_socket", hint));
        }
        Ok(())
    }

    /// Starts to compile the filter of a join. The join is answered when the filter has its channel.
    pub(super) fn join_with_filter(
        &mut self,
        topic: Topic,
        message: &ClientMessage,
        filter: FilterRequest,
        start: JoinStart,
        marks: bool,
    ) {
        let join = self.pending_join(&topic, message, marks);
        let state = match start {
            JoinStart::Snapshot(_) => JoinState::Reading,
            _ => JoinState::Resuming,
        };
        let work = async move { join.run_filtered(&filter, start).await };
        self.start_join(topic, message, state, true, work);
    }
}

impl PendingJoin {
    async fn run_filtered(mut self, request: &FilterRequest, start: JoinStart) -> ResumeEnd {
        let opened = self.open_filter(request).await;
        let conditions = match opened {
            Ok((handle, conditions)) => {
                self.filter = Some(handle);
                conditions
            }
            Err((code, hint)) => {
                self.context.metrics.filters_rejected.get_or_create(&RejectionLabels { code }).inc();
                return self.rejected(code, &hint);
            }
        };
        let opened = match start {
            JoinStart::Snapshot(request) => {
                return self.run_snapshot(request.with_conditions(conditions)).await;
            }
            JoinStart::Now => return self.run_live(false),
            JoinStart::Since(since) => {
                let opened = self.context.open_since(self.registration.seal(), &since);
                opened.map(|cursors| (since.cursor, cursors))
            }
        };
        let Some((encoded, (since, seen))) = opened else { return self.run_live(true) };
        self.outbox.send(&self.reply(Status::Ok, &json!({"cursor": encoded})));
        self.run_resume(since, seen).await
    }

    /// The channel of a filter, and conditions for the pages of a snapshot. Returns code and hint of an
    /// error.
    async fn open_filter(
        &self,
        request: &FilterRequest,
    ) -> Result<(Arc<FilterHandle>, Vec<Condition>), (&'static str, String)> {
        let mut attempts = COMPILATIONS_MAX;
        loop {
            let compiled = self.context.reader.compile(self.caller(), &self.topic_name, request).await;
            let (filter, conditions) = compiled.map_err(|error| (error.code(), error.to_string()))?;
            attempts -= 1;
            match self.registration.open_filter(&self.topic, filter, &self.context.metrics) {
                Ok(handle) => return Ok((handle, conditions)),
                // A check of tables has begun meanwhile.
                Err(FilterLimit::OUTDATED) if attempts > 0 => {}
                Err(limit) => return Err((limit.name, limit.hint.to_owned())),
            }
        }
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
                self.reply(Status::Ok, &response)
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
        let frame: Bytes = self.reply(Status::Error, &json!({"reason": code, "message": hint}));
        ResumeEnd { rejected: Some(frame), ..ResumeEnd::default() }
    }

    pub(super) fn reply(&self, status: Status, response: &Value) -> Bytes {
        reply(self.join_ref.as_deref(), self.reference.as_deref(), &self.topic_name, status, response)
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
