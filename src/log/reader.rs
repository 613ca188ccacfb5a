//! The SQL of the event log.

use std::pin::pin;
use std::sync::Arc;

use sqlx::postgres::PgConnection;

use super::cursor::{Cursor, CursorPrefix, Epoch, Point, Snapshot};
use super::row::{LogRow, LoggedEvent, Since, to_events};
use crate::org::OrgId;
use crate::postgres::{NoPrimary, Primary, Session, assume_gateway_role, begin_shared, commit_shared};

/// A connection that reads the log, bound to the epoch in which it was opened.
///
/// Through a proxy that pools by the transaction (a shared session) each look is a transaction, which makes
/// sure of the epoch first, because the proxy may lead elsewhere from one to the next.
#[derive(Debug)]
pub struct LogReader {
    pub(super) connection: PgConnection,
    session: Session,
    epoch: Epoch,
    /// See `TailerLimits::page_rows_max`.
    page_rows_max: u32,
}

/// Why the log can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The database said no, or nothing.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// There may be standbys, whose snapshots omit what is in progress.
    #[error("no primary at the addresses of DATABASE_URL: {0}")]
    NoPrimary(#[from] NoPrimary),
    /// The proxy leads to another database, or another history of it, than before.
    #[error("the database changed behind a proxy")]
    Moved,
    /// Rows of another encoding may hold bytes that are no text.
    #[error("the database's encoding is {0}, and must be UTF8")]
    Encoding(String),
    /// The schema is missing or older than this binary.
    #[error("the event log is not there: run `warden migrate` against this database first")]
    NotMigrated,
    /// Something that PostgreSQL does not print.
    #[error(transparent)]
    Parse(#[from] super::cursor::ParseError),
}

/// What a read brought: everything that `to` covers and `from` doesn't, or a page of it.
#[derive(Debug)]
pub struct Read {
    /// Where the reader stood.
    pub from: Arc<Point>,
    /// Where it stands after the last page.
    pub to: Arc<Point>,
    /// In the order of their ids.
    pub events: Vec<LoggedEvent>,
    /// The id of the last row, also where that row was skipped.
    pub last_id: i64,
    /// No transaction was in progress that may still commit without ringing.
    pub is_settled: bool,
    /// There are more: the next page begins after `last_id`.
    pub has_more: bool,
    /// It was not read by one statement that also fixed where it leads: something may have been emptied between.
    pub is_page: bool,
}

impl LogReader {
    /// Connects to the primary, makes sure that it has a log, and begins its present epoch. The pool follows.
    ///
    /// # Errors
    /// When no primary can be reached, or it has no event log.
    pub async fn connect(primary: &Primary, page_rows_max: u32) -> Result<Self, LogError> {
        let mut link = primary.connect().await?;
        let is_shared = link.session == Session::Shared;
        let connection = &mut link.connection;
        if is_shared {
            begin_shared(connection).await?;
        }
        assume_gateway_role(connection, is_shared).await?;
        let epoch = begin_epoch(connection).await?;
        if is_shared {
            commit_shared(connection).await?;
        } else {
            // A read has one good plan, by index, whatever the statistics say: planning it each time would take
            // longer than the read, and a partition that was empty when it was planned does not stay so.
            sqlx::query!("set plan_cache_mode = force_generic_plan").execute(&mut *connection).await?;
            sqlx::query!("set enable_seqscan = off").execute(&mut *connection).await?;
            // A host that vanished must not go on silencing the bell for hours.
            sqlx::query!("set tcp_keepalives_idle = 10").execute(&mut *connection).await?;
            sqlx::query!("set tcp_keepalives_interval = 5").execute(&mut *connection).await?;
            sqlx::query!("set tcp_keepalives_count = 3").execute(&mut *connection).await?;
        }
        primary.follow(&link, &epoch);
        let epoch = epoch.parse()?;
        Ok(Self { connection: link.connection, session: link.session, epoch, page_rows_max })
    }

    /// Whether the session is this reader's own: what it sets and locks stays with it.
    pub(super) fn owns_session(&self) -> bool {
        self.session == Session::Own
    }

    /// Before a look; [`Self::leave`] comes after it. One that fails ends the connection.
    pub(super) async fn enter(&mut self) -> Result<(), LogError> {
        if self.owns_session() {
            return Ok(());
        }
        begin_shared(&mut self.connection).await?;
        assume_gateway_role(&mut self.connection, true).await?;
        sqlx::query!("set local enable_seqscan = off").execute(&mut self.connection).await?;
        let epoch: Epoch = sqlx::query_scalar!(r#"select warden.epoch() as "epoch!""#)
            .fetch_one(&mut self.connection)
            .await?
            .parse()?;
        if epoch == self.epoch { Ok(()) } else { Err(LogError::Moved) }
    }

    pub(super) async fn leave(&mut self) -> Result<(), LogError> {
        if !self.owns_session() {
            commit_shared(&mut self.connection).await?;
        }
        Ok(())
    }

    /// The history that this connection reads.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether something that lies after this point may be gone, by retention.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn is_truncated(&mut self, point: &Point) -> Result<bool, LogError> {
        self.enter().await?;
        let is_truncated = is_truncated(&mut self.connection, point).await?;
        self.leave().await?;
        Ok(is_truncated)
    }

    /// Where the log ends now.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn end(&mut self) -> Result<Point, LogError> {
        self.enter().await?;
        let row = sqlx::query!(
            r#"select pg_current_snapshot()::text as "snapshot!", coalesce(max(id), 0) as "max_id!" from warden.events"#
        )
        .fetch_one(&mut self.connection)
        .await?;
        self.leave().await?;
        Ok(Point { snapshot: row.snapshot.parse()?, max_id: row.max_id })
    }

    /// A point from before the log's last rows: what it doesn't cover are these, so many at the most, and what is
    /// committed from now on. None where retention has taken some of what it doesn't cover.
    ///
    /// It is made, not remembered: the snapshot of a moment at which no transaction was in progress, when all that
    /// wrote the rows before had ended and no other had begun. There need not have been such a moment.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn before_last(&mut self, rows: u32) -> Result<Option<Point>, LogError> {
        self.enter().await?;
        let row = sqlx::query!(
            r#"
            with before as (
                select coalesce((select id from warden.events order by id desc offset $1 limit 1), 0) as id
            ), highest as (
                select before.id, coalesce((select xid::text::bigint from warden.events e where e.id <= before.id
                                            order by e.xid desc limit 1), 0) as xid
                from before
            )
            select id as "id!", xid as "xid!" from highest
            "#,
            i64::from(rows)
        )
        .fetch_one(&mut self.connection)
        .await?;
        self.leave().await?;
        let xmax = row.xid.cast_unsigned() + 1;
        let snapshot = Snapshot { xmin: xmax, xmax, in_progress: Vec::new() };
        let point = Point { snapshot, max_id: row.id };
        Ok((!self.is_truncated(&point).await?).then_some(point))
    }

    /// Reads what came after `from`: snapshot and rows come from one statement. Where there is more
    /// than a page, [`Self::read_between`] brings the rest.
    ///
    /// The three look-ups are written apart and fenced by their limits, because the planner would
    /// otherwise walk the whole log by id to find the few rows in their order. A limit that is reached means
    /// that there is more than a page, and then these rows are not used.
    ///
    /// # Errors
    /// When the database can't be asked; then nothing is lost, for the caller's point stays.
    pub async fn read_since(&mut self, from: &Arc<Point>) -> Result<Read, LogError> {
        self.enter().await?;
        let read = pin!(self.look_since(from)).await?;
        self.leave().await?;
        Ok(read)
    }

    async fn look_since(&mut self, from: &Arc<Point>) -> Result<Read, LogError> {
        let since = Since::new(from);
        let rows = sqlx::query!(
            r#"
            with s as (select pg_current_snapshot()::text as snapshot,
                              age(pg_snapshot_xmax(pg_current_snapshot())::xid) as begun_since)
            select s.snapshot as "snapshot!", s.begun_since as "begun_since!", e.id as "id?", e.xid::text::bigint as "xid?", e.org_id as "org_id?: OrgId", e.topic as "topic?",
                   e.event as "event?", e.subject as "subject?", e.data::text as "data?", e.old::text as "old?",
                   e.truncated as "truncated?", e.at as "at?"
            from s left join lateral (
                select * from (
                    (select * from warden.events where xid >= $1::text::xid8 limit $4)
                    union all
                    (select * from warden.events where xid = any ($2::text[]::xid8[]) limit $4)
                    union all
                    (select * from (select * from warden.events where id > $3 offset 0) beyond
                     where xid < $1::text::xid8 and xid <> all ($2::text[]::xid8[]) limit $4)
                ) new
                order by id limit $4
            ) e on true
            order by e.id
            "#,
            since.xmax,
            &since.in_progress,
            since.max_id,
            i64::from(self.page_rows_max) + 1,
        )
        .fetch_all(&mut self.connection)
        .await?;
        if rows.len() > self.page_rows_max as usize {
            // Boxed: rare, and every read would have room for it.
            let (to, before) = Box::pin(self.end_of(&since)).await?;
            return Box::pin(self.look_between(from, &Arc::new(to), before)).await;
        }
        let snapshot: Snapshot =
            rows.first().map(|row| row.snapshot.parse()).transpose()?.unwrap_or_default();
        // xmax is one beyond the highest transaction that has *ended*: those that have begun since are in no
        // list, but one of them may be at its commit, silent because somebody else had the bell.
        let is_settled =
            snapshot.in_progress.is_empty() && rows.first().is_some_and(|row| row.begun_since == 0);
        let rows: Vec<LogRow> = rows
            .into_iter()
            .filter_map(|r| {
                Some(LogRow {
                    id: r.id?,
                    xid: r.xid?,
                    org_id: r.org_id,
                    topic: r.topic?,
                    event: r.event?,
                    subject: r.subject,
                    data: r.data?,
                    old: r.old,
                    truncated: r.truncated?,
                    at: r.at?,
                })
            })
            .collect();
        let max_id = rows.last().map_or(from.max_id, |row| row.id.max(from.max_id));
        let to = Arc::new(Point { snapshot, max_id });
        Ok(Read { is_settled, is_page: false, ..self.to_read(from, &to, rows, max_id, false) })
    }

    /// Reads a page of what `to` covers and `from` doesn't, with ids above `after`. No transaction
    /// spans the pages: what commits meanwhile is not covered by `to` and waits for the next read.
    ///
    /// # Errors
    /// As for [`Self::read_since`]; the pages that came before stay good.
    pub async fn read_between(
        &mut self,
        from: &Arc<Point>,
        to: &Arc<Point>,
        after: i64,
    ) -> Result<Read, LogError> {
        self.enter().await?;
        let read = self.look_between(from, to, after).await?;
        self.leave().await?;
        Ok(read)
    }

    async fn look_between(
        &mut self,
        from: &Arc<Point>,
        to: &Arc<Point>,
        after: i64,
    ) -> Result<Read, LogError> {
        let since = Since::new(from);
        let mut rows = sqlx::query_as!(
            LogRow,
            r#"
            select id as "id!", xid::text::bigint as "xid!", org_id as "org_id: OrgId", topic as "topic!",
                   event as "event!", subject, data::text as "data!", old::text, truncated as "truncated!", at as "at!"
            from warden.events
            where id > $4 and id <= $6 and (xid >= $1::text::xid8 or xid = any ($2::text[]::xid8[]) or id > $3)
            order by id limit $5
            "#,
            since.xmax,
            &since.in_progress,
            since.max_id,
            after,
            i64::from(self.page_rows_max),
            to.max_id,
        )
        .fetch_all(&mut self.connection)
        .await?;
        let has_more = rows.len() == self.page_rows_max as usize;
        let last_id = rows.last().map_or(to.max_id, |row| row.id);
        rows.retain(|row| to.covers(row.xid.cast_unsigned(), row.id));
        Ok(self.to_read(from, to, rows, last_id, has_more))
    }

    /// Where a read would lead that brings all that is new, and the id before its first.
    async fn end_of(&mut self, since: &Since) -> Result<(Point, i64), LogError> {
        let end = sqlx::query!(
            r#"
            select pg_current_snapshot()::text as "snapshot!",
                   coalesce(min(id), 0) as "min_id!", coalesce(max(id), 0) as "max_id!"
            from (
                select id from warden.events where xid >= $1::text::xid8
                union all
                select id from warden.events where xid = any ($2::text[]::xid8[])
                union all
                select id from warden.events where id > $3
                offset 0
            ) new
            "#,
            since.xmax,
            &since.in_progress,
            since.max_id,
        )
        .fetch_one(&mut self.connection)
        .await?;
        let to = Point { snapshot: end.snapshot.parse()?, max_id: end.max_id.max(since.max_id) };
        Ok((to, end.min_id - 1))
    }

    fn to_read(
        &self,
        from: &Arc<Point>,
        to: &Arc<Point>,
        rows: Vec<LogRow>,
        last_id: i64,
        has_more: bool,
    ) -> Read {
        let prefix = (!rows.is_empty()).then(|| CursorPrefix::new(self.epoch, from, to));
        let events = to_events(rows, prefix.as_ref());
        Read {
            from: Arc::clone(from),
            to: Arc::clone(to),
            events,
            last_id,
            has_more,
            is_settled: false,
            is_page: true,
        }
    }

    /// The cursor of one who has seen what was read so far.
    #[must_use]
    pub fn cursor_after(&self, read: &Read) -> String {
        if read.has_more {
            CursorPrefix::new(self.epoch, &read.from, &read.to).with_id(read.last_id)
        } else {
            Cursor::at(self.epoch, Arc::clone(&read.to)).to_string()
        }
    }
}

/// Checks the database, and tells its epoch once rows of another are out of the way.
async fn begin_epoch(connection: &mut PgConnection) -> Result<String, LogError> {
    let encoding = sqlx::query_scalar!(r#"select current_setting('server_encoding') as "encoding!""#)
        .fetch_one(&mut *connection)
        .await?;
    if encoding != "UTF8" {
        return Err(LogError::Encoding(encoding));
    }
    let is_there = sqlx::query_scalar!(r#"select to_regclass('warden.events') is not null as "there!""#)
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        return Err(LogError::NotMigrated);
    }
    Ok(sqlx::query_scalar!(r#"select warden.begin_epoch() as "epoch!""#).fetch_one(connection).await?)
}

/// Whether something that lies after this point may be gone, by retention.
pub(super) async fn is_truncated(connection: &mut PgConnection, point: &Point) -> Result<bool, sqlx::Error> {
    let xmin = point.snapshot.xmin.to_string();
    sqlx::query_scalar!(r#"select warden.is_truncated($1::text::xid8) as "gone!""#, xmin)
        .fetch_one(connection)
        .await
}
