//! Reasons why a filter is rejected.

/// Error in a filter, which the client can correct.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No visible column has this name. Omitted columns, and those that the role may not SELECT, are unknown.
    #[error("unknown column {0:?}")]
    UnknownColumn(String),
    /// No operator has this name.
    #[error(
        "unknown operator {0:?}: use eq, neq, gt, gte, lt, lte, in, is, like or ilike, with not. in front of it to negate it"
    )]
    UnknownOperator(String),
    /// The operator does not apply to the type of the column.
    #[error("column {column:?} is of type {kind}, to which {operation} does not apply")]
    NotApplicable {
        /// Name of the column.
        column: String,
        /// Type of the column.
        kind: String,
        /// Requested operation.
        operation: &'static str,
    },
    /// An event does not show the result of the operation exactly.
    #[error(
        "column {column:?} is of type {kind}, for which {operation} cannot be evaluated on events: filter by another \
         column"
    )]
    NotExact {
        /// Name of the column.
        column: String,
        /// Type of the column.
        kind: String,
        /// Requested operation.
        operation: &'static str,
    },
    /// The expression of the column may fail on a row that a token's filter does not select.
    #[error(
        "column {0:?} is a virtual generated column, which neither the filters of a token nor requests with such a \
         token may filter or order by: its expression may fail on rows that the token does not select. Use another \
         column, or make this one stored"
    )]
    Virtual(String),
    /// A character is missing in a filter.
    #[error("expected {expected:?} in a filter, {}", place(found))]
    Syntax {
        /// Missing character.
        expected: char,
        /// Text at its place.
        found: String,
    },
    /// Text follows the end of a filter.
    #[error("unexpected {0:?} at the end of a filter")]
    Trailing(String),
    /// Groups are nested too deeply.
    #[error("groups are nested more than {0} levels deep")]
    TooDeep(usize),
    /// A pattern would take too long to search for.
    #[error(
        "the parts of a pattern that contain _ between two % have more than {0} characters: shorten them, or replace _"
    )]
    PatternTooLong(usize),
    /// A number has too many digits as PostgreSQL prints it.
    #[error("a value of column {column:?} has more than {max} digits: use a shorter number")]
    NumberTooLong {
        /// Name of the column.
        column: String,
        /// The limit.
        max: usize,
    },
    /// There are too many conditions.
    #[error("the filter has more than {0} conditions")]
    TooManyConditions(usize),
    /// The lists of a request have too many values.
    #[error("the lists have more than {0} values in all")]
    TooManyValues(usize),
}

impl FilterError {
    pub(super) fn unknown_operator(name: &str) -> Self {
        Self::UnknownOperator(shortened(name))
    }

    pub(crate) fn unknown_column(name: &str) -> Self {
        Self::UnknownColumn(shortened(name))
    }

    pub(super) fn syntax(expected: char, found: &str) -> Self {
        Self::Syntax { expected, found: shortened(found) }
    }
}

/// Place of a missing character, for a message.
fn place(found: &str) -> String {
    if found.is_empty() { "which ends there".to_owned() } else { format!("before {found:?}") }
}

/// The beginning of a string, for an error message.
pub(crate) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let mut chars = text.chars();
    let mut short: String = chars.by_ref().take(CHARS_MAX).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}
