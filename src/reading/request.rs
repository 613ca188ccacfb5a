//! A request for rows: the parameters of its query.

use super::error::QueryError;
use super::position::Position;
use crate::filter::{Condition, FilterParser, pairs, parameter, shortened};

/// Columns in `select`.
pub(crate) const SELECT_COLUMNS_MAX: usize = 200;
/// Columns in `order`.
pub(crate) const ORDER_COLUMNS_MAX: usize = 8;
/// Rows of a page without the parameter `limit`.
pub(crate) const ROWS_DEFAULT: usize = 100;
/// Rows of a page.
pub(crate) const ROWS_MAX: usize = 1000;

/// A request for a page of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRequest {
    /// Columns to send. None means all.
    pub select: Option<Vec<String>>,
    /// Conditions that all rows fulfil.
    pub conditions: Vec<Condition>,
    /// Conditions that the token requires of all rows, also of a single one.
    pub signed: Vec<Condition>,
    /// Order of the rows. The key of the table follows.
    pub order: Vec<OrderTerm>,
    /// Most rows of the page.
    pub limit: usize,
    /// Position after which the page begins.
    pub after: Option<Position>,
}

/// One column of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderTerm {
    /// Name of the column.
    pub column: String,
    /// Whether larger values come first.
    pub is_descending: bool,
    /// Whether nulls come before all values.
    pub nulls_first: bool,
}

impl RowRequest {
    /// Parses the query of a URL.
    ///
    /// # Errors
    /// If a parameter is not valid. Names of columns are not checked here.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        Self::from_parameters(&pairs(query)?, ROWS_DEFAULT)
    }

    /// Parses the query of a URL that names one row.
    ///
    /// # Errors
    /// If a parameter is not valid, or is another one than `select`.
    pub fn parse_of_row(query: &str) -> Result<Self, QueryError> {
        let pairs = pairs(query)?;
        match pairs.iter().find(|(name, _)| name != "select") {
            Some((name, _)) => Err(QueryError::NotOfRow(shortened(name))),
            None => Self::from_parameters(&pairs, 1),
        }
    }

    /// Parses parameters, which are pairs of a name and a value. Without `limit`, a page has up to `rows`
    /// rows.
    pub(super) fn from_parameters(pairs: &[(String, String)], rows: usize) -> Result<Self, QueryError> {
        let mut filters = FilterParser::default();
        let mut request = Self {
            select: None,
            conditions: Vec::new(),
            signed: Vec::new(),
            order: Vec::new(),
            limit: rows,
            after: None,
        };
        let (mut has_order, mut has_limit) = (false, false);
        for (name, value) in pairs {
            match name.as_str() {
                "select" => {
                    let columns = select(value)?;
                    set_once("select", request.select.is_some())?;
                    request.select = columns;
                }
                "order" => {
                    set_once("order", std::mem::replace(&mut has_order, true))?;
                    request.order = order(value)?;
                }
                "limit" => {
                    set_once("limit", std::mem::replace(&mut has_limit, true))?;
                    request.limit = limit(value)?;
                }
                "after" => {
                    set_once("after", request.after.is_some())?;
                    request.after = Some(Position::decode(value)?);
                }
                name => request.conditions.push(parameter(&mut filters, name, value)?),
            }
        }
        Ok(request)
    }
}

/// The query of the next page: the same parameters with another position.
#[must_use]
pub fn with_position(query: &str, position: &str) -> String {
    let is_other = |pair: &&str| !pair.is_empty() && pair.split('=').next() != Some("after");
    let mut next: Vec<&str> = query.split('&').filter(is_other).collect();
    let after = format!("after={position}");
    next.push(&after);
    next.join("&")
}

fn set_once(name: &'static str, is_set: bool) -> Result<(), QueryError> {
    if is_set { Err(QueryError::Repeated(name)) } else { Ok(()) }
}

