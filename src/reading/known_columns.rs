//! Columns of tables, kept for a few seconds, so that many joins with a filter need one query.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::error::ReadError;
use super::table::TABLES_MAX;
use crate::filter::TableColumns;
use crate::sync::lock;

/// Age at which the columns of a table are read again for the next join with a filter.
pub(crate) const COLUMNS_AGE_MAX: Duration = Duration::from_secs(5);

/// Columns of each topic's table.
#[derive(Debug, Default)]
pub(super) struct KnownColumns(Mutex<HashMap<String, Arc<KnownTable>>>);

/// Locked while the columns are read. Others that need them wait.
type KnownTable = tokio::sync::Mutex<Option<(Instant, Arc<TableColumns>)>>;

impl KnownColumns {
    /// The columns of a topic's table, by `read` if they are too old.
    pub(super) async fn get(
        &self,
        topic: &str,
        read: impl Future<Output = Result<TableColumns, ReadError>>,
    ) -> Result<Arc<TableColumns>, ReadError> {
        let known = {
            let mut tables = lock(&self.0);
            if tables.len() >= TABLES_MAX && !tables.contains_key(topic) {
                tables.clear();
            }
            Arc::clone(tables.entry(topic.to_owned()).or_default())
        };
        let mut known = known.lock().await;
        if let Some((read_at, columns)) = &*known
            && read_at.elapsed() < COLUMNS_AGE_MAX
        {
            return Ok(Arc::clone(columns));
        }
        let columns = Arc::new(read.await?);
        *known = Some((Instant::now(), Arc::clone(&columns)));
        Ok(columns)
    }
}
