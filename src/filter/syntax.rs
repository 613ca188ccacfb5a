//! The grammar of filters: PostgREST's operators on columns, and `and`/`or` groups.
//!
//! It only parses. Whether a column exists, and whether an operator applies to its type, is decided later,
//! when the table is known.

use super::error::{FilterError, shortened};

/// Groups within groups.
pub(crate) const DEPTH_MAX: usize = 8;
/// Conditions of one filter, groups included.
pub(crate) const CONDITIONS_MAX: usize = 64;
/// Values of all `in` lists of one request.
pub(crate) const LIST_VALUES_MAX: usize = 500;

/// One condition on a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whether `not` precedes it.
    pub is_negated: bool,
    /// Requirement.
    pub test: Test,
}

impl Condition {
    /// Whether it compares with a pattern, or a member of its group does.
    pub(crate) fn has_pattern(&self) -> bool {
        match &self.test {
            Test::Compare(_, comparison, _) => comparison.is_pattern(),
            Test::In(..) | Test::Is(..) => false,
            Test::All(members) | Test::Any(members) => members.iter().any(Self::has_pattern),
        }
    }
}

/// Requirement of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// A column compares with a value.
    Compare(String, Comparison, String),
    /// A column equals one of several values.
    In(String, Vec<String>),
    /// A column is null, or has a truth value.
    Is(String, Truth),
    /// All of these conditions hold.
    All(Vec<Condition>),
    /// At least one of these conditions holds.
    Any(Vec<Condition>),
}

/// Operator with one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `like`, with `*` for `%`
    Like,
    /// `ilike`, with `*` for `%`
    InsensitiveLike,
}

/// Operand of `is`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// Null.
    Null,
    /// Not null.
    NotNull,
    /// True.
    True,
    /// False.
    False,
    /// Neither true nor false.
    Unknown,
}

impl Comparison {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "eq" => Self::Equal,
            "neq" => Self::NotEqual,
            "gt" => Self::Greater,
            "gte" => Self::GreaterOrEqual,
            "lt" => Self::Less,
            "lte" => Self::LessOrEqual,
            "like" => Self::Like,
            "ilike" => Self::InsensitiveLike,
            _ => return None,
        })
    }

    /// Whether it matches a pattern.
    #[must_use]
    pub fn is_pattern(self) -> bool {
        matches!(self, Self::Like | Self::InsensitiveLike)
    }
}

impl Truth {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Self::Null,
            "not_null" => Self::NotNull,
            "true" => Self::True,
            "false" => Self::False,
            "unknown" => Self::Unknown,
            _ => return None,
        })
    }
}

/// Parser of the filters of one request. It counts conditions and values of lists, because their numbers are
/// limited: a request that waits keeps them, and a value takes many times the bytes of its text.
#[derive(Debug, Default)]
pub(crate) struct FilterParser {
    conditions: usize,
    values: usize,
}

impl FilterParser {
    /// Parses `column=not.eq.value` from its two sides.
    pub(crate) fn column(&mut self, column: &str, operation: &str) -> Result<Condition, FilterError> {
        let (is_negated, operation) = strip_not(operation);
        let Some((operator, operand)) = operation.split_once('.') else {
            let is_known = matches!(operation, "in" | "is") || Comparison::parse(operation).is_some();
            let error = FilterError::syntax('.', "");
            return Err(if is_known { error } else { FilterError::unknown_operator(operation) });
        };
        let mut rest = Rest { text: operand };
        let test = match operator {
            "in" => Test::In(column.to_owned(), self.list(&mut rest)?),
            "is" => Test::Is(column.to_owned(), truth(operand)?),
            _ => {
                rest.text = "";
                compare(column, operator, operand.to_owned())?
            }
        };
        if operator == "in" {
            rest.expect_end()?;
        }
        self.counted(Condition { is_negated, test })
    }

    /// Parses `and=(...)` or `or=(...)` from its value. `name` may begin with `not.`.
    pub(crate) fn group(&mut self, name: &str, value: &str) -> Result<Condition, FilterError> {
        let (is_negated, name) = strip_not(name);
        let mut rest = Rest { text: value };
        let members = self.members(&mut rest, 1)?;
        rest.expect_end()?;
        self.counted(Condition { is_negated, test: grouped(name, members) })
    }

    /// Parses `(condition,condition,...)`.
    fn members(&mut self, rest: &mut Rest<'_>, depth: usize) -> Result<Vec<Condition>, FilterError> {
        if depth > DEPTH_MAX {
            return Err(FilterError::TooDeep(DEPTH_MAX));
        }
        rest.expect('(')?;
        let mut members = Vec::new();
        loop {
            members.push(self.member(rest, depth)?);
            if rest.take(')') {
                return Ok(members);
            }
            rest.expect_separator()?;
        }
    }

