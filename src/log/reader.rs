//! The SQL that reads new rows of the log: everything after a point, or page by page up to a fixed point.

use std::pin::pin;
use std::sync::Arc;

use super::connection::{LogError, LogReader};
use super::row::{LogRow, LoggedEvent, PointParameters, RowDecoder};
use crate::cursor::{Cursor, Epoch, Point, Snapshot};
use crate::org::OrgId;

/// A position of the tailer in the log.
#[derive(Clone, Debug)]
pub struct LogPosition {
    /// Everything that this point covers was read.
    pub point: Arc<Point>,
    /// Number of the last rotation that the point's snapshot shows. A rotation is a TRUNCATE, so a statement
    /// with the same number found all rows.
    pub rotation: i64,
}

/// The events that one statement read: everything that `to` covers and `from` does not, or one page of it.
#[derive(Debug)]
pub struct LogPage {
    /// The epoch in which the points are valid.
    pub epoch: Epoch,
    /// Position of the reader before the read.
    pub from: Arc<Point>,
    /// Position of the reader after the last page.
    pub to: LogPosition,
    /// Events in the order of their ids.
    pub events: Vec<LoggedEvent>,
    /// Id of the last row that was read, even if that row was skipped.
    pub last_id: i64,
    /// Whether no transaction was in progress that may still commit without ringing.
    pub is_settled: bool,
    /// Whether more pages follow. The next page begins after `last_id`.
    pub has_more: bool,
    /// Whether retention may have deleted rows before this page was read.
    pub needs_retention_check: bool,
}

impl LogReader {
    /// Reads the events after `from`. Snapshot and rows come from one statement. If there is more than one
    /// page, this returns the first page, and [`Self::read_between`] reads the others.
    ///
    /// # Errors
    /// If the query fails. Nothing is lost, because the caller keeps its point.
    pub async fn read_since(&mut self, from: &LogPosition) -> Result<LogPage, LogError> {
        self.begin_read().await?;
        let page = pin!(self.query_since(from)).await?;
        self.end_read().await?;
        Ok(page)
    }

