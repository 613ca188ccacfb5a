//! Tables with filters: finds those that have changed since their filters were compiled, and closes the
//! sessions with these filters.
//!
//! The tailer checks them before it dispatches the events of a page with DDL on a watched table. Changes
//! without an event, such as those of rights, are found at an interval.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::Notify;

use crate::hub::Hub;
use crate::service::{Schedule, periodic};
use crate::wire::CloseCode;

/// Compares the tables of open filters with the database.
#[derive(Debug)]
pub struct FilteredTables {
    pool: PgPool,
    hub: Arc<Hub>,
    /// Longest query.
    timeout: Duration,
}

impl FilteredTables {
    /// A check of the tables whose topics are joined with filters in this hub.
    #[must_use]
    pub fn new(pool: PgPool, hub: Arc<Hub>, timeout: Duration) -> Self {
        Self { pool, hub, timeout }
    }

    /// Checks at the interval, for ever.
    pub async fn run(self: Arc<Self>, interval: Duration) {
        let schedule = Schedule { interval, retry: (interval, interval), starts_immediately: false };
        periodic(schedule, &Notify::new(), |_| async {
            let versions = self.versions(&self.topics()).await.inspect_err(|error| {
                tracing::debug!(%error, "the check of tables with filters failed");
            })?;
            // Joins compile their filters again only if a table has changed.
            if self.hub.has_outdated_filters(&versions) {
                self.check().await;
            }
            Ok::<(), sqlx::Error>(())
        })
        .await;
    }

    /// Closes the sessions with a filter whose table has changed. If that is unknown, all sessions with a
    /// filter are closed, because they could misread the next events.
    pub async fn check(&self) {
        // From now on, joins read the columns again.
        self.hub.table_checks().begin();
        let topics = self.topics();
        let versions = self.versions(&topics).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "tables with filters cannot be checked: sessions with filters are closed");
            topics.into_iter().map(|topic| (topic, None)).collect()
        });
        let closed = self.hub.close_outdated_filters(&versions, CloseCode::TABLE_CHANGED);
        if closed > 0 {
            tracing::info!(filters = closed, "tables have changed: sessions with filters on them are closed");
        }
    }

    /// Topics that are joined with a filter.
    fn topics(&self) -> Vec<String> {
        self.hub.filtered_topics().iter().map(ToString::to_string).collect()
    }

    /// The version of each topic's table. None if no table is watched with the topic.
    async fn versions(&self, topics: &[String]) -> Result<HashMap<String, Option<String>>, sqlx::Error> {
        if topics.is_empty() {
            return Ok(HashMap::new());
        }
        let query = sqlx::query_as(
            "select t.topic, warden.reading_version(t.topic) from unnest($1::text[]) t (topic)",
        );
        let rows = tokio::time::timeout(self.timeout, query.bind(topics).fetch_all(&self.pool)).await;
        Ok(rows.unwrap_or(Err(sqlx::Error::PoolTimedOut))?.into_iter().collect())
    }
}
