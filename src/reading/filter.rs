//! Filters of joins: parsed here, and compiled with the columns and values that the database knows.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::error::{QueryError, ReadError};
use super::page::invalid_value;
use super::request::select;
use super::table::ReadableTable;
use super::{Caller, Reader};
use crate::filter::{ChannelFilter, Condition, Filter, Literals, Selection, TableColumns, parse_query};
use crate::postgres::{begin_snapshot, bind_to_user};

/// Longest filter of a join, as the client writes it.
pub(crate) const FILTER_BYTES_MAX: usize = 4096;

/// Longest value of a filter in the form of events. A short number may have many digits.
pub(crate) const FILTER_VALUE_BYTES_MAX: usize = 8192;

/// Memory of a description or of converted values while they are read.
const DESCRIPTION_BYTES: usize = 64 * 1024;

/// Filter and columns that a join asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterRequest {
    pub(super) conditions: Vec<Condition>,
    pub(super) select: Option<Vec<String>>,
    pub(super) bytes: usize,
}

impl FilterRequest {
    /// Parses a filter in the form of a query, and the names of columns separated by commas.
    ///
    /// # Errors
    /// If the filter is not valid or too long. Names of columns are not checked here.
    pub fn parse(filter: Option<&str>, columns: Option<&str>) -> Result<Self, QueryError> {
        let bytes = filter.map_or(0, str::len) + columns.map_or(0, str::len);
        if bytes > FILTER_BYTES_MAX {
            return Err(QueryError::FilterTooLong(FILTER_BYTES_MAX));
        }
        let conditions = filter.map_or_else(|| Ok(Vec::new()), parse_query)?;
        if columns.is_some_and(|columns| columns.contains('\0')) {
            return Err(QueryError::Encoding);
        }
        let select = columns.map(select).transpose()?.flatten();
        Ok(Self { conditions, select, bytes })
    }
}

impl Reader {
    /// Compiles the filter of a join for the table that is watched with this topic. Also returns conditions
    /// for the pages of a snapshot, which select the same rows at any time.
    ///
    /// # Errors
    /// If the filter cannot be evaluated on events, or the database fails.
    pub async fn compile(
        self: &Arc<Self>,
        caller: Caller,
        topic: &str,
        request: &FilterRequest,
    ) -> Result<(ChannelFilter, Vec<Condition>), ReadError> {
        // Joins that wait for the columns wait for one another too.
        let longest = self.limits.wait_timeout + self.limits.statement_timeout;
        let columns = tokio::time::timeout(longest, self.columns(topic)).await;
        let table = columns.unwrap_or(Err(ReadError::Busy))?;
        let literals = Filter::literals(&request.conditions, &table.columns).map_err(QueryError::from)?;
        let converted = self.values(caller, topic, literals).await?;
        let converted: Vec<&str> = converted.iter().map(|value| value.get()).collect();
        if converted.iter().any(|value| value.len() > FILTER_VALUE_BYTES_MAX) {
            return Err(QueryError::ValueTooLong(FILTER_VALUE_BYTES_MAX).into());
        }
        let fixed = Filter::fixed(&request.conditions, &table.columns, &converted);
        let select = request.select.as_deref();
        let filter = ChannelFilter::compile(table, &request.conditions, &converted, select, request.bytes);
        Ok((filter.map_err(QueryError::from)?, fixed))
    }

    /// Columns of a topic's table, which were read a short time ago at most. They are read for the node as a
    /// whole, so no organisation's queue delays them.
    async fn columns(self: &Arc<Self>, topic: &str) -> Result<Arc<TableColumns>, ReadError> {
        let read = async |checks| {
            let (reader, name) = (Arc::clone(self), topic.to_owned());
            let describe = async move { reader.describe(&name, checks).await };
            self.jobs.run(describe).await.unwrap_or(Err(ReadError::Busy))
        };
        self.columns.get(topic, read).await
    }

