//! Random filters, each in the form of a query and as a condition in SQL.
//!
//! PostgreSQL evaluates the condition, so that a test can judge what a gateway selects without the gateway's
//! code.

mod kinds;
mod states;

use std::fmt::Write as _;

pub use kinds::{KINDS, Kind, TYPES};
use kinds::{PATTERNS, literal};
pub use states::{State, create_states, evaluate};

/// A filter in both forms.
#[derive(Clone, Debug)]
pub struct RandomFilter {
    /// The members of the group `and`, in parentheses.
    pub group: String,
    /// The condition in SQL. Times without an offset are those of the session: use UTC.
    pub sql: String,
}

/// Members of a group, or a condition, in the forms of a query and of SQL.
struct Term {
    query: String,
    sql: String,
}

/// Random rows and filters of these columns.
#[derive(Debug)]
pub struct Random {
    /// The generator.
    pub rng: fastrand::Rng,
    kinds: Vec<&'static Kind>,
}

impl Random {
    /// A generator for the columns with these names.
    #[must_use]
    pub fn of_columns(rng: fastrand::Rng, mut is_used: impl FnMut(&Kind) -> bool) -> Self {
        Self { rng, kinds: KINDS.iter().filter(|kind| is_used(kind)).collect() }
    }

    /// The columns.
    #[must_use]
    pub fn kinds(&self) -> &[&'static Kind] {
        &self.kinds
    }

    fn one_of<'a>(&mut self, values: &[&'a str]) -> &'a str {
        values[self.rng.usize(..values.len())]
    }

    /// A value for a row, as SQL.
    pub fn value(&mut self, kind: &Kind) -> String {
        if self.rng.u8(..5) == 0 { "null".to_owned() } else { literal(self.one_of(kind.values)) }
    }

    /// A value for a filter.
    fn operand(&mut self, kind: &Kind) -> &'static str {
        let other = !kind.spellings.is_empty() && self.rng.u8(..3) == 0;
        self.one_of(if other { kind.spellings } else { kind.values })
    }

    fn condition(&mut self) -> Term {
        let kind = self.kinds[self.rng.usize(..self.kinds.len())];
        let is_negated = self.rng.u8(..4) == 0;
        let Term { query, sql } = match self.rng.u8(..10) {
            0 => self.null_test(kind),
            _ if !kind.is_compared() => self.null_test(kind),
            1 if kind.name == "b" => {
                let truth = self.one_of(&["true", "false", "unknown"]);
                Term { query: format!("is.{truth}"), sql: format!("{} is {truth}", kind.name) }
            }
            1 | 2 if kind.is_text() => self.pattern(kind),
            1 | 2 => self.list(kind),
            3..=5 => self.comparison(kind, &[("eq", "="), ("neq", "<>")]),
            _ if !kind.is_ordered() => self.comparison(kind, &[("eq", "=")]),
            _ => self.comparison(kind, &[("gt", ">"), ("gte", ">="), ("lt", "<"), ("lte", "<=")]),
        };
        let (not, sql_not) = if is_negated { ("not.", "not ") } else { ("", "") };
        Term { query: format!("{}.{not}{query}", kind.name), sql: format!("{sql_not}({sql})") }
    }

    fn null_test(&mut self, kind: &Kind) -> Term {
        let (operator, sql) = if self.rng.bool() { ("null", "null") } else { ("not_null", "not null") };
        Term { query: format!("is.{operator}"), sql: format!("{} is {sql}", kind.name) }
    }

    fn pattern(&mut self, kind: &Kind) -> Term {
        let (operator, pattern) = (self.one_of(&["like", "ilike"]), self.one_of(PATTERNS));
        // PostgreSQL rejects a pattern whose last character escapes nothing.
        let escapes = pattern.bytes().rev().take_while(|byte| *byte == b'\\').count();
        let complete = format!("{pattern}{}", if escapes % 2 == 1 { "\\" } else { "" });
        Term {
            query: format!("{operator}.{}", quoted(pattern)),
            sql: format!("{} {operator} {}", kind.compared(), literal(&complete)),
        }
    }

    fn list(&mut self, kind: &Kind) -> Term {
        let operands: Vec<&str> = (0..self.rng.usize(..4)).map(|_| self.operand(kind)).collect();
        let join = |form: &dyn Fn(&str) -> String| {
            operands.iter().map(|operand| form(operand)).collect::<Vec<_>>().join(",")
        };
        let sql = match operands.len() {
            // Without values, the result is false even for null.
            0 => "false".to_owned(),
            _ => format!("{} in ({})", kind.compared(), join(&|operand| kind.value(operand))),
        };
        Term { query: format!("in.({})", join(&quoted)), sql }
    }

    fn comparison(&mut self, kind: &Kind, operators: &[(&str, &str)]) -> Term {
        let (operator, sql) = operators[self.rng.usize(..operators.len())];
        let operand = self.operand(kind);
        Term {
            query: format!("{operator}.{}", quoted(operand)),
            sql: format!("{} {sql} {}", kind.compared(), kind.value(operand)),
        }
    }

    fn members(&mut self, depth: usize) -> Vec<Term> {
        (0..1 + self.rng.usize(..3))
            .map(|_| {
                if depth == 0 || self.rng.u8(..3) > 0 {
                    return self.condition();
                }
                let name = self.one_of(&["and", "or", "not.and", "not.or"]);
                let members = self.members(depth - 1);
                let (not, operator) = name.split_once('.').unwrap_or(("", name));
                let sql = format!("{not} ({})", join(&members, &format!(" {operator} "), |m| &m.sql));
                Term { query: format!("{name}({})", join(&members, ",", |m| &m.query)), sql }
            })
            .collect()
    }

    /// A filter whose groups nest at most this deep.
    pub fn filter(&mut self, depth: usize) -> RandomFilter {
        let members = self.members(depth);
        RandomFilter {
            group: format!("({})", join(&members, ",", |m| &m.query)),
            sql: join(&members, " and ", |m| &m.sql),
        }
    }
}

impl RandomFilter {
    /// The parameter of a query, with its value percent-encoded.
    #[must_use]
    pub fn query(&self) -> String {
        let mut query = "and=".to_owned();
        for byte in self.group.bytes() {
            if byte.is_ascii_alphanumeric() {
                query.push(char::from(byte));
            } else {
                let _ = write!(query, "%{byte:02X}");
            }
        }
        query
    }

    /// This filter, which also selects the rows of a state.
    #[must_use]
    pub fn or_state(&self, state: usize) -> Self {
        Self {
            group: format!("(or(state.eq.{state},and{}))", self.group),
            sql: format!("(state = {state} or ({}))", self.sql),
        }
    }
}

fn join(terms: &[Term], separator: &str, form: impl Fn(&Term) -> &str) -> String {
    terms.iter().map(form).collect::<Vec<_>>().join(separator)
}

/// A value in double quotes.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
