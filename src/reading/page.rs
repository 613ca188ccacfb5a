//! One page: its queries within the bound transaction, and its bytes.

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Arguments as _, AssertSqlSafe, Row as _};

use super::error::{QueryError, ReadError};
use super::limits::ReadingLimits;
use super::position::Position;
use super::query::PageQuery;
use super::share::PageMemory;
use crate::cursor::Cursor;
use crate::org::OrgId;

/// Rows of the first fetch. Later ones depend on the size of the rows.
const FETCH_ROWS_FIRST: usize = 32;
/// Beginning of the SQLSTATEs of values that do not fit their type.
const DATA_EXCEPTION: &str = "22";
/// Longest message of PostgreSQL in an answer.
const MESSAGE_CHARS_MAX: usize = 200;

/// Rows as a client receives them.
#[derive(Debug)]
pub struct Page {
    /// JSON of the rows with commas between them, or of the one row.
    pub json: String,
    /// Number of rows.
    pub rows: usize,
    /// Positions in the page of rows that are too large. Of these only the key is sent.
    pub truncated: Vec<usize>,
    /// Sealed cursor at which the rows were read.
    pub cursor: String,
    /// Cursor at which the rows were read, not sealed.
    pub position: Cursor,
    /// Position of the next page. None if this is the last one.
    pub next: Option<String>,
    /// Number of all rows, if it was asked for and is not above the limit.
    pub total: Option<usize>,
    /// Position of the last row. None if a value of it is too long.
    last: Option<Position>,
    /// Reserved until the page was sent.
    pub memory: Option<PageMemory>,
}

impl Page {
    /// A page without rows, that is read at this cursor.
    pub(super) fn empty(cursor: String, position: Cursor) -> Self {
        Self {
            json: String::new(),
            rows: 0,
            truncated: Vec::new(),
            cursor,
            position,
            next: None,
            total: None,
            last: None,
            memory: None,
        }
    }

    /// Bytes of the rows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.json.len()
    }
}

/// The error of a query that casts values of the request alone, if it is that of a value.
pub(super) fn invalid_value(error: sqlx::Error) -> ReadError {
    let invalid = error
        .as_database_error()
        .filter(|error| error.code().is_some_and(|code| code.starts_with(DATA_EXCEPTION)));
    match invalid {
        Some(error) => QueryError::Value(error.message().chars().take(MESSAGE_CHARS_MAX).collect()).into(),
        None => error.into(),
    }
}

/// Arguments without the organisation.
fn values_alone<'v>(values: impl Iterator<Item = &'v str>) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    for value in values {
        arguments.add(value).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// A transaction that is bound to a user, and the query of a page.
pub(super) struct PageReader<'a> {
    pub(super) transaction: &'a mut PgConnection,
    pub(super) limits: ReadingLimits,
    pub(super) org: OrgId,
    pub(super) query: PageQuery,
}