    /// Parses a condition in a group: `column.not.eq.value`, or a group.
    fn member(&mut self, rest: &mut Rest<'_>, depth: usize) -> Result<Condition, FilterError> {
        for (prefix, is_negated, name) in
            [("and(", false, "and"), ("or(", false, "or"), ("not.and(", true, "and"), ("not.or(", true, "or")]
        {
            if rest.text.starts_with(prefix) {
                rest.text = &rest.text[prefix.len() - 1..];
                let members = self.members(rest, depth + 1)?;
                return self.counted(Condition { is_negated, test: grouped(name, members) });
            }
        }
        let column = rest.name()?;
        rest.expect('.')?;
        let is_negated = rest.text.starts_with("not.");
        if is_negated {
            rest.text = &rest.text["not.".len()..];
        }
        let operator = rest.name()?;
        rest.expect('.')?;
        let test = match operator.as_str() {
            "in" => Test::In(column, self.list(rest)?),
            "is" => Test::Is(column, truth(&rest.value()?)?),
            _ => compare(&column, &operator, rest.value()?)?,
        };
        self.counted(Condition { is_negated, test })
    }

    fn list(&mut self, rest: &mut Rest<'_>) -> Result<Vec<String>, FilterError> {
        let values = rest.list(LIST_VALUES_MAX - self.values)?;
        self.values += values.len();
        Ok(values)
    }

    fn counted(&mut self, condition: Condition) -> Result<Condition, FilterError> {
        self.conditions += 1;
        if self.conditions > CONDITIONS_MAX {
            return Err(FilterError::TooManyConditions(CONDITIONS_MAX));
        }
        Ok(condition)
    }
}

fn strip_not(text: &str) -> (bool, &str) {
    text.strip_prefix("not.").map_or((false, text), |rest| (true, rest))
}

fn grouped(name: &str, members: Vec<Condition>) -> Test {
    if name == "or" { Test::Any(members) } else { Test::All(members) }
}

fn truth(operand: &str) -> Result<Truth, FilterError> {
    Truth::parse(operand).ok_or_else(|| FilterError::unknown_operator(&format!("is.{operand}")))
}

fn compare(column: &str, operator: &str, value: String) -> Result<Test, FilterError> {
    let comparison = Comparison::parse(operator).ok_or_else(|| FilterError::unknown_operator(operator))?;
    let value = if comparison.is_pattern() { value.replace('*', "%") } else { value };
    Ok(Test::Compare(column.to_owned(), comparison, value))
}

/// Text that is not parsed yet.
struct Rest<'a> {
    text: &'a str,
}

