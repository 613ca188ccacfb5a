//! Conditions as SQL about the row `n`. Names come from the list of visible columns alone, and every value
//! is a bound parameter that is cast to the type of its column.

use std::fmt::Write as _;

use super::column::{Column, Columns};
use super::error::FilterError;
use super::syntax::{Comparison, Condition, Test, Truth};

/// Text of conditions, with the values of its parameters. `$1` is the caller's.
pub(crate) struct SqlBuilder<'a> {
    columns: &'a Columns,
    pub(crate) sql: String,
    /// Values from `$2` on, with their types.
    pub(crate) values: Vec<(String, String)>,
}

impl<'a> SqlBuilder<'a> {
    /// Continues a text that has no parameter except `$1`.
    pub(crate) fn new(columns: &'a Columns, sql: String) -> Self {
        Self { columns, sql, values: Vec::new() }
    }

    /// Adds a value, and returns its parameter, cast to the type of the column.
    pub(crate) fn bind(&mut self, column: &Column, value: &str) -> String {
        self.values.push((value.to_owned(), column.kind.clone()));
        format!("${}::{}", self.values.len() + 1, column.kind)
    }

    /// Appends a condition.
    pub(crate) fn condition(&mut self, condition: &Condition) -> Result<(), FilterError> {
        self.sql.push_str(if condition.is_negated { "not (" } else { "(" });
        match &condition.test {
            Test::Compare(name, comparison, value) => self.compare(name, *comparison, value)?,
            Test::In(name, values) => self.one_of(name, values)?,
            Test::Is(name, truth) => self.is(name, *truth)?,
            Test::All(members) => self.members(members, " and ")?,
            Test::Any(members) => self.members(members, " or ")?,
        }
        self.sql.push(')');
        Ok(())
    }

    fn members(&mut self, members: &[Condition], separator: &str) -> Result<(), FilterError> {
        for (n, member) in members.iter().enumerate() {
            if n > 0 {
                self.sql.push_str(separator);
            }
            self.condition(member)?;
        }
        Ok(())
    }

    fn compare(&mut self, name: &str, comparison: Comparison, value: &str) -> Result<(), FilterError> {
        let columns = self.columns;
        let column = columns.find(name)?;
        let operator = match comparison {
            Comparison::Equal => "=",
            Comparison::NotEqual => "<>",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Like => "like",
            Comparison::InsensitiveLike => "ilike",
        };
        if comparison.is_pattern() {
            column.expect(column.is_text, "like")?;
            // A pattern is text, whatever the type of the column is. A trailing \ would be an error.
            self.values.push((complete_pattern(value), "pg_catalog.text".to_owned()));
            let row = match comparison {
                Comparison::InsensitiveLike => column.for_any_case(),
                _ => column.for_equality(),
            };
            let _ = write!(self.sql, "{row} {operator} ${}", self.values.len() + 1);
            return Ok(());
        }
        column.expect(column.is_ordered, "a comparison")?;
        let parameter = self.bind(column, value);
        let row = match comparison {
            Comparison::Equal | Comparison::NotEqual => column.for_equality(),
            _ => column.for_order(),
        };
        let _ = write!(self.sql, "{row} {operator} {parameter}");
        Ok(())
    }

    fn one_of(&mut self, name: &str, values: &[String]) -> Result<(), FilterError> {
        let columns = self.columns;
        let column = columns.find(name)?;
        column.expect(column.is_ordered, "in")?;
        let parameters: Vec<String> = values.iter().map(|value| self.bind(column, value)).collect();
        let (row, kind) = (column.for_equality(), &column.kind);
        let _ = write!(self.sql, "{row} = any (array[{}]::{kind}[])", parameters.join(", "));
        Ok(())
    }

    fn is(&mut self, name: &str, truth: Truth) -> Result<(), FilterError> {
        let column = self.columns.find(name)?;
        let (test, needs_boolean) = match truth {
            // `is null` holds for a composite value all of whose columns are null.
            Truth::Null => ("is not distinct from null", false),
            Truth::NotNull => ("is distinct from null", false),
            Truth::True => ("is true", true),
            Truth::False => ("is false", true),
            Truth::Unknown => ("is unknown", true),
        };
        column.expect(!needs_boolean || column.is_boolean, "is")?;
        let _ = write!(self.sql, "{} {test}", column.of_row());
        Ok(())
    }
}

/// A pattern without an escape character at its end, which PostgreSQL rejects.
fn complete_pattern(pattern: &str) -> String {
    let escapes = pattern.bytes().rev().take_while(|byte| *byte == b'\\').count();
    if escapes % 2 == 1 { format!("{pattern}\\") } else { pattern.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::syntax::FilterParser;
    use super::*;

    #[test]
    fn a_collation_is_named_only_if_it_decides() {
        let collated = |kind: &str, operation: &str| {
            let columns = Columns::for_tests(&[("a", kind)]);
            let condition = FilterParser::default().column("a", operation).expect("parses");
            let mut builder = SqlBuilder::new(&columns, String::new());
            builder.condition(&condition).expect("builds");
            builder.sql.contains("collate pg_catalog.\"C\"")
        };
        for (operation, kinds) in [
            ("eq.x", vec!["text nondeterministic"]),
            ("neq.x", vec!["text nondeterministic"]),
            ("in.(x)", vec!["text nondeterministic"]),
            ("like.x", vec!["text nondeterministic"]),
            ("gt.x", vec!["text deterministic", "text nondeterministic"]),
            ("lte.x", vec!["text deterministic", "text nondeterministic"]),
            ("ilike.x", vec!["text bytes", "text deterministic", "text nondeterministic"]),
            ("is.null", vec![]),
        ] {
            let found = ["text bytes", "text deterministic", "text nondeterministic"]
                .into_iter()
                .filter(|kind| collated(kind, operation));
            assert_eq!(found.collect::<Vec<_>>(), kinds, "{operation}");
        }
        assert!(!collated("integer", "gt.1"));
    }

    #[test]
    fn a_pattern_does_not_end_in_an_escape() {
        for (pattern, complete) in [("a", "a"), ("a\\", "a\\\\"), ("a\\\\", "a\\\\"), ("", "")] {
            assert_eq!(complete_pattern(pattern), complete);
        }
    }
}
