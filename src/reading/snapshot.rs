//! A snapshot: all pages of a request, one after the other, for a join. Each page is read when its caller
//! asks for it, so a client that does not accept a page has no connection to the database.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::error::{QueryError, ReadError};
use super::filter::FilterRequest;
use super::page::Page;
use super::position::Position;
use super::request::{ROWS_MAX, RowRequest};
use super::signed::JoinConditions;
use super::snapshot_limiter::SnapshotPermit;
use super::{Caller, Reader, ReadingLimits, Target};
use crate::backoff::Backoff;
use crate::org::OrgId;

/// Delays before a page is tried again.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Parameters of a snapshot: those of a request for rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRequest(RowRequest);

/// A snapshot that is being read.
#[derive(Debug)]
pub struct TableSnapshot {
    reader: Arc<Reader>,
    topic: String,
    request: RowRequest,
    _permit: SnapshotPermit,
}

impl SnapshotRequest {
    /// Parses the parameters: a JSON object with the names and values of a request's query.
    ///
    /// # Errors
    /// If a parameter is not valid. Names of columns are not checked here.
    pub fn parse(json: &RawValue) -> Result<Self, QueryError> {
        let Parameters(pairs) = serde_json::from_str(json.get()).map_err(|_| QueryError::Parameters)?;
        if pairs.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
            return Err(QueryError::Encoding);
        }
        if pairs.iter().any(|(name, _)| name == "after") {
            return Err(QueryError::AfterInSnapshot);
        }
        // The client does not ask for each page, so pages are as large as they may be.
        RowRequest::from_parameters(&pairs, ROWS_MAX).map(Self)
    }

    /// Restricts the columns to those that the join selects.
    ///
    /// # Errors
    /// If both select columns.
    pub fn with_columns(mut self, filter: &FilterRequest) -> Result<Self, QueryError> {
        if filter.select.is_some() {
            if self.0.select.is_some() {
                return Err(QueryError::Repeated("select"));
            }
            self.0.select.clone_from(&filter.select);
        }
        Ok(self)
    }

    /// Restricts the rows to those of the token's and the join's filters.
    #[must_use]
    pub fn with_conditions(mut self, conditions: JoinConditions) -> Self {
        self.0.signed = conditions.signed;
        self.0.conditions.extend(conditions.asked);
        self
    }
}

/// Names and values in the order of the object. A name that occurs twice is kept twice, as in a URL.
struct Parameters(Vec<(String, String)>);

/// Values of one name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    One(Value),
    Several(Vec<Value>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Number(u64),
}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Parameters;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, values)) = map.next_entry::<String, Values>()? {
                    let values = match values {
                        Values::One(value) => vec![value],
                        Values::Several(values) => values,
                    };
                    pairs.extend(values.into_iter().map(|value| (name.clone(), value.into_text())));
                }
                Ok(Parameters(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl Value {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

impl Reader {
    /// Begins a snapshot of the table that is watched with this topic, when the organisation has a permit.
    ///
    /// # Errors
    /// If too many snapshots of the organisation are being read.
    pub async fn begin_snapshot(
        self: &Arc<Self>,
        org: OrgId,
        topic: &str,
        request: SnapshotRequest,
    ) -> Result<TableSnapshot, ReadError> {
        let permit = self.snapshots.take(org).await.inspect_err(|_| {
            self.metrics.limit_reached("snapshots_per_org");
        })?;
        let SnapshotRequest(request) = request;
        Ok(TableSnapshot { reader: Arc::clone(self), topic: topic.to_owned(), request, _permit: permit })
    }

    /// The configured limits.
    #[must_use]
    pub fn limits(&self) -> &ReadingLimits {
        &self.limits
    }
}

impl TableSnapshot {
    /// Reads the first page.
    ///
    /// # Errors
    /// If the request is not valid, the caller may not read the table, or the database fails.
    pub async fn first_page(&self, caller: Caller) -> Result<Page, ReadError> {
        let bytes_max = self.reader.limits.snapshot_page_bytes_max;
        let target = Target::Rows { with_count: false, bytes_max };
        self.reader.read(caller, &self.topic, self.request.clone(), target).await
    }

    /// Reads the page at a position. If the organisation, the node or the database is busy, tries again for a
    /// limited time. `caller` returns the user, whose token may be replaced meanwhile.
    ///
    /// # Errors
    /// As [`Self::first_page`].
    pub async fn page_at(&mut self, position: &str, caller: impl Fn() -> Caller) -> Result<Page, ReadError> {
        self.request.after = Some(Position::decode(position)?);
        let deadline = Instant::now() + self.reader.limits.snapshot_page_timeout;
        let mut backoff = Backoff::new(RETRY_DELAYS.0, RETRY_DELAYS.1);
        loop {
            match self.first_page(caller()).await {
                Err(error) if error.is_temporary() && Instant::now() < deadline => {
                    tokio::time::sleep(backoff.next()).await;
                }
                read => return read,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<SnapshotRequest, QueryError> {
        let json: &RawValue = serde_json::from_str(json).expect("JSON");
        SnapshotRequest::parse(json)
    }

    #[test]
    fn parameters_are_those_of_a_url() {
        let json = r#"{"status": "eq.done", "price": ["gt.1", "lt.5"], "order": "at.desc", "limit": 7,
                       "or": "(a.eq.1,b.is.null)", "select": "id,status"}"#;
        let url = "status=eq.done&price=gt.1&price=lt.5&order=at.desc&limit=7&or=(a.eq.1,b.is.null)&select=id,status";
        assert_eq!(parse(json), RowRequest::parse(url).map(SnapshotRequest));
        // A name that occurs twice is not dropped.
        let twice = parse(r#"{"a": "eq.1", "a": "eq.2"}"#).expect("parses");
        assert_eq!(twice.0.conditions.len(), 2);
        // Nothing is decoded, because nothing is encoded.
        let plain = parse(r#"{"a": "eq.1+1%20"}"#);
        assert_eq!(plain, RowRequest::parse("a=eq.1%2B1%2520&limit=1000").map(SnapshotRequest));
        assert_eq!(parse("{}").expect("parses").0.limit, ROWS_MAX);
    }

    #[test]
    fn other_values_are_rejected() {
        for json in ["[]", "\"a\"", "true", "7", r#"{"a": {}}"#, r#"{"a": null}"#, r#"{"a": [["eq.1"]]}"#] {
            assert_eq!(parse(json), Err(QueryError::Parameters), "{json}");
        }
        assert_eq!(parse(r#"{"after": "W10"}"#), Err(QueryError::AfterInSnapshot));
        assert_eq!(parse(r#"{"a": "eq.\u0000"}"#), Err(QueryError::Encoding));
        assert_eq!(parse(r#"{"limit": ["1", "2"]}"#), Err(QueryError::Repeated("limit")));
        assert!(parse(r#"{"limit": 1001}"#).is_err() && parse(r#"{"a": "1"}"#).is_err());
    }
}
