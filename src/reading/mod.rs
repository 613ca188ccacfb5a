//! Reading: pages of a watched table's rows, as a user may see them, each with the cursor at which it was
//! read.
//!
//! One transaction takes the cursor as the gateway's role, and then reads the rows as `authenticated` with
//! the caller's claims. So a client that reads and then joins with the cursor misses nothing, and row-level
//! security applies. In addition, every query compares the organisation's column with the token's
//! organisation, because a table may have no policy yet.
//!
//! - `request` parses the query of a URL, and `query` builds SQL from it. They do no I/O.
//! - `share` limits what an organisation may use, and `snapshot_limiter` its snapshots at a time.
//! - `filter` compiles the filters of joins, and `signed` those that a token requires.
//! - `snapshot` reads all pages of a request, for a join.
//!
//! This module must not know HTTP.

mod converted_values;
mod error;
mod filter;
mod known_columns;
mod limits;
mod page;
mod position;
mod query;
mod request;
mod share;
mod signed;
mod snapshot;
mod snapshot_limiter;
mod table;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sqlx::postgres::{PgConnection, PgPool};

use crate::cursor::{Cursor, CursorSeal, KeyRing, Point};
use crate::filter::TableChecks;
use crate::metrics::Metrics;
use crate::org::{Incarnation, OrgId};
use crate::postgres::{READ_CONNECTIONS_MAX, begin_snapshot, bind_to_user};
use crate::service::Jobs;
use crate::sync::lock;
use converted_values::ConvertedValues;
pub(crate) use converted_values::{CONVERTED_BYTES_MAX, CONVERTED_VALUES_MAX};
use error::INSUFFICIENT_PRIVILEGE;
pub use error::{QueryError, ReadError};
pub use filter::FilterRequest;
pub(crate) use filter::{FILTER_BYTES_MAX, FILTER_VALUE_BYTES_MAX};
use known_columns::KnownColumns;
pub(crate) use known_columns::{COLUMNS_AGE_MAX, DESCRIPTIONS_MAX};
pub use limits::ReadingLimits;
pub use page::Page;
use page::PageReader;
pub(crate) use position::POSITION_BYTES_MAX;
pub use position::Position;
use query::PageQuery;
pub(crate) use request::{ORDER_COLUMNS_MAX, ROWS_DEFAULT, ROWS_MAX, SELECT_COLUMNS_MAX};
pub use request::{OrderTerm, RowRequest, with_position};
pub use share::PageMemory;
use share::{ReadPermit, Shares};
pub use signed::{CompiledFilter, JoinConditions};
pub use snapshot::{SnapshotRequest, TableSnapshot};
use snapshot_limiter::SnapshotLimiter;
use table::ReadableTable;
pub(crate) use table::TABLES_MAX;

/// The user on whose behalf rows are read.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Organisation of the verified token.
    pub org: OrgId,
    /// Incarnation of the organisation, to which cursors are bound.
    pub incarnation: Incarnation,
    /// Claims of the verified token, as JSON.
    pub claims: Arc<str>,
}

/// Rows to read.
#[derive(Clone, Debug)]
pub enum Target {
    /// A page of rows.
    Rows {
        /// Whether the total is counted.
        with_count: bool,
        /// Bytes after which the page ends. A row that is larger is a page of its own, up to the limit of
        /// rows.
        bytes_max: usize,
    },
    /// The row with this id: the values of its key, percent-encoded, separated by commas.
    Row(String),
}

/// Pools of connections.
#[derive(Debug)]
pub(crate) struct ReaderPools {
    /// Reads rows and values for users. Transactions are REPEATABLE READ.
    pub(crate) rows: PgPool,
    /// Reads descriptions of tables for the node.
    pub(crate) descriptions: PgPool,
}

/// Reads rows.
#[derive(Debug)]
pub struct Reader {
    pool: PgPool,
    ring: Arc<KeyRing>,
    shares: Shares,
    snapshots: SnapshotLimiter,
    jobs: Jobs,
    tables: Mutex<HashMap<TableKey, (String, Arc<ReadableTable>)>>,
    /// Columns for filters of joins.
    columns: KnownColumns,
    /// Values of such filters.
    values: ConvertedValues,
    /// Pool of the descriptions of columns, which are read for all organisations.
    descriptions: PgPool,
    limits: ReadingLimits,
    metrics: Arc<Metrics>,
}

