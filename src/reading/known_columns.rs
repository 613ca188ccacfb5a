//! Columns of tables, kept for a few seconds, so that many joins with a filter need one query.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::error::ReadError;
use super::table::TABLES_MAX;
use crate::filter::{TableChecks, TableColumns};
use crate::sync::lock;

/// Age at which the columns of a table are read again for the next join with a filter.
pub(crate) const COLUMNS_AGE_MAX: Duration = Duration::from_secs(5);

/// Descriptions of columns that are read at the same time.
pub(crate) const DESCRIPTIONS_MAX: usize = 2;

/// Columns of each topic's table.
#[derive(Debug)]
pub(super) struct KnownColumns {
    tables: Mutex<HashMap<String, Arc<KnownTable>>>,
    /// Permits to read a description, for the node as a whole: the queue of one organisation must not delay
    /// the joins of others.
    reading: Semaphore,
    checks: Arc<TableChecks>,
}

/// Locked while the columns are read. Others that need them wait.
type KnownTable = tokio::sync::Mutex<Option<(Instant, Arc<TableColumns>)>>;

impl KnownColumns {
    pub(super) fn new(checks: Arc<TableChecks>) -> Self {
        Self { tables: Mutex::default(), reading: Semaphore::new(DESCRIPTIONS_MAX), checks }
    }

    /// The columns of a topic's table, by `read` if they are too old, or if a check of tables has begun since
    /// they were read. `read` gets the number of checks.
    pub(super) async fn get<Read>(
        &self,
        topic: &str,
        read: impl FnOnce(u64) -> Read,
    ) -> Result<Arc<TableColumns>, ReadError>
    where
        Read: Future<Output = Result<TableColumns, ReadError>>,
    {
        let known = {
            let mut tables = lock(&self.tables);
            if tables.len() >= TABLES_MAX && !tables.contains_key(topic) {
                tables.clear();
            }
            Arc::clone(tables.entry(topic.to_owned()).or_default())
        };
        let mut known = known.lock().await;
        if let Some((read_at, columns)) = &*known
            && read_at.elapsed() < COLUMNS_AGE_MAX
            && columns.checks == self.checks.count()
        {
            return Ok(Arc::clone(columns));
        }
        // The semaphore is never closed.
        let _permit = self.reading.acquire().await;
        let columns = Arc::new(read(self.checks.count()).await?);
        *known = Some((Instant::now(), Arc::clone(&columns)));
        Ok(columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Columns, Selection};

    #[tokio::test(start_paused = true)]
    async fn columns_are_read_again_after_a_check_of_tables() {
        let checks = Arc::<TableChecks>::default();
        let known = KnownColumns::new(Arc::clone(&checks));
        let mut reads = 0;
        for (begins_check, waits, expected) in
            [(false, false, 1), (false, false, 1), (true, false, 2), (false, false, 2), (false, true, 3)]
        {
            if begins_check {
                checks.begin();
            }
            if waits {
                tokio::time::advance(COLUMNS_AGE_MAX).await;
            }
            let read = async |checks| {
                reads += 1;
                let (columns, key) = (Columns::for_tests(&[]), Selection::of_names(Vec::new()));
                Ok(TableColumns { version: reads.to_string(), columns, key, entity: None, checks })
            };
            let columns = known.get("items", read).await.expect("reads");
            assert_eq!((columns.version.clone(), columns.checks), (expected.to_string(), checks.count()));
        }
    }
}
