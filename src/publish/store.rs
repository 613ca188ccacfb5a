//! The call of `warden.publish_within()`, which is the gateway's only right to publish.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sqlx::postgres::PgPool;
use sqlx::types::Json;

use super::batch::{EventBatch, FORBIDDEN_TOPIC, INVALID_EVENT, KEY_REUSED, Problem};
use super::share::{PublishShares, Reservation};
use crate::auth::TopicAccess;
use crate::cursor::{Cursor, CursorSeal, Epoch, IN_PROGRESS_MAX, KeyRing, Point, Snapshot, Transaction};
use crate::org::{Incarnation, OrgId};
use crate::postgres::{PUBLISH_CONNECTIONS_MAX, Primary};
use crate::service::Jobs;

/// SQLSTATE of a key that was used for other events.
const KEY_REUSED_STATE: &str = "23505";
/// SQLSTATE of a call beyond the limit of keys.
const LIMIT_EXCEEDED: &str = "54000";
/// SQLSTATE of a call for an organisation that does not exist.
const INVALID_PARAMETER: &str = "22023";

/// Limits of publishing through HTTP.
#[derive(Clone, Copy, Debug)]
pub struct PublishLimits {
    /// Events of one request.
    pub events_max: usize,
    /// Bytes of one body.
    pub body_bytes_max: usize,
    /// Memory of all requests that publish.
    pub memory_bytes_max: usize,
    /// Longest wait for a turn, a connection and the database together.
    pub timeout: Duration,
}

/// The back end that publishes.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Organisation of its verified token, to which the events go.
    pub org: OrgId,
    /// Topics to which the token is limited.
    pub access: TopicAccess<'a>,
}

/// Committed events.
#[derive(Debug)]
pub struct Published {
    /// The events, in the order of the request.
    pub events: Vec<PublishedEvent>,
    /// Their transaction, sealed.
    pub tx: String,
    /// A cursor that covers all of them, sealed.
    pub cursor: String,
}

/// One committed event.
#[derive(Debug)]
pub struct PublishedEvent {
    /// The event's number.
    pub id: i64,
    /// The transaction of an earlier request that published it, sealed.
    pub earlier_tx: Option<String>,
}

/// Reason why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Some events are not valid, or not allowed.
    #[error("some events are not valid")]
    Invalid(Vec<Problem>),
    /// An idempotency key was used for other events.
    #[error("an idempotency key was used for other events")]
    KeyReused(Vec<Problem>),
    /// The organisation has used too many keys. The time until it can use another one.
    #[error("too many idempotency keys")]
    TooManyKeys(Duration),
    /// The organisation was deleted.
    #[error("the organisation does not exist")]
    UnknownOrg,
    /// The query failed. It is unknown whether the events were published, unless they have a key.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Result of `warden.publish_within()`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Invalid { problems: Vec<StoredProblem> },
    Published(Stored),
}

#[derive(Debug, Deserialize)]
struct StoredProblem {
    index: usize,
    message: String,
    hint: String,
}

#[derive(Debug, Deserialize)]
struct Stored {
    events: Vec<StoredEvent>,
    xid: u64,
    epoch: String,
    snapshot: String,
    max_id: i64,
    incarnation: i64,
}

#[derive(Debug, Deserialize)]
struct StoredEvent {
    id: i64,
    /// Transaction and epoch of an event that was published before.
    xid: Option<u64>,
    epoch: Option<String>,
}

/// Publishes for back ends.
#[derive(Debug)]
pub struct Publisher {
    primary: Arc<Primary>,
    pool: PgPool,
    keys: Arc<KeyRing>,
    shares: PublishShares,
    jobs: Jobs,
    limits: PublishLimits,
}

impl Publisher {
    /// A publisher on this database, which seals with these keys.
    #[must_use]
    pub(crate) fn new(primary: Arc<Primary>, keys: Arc<KeyRing>, jobs: Jobs, limits: PublishLimits) -> Self {
        let shares = PublishShares::new(limits.memory_bytes_max, PUBLISH_CONNECTIONS_MAX as usize);
        Self { pool: primary.publish_pool(), primary, keys, shares, jobs, limits }
    }

    /// Limits of requests.
    #[must_use]
    pub fn limits(&self) -> PublishLimits {
        self.limits
    }

    /// Reserves memory for a body. Returns none if too many requests are in progress.
    #[must_use]
    pub fn reserve(&self, org: OrgId, body_bytes: usize) -> Option<Reservation> {
        self.shares.reserve(org, body_bytes)
    }

    /// Publishes all events of a batch or none, and returns after the commit.
    ///
    /// # Errors
    /// With every problem of every event, or if the database cannot publish now.
    pub async fn publish(
        self: &Arc<Self>,
        caller: Caller<'_>,
        batch: EventBatch,
        reservation: Reservation,
    ) -> Result<Published, PublishError> {
        let known = known_problems(caller, &batch);
        let (publisher, org) = (Arc::clone(self), caller.org);
        let stored = async {
            let turn = reservation.turn().await;
            // The statement goes on if its client leaves. Otherwise the turn would be free while the
            // connection still waits for the end of the statement, and an organisation could use all
            // connections by leaving.
            let job = async move {
                let _held = (turn, reservation);
                let store = publisher.store(org, &batch, known);
                tokio::time::timeout(publisher.limits.timeout, store)
                    .await
                    .unwrap_or_else(|_| Err(too_late()))
            };
            self.jobs.run(job).await.unwrap_or_else(|| Err(too_late()))
        };
        let stored = tokio::time::timeout(self.limits.timeout, stored).await;
        let stored = stored.unwrap_or_else(|_| Err(too_late()))?;
        self.seal(org, &stored).map_err(|error| PublishError::Database(sqlx::Error::Decode(error)))
    }