    /// Queries the events after `from` by three look-ups. They are written separately, and a limit keeps the
    /// planner from merging them. Otherwise it would walk the whole log by id to find the few rows in their
    /// order. If a look-up reaches its limit, there is more than one page, and these rows are not used.
    async fn query_since(&mut self, here: &LogPosition) -> Result<LogPage, LogError> {
        let (from, rows_max) = (&here.point, self.page_size.rows());
        let since = PointParameters::new(from);
        let rows = sqlx::query!(
            r#"
            with s as (select pg_current_snapshot()::text as snapshot,
                              age(pg_snapshot_xmax(pg_current_snapshot())::xid) as begun_since,
                              (select number from warden.last_rotation where singleton) as rotation)
            select s.snapshot as "snapshot!", s.begun_since as "begun_since!", s.rotation as "rotation!", e.id as "id?",
                   e.xid::text::bigint as "xid?", e.org_id as "org_id?: OrgId", e.topic as "topic?",
                   e.event as "event?", e.subject as "subject?", e.data::text as "data?", e.old::text as "old?",
                   e.truncated as "truncated?", e.needs_claim as "needs_claim?", e.at as "at?",
                   e.traceparent as "traceparent?", e.watch as "watch?"
            from s left join lateral (
                select * from (
                    (select * from warden.events where xid >= $1::text::xid8 limit $4)
                    union all
                    (select * from warden.events where xid = any ($2::text[]::xid8[]) limit $4)
                    union all
                    (select * from (select * from warden.events where id > $3 offset 0) beyond
                     where xid < $1::text::xid8 and xid not in (select x::xid8 from unnest($2::text[]) x) limit $4)
                ) new
                order by id limit $4
            ) e on true
            order by e.id
            "#,
            since.xmax,
            &since.in_progress,
            since.max_id,
            i64::from(rows_max) + 1,
        )
        .fetch(&mut self.connection);
        let bytes = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let (rows, is_cut) = self.page_size.collect(rows, |row| bytes(&row.data) + bytes(&row.old)).await?;
        if is_cut || rows.len() > rows_max as usize {
            drop(rows);
            // Boxed because this is rare, and otherwise the future of every read would reserve room for it.
            let (to, before) = Box::pin(self.query_target(&since)).await?;
            return Box::pin(self.query_between(from, &to, before)).await;
        }
        // There is always a row, because of the outer join.
        let (snapshot, rotation) = match rows.first() {
            Some(row) => (row.snapshot.parse()?, row.rotation),
            None => (Snapshot::default(), here.rotation),
        };
        // xmax is one above the highest transaction that has *ended*. Transactions that began later are in no
        // list, but one of them may be committing silently, because another writer held the doorbell lock.
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
                    needs_claim: r.needs_claim?,
                    at: r.at?,
                    traceparent: r.traceparent,
                    watch: r.watch,
                })
            })
            .collect();
        let max_id = rows.last().map_or(from.max_id, |row| row.id.max(from.max_id));
        let to = LogPosition { point: Arc::new(Point { snapshot, max_id }), rotation };
        let page = self.page(from, &to, rows, max_id, false);
        Ok(LogPage { is_settled, needs_retention_check: rotation != here.rotation, ..page })
    }

    /// Reads one page of the events that `to` covers and `from` does not, with ids above `after`. No
    /// transaction spans the pages. `to` does not cover events that are committed meanwhile, so the next read
    /// returns them.
    ///
    /// # Errors
    /// If the query fails. The pages that were read before remain valid.
    pub async fn read_between(
        &mut self,
        from: &Arc<Point>,
        to: &LogPosition,
        after: i64,
    ) -> Result<LogPage, LogError> {
        self.begin_read().await?;
        let page = self.query_between(from, to, after).await?;
        self.end_read().await?;
        Ok(page)
    }

    async fn query_between(
        &mut self,
        from: &Arc<Point>,
        to: &LogPosition,
        after: i64,
    ) -> Result<LogPage, LogError> {
        let since = PointParameters::new(from);
        let rows_max = self.page_size.rows();
        let rows = sqlx::query_as!(
            LogRow,
            r#"
            select id as "id!", xid::text::bigint as "xid!", org_id as "org_id: OrgId", topic as "topic!",
                   event as "event!", subject, data::text as "data!", old::text, truncated as "truncated!",
                   needs_claim as "needs_claim!", at as "at!", traceparent, watch
            from warden.events
            where id > $4 and id <= $6
              and (xid >= $1::text::xid8 or id > $3 or xid in (select x::xid8 from unnest($2::text[]) x))
            order by id limit $5
            "#,
            since.xmax,
            &since.in_progress,
            since.max_id,
            after,
            i64::from(rows_max),
            to.point.max_id,
        )
        .fetch(&mut self.connection);
        let strings = |row: &LogRow| row.data.len() + row.old.as_ref().map_or(0, String::len);
        let (mut rows, is_cut) = self.page_size.collect(rows, strings).await?;
        let has_more = is_cut || rows.len() == rows_max as usize;
        let last_id = rows.last().map_or(to.point.max_id, |row| row.id);
        rows.retain(|row| to.point.covers(row.xid.cast_unsigned(), row.id));
        Ok(self.page(from, to, rows, last_id, has_more))
    }

    /// The point to which a read of everything new leads, and the id before its first row.
    async fn query_target(&mut self, since: &PointParameters) -> Result<(LogPosition, i64), LogError> {
        let end = sqlx::query!(
            r#"
            select pg_current_snapshot()::text as "snapshot!",
                   (select number from warden.last_rotation where singleton) as "rotation!",
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
        Ok((LogPosition { point: Arc::new(to), rotation: end.rotation }, end.min_id - 1))
    }

    fn page(
        &self,
        from: &Arc<Point>,
        to: &LogPosition,
        rows: Vec<LogRow>,
        last_id: i64,
        has_more: bool,
    ) -> LogPage {
        LogPage {
            epoch: self.epoch(),
            from: Arc::clone(from),
            to: to.clone(),
            events: RowDecoder::decode_all(rows),
            last_id,
            has_more,
            is_settled: false,
            needs_retention_check: true,
        }
    }
}

impl LogPage {
    /// The cursor of a client that has seen everything up to the end of this page.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let to = Arc::clone(&self.to.point);
        if self.has_more {
            Cursor { epoch: self.epoch, from: Arc::clone(&self.from), to, id: self.last_id }
        } else {
            Cursor::at(self.epoch, to)
        }
    }
}