/// Topic and selected columns.
type TableKey = (String, Option<Vec<String>>);

/// SQLSTATE of a statement that ran into its timeout.
const QUERY_CANCELED: &str = "57014";

/// SQLSTATE of a statement that would exceed `temp_file_limit`.
const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";

/// Beginnings of the SQLSTATEs with which a server reports that it is not available.
const UNAVAILABLE: [&str; 3] = ["08", "53", "57P"];

impl Reader {
    /// A reader on these pools. What it knows of tables is out of date when a check of tables begins.
    #[must_use]
    pub(crate) fn new(
        pools: ReaderPools,
        checks: Arc<TableChecks>,
        ring: Arc<KeyRing>,
        jobs: Jobs,
        limits: ReadingLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let shares = Shares::new(
            limits.memory_bytes_max,
            usize::try_from(READ_CONNECTIONS_MAX).unwrap_or(usize::MAX),
            limits.requests_per_org_max,
            limits.wait_timeout,
        );
        let snapshots = SnapshotLimiter::new(&limits);
        Self {
            pool: pools.rows,
            ring,
            shares,
            snapshots,
            jobs,
            tables: Mutex::default(),
            columns: KnownColumns::new(Arc::clone(&checks)),
            values: ConvertedValues::new(checks),
            descriptions: pools.descriptions,
            limits,
            metrics,
        }
    }

    /// Reads rows of the table that is watched with this topic.
    ///
    /// # Errors
    /// If the request is not valid, the caller may not read the table, or the database fails.
    pub async fn read(
        self: &Arc<Self>,
        caller: Caller,
        topic: &str,
        request: RowRequest,
        target: Target,
    ) -> Result<Page, ReadError> {
        // The page, one row beyond it, and as much for compression.
        let permit = self.shares.acquire(caller.org, 2 * self.limits.page_bytes_max).await?;
        // A read goes on if its client leaves. Otherwise the permit would be free while the connection still
        // waits for the end of the statement, and an organisation could use all connections by leaving.
        let (reader, topic) = (Arc::clone(self), topic.to_owned());
        let read = async move { reader.read_page(permit, &caller, &topic, &request, &target).await };
        self.jobs.run(read).await.unwrap_or(Err(ReadError::Busy))
    }

    async fn read_page(
        &self,
        permit: ReadPermit,
        caller: &Caller,
        topic: &str,
        request: &RowRequest,
        target: &Target,
    ) -> Result<Page, ReadError> {
        // Not within the limit of the query: without a connection the database is unavailable.
        let mut connection = self.pool.acquire().await?;
        // Statements have the same limit, so that the server gives up as well.
        let read = self.read_in_transaction(&mut connection, caller, topic, request, target);
        let read = tokio::time::timeout(self.limits.statement_timeout, read).await;
        let too_slow = || QueryError::TooSlow(self.limits.statement_timeout).into();
        let mut page =
            read.unwrap_or_else(|_| Err(too_slow())).map_err(|error| self.classify(topic, error))?;
        self.metrics.rows_read.inc_by(page.rows as u64);
        page.memory = Some(permit.into_memory(page.bytes()));
        Ok(page)
    }

    async fn read_in_transaction(
        &self,
        connection: &mut PgConnection,
        caller: &Caller,
        topic: &str,
        request: &RowRequest,
        target: &Target,
    ) -> Result<Page, ReadError> {
        let mut transaction = begin_snapshot(connection).await?;
        let (cursor, version) = position(&mut transaction, topic).await?;
        let table = self.table(&mut transaction, topic, version, request.select.clone()).await?;
        table.check_signed(topic, request)?;
        bind_to_user(&mut transaction, &caller.claims, self.limits.statement_timeout)
            .await
            .map_err(ReadError::not_bound)?;
        let query = match target {
            Target::Rows { .. } => PageQuery::new(&table, request)?,
            Target::Row(id) => PageQuery::row(&table, request, &key_values(&table, id)?)?,
        };
        let mut reader =
            PageReader { transaction: &mut transaction, limits: self.limits, org: caller.org, query };
        reader.check_signed_values().await.map_err(|error| error.of_signed(topic))?;
        let seal = CursorSeal::new(Arc::clone(&self.ring), caller.org, caller.incarnation);
        let page = Page::empty(seal.seal(&cursor), cursor);
        let page = match target {
            Target::Rows { with_count, bytes_max } => {
                reader.page(page, request.limit, *bytes_max, *with_count).await?
            }
            Target::Row(_) => reader.row(page).await?,
        };
        transaction.rollback().await?;
        Ok(page)
    }

