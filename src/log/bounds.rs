//! The bounds of the log: its current end, a point before its last rows, and whose events after a point
//! retention has deleted.

use std::sync::Arc;

use sqlx::postgres::PgConnection;

use super::connection::{LogError, LogReader};
use super::reader::LogPosition;
use crate::cursor::{Point, Snapshot};
use crate::org::OrgId;

/// The organisations that have lost events which a position does not cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Truncated {
    /// None, if the list is empty, or organisations that had taken more than their share of the log.
    Orgs(Vec<OrgId>),
    /// Possibly all.
    All,
}

impl LogReader {
    /// Whether retention may have deleted events of any organisation that `point` does not cover.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn is_truncated(&mut self, point: &Point) -> Result<bool, LogError> {
        self.begin_read().await?;
        let is_truncated = is_truncated(&mut self.connection, point).await?;
        self.end_read().await?;
        Ok(is_truncated)
    }

    /// Organisations of which retention has deleted events that this position does not cover. Unlike
    /// [`Self::is_truncated`], this is exact if the log was rotated at most once since the position was
    /// reached. So a transaction that stays open for long causes no needless resync.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn truncated_since(&mut self, position: &LogPosition) -> Result<Truncated, LogError> {
        self.begin_read().await?;
        let orgs = sqlx::query_scalar!(
            r#"select org as "org: OrgId" from warden.truncated_since($1, $2::text::pg_snapshot, $3) org"#,
            position.rotation,
            position.point.snapshot.to_string(),
            position.point.max_id
        )
        .fetch_all(&mut self.connection)
        .await?;
        self.end_read().await?;
        let orgs: Option<Vec<_>> = orgs.into_iter().collect();
        Ok(orgs.map_or(Truncated::All, Truncated::Orgs))
    }

    /// The current end of the log.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn end(&mut self) -> Result<LogPosition, LogError> {
        self.begin_read().await?;
        let row = sqlx::query!(
            r#"
            select pg_current_snapshot()::text as "snapshot!", coalesce(max(id), 0) as "max_id!",
                   (select number from warden.last_rotation where singleton) as "rotation!"
            from warden.events
            "#
        )
        .fetch_one(&mut self.connection)
        .await?;
        self.end_read().await?;
        let point = Point { snapshot: row.snapshot.parse()?, max_id: row.max_id };
        Ok(LogPosition { point: Arc::new(point), rotation: row.rotation })
    }

    /// A point before the log's last rows. It covers every row that is committed now, except the last `rows`.
    /// Rows of a transaction that is still in progress may be covered too, and the tailer reads them when
    /// they are committed. Returns none if retention has deleted an event that such a point does not cover.
    ///
    /// The point is constructed, not remembered. Its snapshot is that of a moment without transactions in
    /// progress: every transaction that wrote an older row had ended, and no later transaction had begun.
    /// The database need not have been in this state at any time.
    ///
    /// # Errors
    /// If a query fails.
    pub async fn point_before_last(&mut self, rows: u32) -> Result<Option<Point>, LogError> {
        self.begin_read().await?;
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
        self.end_read().await?;
        let xmax = row.xid.cast_unsigned() + 1;
        let snapshot = Snapshot { xmin: xmax, xmax, in_progress: Vec::new() };
        let point = Point { snapshot, max_id: row.id };
        Ok((!self.is_truncated(&point).await?).then_some(point))
    }
}

/// Whether retention may have deleted events of any organisation that `point` does not cover.
async fn is_truncated(connection: &mut PgConnection, point: &Point) -> Result<bool, sqlx::Error> {
    let xmin = point.snapshot.xmin.to_string();
    sqlx::query_scalar!(r#"select warden.is_truncated_for_any($1::text::xid8) as "gone!""#, xmin)
        .fetch_one(connection)
        .await
}