fn limit(value: &str) -> Result<usize, QueryError> {
    let number = value.parse().ok().filter(|number| (1..=ROWS_MAX).contains(number));
    number.ok_or(QueryError::Limit(ROWS_MAX))
}

pub(super) fn select(value: &str) -> Result<Option<Vec<String>>, QueryError> {
    if value == "*" {
        return Ok(None);
    }
    names("select", value, SELECT_COLUMNS_MAX).map(Some)
}

/// Names separated by commas.
fn names(parameter: &'static str, value: &str, max: usize) -> Result<Vec<String>, QueryError> {
    let names: Vec<String> = value.split(',').map(str::to_owned).collect();
    if names.len() > max { Err(QueryError::TooManyColumns { parameter, max }) } else { Ok(names) }
}

fn order(value: &str) -> Result<Vec<OrderTerm>, QueryError> {
    let mut terms: Vec<OrderTerm> = Vec::new();
    for text in names("order", value, ORDER_COLUMNS_MAX)? {
        let term = OrderTerm::parse(&text).ok_or_else(|| QueryError::Order(shortened(&text)))?;
        // A second term of the same column decides nothing.
        if terms.iter().all(|known| known.column != term.column) {
            terms.push(term);
        }
    }
    Ok(terms)
}

impl OrderTerm {
    /// Parses `column.desc.nullslast`. Without `nullsfirst` or `nullslast`, null counts as the largest value.
    fn parse(text: &str) -> Option<Self> {
        let (text, nulls_first) = if let Some(text) = text.strip_suffix(".nullsfirst") {
            (text, Some(true))
        } else if let Some(text) = text.strip_suffix(".nullslast") {
            (text, Some(false))
        } else {
            (text, None)
        };
        let (column, is_descending) = if let Some(column) = text.strip_suffix(".desc") {
            (column, true)
        } else {
            (text.strip_suffix(".asc").unwrap_or(text), false)
        };
        let nulls_first = nulls_first.unwrap_or(is_descending);
        (!column.is_empty()).then(|| Self { column: column.to_owned(), is_descending, nulls_first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Comparison, Test};

    #[test]
    fn a_query_is_parsed() {
        let position = Position(vec![Some("a".into()), None]);
        let query = format!(
            "select=id,a+b&status=eq.done%21&or=(a.eq.1,b.is.null)&order=at.desc,id.asc.nullsfirst&limit=7&after={}",
            position.encode().expect("encodes")
        );
        let request = RowRequest::parse(&query).expect("parses");
        assert_eq!(request.select, Some(vec!["id".into(), "a b".into()]));
        assert_eq!(request.conditions.len(), 2);
        let status = Test::Compare("status".into(), Comparison::Equal, "done!".into());
        assert_eq!(request.conditions[0].test, status);
        let term = |column: &str, is_descending, nulls_first| OrderTerm {
            column: column.into(),
            is_descending,
            nulls_first,
        };
        assert_eq!(request.order, [term("at", true, true), term("id", false, true)]);
        assert_eq!((request.limit, request.after), (7, Some(position)));
        assert_eq!(with_position("a=eq.1&after=x&limit=2", "y"), "a=eq.1&limit=2&after=y");
        assert_eq!(with_position("", "y"), "after=y");
    }

    #[test]
    fn malformed_queries_are_rejected() {
        for query in [
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=x",
            "limit=1&limit=2",
            "select=a&select=b",
            "order=",
            "order=.desc",
            "order=a&order=b",
            "after=!",
            "after=e30",
            "a=%ff",
            "a=eq.%00",
            "a%00=eq.1",
            "a",
            "a=1",
            "and=a.eq.1",
            "not.or=()",
        ] {
            assert!(RowRequest::parse(query).is_err(), "{query}");
        }
        let many = format!("order={}", ["a"; ORDER_COLUMNS_MAX + 1].join(","));
        assert!(RowRequest::parse(&many).is_err());
    }
}
