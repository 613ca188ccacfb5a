//! The claim `app_metadata.warden_filters`, which limits a token to some rows of some topics.
//!
//! Like the topics of a token, the claim is strictly typed: an invalid filter rejects the token and never
//! means "all rows". An operand that names a claim is replaced when the filter has been parsed, so no claim
//! can change the form of a filter. Names of columns are checked later, when the table is known.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::filter::{Condition, LIST_VALUES_MAX, Test, parse_query};
use crate::wire::Topic;

/// Topics in one claim.
pub(crate) const SIGNED_FILTERS_MAX: usize = 32;

/// Bytes of all filters of one claim, as the token has them.
pub(crate) const SIGNED_FILTER_BYTES_MAX: usize = 4096;

/// Bytes of all values of one claim's filters, when claims have been replaced.
pub(crate) const SIGNED_VALUE_BYTES_MAX: usize = 16 * 1024;

/// Bytes that each value counts beside its text, because a list of short values takes memory too.
const VALUE_BYTES: usize = 16;

/// Digits of a number that its 64-bit form keeps.
const FLOAT_DIGITS_MAX: usize = 15;

/// Filter of a topic without a condition.
const ALL: &str = "*";

/// Rows of topics that a token allows. A token without the claim is not limited by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterClaim(Option<Arc<SignedFilters>>);

#[derive(Debug, PartialEq, Eq)]
struct SignedFilters {
    /// The claim as JSON, for the audit trail. Claims in it are not replaced.
    json: String,
    topics: BTreeMap<Arc<str>, SignedFilter>,
}

/// Rows of one topic that a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignedFilter {
    /// All rows, and published events.
    All,
    /// Rows that fulfil all of these conditions.
    Rows(SignedRows),
}

/// Conditions that a token requires of a topic's rows.
#[derive(Clone, Debug)]
pub struct SignedRows {
    /// All of them must hold.
    pub conditions: Arc<[Condition]>,
    /// Bytes of the filter and of its values.
    pub bytes: usize,
}

impl PartialEq for SignedRows {
    /// The spelling of a filter does not count.
    fn eq(&self, other: &Self) -> bool {
        self.conditions == other.conditions
    }
}

impl Eq for SignedRows {}

/// Part of a topic that a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRule {
    /// Everything: the token has no filters, or none for this topic.
    Whole,
    /// Rows that fulfil these conditions.
    Rows(SignedRows),
    /// The topic carries those of others. Of each event, the filter of its own topic decides.
    Aggregate(FilterClaim),
    /// Nothing.
    Nothing,
}

/// Claims that a filter may name. Users cannot write them.
pub(super) struct NamedClaims<'a> {
    pub(super) sub: &'a str,
    pub(super) session_id: Option<&'a str>,
    pub(super) role: Option<&'a str>,
    pub(super) app_metadata: &'a Value,
}

/// Reason why the claim is not valid. It contains nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterClaimError {
    /// The claim or a filter has the wrong type.
    #[error("must be an object with a filter for each topic, such as {{\"calls\": \"agent_id=eq.$sub\"}}")]
    Type,
    /// There are too many topics.
    #[error("has more than {SIGNED_FILTERS_MAX} topics")]
    TooManyTopics,
    /// The filters are too long.
    #[error(
        "has filters of more than {SIGNED_FILTER_BYTES_MAX} bytes, or more than {SIGNED_VALUE_BYTES_MAX} bytes of values"
    )]
    TooLong,
    /// A name is no topic of a table or of published events.
    #[error(
        "has a name that is no topic, or an aggregate topic such as org: name the topics that it carries"
    )]
    Topic,
    /// A filter has no condition.
    #[error("has a filter without a condition: write \"*\" for all rows")]
    Empty,
    /// A filter cannot be parsed.
    #[error(
        "has a filter that is not valid: each must be a query such as status=eq.open&or=(a.eq.1,b.is.null)"
    )]
    Syntax,
    /// A filter names a claim that the token does not have, or that has no fitting type.
    #[error(
        "names a claim that the token does not have as a string, a number of at most {FLOAT_DIGITS_MAX} digits, or a \
         boolean: use $sub, $session_id, $role or $app_metadata.NAME, and a claim that is a list within in.() only"
    )]
    Value,
    /// A pattern names a claim.
    #[error(
        "names a claim in like or ilike, where the characters % and * of the claim would match any string"
    )]
    Pattern,
    /// The lists of a filter have too many values.
    #[error("has a filter whose lists have more than {LIST_VALUES_MAX} values in all")]
    TooManyValues,
}