    /// Describes the columns of a topic's table. One statement has one snapshot.
    async fn describe(&self, topic: &str, checks: u64) -> Result<TableColumns, ReadError> {
        let query = sqlx::query_as::<_, (Option<String>, Option<serde_json::Value>)>(
            "select warden.reading_version($1), warden.reading($1, null, 0)",
        );
        let read = tokio::time::timeout(
            self.limits.statement_timeout,
            query.bind(topic).fetch_one(&self.descriptions),
        );
        let described = match read.await.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            Ok((version, described)) => ReadableTable::parse(described).and_then(|table| {
                let version = version.ok_or(ReadError::UnknownTopic)?;
                let key = Selection::of_names(table.key.iter().map(|column| column.name.clone()).collect());
                let entity_column = table.entity.as_ref().and_then(|entity| entity.column.as_deref());
                let columns = table.columns.with_hidden(entity_column);
                Ok(TableColumns { version, columns, key, entity: table.entity, checks })
            }),
            Err(error) => Err(error.into()),
        };
        described.map_err(|error| self.classify(topic, error))
    }

    /// Values in the form of events, from memory if they are known.
    async fn values(
        self: &Arc<Self>,
        caller: Caller,
        topic: &str,
        literals: Literals,
    ) -> Result<Vec<Arc<RawValue>>, ReadError> {
        let mut values = self.values.get(&literals.values);
        let checks = self.values.checks();
        let unknown: Vec<usize> = (0..values.len()).filter(|n| values[*n].is_none()).collect();
        let Literals { values: spelled, is_lasting } = literals;
        let to_convert = unknown.iter().map(|n| spelled[*n].clone()).collect();
        let to_convert = Literals { values: to_convert, is_lasting: Vec::new() };
        let converted = self.convert(caller, topic, to_convert).await?;
        for (n, value) in unknown.into_iter().zip(converted) {
            let value = Arc::<RawValue>::from(value);
            if is_lasting[n] {
                self.values.insert(spelled[n].clone(), Arc::clone(&value), checks);
            }
            values[n] = Some(value);
        }
        let unexpected = || ReadError::NotReadable("a value of a filter is missing".to_owned());
        values.into_iter().collect::<Option<_>>().ok_or_else(unexpected)
    }

    /// Values in the form of events, in a transaction that is bound to the user.
    async fn convert(
        self: &Arc<Self>,
        caller: Caller,
        topic: &str,
        literals: Literals,
    ) -> Result<Vec<Box<RawValue>>, ReadError> {
        let Some(sql) = literals.query() else { return Ok(Vec::new()) };
        let (reader, topic) = (Arc::clone(self), topic.to_owned());
        let convert = async move {
            // The answer, as text and as values.
            let memory = DESCRIPTION_BYTES + 2 * literals.bytes_max();
            let _permit = reader.shares.acquire(caller.org, memory).await?;
            let mut connection = reader.pool.acquire().await?;
            let timeout = reader.limits.statement_timeout;
            let read = convert_values(&mut connection, &caller, sql, &literals, timeout);
            let read = tokio::time::timeout(timeout, read).await;
            read.unwrap_or(Err(ReadError::Busy)).map_err(|error| reader.classify(&topic, error))
        };
        self.jobs.run(convert).await.unwrap_or(Err(ReadError::Busy))
    }
}

async fn convert_values(
    connection: &mut PgConnection,
    caller: &Caller,
    sql: String,
    literals: &Literals,
    timeout: Duration,
) -> Result<Vec<Box<RawValue>>, ReadError> {
    let mut transaction = begin_snapshot(connection).await?;
    bind_to_user(&mut transaction, &caller.claims, timeout).await.map_err(ReadError::not_bound)?;
    let mut query = sqlx::query_scalar(AssertSqlSafe(sql));
    for (_, value) in &literals.values {
        query = query.bind(value);
    }
    let json: String = query.fetch_one(&mut *transaction).await.map_err(invalid_value)?;
    transaction.rollback().await?;
    serde_json::from_str(&json)
        .map_err(|error| ReadError::NotReadable(format!("values of a filter: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_query_without_other_parameters() {
        let parsed =
            FilterRequest::parse(Some("a=eq.1&or=(b.eq.2,c.is.null)"), Some("id,a")).expect("parses");
        assert_eq!((parsed.conditions.len(), parsed.select), (2, Some(vec!["id".into(), "a".into()])));
        assert_eq!(FilterRequest::parse(None, Some("*")).expect("parses").select, None);
        for name in ["select", "order", "limit", "after"] {
            assert_eq!(
                FilterRequest::parse(Some(&format!("{name}=eq.1")), None),
                Err(QueryError::NotInFilter(name))
            );
        }
        let longest = format!("a=eq.{}", "x".repeat(FILTER_BYTES_MAX - 5));
        FilterRequest::parse(Some(&longest), None).expect("parses");
        assert_eq!(
            FilterRequest::parse(Some(&longest), Some("a")),
            Err(QueryError::FilterTooLong(FILTER_BYTES_MAX))
        );
        assert!(
            FilterRequest::parse(Some("a=1"), None).is_err()
                && FilterRequest::parse(None, Some("a\0")).is_err()
        );
    }
}
