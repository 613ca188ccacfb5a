//! Queries for rows: no query may cause a panic, limits hold, and a position has one encoding. A filter has
//! one form whatever the order of its conditions is, and its negation selects no row that it selects.

use std::sync::LazyLock;

use warden::filter::{Columns, Condition, Filter, Outcome, Row, Test};
use warden::reading::{Position, RowRequest};

/// Limits of `docs/limits.md`.
const ROWS_MAX: usize = 1000;
const CONDITIONS_MAX: usize = 64;
const DEPTH_MAX: usize = 8;
const LIST_VALUES_MAX: usize = 500;
const ORDER_COLUMNS_MAX: usize = 8;

pub(crate) fn run(query: &str) {
    let Ok(request) = RowRequest::parse(query) else { return };
    assert!((1..=ROWS_MAX).contains(&request.limit));
    assert!(request.order.len() <= ORDER_COLUMNS_MAX);
    assert!(request.order.iter().all(|term| !term.column.is_empty()));
    let (mut conditions, mut values) = (0, 0);
    for condition in &request.conditions {
        check(condition, 0, &mut conditions, &mut values);
    }
    assert!(conditions <= CONDITIONS_MAX && values <= LIST_VALUES_MAX);
    if let Some(position) = &request.after
        && let Ok(encoded) = position.encode()
    {
        assert_eq!(Position::decode(&encoded).as_ref(), Ok(position));
    }
    evaluate(&request.conditions);
}

/// A table whose columns have the names that the seeds use.
static COLUMNS: LazyLock<Columns> = LazyLock::new(|| {
    let column = |(name, kind): (&str, &str)| {
        serde_json::json!({
            "name": name, "type": kind, "is_nullable": true, "is_ordered": true, "is_text": kind == "text",
            "is_boolean": kind == "boolean", "is_enum": false, "is_virtual": false, "collation": null
        })
    };
    let columns = [
        ("id", "integer"),
        ("status", "text"),
        ("a", "text"),
        ("b", "boolean"),
        ("price", "numeric"),
        ("n", "bigint"),
    ];
    serde_json::from_value(columns.into_iter().map(column).collect()).expect("columns")
});

/// Rows with values, nulls and missing columns.
const ROWS: [&str; 3] = [
    r#"{"id": 1, "status": "completed", "a": "1", "b": true, "price": 1.50, "n": 0}"#,
    r#"{"id": null, "status": null, "a": "\"\n", "b": null, "price": "NaN"}"#,
    "{}",
];

fn evaluate(conditions: &[Condition]) {
    let compile = |conditions: &[Condition]| {
        let literals = Filter::literals(conditions, &COLUMNS).ok()?;
        // As if PostgreSQL printed each value as it is spelled.
        let converted: Vec<String> = literals
            .values
            .iter()
            .map(|(_, text)| serde_json::Value::from(text.as_str()).to_string())
            .collect();
        let converted: Vec<&str> = converted.iter().map(String::as_str).collect();
        Filter::compile(conditions, &COLUMNS, &converted).ok()
    };
    let Some(filter) = compile(conditions) else { return };
    let reversed: Vec<Condition> = conditions.iter().rev().cloned().collect();
    assert_eq!(Some(&filter), compile(&reversed).as_ref());
    let negated = [Condition { is_negated: true, test: Test::All(conditions.to_vec()) }];
    let negated = compile(&negated).expect("compiles");
    for row in ROWS {
        let row = Row::new(&COLUMNS, row).expect("an object");
        let expected = match filter.evaluate(&row) {
            Outcome::True => Outcome::False,
            Outcome::False => Outcome::True,
            other => other,
        };
        assert_eq!(negated.evaluate(&row), expected, "{conditions:?}");
    }
}

/// PostgreSQL accepts no U+0000, so none may be in a name or value.
fn check(condition: &Condition, depth: usize, conditions: &mut usize, list_values: &mut usize) {
    *conditions += 1;
    assert!(depth <= DEPTH_MAX);
    match &condition.test {
        Test::Compare(column, _, value) => assert!(!column.contains('\0') && !value.contains('\0')),
        Test::In(column, values) => {
            *list_values += values.len();
            assert!(!column.contains('\0') && values.iter().all(|value| !value.contains('\0')));
        }
        Test::Is(column, _) => assert!(!column.contains('\0')),
        Test::All(members) | Test::Any(members) => {
            assert!(!members.is_empty());
            for member in members {
                check(member, depth + 1, conditions, list_values);
            }
        }
    }
}
