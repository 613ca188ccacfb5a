//! Compiles filters for the columns of a table.
//!
//! Values are compared in the form in which events contain them, so a value in another spelling is converted
//! by PostgreSQL first ([`Literals`]).

use std::borrow::Cow;

use super::column::{Column, Columns};
use super::column_condition::{Ordered, ValueTest};
use super::error::FilterError;
use super::evaluate::{Filter, Node};
use super::number::DIGITS_MAX;
use super::pattern::{FLOATING_CHARS_MAX, Pattern};
use super::syntax::{Comparison, Condition, Test, Truth};
use super::value::{ExactType, Value, string};

/// Bytes of a value in the form of events, beside those of its spelling: a number may have an exponent, with
/// as many digits before or behind the point.
const CONVERTED_BYTES_MAX: usize = DIGITS_MAX + 64;

/// Values of a filter that PostgreSQL must convert, with their types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Literals {
    /// Type and text of each value, in the order of the filter.
    pub values: Vec<(String, String)>,
    /// For each value, whether it means the same at any time.
    pub is_lasting: Vec<bool>,
}

impl Literals {
    /// Upper bound of the bytes of all values in the form of events.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.values.iter().map(|(_, text)| 2 * text.len() + CONVERTED_BYTES_MAX).sum()
    }

    /// A query with one row and column: a JSON array of the values in the form of events. `$1` is the first
    /// value. None if there are none. It must run with `TimeZone` UTC.
    #[must_use]
    pub fn query(&self) -> Option<String> {
        let casts = self.values.iter().enumerate();
        let casts: Vec<String> =
            casts.map(|(n, (kind, _))| format!("pg_catalog.to_jsonb(${}::{kind})", n + 1)).collect();
        (!casts.is_empty())
            .then(|| format!("select pg_catalog.jsonb_build_array({})::pg_catalog.text", casts.join(", ")))
    }
}

impl Filter {
    /// Values of these conditions that PostgreSQL must convert before [`Self::compile`].
    ///
    /// # Errors
    /// If a column is unknown, or an operator cannot be evaluated exactly on its type.
    pub fn literals(conditions: &[Condition], columns: &Columns) -> Result<Literals, FilterError> {
        let mut literals = Literals::default();
        let mut collect = |column: &Column, kind: ExactType, text: &str| {
            let plain = column.plain(kind, text);
            if plain.is_none() {
                literals.values.push((column.kind.clone(), text.to_owned()));
                literals.is_lasting.push(!kind.has_words_for_now());
            }
            // Any value: this run only collects.
            Some(plain.unwrap_or(Value::Boolean(false)))
        };
        Compiler { columns, value: &mut collect }.all(conditions)?;
        Ok(literals)
    }

    /// Compiles conditions, all of which must hold. `converted` has the JSON of [`Literals::values`], in
    /// their order.
    ///
    /// # Errors
    /// As [`Self::literals`], and if a value is missing or has another form than events.
    pub fn compile(
        conditions: &[Condition],
        columns: &Columns,
        converted: &[&str],
    ) -> Result<Self, FilterError> {
        let mut converted = converted.iter();
        let mut value = |column: &Column, kind: ExactType, text: &str| {
            column.plain(kind, text).or_else(|| kind.converted(converted.next()?))
        };
        let root = Compiler { columns, value: &mut value }.all(conditions)?;
        Ok(Self::new(root))
    }

    /// These conditions with the converted dates and times, so that the pages of a snapshot have the same
    /// `today` and `now` as the filter. The arguments are those of [`Self::compile`], which accepted them.
    #[must_use]
    pub fn fixed(conditions: &[Condition], columns: &Columns, converted: &[&str]) -> Vec<Condition> {
        let mut converted = converted.iter();
        let mut value = |name: &str, text: &str| {
            let column = columns.find(name).and_then(|column| Ok((column, column.exact("a comparison")?)));
            let Some((_, kind)) = column.ok().filter(|(column, kind)| column.plain(*kind, text).is_none())
            else {
                return text.to_owned();
            };
            let json = converted.next().and_then(|json| string(json));
            json.filter(|_| kind.has_words_for_now()).map_or_else(|| text.to_owned(), Cow::into_owned)
        };
        fixed(conditions, &mut value)
    }
}