impl FilterClaim {
    /// Parses the claim: an object with the filter, or `*`, of each topic. `claims` are those of the same
    /// token.
    pub(super) fn from_claim(value: &Value, claims: &NamedClaims<'_>) -> Result<Self, FilterClaimError> {
        let entries = value.as_object().ok_or(FilterClaimError::Type)?;
        if entries.len() > SIGNED_FILTERS_MAX {
            return Err(FilterClaimError::TooManyTopics);
        }
        let mut topics = BTreeMap::new();
        let (mut bytes, mut value_bytes) = (0, 0);
        for (topic, text) in entries {
            let text = text.as_str().ok_or(FilterClaimError::Type)?;
            bytes += text.len();
            if bytes > SIGNED_FILTER_BYTES_MAX {
                return Err(FilterClaimError::TooLong);
            }
            // Aggregate topics apply the filter of each event's own topic.
            let Some(Topic::Named(topic)) = Topic::parse(topic) else { return Err(FilterClaimError::Topic) };
            let filter = SignedFilter::parse(text, claims)?;
            if let SignedFilter::Rows(rows) = &filter {
                value_bytes += rows.bytes;
            }
            if value_bytes > SIGNED_VALUE_BYTES_MAX {
                return Err(FilterClaimError::TooLong);
            }
            topics.insert(topic, filter);
        }
        Ok(Self(Some(Arc::new(SignedFilters { json: value.to_string(), topics }))))
    }

    /// Checks the claim for a token with this user and role, whose `app_metadata` has nothing else.
    ///
    /// # Errors
    /// If the gateway would reject a token with the claim.
    pub fn check(value: &Value, sub: &str, role: &str) -> Result<(), FilterClaimError> {
        let claims = NamedClaims { sub, session_id: None, role: Some(role), app_metadata: &Value::Null };
        Self::from_claim(value, &claims).map(drop)
    }

    /// Creates a claim without a token, for unit tests.
    #[cfg(test)]
    pub(crate) fn for_tests(value: &Value) -> Self {
        let claims = NamedClaims { sub: "user", session_id: None, role: None, app_metadata: &Value::Null };
        Self::from_claim(value, &claims).expect("a claim")
    }

    /// Whether the token has the claim. If so, it allows only the topics that it names.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// The claim as JSON. Claims in it are not replaced.
    #[must_use]
    pub fn json(&self) -> Option<&str> {
        self.0.as_deref().map(|filters| filters.json.as_str())
    }

    /// The filter of a topic. None if the claim does not name it.
    #[must_use]
    pub fn of(&self, topic: &str) -> Option<&SignedFilter> {
        self.0.as_ref()?.topics.get(topic)
    }

    /// Topics that the claim names, with their filters.
    pub fn topics(&self) -> impl Iterator<Item = (&Arc<str>, &SignedFilter)> {
        self.0.iter().flat_map(|filters| &filters.topics)
    }

    /// The part of a topic that the token allows.
    #[must_use]
    pub fn rule(&self, topic: &Topic) -> TopicRule {
        match topic {
            _ if !self.is_present() => TopicRule::Whole,
            Topic::Org | Topic::Entity(_) => TopicRule::Aggregate(self.clone()),
            Topic::Named(name) => match self.of(name) {
                None => TopicRule::Nothing,
                Some(SignedFilter::All) => TopicRule::Whole,
                Some(SignedFilter::Rows(rows)) => TopicRule::Rows(rows.clone()),
            },
        }
    }

    /// Whether the other claim allows the same part of a topic.
    #[must_use]
    pub fn has_same_rule(&self, other: &Self, topic: &Topic) -> bool {
        match (self.rule(topic), other.rule(topic)) {
            // The texts of the claims may differ.
            (TopicRule::Aggregate(one), TopicRule::Aggregate(other)) => one.topics().eq(other.topics()),
            (one, other) => one == other,
        }
    }
}