impl PageReader<'_> {
    /// Fills a page with up to this many rows and bytes.
    pub(super) async fn page(
        &mut self,
        mut page: Page,
        limit: usize,
        bytes_max: usize,
        with_count: bool,
    ) -> Result<Page, ReadError> {
        self.check_values().await?;
        // One row more shows whether there is another page.
        let sql = self.query.rows(limit + 1, self.limits.page_bytes_max);
        let arguments = self.arguments(self.query.values())?;
        self.check_cost(&sql, arguments).await?;
        if with_count {
            page.total = self.count().await?;
        }
        let declare = format!("declare warden_rows no scroll cursor for {sql}");
        let arguments = self.arguments(self.query.values())?;
        sqlx::query_with(AssertSqlSafe(declare), arguments).execute(&mut *self.transaction).await?;
        let mut fetch_rows = FETCH_ROWS_FIRST.min(limit + 1);
        loop {
            let is_full = self.fetch(fetch_rows, limit, bytes_max, &mut page).await?;
            if is_full.unwrap_or(true) {
                return Ok(page);
            }
            let row_bytes = (page.json.len() / page.rows.max(1)).max(1);
            let bytes_left = bytes_max.saturating_sub(page.json.len());
            fetch_rows = (bytes_left / row_bytes + 1).min(limit + 1 - page.rows).max(1);
        }
    }

    /// Adds the next rows to a page. Returns whether the page is full, or none if there are no more rows.
    async fn fetch(
        &mut self,
        count: usize,
        limit: usize,
        bytes_max: usize,
        page: &mut Page,
    ) -> Result<Option<bool>, ReadError> {
        let sql = format!("fetch {count} from warden_rows");
        // One row at a time: the server may send many large ones.
        let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut *self.transaction);
        let mut fetched = 0;
        while let Some(row) = rows.try_next().await? {
            fetched += 1;
            let (document, key): (Option<&str>, &str) = (row.try_get(0)?, row.try_get(1)?);
            let json = document.unwrap_or(key);
            let is_full = page.rows == limit || page.json.len() + json.len() > bytes_max;
            if is_full && page.rows > 0 {
                let position = page.last.take().ok_or(QueryError::PositionTooLong)?;
                page.next = Some(position.encode()?);
                return Ok(Some(true));
            }
            if page.rows > 0 {
                page.json.push(',');
            }
            if document.is_none() {
                page.truncated.push(page.rows);
            }
            page.json.push_str(json);
            page.rows += 1;
            page.last = row.try_get::<Option<_>, _>(2)?.map(Position);
        }
        Ok((fetched == count).then_some(false))
    }

    /// Fills a page with the one row.
    pub(super) async fn row(&mut self, page: Page) -> Result<Page, ReadError> {
        // A value that does not fit the type of the key is the id of no row.
        match self.check_values().await {
            Err(ReadError::Query(QueryError::Value(_))) => return Err(ReadError::UnknownRow),
            checked => checked?,
        }
        let sql = self.query.rows(1, self.limits.page_bytes_max);
        let arguments = self.arguments(self.query.values())?;
        let row =
            sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_optional(&mut *self.transaction).await?;
        let row = row.ok_or(ReadError::UnknownRow)?;
        let document = match row.try_get(0)? {
            None => self.partial_document().await?,
            document => document,
        };
        let json = document.ok_or(ReadError::RowTooLarge(self.limits.page_bytes_max))?;
        Ok(Page { json, rows: 1, ..page })
    }

    /// The document of the one row without the columns whose values `jsonb` cannot represent. None if the row
    /// is too large.
    async fn partial_document(&mut self) -> Result<Option<String>, ReadError> {
        let sql = self.query.partial_row(self.limits.page_bytes_max);
        let arguments = self.arguments(self.query.values())?;
        let document = sqlx::query_scalar_with(AssertSqlSafe(sql), arguments);
        Ok(document.fetch_optional(&mut *self.transaction).await?.flatten())
    }

    /// Checks that every value has the type of its column. The values stem from the request alone, so the
    /// server's message shows nothing else.
    async fn check_values(&mut self) -> Result<(), ReadError> {
        let Some(sql) = self.query.check() else { return Ok(()) };
        let arguments = values_alone(self.query.values())?;
        self.check_types(sql, arguments).await
    }

    /// Checks the values that stem from the token, before those of the request.
    pub(super) async fn check_signed_values(&mut self) -> Result<(), ReadError> {
        let Some(sql) = self.query.check_signed() else { return Ok(()) };
        let arguments = values_alone(self.query.signed_values())?;
        self.check_types(sql, arguments).await
    }

    async fn check_types(&mut self, sql: String, arguments: PgArguments) -> Result<(), ReadError> {
        let checked = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(&mut *self.transaction).await;
        checked.map(|_| ()).map_err(invalid_value)
    }

    /// Checks PostgreSQL's estimate of the query's cost.
    async fn check_cost(&mut self, sql: &str, arguments: PgArguments) -> Result<(), ReadError> {
        let explain = format!("explain (format json) {sql}");
        let plan: serde_json::Value = sqlx::query_with(AssertSqlSafe(explain), arguments)
            .fetch_one(&mut *self.transaction)
            .await?
            .try_get(0)?;
        let cost = plan.pointer("/0/Plan/Total Cost").and_then(serde_json::Value::as_f64).unwrap_or(f64::MAX);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cost is a positive estimate"
        )]
        let cost = cost as u64;
        let max = self.limits.cost_max;
        if cost > max { Err(QueryError::TooExpensive(max).into()) } else { Ok(()) }
    }

    /// Counts all rows that the filter selects. None if there are more than the limit.
    async fn count(&mut self) -> Result<Option<usize>, ReadError> {
        let sql = self.query.count(self.limits.count_max + 1);
        let arguments = self.arguments(self.query.count_values())?;
        self.check_cost(&sql, arguments).await?;
        let arguments = self.arguments(self.query.count_values())?;
        let count: i64 =
            sqlx::query_scalar_with(AssertSqlSafe(sql), arguments).fetch_one(&mut *self.transaction).await?;
        Ok(usize::try_from(count).ok().filter(|count| *count <= self.limits.count_max))
    }

    /// The organisation, and these values.
    fn arguments<'v>(&self, values: impl Iterator<Item = &'v str>) -> Result<PgArguments, sqlx::Error> {
        let mut arguments = PgArguments::default();
        arguments.add(self.org.as_uuid().to_string()).map_err(sqlx::Error::Encode)?;
        for value in values {
            arguments.add(value).map_err(sqlx::Error::Encode)?;
        }
        Ok(arguments)
    }
}
