//! The SQL of replays: the events of one organisation after the cursors of several clients.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgConnection, PgPool};

use super::waiter::{ReplayError, Waiter};
use crate::cursor::Point;
use crate::log::{LogRow, LoggedEvent, PointParameters, RowDecoder};
use crate::org::OrgId;
use crate::wire::Event;

/// The range of the log that one read covers, and the topics that its waiters need.
pub(super) struct ReadPlan {
    org: OrgId,
    /// All waiters have seen everything that this point covers.
    from: Point,
    /// All waiters have seen what this point covers up to `id`.
    to: Point,
    id: i64,
    /// No waiter needs an event with a higher id.
    id_max: i64,
    every_topic: bool,
    topics: Vec<String>,
    events_max: usize,
    bytes_max: usize,
}

/// Result of one read.
pub(super) enum ReadOutcome {
    Events { events: Vec<Arc<Event>>, bytes: usize },
    TooMany,
}

impl ReadPlan {
    /// Plans a read that serves all these waiters. They resume from different cursors, so the read starts at
    /// the point before which all of them have seen everything. Returns none if there is no waiter.
    pub(super) fn new(org: OrgId, waiters: &[Waiter], events_max: usize, bytes_max: usize) -> Option<Self> {
        let (first, others) = waiters.split_first()?;
        let from = others.iter().fold((*first.since.from).clone(), |from, w| from.meet(&w.since.from));
        let to = others.iter().fold((*first.since.to).clone(), |to, w| to.meet(&w.since.to));
        let mut topics: Vec<_> = waiters.iter().map(|w| w.topic.to_string()).collect();
        topics.sort_unstable();
        topics.dedup();
        Some(Self {
            org,
            from,
            to,
            id: waiters.iter().map(|w| w.since.id).min()?,
            id_max: waiters.iter().map(|w| w.until.max_id()).max()?,
            every_topic: waiters.iter().any(|w| w.topic.is_org()),
            topics,
            events_max,
            bytes_max,
        })
    }
}

/// Reads the organisation's events, and the control events to all organisations. The rows are streamed
/// without an order and sorted here. So a read that finds too much stops at once, and no row is read twice.
///
/// The time grows linearly with the rows and the transactions in progress, because `not in` a subquery is a
/// hash table, and the lateral query is one search of an index for each transaction. `<> all` of an array is
/// neither: in a generic plan it compares every row with every transaction.
pub(super) async fn missed_by(
    waiters: &[Waiter],
    plan: &ReadPlan,
    connection: &mut PgConnection,
) -> Result<ReadOutcome, sqlx::Error> {
    let (since, seen) = (PointParameters::new(&plan.from), PointParameters::new(&plan.to));
    let mut rows = sqlx::query_as!(
        LogRow,
        r#"
        with in_progress as materialized (select x::xid8 as xid from unnest($2::text[]) x)
        select id as "id!", xid::text::bigint as "xid!", org_id as "org_id: OrgId", topic as "topic!",
               event as "event!", subject, data::text as "data!", old::text, truncated as "truncated!",
               needs_claim as "needs_claim!", at as "at!", traceparent, watch
        from (
            select * from warden.events where org_id = $4 and xid >= $1::text::xid8
            union all
            select e.* from in_progress p cross join lateral (
                select * from warden.events where org_id = $4 and xid = p.xid offset 0
            ) e
            union all
            select * from warden.events
            where org_id = $4 and id > $3 and xid < $1::text::xid8 and xid not in (select p.xid from in_progress p)
            union all
            select * from warden.events where org_id is null and xid >= $1::text::xid8
            union all
            select e.* from in_progress p cross join lateral (
                select * from warden.events where org_id is null and xid = p.xid offset 0
            ) e
            union all
            select * from warden.events
            where org_id is null and id > $3 and xid < $1::text::xid8
              and xid not in (select p.xid from in_progress p)
            offset 0
        ) new
        where id <= $5
          and not (id <= $8 and xid < $9::text::xid8 and xid not in (select x::xid8 from unnest($10::text[]) x))
          and ($6 or topic = any ($7) or subject = any ($7) or org_id is null or event like 'warden.%')
        "#,
        since.xmax,
        &since.in_progress,
        since.max_id,
        plan.org.as_uuid(),
        plan.id_max,
        plan.every_topic,
        &plan.topics,
        plan.id,
        seen.xmax,
        &seen.in_progress,
    )
    .fetch(connection);
    let mut decoder = RowDecoder::default();
    let (mut events, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        let Some(LoggedEvent { event, .. }) = decoder.decode(row) else { continue };
        if !waiters.iter().any(|waiter| waiter.missed(&event)) {
            continue;
        }
        bytes += event.memory_bytes();
        events.push(event);
        if events.len() > plan.events_max || bytes > plan.bytes_max {
            return Ok(ReadOutcome::TooMany);
        }
    }
    events.sort_by_key(|event| event.id);
    Ok(ReadOutcome::Events { events, bytes })
}

/// Errors of cursors that cannot be served, by the `xmin` of their first snapshot. Retention may have deleted
/// an event of the organisation, and such a snapshot does not cover the event.
pub(super) type Truncated = HashMap<u64, ReplayError>;

/// Finds out which cursors of an organisation with these `xmin`s cannot be served.
pub(super) async fn truncated(
    pool: &PgPool,
    plan: &ReadPlan,
    xmins: &[u64],
) -> Result<Truncated, sqlx::Error> {
    let xmins: Vec<_> = xmins.iter().map(u64::to_string).collect();
    let truncated = sqlx::query!(
        r#"select xmin as "xmin!", reason as "reason!"
           from unnest($1::text[]) xmin, warden.truncation_reason($2, xmin::xid8) reason
           where reason is not null"#,
        &xmins,
        plan.org.as_uuid(),
    )
    .fetch_all(pool)
    .await?;
    let reasons = truncated.iter().filter_map(|row| {
        let is_by_share = row.reason == "log_share";
        Some((row.xmin.parse().ok()?, if is_by_share { ReplayError::LogShare } else { ReplayError::TooOld }))
    });
    Ok(reasons.collect())
}