impl Rest<'_> {
    fn take(&mut self, expected: char) -> bool {
        let rest = self.text.strip_prefix(expected);
        self.text = rest.unwrap_or(self.text);
        rest.is_some()
    }

    fn expect(&mut self, expected: char) -> Result<(), FilterError> {
        if self.take(expected) { Ok(()) } else { Err(FilterError::syntax(expected, self.text)) }
    }

    /// Takes the comma between two members of a list that is not closed yet.
    fn expect_separator(&mut self) -> Result<(), FilterError> {
        if self.text.is_empty() { Err(FilterError::syntax(')', "")) } else { self.expect(',') }
    }

    fn expect_end(&self) -> Result<(), FilterError> {
        match self.text.chars().next() {
            None => Ok(()),
            Some(_) => Err(FilterError::Trailing(shortened(self.text))),
        }
    }

    /// The name of a column or operator: quoted, or up to a dot or a reserved character.
    fn name(&mut self) -> Result<String, FilterError> {
        if let Some(name) = self.quoted()? {
            return Ok(name);
        }
        let end = self.text.find(['.', ',', '(', ')', '"']).unwrap_or(self.text.len());
        let (name, rest) = self.text.split_at(end);
        self.text = rest;
        Ok(name.to_owned())
    }

    /// A value in a group: quoted, or up to a comma or a parenthesis.
    fn value(&mut self) -> Result<String, FilterError> {
        if let Some(value) = self.quoted()? {
            return Ok(value);
        }
        let end = self.text.find([',', '(', ')']).unwrap_or(self.text.len());
        let (value, rest) = self.text.split_at(end);
        self.text = rest;
        Ok(value.to_owned())
    }

    /// The operand of `in`: values in parentheses.
    fn list(&mut self, values_max: usize) -> Result<Vec<String>, FilterError> {
        self.expect('(')?;
        let mut values = Vec::new();
        if self.take(')') {
            return Ok(values);
        }
        loop {
            values.push(self.value()?);
            if values.len() > values_max {
                return Err(FilterError::TooManyValues(LIST_VALUES_MAX));
            }
            if self.take(')') {
                return Ok(values);
            }
            self.expect_separator()?;
        }
    }

    /// A string in double quotes, in which `\` escapes the next character. None if there is no quote here.
    fn quoted(&mut self) -> Result<Option<String>, FilterError> {
        let Some(inner) = self.text.strip_prefix('"') else { return Ok(None) };
        let mut string = String::new();
        let mut chars = inner.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.text = &inner[at + 1..];
                    return Ok(Some(string));
                }
                '\\' => string.extend(chars.next().map(|(_, c)| c)),
                c => string.push(c),
            }
        }
        Err(FilterError::syntax('"', ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(operation: &str) -> Result<Test, FilterError> {
        let condition = FilterParser::default().column("a", operation)?;
        Ok(if condition.is_negated { Test::All(vec![condition]) } else { condition.test })
    }

    fn compared(comparison: Comparison, value: &str) -> Test {
        Test::Compare("a".into(), comparison, value.into())
    }

    #[test]
    fn a_column_is_compared_with_the_whole_value() {
        assert_eq!(column("eq.x.y,\"z\""), Ok(compared(Comparison::Equal, "x.y,\"z\"")));
        assert_eq!(column("eq."), Ok(compared(Comparison::Equal, "")));
        assert_eq!(column("like.*a%"), Ok(compared(Comparison::Like, "%a%")));
        assert_eq!(column("in.()"), Ok(Test::In("a".into(), vec![])));
        assert_eq!(
            column(r#"in.(1,"a,\"b\\",c d)"#),
            Ok(Test::In("a".into(), vec!["1".into(), r#"a,"b\"#.into(), "c d".into()]))
        );
        assert_eq!(column("is.not_null"), Ok(Test::Is("a".into(), Truth::NotNull)));
        let negated = Condition { is_negated: true, test: compared(Comparison::Less, "1") };
        assert_eq!(column("not.lt.1"), Ok(Test::All(vec![negated])));
    }

    #[test]
    fn groups_nest() {
        let group = |text: &str| FilterParser::default().group("or", text);
        let parsed = group(r#"(a.eq.1,not.and(a.gt.2,"b.c".not.in.(x,y)),a.is.null)"#).expect("parses");
        let Test::Any(members) = parsed.test else { panic!("{parsed:?}") };
        assert_eq!(members.len(), 3);
        assert!(members[1].is_negated);
        let Test::All(inner) = &members[1].test else { panic!("{members:?}") };
        assert_eq!(inner[1].test, Test::In("b.c".into(), vec!["x".into(), "y".into()]));
        assert!(inner[1].is_negated);
    }

    #[test]
    fn malformed_filters_are_rejected() {
        for operation in ["", "eq", "equal.1", "not.not.eq.1", "in.1", "in.(1", "in.(1)x", "is.maybe", "is."]
        {
            assert!(column(operation).is_err(), "{operation}");
        }
        for group in
            ["", "(", "()", "(a)", "(a.eq)", "(a.eq.1", "(a.eq.1))", "(a.eq.\"1)", "(and(a.eq.1)", "a.eq.1"]
        {
            assert!(FilterParser::default().group("and", group).is_err(), "{group}");
        }
        let message = |operation: &str| column(operation).expect_err("is malformed").to_string();
        assert_eq!(message("in.(1"), "expected ')' in a filter, which ends there");
        assert_eq!(message("in.(\"1\"x"), "expected ',' in a filter, before \"x\"");
        assert_eq!(message("eq"), "expected '.' in a filter, which ends there");
        assert!(message("completed").starts_with("unknown operator \"completed\""));
        let deep = format!("{}a.eq.1{}", "(and".repeat(9), ")".repeat(9)).replacen("(and", "(", 1);
        assert!(FilterParser::default().group("and", &deep).is_err());
        let many = format!("({})", ["a.eq.1"; CONDITIONS_MAX + 1].join(","));
        assert_eq!(
            FilterParser::default().group("and", &many),
            Err(FilterError::TooManyConditions(CONDITIONS_MAX))
        );
        let long = format!("in.({})", ["1"; LIST_VALUES_MAX + 1].join(","));
        assert_eq!(column(&long), Err(FilterError::TooManyValues(LIST_VALUES_MAX)));
        let half = format!("a.in.({})", ["1"; LIST_VALUES_MAX / 2].join(","));
        assert!(FilterParser::default().group("and", &format!("({half},{half})")).is_ok());
        assert_eq!(
            FilterParser::default().group("and", &format!("({half},{half},a.in.(1))")),
            Err(FilterError::TooManyValues(LIST_VALUES_MAX))
        );
    }
}