/// Conditions with the values that `value` returns from the name of a column and a value.
fn fixed(conditions: &[Condition], value: &mut dyn FnMut(&str, &str) -> String) -> Vec<Condition> {
    let mut fix = |condition: &Condition| {
        let test = match &condition.test {
            Test::Compare(_, Comparison::Like | Comparison::InsensitiveLike, _) | Test::Is(..) => {
                condition.test.clone()
            }
            Test::Compare(name, comparison, text) => {
                Test::Compare(name.clone(), *comparison, value(name, text))
            }
            Test::In(name, texts) => {
                Test::In(name.clone(), texts.iter().map(|text| value(name, text)).collect())
            }
            Test::All(members) => Test::All(fixed(members, value)),
            Test::Any(members) => Test::Any(fixed(members, value)),
        };
        Condition { is_negated: condition.is_negated, test }
    };
    conditions.iter().map(&mut fix).collect()
}

/// Compiles conditions. `value` returns the value of a column from its text.
struct Compiler<'a> {
    columns: &'a Columns,
    value: &'a mut dyn FnMut(&Column, ExactType, &str) -> Option<Value<'static>>,
}

impl Compiler<'_> {
    fn all(&mut self, conditions: &[Condition]) -> Result<Node, FilterError> {
        Ok(Node::group(self.members(conditions)?, true))
    }

    fn members(&mut self, conditions: &[Condition]) -> Result<Vec<Node>, FilterError> {
        conditions.iter().map(|condition| self.condition(condition)).collect()
    }

    fn condition(&mut self, condition: &Condition) -> Result<Node, FilterError> {
        let node = match &condition.test {
            Test::Compare(name, comparison, value) => self.compare(name, *comparison, value)?,
            Test::In(name, values) => self.one_of(name, values)?,
            Test::Is(name, truth) => self.is(name, *truth)?,
            Test::All(members) => Node::group(self.members(members)?, true),
            Test::Any(members) => Node::group(self.members(members)?, false),
        };
        Ok(match (condition.is_negated, node) {
            (false, node) => node,
            (true, Node::Not(inner)) => *inner,
            (true, node) => Node::Not(Box::new(node)),
        })
    }

    fn compare(&mut self, name: &str, comparison: Comparison, text: &str) -> Result<Node, FilterError> {
        let (position, column) = self.columns.at(name)?;
        let test = match comparison {
            Comparison::Equal => Ordered::Equal,
            Comparison::NotEqual => Ordered::NotEqual,
            Comparison::Greater => Ordered::Greater,
            Comparison::GreaterOrEqual => Ordered::GreaterOrEqual,
            Comparison::Less => Ordered::Less,
            Comparison::LessOrEqual => Ordered::LessOrEqual,
            Comparison::Like | Comparison::InsensitiveLike => {
                column.expect(column.is_text, "like")?;
                let kind = column.exact("like")?;
                let pattern = Pattern::new(text, comparison == Comparison::InsensitiveLike);
                if pattern.floating_chars() > FLOATING_CHARS_MAX {
                    return Err(FilterError::PatternTooLong(FLOATING_CHARS_MAX));
                }
                return Ok(Node::on_column(position, ValueTest::Like { kind, pattern }));
            }
        };
        column.expect(column.is_ordered, "a comparison")?;
        let kind = column.exact("a comparison")?;
        if !kind.is_ordered() && !matches!(test, Ordered::Equal | Ordered::NotEqual) {
            return Err(column.inexact("a comparison by order"));
        }
        let value = self.value(column, kind, text)?;
        Ok(Node::on_column(position, ValueTest::Compare { kind, test, value }))
    }

    fn value(&mut self, column: &Column, kind: ExactType, text: &str) -> Result<Value<'static>, FilterError> {
        if kind.has_too_many_digits(text) {
            return Err(FilterError::NumberTooLong { column: column.name.clone(), max: DIGITS_MAX });
        }
        (self.value)(column, kind, text).ok_or_else(|| column.inexact("this value"))
    }

    fn one_of(&mut self, name: &str, texts: &[String]) -> Result<Node, FilterError> {
        let (position, column) = self.columns.at(name)?;
        column.expect(column.is_ordered, "in")?;
        let kind = column.exact("in")?;
        let values = texts.iter().map(|text| self.value(column, kind, text));
        let mut values = values.collect::<Result<Vec<_>, _>>()?;
        values.sort_unstable();
        values.dedup();
        Ok(Node::on_column(position, ValueTest::In { kind, values }))
    }

    fn is(&mut self, name: &str, truth: Truth) -> Result<Node, FilterError> {
        let (column, description) = self.columns.at(name)?;
        if matches!(truth, Truth::Null | Truth::NotNull) {
            // Null of `json` is null in an event too, although it is a value.
            if !description.has_exact_null() {
                return Err(description.inexact("is.null"));
            }
            let is_null = Node::on_column(column, ValueTest::IsNull);
            return Ok(if truth == Truth::Null { is_null } else { Node::Not(Box::new(is_null)) });
        }
        description.expect(description.is_boolean, "is")?;
        let truth = match truth {
            Truth::True => Some(true),
            Truth::False => Some(false),
            _ => None,
        };
        Ok(Node::on_column(column, ValueTest::IsTruth(truth)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::evaluate::Outcome;
    use super::super::row::Row;
    use super::super::syntax::FilterParser;
    use super::*;

    fn columns() -> Columns {
        Columns::for_tests(&[
            ("id", "bigint"),
            ("a", "text"),
            ("n", "integer"),
            ("price", "numeric"),
            ("ok", "boolean"),
            ("doc", "json"),
            ("mood", "mood"),
            ("span", "interval"),
            ("day", "date"),
        ])
    }

    fn parse(group: &str) -> Vec<Condition> {
        vec![FilterParser::default().group("and", group).expect("parses")]
    }

    fn compiled(group: &str, converted: &[&str]) -> Result<Filter, FilterError> {
        Filter::compile(&parse(group), &columns(), converted)
    }

    fn outcome(group: &str, row: &str) -> Outcome {
        let columns = columns();
        let row = Row::new(&columns, row).expect("an object");
        compiled(group, &[]).expect("compiles").evaluate(&row)
    }

    #[test]
    fn groups_have_the_logic_of_postgresql_with_unknown_columns() {
        use Outcome::{False, Null, True, Unknown};
        // `n` is null and `ok` is missing.
        let row = r#"{"id": 7, "a": "x", "n": null}"#;
        let (t, f, null, unknown) = ("id.eq.7", "id.eq.8", "n.eq.1", "ok.is.true");
        for (group, expected) in [
            (format!("({t})"), True),
            (format!("({f})"), False),
            (format!("({null})"), Null),
            (format!("({unknown})"), Unknown),
            (format!("({t},{null})"), Null),
            (format!("({f},{null})"), False),
            (format!("({null},{unknown})"), Unknown),
            (format!("({unknown},{f})"), False),
            (format!("({t},{unknown})"), Unknown),
            (format!("(or({t},{unknown}))"), True),
            (format!("(or({f},{unknown}))"), Unknown),
            (format!("(or({f},{null}))"), Null),
            (format!("(not.and({null}))"), Null),
            (format!("(not.or({f},{unknown}))"), Unknown),
            (format!("(not.and({f},{unknown}))"), True),
            ("(n.is.null)".into(), True),
            ("(n.is.not_null)".into(), False),
            ("(n.in.())".into(), False),
            ("(ok.in.())".into(), False),
            ("(n.not.in.())".into(), True),
            ("(n.in.(1))".into(), Null),
        ] {
            assert_eq!(outcome(&group, row), expected, "{group}");
        }
    }

    #[test]
    fn columns_without_an_exact_counterpart_are_rejected_by_name() {
        for (group, reason) in [
            (
                "(span.eq.1)",
                "column \"span\" is of type interval, for which a comparison cannot be evaluated",
            ),
            ("(span.in.(1))", "for which in cannot be evaluated"),
            ("(mood.gt.calm)", "for which a comparison by order cannot be evaluated"),
            ("(doc.is.null)", "for which is.null cannot be evaluated"),
            ("(nope.eq.1)", "unknown column"),
            ("(doc.eq.1)", "does not apply"),
            ("(n.like.1)", "does not apply"),
            ("(n.is.true)", "does not apply"),
            ("(price.eq.1e1)", "for which this value cannot be evaluated"),
            ("(price.eq.1e400)", "column \"price\" has more than 400 digits"),
            ("(price.in.(1,-1E-7600))", "more than 400 digits"),
        ] {
            let error = compiled(group, &[]).expect_err(group).to_string();
            assert!(error.contains(reason), "{group}: {error}");
        }
        assert!(compiled("(span.is.null,mood.eq.calm)", &["\"calm\""]).is_ok());
        let long = "_a".repeat(FLOATING_CHARS_MAX / 2);
        assert!(compiled(&format!("(a.like.*{long}*)"), &[]).is_ok());
        let error = compiled(&format!("(a.like.*{long}b*)"), &[]).expect_err("is too long");
        assert_eq!(error, FilterError::PatternTooLong(FLOATING_CHARS_MAX));
    }

    #[test]
    fn values_in_another_spelling_are_converted_in_order() {
        let group = "(n.in.(1, 2,3),or(price.gt.1e1,a.eq.x),price.lt.50.5)";
        let literals = Filter::literals(&parse(group), &columns()).expect("compiles");
        let value = |kind: &str, text: &str| (kind.to_owned(), text.to_owned());
        assert_eq!(literals.values, [value("integer", " 2"), value("numeric", "1e1")]);
        let query = literals.query().expect("a query");
        assert!(query.contains("to_jsonb($1::integer), pg_catalog.to_jsonb($2::numeric)"), "{query}");
        let filter = compiled(group, &["2", "10"]).expect("compiles");
        let columns = columns();
        let evaluate = |row: &str| filter.evaluate(&Row::new(&columns, row).expect("an object"));
        assert_eq!(evaluate(r#"{"n": 2, "price": 10.01, "a": "y"}"#), Outcome::True);
        assert_eq!(evaluate(r#"{"n": 2, "price": 10.00, "a": "y"}"#), Outcome::False);
        assert_eq!(compiled(group, &["2"]).ok(), None);
    }

    #[test]
    fn words_for_dates_keep_the_meaning_that_they_had_when_they_were_converted() {
        let conditions =
            parse("(n.eq.+1,or(day.lt.today,day.not.in.(2.1.2026,tomorrow)),a.like.x,a.eq.today)");
        let literals = Filter::literals(&conditions, &columns()).expect("compiles");
        assert_eq!(literals.values.len(), 4);
        let converted = ["1", "\"2026-02-03\"", "\"2026-01-02\"", "\"2026-02-04\""];
        let fixed = Filter::fixed(&conditions, &columns(), &converted);
        let expected =
            "(n.eq.+1,or(day.lt.2026-02-03,day.not.in.(2026-01-02,2026-02-04)),a.like.x,a.eq.today)";
        assert_eq!(fixed, parse(expected));
    }

    #[test]
    fn equal_filters_have_one_form() {
        let filter = |group: &str| compiled(group, &[]).expect("compiles");
        for (a, b) in [
            ("(a.eq.x,n.eq.1)", "(n.eq.1,a.eq.x)"),
            ("(a.eq.x,and(n.eq.1,ok.is.true))", "(ok.is.true,n.eq.1,a.eq.x,n.eq.1)"),
            ("(n.in.(1,2,2))", "(n.in.(2,1))"),
            ("(not.and(n.not.eq.1))", "(n.eq.1)"),
            ("(or(n.eq.1))", "(n.eq.1)"),
            ("(n.is.not_null)", "(n.not.is.null)"),
            ("(a.like.x**)", "(a.like.x*)"),
        ] {
            assert_eq!(filter(a), filter(b), "{a} {b}");
        }
        for (a, b) in [("(a.eq.x)", "(a.neq.x)"), ("(a.like.x)", "(a.ilike.x)"), ("(n.eq.1)", "(n.in.(1))")] {
            assert_ne!(filter(a), filter(b), "{a} {b}");
        }
    }

    #[test]
    fn the_null_of_a_column_that_cannot_be_null_is_unknown() {
        let columns = columns();
        // A key that is too large for an event is null in it.
        let row = Row::new(&columns, r#"{"id": null, "n": null}"#).expect("an object");
        for (group, expected) in
            [("(id.eq.1)", Outcome::Unknown), ("(id.is.null)", Outcome::Unknown), ("(n.eq.1)", Outcome::Null)]
        {
            assert_eq!(compiled(group, &[]).expect("compiles").evaluate(&row), expected, "{group}");
        }
    }

    #[test]
    fn the_row_before_an_update_has_its_former_values() {
        let columns = columns();
        let after = Row::new(&columns, r#"{"id": 1, "a": "new", "n": 1, "other": {}}"#).expect("an object");
        let before = after.before(&columns, r#"{"a": "old", "n": null}"#).expect("an object");
        let filter = compiled("(id.eq.1,a.eq.old,n.is.null)", &[]).expect("compiles");
        assert_eq!((filter.evaluate(&before), filter.evaluate(&after)), (Outcome::True, Outcome::False));
        for json in ["", "[]", "7", "{\"a\"", "{\"a\": 1"] {
            assert!(Row::new(&columns, json).is_none(), "{json}");
        }
    }
}
