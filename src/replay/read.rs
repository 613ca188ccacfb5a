//! One turn: the log is read once for all clients of an organisation that wait.
//!
//! They come from different points, so the read begins where all of them have seen everything, and each takes
//! what it missed. Where that is too much for one read they are parted, those who missed least first.

use std::cmp::Reverse;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgPool};

use super::queue::Turn;
use super::{Replay, ReplayError, Waiter};
use crate::log::cursor::Point;
use crate::log::{LogRow, LoggedEvent, Names, Since};
use crate::org::OrgId;
use crate::wire::Event;

/// Transactions in progress at the points from which the clients of one read come: others wait for the next
/// read. A cursor holds some ten thousand.
const IN_PROGRESS_MAX: usize = 20_000;

/// What one read is to bring.
struct Wanted {
    org: OrgId,
    /// Everybody has seen what it covers.
    from: Point,
    /// And what this covers up to the id.
    to: Point,
    id: i64,
    /// Nobody wants more than this.
    id_max: i64,
    every_topic: bool,
    topics: Vec<String>,
    events_max: usize,
    bytes_max: usize,
}

/// What a read brought.
enum Brought {
    Events { events: Vec<(u64, Arc<Event>)>, bytes: usize },
    TooMany,
}

impl Replay {
    /// Reads for those whose turn it is, and answers them.
    pub(super) async fn take(&self, mut turn: Turn<Waiter>) {
        turn.waiters.retain(|waiter| !waiter.answer.is_closed());
        // The oldest first: whether somebody wants an event is most often known after one look.
        turn.waiters.sort_by_key(|waiter| waiter.since.id);
        let rest = split_off_rest(&mut turn.waiters);
        self.turns.put_back(turn.org, [rest, Vec::new()]);
        let Some(wanted) = self.wanted(&turn) else { return };
        match self.read(&wanted, &turn.waiters).await {
            Ok((brought, truncated)) => self.answer(turn, brought, truncated),
            // Those from long ago must not keep the others from what is quickly read.
            Err(ReplayError::Timeout) if differ(&turn.waiters) => {
                let waiters = std::mem::take(&mut turn.waiters);
                self.part(turn.org, waiters);
            }
            Err(error) => {
                tracing::warn!(%error, org.id = %turn.org, "the log could not be read for those who come back");
                for waiter in turn.waiters {
                    let _ = waiter.answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn wanted(&self, turn: &Turn<Waiter>) -> Option<Wanted> {
        let (first, others) = turn.waiters.split_first()?;
        let from = others.iter().fold((*first.since.from).clone(), |from, w| from.meet(&w.since.from));
        let to = others.iter().fold((*first.since.to).clone(), |to, w| to.meet(&w.since.to));
        let mut topics: Vec<_> = turn.waiters.iter().map(|w| w.topic.to_string()).collect();
        topics.sort_unstable();
        topics.dedup();
        Some(Wanted {
            org: turn.org,
            from,
            to,
            id: turn.waiters.iter().map(|w| w.since.id).min()?,
            id_max: turn.waiters.iter().map(|w| w.until.max_id()).max()?,
            every_topic: turn.waiters.iter().any(|w| w.topic.is_org()),
            topics,
            events_max: self.limits.events_max,
            bytes_max: turn.held.bytes(),
        })
    }

    /// Everybody is answered, or waits for another turn.
    fn answer(&self, mut turn: Turn<Waiter>, brought: Brought, truncated: Option<u64>) {
        let (gone, waiters): (Vec<_>, Vec<_>) =
            turn.waiters.drain(..).partition(|w| Some(w.since.from.snapshot.xmin) <= truncated);
        for waiter in gone {
            let _ = waiter.answer.send(Err(ReplayError::TooOld));
        }
        match brought {
            Brought::Events { events, bytes } => {
                tracing::debug!(
                    org.id = %turn.org,
                    clients = waiters.len(),
                    events = events.len(),
                    bytes,
                    "the log was read for those who come back"
                );
                let events = Arc::new(events);
                turn.held.keep(bytes);
                let held = Arc::new(turn.held);
                for waiter in waiters {
                    let _ = waiter.answer.send(Ok((Arc::clone(&events), Arc::clone(&held))));
                }
            }
            // What they missed may fit by itself.
            Brought::TooMany if differ(&waiters) => self.part(turn.org, waiters),
            Brought::TooMany => {
                for waiter in waiters {
                    let _ = waiter.answer.send(Err(ReplayError::TooMany));
                }
            }
        }
    }

    /// Two halves take turns of their own, those who missed least first.
    fn part(&self, org: OrgId, mut waiters: Vec<Waiter>) {
        tracing::debug!(org.id = %org, clients = waiters.len(), "too much for one read: parted");
        waiters.sort_by_cached_key(|w| (Reverse(w.since.id), w.topic.to_string()));
        let older = waiters.split_off(waiters.len() / 2);
        self.turns.put_back(org, [waiters, older]);
    }

    /// What was brought, and the highest `xmin` of a cursor that is too old to be served by it.
    async fn read(&self, wanted: &Wanted, waiters: &[Waiter]) -> Result<(Brought, Option<u64>), ReplayError> {
        let mut xmins: Vec<_> = waiters.iter().map(|w| w.since.from.snapshot.xmin).collect();
        xmins.sort_unstable();
        xmins.dedup();
        let read = async {
            let mut connection = self.pool.acquire().await?;
            let brought = self.read_on(&mut connection, wanted, waiters).await;
            if matches!(brought, Ok(Brought::Events { .. })) {
                drop(connection);
            } else {
                // Rows may still be on their way: nobody must wait for them.
                connection.close_on_drop();
            }
            let brought = brought?;
            // Asked after the reading: a slot that was emptied before or during it is noticed either way.
            self.metrics.replay_queries.inc();
            Ok((brought, highest_truncated(&self.pool, &xmins).await?))
        };
        match tokio::time::timeout(self.limits.turn_timeout, read).await {
            // The server gives up at the same moment, and may be the first to say so.
            Ok(Err(error)) if is_cancelled(&error) => Err(ReplayError::Timeout),
            Ok(done) => done.map_err(|error: sqlx::Error| Arc::new(error).into()),
            Err(_) => Err(ReplayError::Timeout),
        }
    }

    async fn read_on(
        &self,
        connection: &mut PgConnection,
        wanted: &Wanted,
        waiters: &[Waiter],
    ) -> Result<Brought, sqlx::Error> {
        let mut tx = connection.begin().await?;
        // As for the reader: one good plan, by index, whatever the statistics say. And the server gives up by
        // itself what nobody waits for any more.
        let timeout = self.limits.turn_timeout.as_millis().to_string();
        sqlx::query!(
            "select set_config('plan_cache_mode', 'force_generic_plan', true) as plan,
                    set_config('enable_seqscan', 'off', true) as scan,
                    set_config('statement_timeout', $1, true) as timeout",
            timeout
        )
        .fetch_one(&mut *tx)
        .await?;
        self.metrics.replay_queries.inc();
        let brought = org_events(&mut tx, wanted, waiters).await?;
        if matches!(brought, Brought::Events { .. }) {
            tx.commit().await?;
        }
        Ok(brought)
    }
}

/// By a timeout of the server: of the statement (`query_canceled`), or of its wait for a lock (`lock_not_available`).
fn is_cancelled(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("57014" | "55P03"))
}

/// More than one read's worth of transactions in progress: the waiters from there on.
fn split_off_rest(waiters: &mut Vec<Waiter>) -> Vec<Waiter> {
    let mut in_progress = 0;
    let fits = waiters.iter().take_while(|w| {
        in_progress += w.since.from.snapshot.in_progress.len() + w.since.to.snapshot.in_progress.len();
        in_progress <= IN_PROGRESS_MAX
    });
    let fits = fits.count().max(1);
    if fits < waiters.len() { waiters.split_off(fits) } else { Vec::new() }
}

/// Whether one of them may miss less than another.
fn differ(waiters: &[Waiter]) -> bool {
    waiters
        .windows(2)
        .any(|w| w[0].topic != w[1].topic || w[0].since != w[1].since || w[0].until != w[1].until)
}

/// The events of an organisation, and those for all. They are read as they come and in no order, so that a
/// read which brings too much ends there, and nothing is read twice.
async fn org_events(
    connection: &mut PgConnection,
    wanted: &Wanted,
    waiters: &[Waiter],
) -> Result<Brought, sqlx::Error> {
    let (since, seen) = (Since::new(&wanted.from), Since::new(&wanted.to));
    let mut rows = sqlx::query_as!(
        LogRow,
        r#"
        select id as "id!", xid::text::bigint as "xid!", org_id as "org_id: OrgId", topic as "topic!",
               event as "event!", subject, data::text as "data!", old::text, truncated as "truncated!", at as "at!"
        from (
            select * from warden.events where org_id = $4 and xid >= $1::text::xid8
            union all
            select * from warden.events where org_id = $4 and xid = any ($2::text[]::xid8[])
            union all
            select * from warden.events
            where org_id = $4 and id > $3 and xid < $1::text::xid8 and xid <> all ($2::text[]::xid8[])
            union all
            select * from warden.events where org_id is null and xid >= $1::text::xid8
            union all
            select * from warden.events where org_id is null and xid = any ($2::text[]::xid8[])
            union all
            select * from warden.events
            where org_id is null and id > $3 and xid < $1::text::xid8 and xid <> all ($2::text[]::xid8[])
            offset 0
        ) new
        where id <= $5 and not (id <= $8 and xid < $9::text::xid8 and xid <> all ($10::text[]::xid8[]))
          and ($6 or topic = any ($7) or subject = any ($7) or org_id is null or event like 'warden.%')
        "#,
        since.xmax,
        &since.in_progress,
        since.max_id,
        wanted.org.as_uuid(),
        wanted.id_max,
        wanted.every_topic,
        &wanted.topics,
        wanted.id,
        seen.xmax,
        &seen.in_progress,
    )
    .fetch(connection);
    let mut names = Names::default();
    let (mut events, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        let Some(LoggedEvent { xid, event, .. }) = names.event(row, None) else { continue };
        if !waiters.iter().any(|waiter| waiter.wants(xid, &event)) {
            continue;
        }
        bytes += event.memory_bytes();
        events.push((xid, event));
        if events.len() > wanted.events_max || bytes > wanted.bytes_max {
            return Ok(Brought::TooMany);
        }
    }
    events.sort_by_key(|(_, event)| event.id);
    Ok(Brought::Events { events, bytes })
}

/// Of cursors whose snapshots begin there, the highest of which something may be gone by retention.
async fn highest_truncated(pool: &PgPool, xmins: &[u64]) -> Result<Option<u64>, sqlx::Error> {
    let xmins: Vec<_> = xmins.iter().map(u64::to_string).collect();
    let gone = sqlx::query_scalar!(
        r#"select xmin as "xmin!" from unnest($1::text[]) xmin where warden.is_truncated(xmin::xid8)"#,
        &xmins
    )
    .fetch_all(pool)
    .await?;
    Ok(gone.iter().filter_map(|xmin| xmin.parse().ok()).max())
}
