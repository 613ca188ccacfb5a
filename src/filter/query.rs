//! Filters in the form of a URL's query, such as `status=eq.open&or=(a.eq.1,b.is.null)`.

use percent_encoding::percent_decode_str;

use super::error::{FilterError, shortened};
use super::syntax::{Condition, FilterParser};

/// Names of parameters that are no conditions. A column with such a name is filtered in a group.
const PARAMETERS: [&str; 4] = ["select", "order", "limit", "after"];

/// Error in a filter in the form of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterQueryError {
    /// The query is not UTF-8, or contains U+0000.
    Encoding,
    /// This parameter is no condition.
    NotInFilter(&'static str),
    /// The condition on this column is not valid.
    Parameter(String, FilterError),
    /// A group is not valid.
    Group(FilterError),
}

/// Parses conditions, all of which must hold.
///
/// # Errors
/// If a condition is not valid, or a parameter is no condition. Names of columns are not checked here.
pub fn parse_query(query: &str) -> Result<Vec<Condition>, FilterQueryError> {
    let mut filters = FilterParser::default();
    let mut conditions = Vec::new();
    for (name, value) in pairs(query)? {
        if let Some(name) = PARAMETERS.into_iter().find(|parameter| *parameter == name) {
            return Err(FilterQueryError::NotInFilter(name));
        }
        conditions.push(parameter(&mut filters, &name, &value)?);
    }
    Ok(conditions)
}

/// The condition of a parameter that is none of [`PARAMETERS`].
pub(crate) fn parameter(
    filters: &mut FilterParser,
    name: &str,
    value: &str,
) -> Result<Condition, FilterQueryError> {
    match name {
        "and" | "or" | "not.and" | "not.or" => filters.group(name, value).map_err(FilterQueryError::Group),
        column => {
            let named = |error| FilterQueryError::Parameter(shortened(column), error);
            filters.column(column, value).map_err(named)
        }
    }
}

/// Decoded names and values of a query.
pub(crate) fn pairs(query: &str) -> Result<Vec<(String, String)>, FilterQueryError> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(n, v)| Ok((decode(n)?, decode(v)?)))
        .collect()
}

/// Decodes a name or value of a query, in which `+` stands for a space.
fn decode(text: &str) -> Result<String, FilterQueryError> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8().map_err(|_| FilterQueryError::Encoding)?;
    if decoded.contains('\0') { Err(FilterQueryError::Encoding) } else { Ok(decoded.into_owned()) }
}