    async fn store(
        &self,
        org: OrgId,
        batch: &EventBatch,
        known: Vec<Problem>,
    ) -> Result<Stored, PublishError> {
        let keys: Vec<Vec<u8>> = batch.keys.iter().map(|key| key.0.to_vec()).collect();
        let keys = (!keys.is_empty()).then_some(keys);
        let mut connection = self.pool.acquire().await?;
        let answer = sqlx::query_scalar!(
            r#"select warden.publish_within($1, $2::text::jsonb, $3, $4, $5) as "answer!: Json<Answer>""#,
            org.as_uuid(),
            batch.json,
            keys.as_deref(),
            !known.is_empty(),
            batch.traceparent,
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| rejected(error, batch))?;
        match answer.0 {
            Answer::Published(stored) => {
                self.primary.commit(&mut connection).await?;
                Ok(stored)
            }
            Answer::Invalid { problems } => Err(PublishError::Invalid(merge(known, problems, batch))),
        }
    }

    /// Seals what the client must not read.
    fn seal(
        &self,
        org: OrgId,
        stored: &Stored,
    ) -> Result<Published, Box<dyn std::error::Error + Send + Sync>> {
        // Only the number of an incarnation is sealed.
        let incarnation = Incarnation { number: stored.incarnation, ..Incarnation::default() };
        let seal = CursorSeal::new(Arc::clone(&self.keys), org, incarnation);
        let epoch: Epoch = stored.epoch.parse()?;
        let earlier = |event: &StoredEvent| {
            let (xid, epoch) = event.xid.zip(event.epoch.as_deref())?;
            Some(seal.seal_transaction(Transaction { epoch: epoch.parse().ok()?, xid }))
        };
        let events: Vec<PublishedEvent> = stored
            .events
            .iter()
            .map(|event| PublishedEvent { id: event.id, earlier_tx: earlier(event) })
            .collect();
        let own = seal.seal_transaction(Transaction { epoch, xid: stored.xid });
        let is_new = events.iter().any(|event| event.earlier_tx.is_none());
        let last = events.last().and_then(|event| event.earlier_tx.clone());
        let tx = if is_new { own } else { last.unwrap_or(own) };
        let snapshot: Snapshot = stored.snapshot.parse()?;
        // If the snapshot would be too long, a client that joins with it gets the events once more.
        let snapshot = snapshot.clone().with(stored.xid, IN_PROGRESS_MAX / 2).unwrap_or(snapshot);
        let point = Arc::new(Point { snapshot, max_id: stored.max_id });
        Ok(Published { events, tx, cursor: seal.seal(&Cursor::at(epoch, point)) })
    }
}

fn too_late() -> PublishError {
    PublishError::Database(sqlx::Error::PoolTimedOut)
}

/// Problems that are known without the database.
fn known_problems(caller: Caller<'_>, batch: &EventBatch) -> Vec<Problem> {
    let forbidden = batch.topics.iter().enumerate().filter_map(|(index, topic)| {
        let topic = topic.as_deref().filter(|topic| !caller.access.may_publish(topic))?;
        let shown: String = topic.chars().take(200).collect();
        Some(Problem {
            index,
            code: FORBIDDEN_TOPIC,
            detail: format!("the token may not publish on the topic \"{shown}\""),
            hint: Some(
                "Use a token whose app_metadata.warden_topics names it, and whose warden_filters, if any, have \"*\" \
                 for it."
                    .to_owned(),
            ),
        })
    });
    batch.problems.iter().cloned().chain(forbidden).collect()
}

/// All problems, in the order of the events. The database saw nothing of an event that it could not read.
fn merge(known: Vec<Problem>, stored: Vec<StoredProblem>, batch: &EventBatch) -> Vec<Problem> {
    let is_unread = |index| batch.problems.iter().any(|problem| problem.index == index);
    let stored = stored.into_iter().filter(|problem| !is_unread(problem.index)).map(|problem| Problem {
        index: problem.index,
        code: INVALID_EVENT,
        detail: problem.message,
        hint: Some(problem.hint),
    });
    let mut all: Vec<Problem> = known.into_iter().chain(stored).collect();
    all.sort_by_key(|problem| problem.index);
    all
}

fn rejected(error: sqlx::Error, batch: &EventBatch) -> PublishError {
    let database = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>());
    let detail = database.and_then(|error| error.detail()).unwrap_or_default();
    match database.map(sqlx::postgres::PgDatabaseError::code) {
        Some(KEY_REUSED_STATE) => {
            // One key for several events concerns none of them alone.
            let indexes: Vec<usize> = serde_json::from_str(detail).unwrap_or_default();
            let indexes = if batch.keys.len() == batch.len() { indexes } else { Vec::new() };
            let problem = |index| Problem {
                index,
                code: KEY_REUSED,
                detail: "another event with this key has other content".to_owned(),
                hint: None,
            };
            PublishError::KeyReused(indexes.into_iter().map(problem).collect())
        }
        Some(LIMIT_EXCEEDED) => {
            PublishError::TooManyKeys(Duration::from_secs(detail.parse().unwrap_or(1).max(1)))
        }
        Some(INVALID_PARAMETER) => PublishError::UnknownOrg,
        _ => PublishError::Database(error),
    }
}
