//! Reasons why rows are not read.

use std::time::Duration;

use crate::filter::{FilterError, FilterQueryError};

/// Error in a request, which the client can correct.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A filter is not valid, or a column is unknown.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A parameter that is the name of a column, or of none, is not a valid filter.
    #[error("parameter {0:?}: {1}")]
    Parameter(String, FilterError),
    /// A parameter occurs twice.
    #[error("the parameter {0} occurs more than once")]
    Repeated(&'static str),
    /// A request for one row has a parameter of a page.
    #[error(
        "{0:?} does not apply to one row, of which select is the only parameter: omit it, or read a page"
    )]
    NotOfRow(String),
    /// A term of `order` is not valid.
    #[error(
        "order {0:?} is not valid: use column, column.asc or column.desc, and then .nullsfirst or .nullslast"
    )]
    Order(String),
    /// There are too many columns in `select` or `order`.
    #[error("{parameter} names more than {max} columns")]
    TooManyColumns {
        /// The parameter.
        parameter: &'static str,
        /// The limit.
        max: usize,
    },
    /// A filter of a join has a parameter of a page.
    #[error(
        "{0} is not part of a filter: for a column of this name, write and=({0}.eq.…); select is a field of the join, and \
         order and limit are parameters of its snapshot"
    )]
    NotInFilter(&'static str),
    /// A filter of a join, with its selected columns, is too long.
    #[error("filter and select have more than {0} bytes: shorten them")]
    FilterTooLong(usize),
    /// A value of a filter is too long in the form of events.
    #[error("a value of the filter has more than {0} bytes as PostgreSQL prints it: shorten it")]
    ValueTooLong(usize),
    /// The limit is not a number in range.
    #[error("limit must be a number from 1 to {0}")]
    Limit(usize),
    /// The position of a page was not created for this order.
    #[error("after does not fit the order: use the URL in next as it is, without a change")]
    After,
    /// The parameters of a snapshot are not an object of strings.
    #[error(
        "the parameters of a snapshot are an object with a string, or a list of strings, for each name: {}",
        "for example {\"status\": \"eq.completed\"}"
    )]
    Parameters,
    /// A snapshot has no position.
    #[error("after does not apply to a snapshot, of which the gateway sends all pages: omit it")]
    AfterInSnapshot,
    /// The query is not UTF-8, or contains U+0000.
    #[error("the query must be UTF-8 and must not contain the character U+0000")]
    Encoding,
    /// The database rejects a value.
    #[error("a value does not fit the type of its column: {0}")]
    Value(String),
    /// The URL of the next page would be too long.
    #[error(
        "the values of the columns in order are too long for the URL of the next page: order by other columns"
    )]
    PositionTooLong,
    /// The plan of the query costs more than this limit. The estimate depends on the rows of all
    /// organisations, so it is not named.
    #[error(
        "no index serves this filter or order well enough (the estimated cost is above {0}): filter or order by \
         indexed columns, or create an index that begins with the organisation's column"
    )]
    TooExpensive(u64),
    /// The query needs more disk than the database allows its role.
    #[error(
        "the query needs more temporary space than the database allows (temp_file_limit): filter or order by indexed \
         columns, or read fewer rows"
    )]
    TooLargeToSort,
    /// The query took too long.
    #[error("the query took longer than {0:?}: filter or order by indexed columns, or read fewer rows")]
    TooSlow(Duration),
}

impl From<FilterQueryError> for QueryError {
    fn from(error: FilterQueryError) -> Self {
        match error {
            FilterQueryError::Encoding => Self::Encoding,
            FilterQueryError::NotInFilter(name) => Self::NotInFilter(name),
            FilterQueryError::Parameter(name, error) => Self::Parameter(name, error),
            FilterQueryError::Group(error) => Self::Filter(error),
        }
    }
}

impl QueryError {
    /// Code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooExpensive(_) | Self::TooLargeToSort => "query_too_expensive",
            Self::TooSlow(_) => "query_too_slow",
            Self::Filter(FilterError::NotExact { .. }) => "filter_not_exact",
            _ => "invalid_query",
        }
    }
}

/// Reason why rows are not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The request is not valid.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// No table is watched with this topic.
    #[error("no table is watched with this topic")]
    UnknownTopic,
    /// A filter that the token requires does not fit the table.
    #[error(
        "the token's app_metadata.warden_filters do not fit the topic {topic}, so nothing of it is sent: {reason}"
    )]
    FilterNotApplicable {
        /// The topic.
        topic: String,
        /// Reason for people.
        reason: String,
    },
    /// No row has this id, or the caller may not see it.
    #[error("no row has this id")]
    UnknownRow,
    /// The row does not fit into a response.
    #[error("the row is larger than {0} bytes: choose columns with select")]
    RowTooLarge(usize),
    /// The role `authenticated` may not read the table.
    #[error("the role authenticated may not read this table")]
    Forbidden,
    /// The organisation has too many requests that wait or are sent.
    #[error("too many reads of this organisation are in progress: retry later")]
    OrgBusy,
    /// The node has too many requests that wait or are sent.
    #[error("too many reads are in progress on this node: retry later")]
    Busy,
    /// The watch of the table no longer fits, or the gateway's role lacks a right. The log has the reason.
    #[error("this table cannot be read at present: the gateway's log has the reason")]
    NotReadable(String),
    /// The database is unavailable, or its answer is unexpected.
    #[error("the database is unavailable: try again")]
    Database(#[from] sqlx::Error),
}

/// SQLSTATE of a statement that the role may not run.
pub(super) const INSUFFICIENT_PRIVILEGE: &str = "42501";

impl ReadError {
    /// Code for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Query(error) => error.code(),
            Self::UnknownTopic => "unknown_topic",
            Self::UnknownRow => "unknown_row",
            Self::FilterNotApplicable { .. } => "filter_not_applicable",
            Self::RowTooLarge(_) => "row_too_large",
            Self::Forbidden => "forbidden",
            Self::OrgBusy => "org_reads",
            Self::Busy => "busy",
            Self::NotReadable(_) => "not_readable",
            Self::Database(_) => "unavailable",
        }
    }

    /// Whether the same read may succeed in a moment.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::OrgBusy | Self::Busy | Self::Database(_))
    }

    /// Whether the same read can never succeed with the same token.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Query(error) => !matches!(error, QueryError::TooSlow(_) | QueryError::TooExpensive(_)),
            Self::UnknownTopic | Self::FilterNotApplicable { .. } | Self::Forbidden => true,
            Self::UnknownRow
            | Self::RowTooLarge(_)
            | Self::OrgBusy
            | Self::Busy
            | Self::NotReadable(_)
            | Self::Database(_) => false,
        }
    }

    /// The error of a filter that the token requires.
    pub(super) fn of_signed(self, topic: &str) -> Self {
        let reason = match self {
            Self::Query(QueryError::TooSlow(_) | QueryError::TooExpensive(_)) => return self,
            Self::Query(error) => error.to_string(),
            Self::UnknownTopic => self.to_string(),
            other => return other,
        };
        Self::FilterNotApplicable { topic: topic.to_owned(), reason }
    }

    /// The error of a transaction that cannot be bound to its user.
    pub(super) fn not_bound(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        if code.as_deref() == Some(INSUFFICIENT_PRIVILEGE) {
            return Self::NotReadable(format!(
                "the gateway may not become the role authenticated ({error}): grant authenticated to warden_gateway"
            ));
        }
        Self::Database(error)
    }
}