impl SignedFilter {
    fn parse(text: &str, claims: &NamedClaims<'_>) -> Result<Self, FilterClaimError> {
        if text == ALL {
            return Ok(Self::All);
        }
        let mut conditions = parse_query(text).map_err(|_| FilterClaimError::Syntax)?;
        // An empty filter would allow all rows, which has a spelling of its own.
        if conditions.is_empty() {
            return Err(FilterClaimError::Empty);
        }
        let mut replacement = Replacement { claims, bytes: text.len(), list_values: 0 };
        for condition in &mut conditions {
            replacement.replace(&mut condition.test)?;
        }
        Ok(Self::Rows(SignedRows { conditions: conditions.into(), bytes: replacement.bytes }))
    }
}

/// Replaces operands that name a claim.
struct Replacement<'a> {
    claims: &'a NamedClaims<'a>,
    /// Bytes of the filter and of its values.
    bytes: usize,
    /// Values of all lists.
    list_values: usize,
}

impl Replacement<'_> {
    fn replace(&mut self, test: &mut Test) -> Result<(), FilterClaimError> {
        match test {
            Test::Compare(_, comparison, value) => {
                *value = match self.claims.operand(value)? {
                    Operand::Literal(literal) => literal,
                    // A claim could contain `%`, which is any string in a pattern.
                    Operand::Claim(_) if comparison.is_pattern() => return Err(FilterClaimError::Pattern),
                    Operand::Claim(value) => value,
                    Operand::Claims(_) => return Err(FilterClaimError::Value),
                };
                self.bytes += VALUE_BYTES + value.len();
            }
            Test::In(_, values) => {
                let mut replaced = Vec::new();
                for value in values.iter() {
                    match self.claims.operand(value)? {
                        Operand::Literal(value) | Operand::Claim(value) => replaced.push(value),
                        Operand::Claims(values) => replaced.extend(values),
                    }
                }
                self.list_values += replaced.len();
                if self.list_values > LIST_VALUES_MAX {
                    return Err(FilterClaimError::TooManyValues);
                }
                self.bytes += replaced.iter().map(|value| VALUE_BYTES + value.len()).sum::<usize>();
                *values = replaced;
            }
            Test::Is(..) => {}
            Test::All(members) | Test::Any(members) => {
                for member in members {
                    self.replace(&mut member.test)?;
                }
            }
        }
        Ok(())
    }
}

/// Meaning of an operand.
enum Operand {
    /// Itself.
    Literal(String),
    /// Value of a claim.
    Claim(String),
    /// Values of a claim that is a list.
    Claims(Vec<String>),
}

impl NamedClaims<'_> {
    /// `$sub` and so on name a claim, and `$$` at the beginning stands for `$`.
    fn operand(&self, text: &str) -> Result<Operand, FilterClaimError> {
        let Some(name) = text.strip_prefix('$') else { return Ok(Operand::Literal(text.to_owned())) };
        if name.starts_with('$') {
            return Ok(Operand::Literal(name.to_owned()));
        }
        let text = |text: Option<&str>| text.map(Value::from);
        let of_metadata = |name: &str| self.app_metadata.as_object()?.get(name).cloned();
        let claim = match name {
            "sub" => text(Some(self.sub)),
            "session_id" => text(self.session_id),
            "role" => text(self.role),
            _ => name.strip_prefix("app_metadata.").and_then(of_metadata),
        };
        let operand = match claim {
            Some(Value::Array(values)) => {
                values.iter().map(scalar).collect::<Option<_>>().map(Operand::Claims)
            }
            Some(value) => scalar(&value).map(Operand::Claim),
            None => None,
        };
        operand.ok_or(FilterClaimError::Value)
    }
}

/// A string, number or boolean as the operand of a filter.
fn scalar(value: &Value) -> Option<String> {
    match value {
        // PostgreSQL stores no U+0000.
        Value::String(string) if !string.contains('\0') => Some(string.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        // A longer number was rounded, and would name another value.
        Value::Number(number) => {
            let text = number.to_string();
            let digits = text
                .split('e')
                .next()
                .map_or(0, |digits| digits.matches(|c: char| c.is_ascii_digit()).count());
            (digits <= FLOAT_DIGITS_MAX).then_some(text)
        }
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}