    /// The description of the table, from memory if nothing that it depends on has changed.
    async fn table(
        &self,
        transaction: &mut PgConnection,
        topic: &str,
        version: Option<String>,
        select: Option<Vec<String>>,
    ) -> Result<Arc<ReadableTable>, ReadError> {
        let version = version.ok_or(ReadError::UnknownTopic)?;
        let key = (topic.to_owned(), select);
        if let Some((known, table)) = lock(&self.tables).get(&key)
            && *known == version
        {
            return Ok(Arc::clone(table));
        }
        let described: Option<serde_json::Value> = sqlx::query_scalar("select warden.reading($1, $2, $3)")
            .bind(topic)
            .bind(&key.1)
            .bind(i32::try_from(self.limits.page_bytes_max).unwrap_or(i32::MAX))
            .fetch_one(transaction)
            .await?;
        let table = Arc::new(ReadableTable::parse(described)?);
        let mut tables = lock(&self.tables);
        if tables.len() >= TABLES_MAX {
            tables.clear();
        }
        tables.insert(key, (version, Arc::clone(&table)));
        Ok(table)
    }

    /// Gives errors of the database their meaning, and logs those that an operator must know.
    fn classify(&self, topic: &str, error: ReadError) -> ReadError {
        let code = match &error {
            ReadError::Database(error) => {
                error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(Into::<String>::into)
            }
            ReadError::NotReadable(reason) => {
                self.log(topic, reason);
                None
            }
            _ => None,
        };
        let ReadError::Database(cause) = &error else { return error };
        match code.as_deref() {
            Some(QUERY_CANCELED) => QueryError::TooSlow(self.limits.statement_timeout).into(),
            Some(CONFIGURATION_LIMIT_EXCEEDED) => QueryError::TooLargeToSort.into(),
            // As when the server shuts down, or has no connection left.
            Some(code) if UNAVAILABLE.iter().any(|class| code.starts_with(class)) => error,
            Some(INSUFFICIENT_PRIVILEGE) => {
                self.log(topic, &cause.to_string());
                ReadError::Forbidden
            }
            Some(_) => {
                // The description may be out of date in a way that its version does not show.
                lock(&self.tables).retain(|(known, _), _| known != topic);
                self.log(topic, &cause.to_string());
                ReadError::NotReadable(cause.to_string())
            }
            None => error,
        }
    }

    fn log(&self, topic: &str, reason: &str) {
        self.metrics.reads_failed.inc();
        tracing::warn!(topic, reason, "reading a table failed");
    }
}

/// The cursor of the transaction's snapshot, and the version of the topic's table.
async fn position(
    transaction: &mut PgConnection,
    topic: &str,
) -> Result<(Cursor, Option<String>), ReadError> {
    let row: (String, i64, String, Option<String>) = sqlx::query_as(
        "select pg_current_snapshot()::text, coalesce(max(id), 0), warden.epoch(), warden.reading_version($1)
         from warden.events",
    )
    .bind(topic)
    .fetch_one(transaction)
    .await?;
    let (snapshot, max_id, epoch, version) = row;
    let unexpected = |error: crate::cursor::ParseError| ReadError::NotReadable(error.to_string());
    let snapshot = snapshot.parse().map_err(unexpected)?;
    let epoch = epoch.parse().map_err(unexpected)?;
    Ok((Cursor::at(epoch, Arc::new(Point { snapshot, max_id })), version))
}

/// The values of a row's key from its id in a path. An id of another form belongs to no row.
fn key_values(table: &ReadableTable, id: &str) -> Result<Vec<String>, ReadError> {
    let decode = |part: &str| {
        let decoded = percent_encoding::percent_decode_str(part).decode_utf8().ok()?;
        (!decoded.contains('\0')).then(|| decoded.into_owned())
    };
    // Commas separate the values of a key with several columns.
    let parts: Vec<&str> = if table.key.len() == 1 { vec![id] } else { id.split(',').collect() };
    let values: Option<Vec<String>> = parts.into_iter().map(decode).collect();
    values.filter(|values| values.len() == table.key.len()).ok_or(ReadError::UnknownRow)
}
