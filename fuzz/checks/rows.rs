//! Queries for rows: no query may cause a panic, limits hold, and a position has one encoding.

use warden::filter::{Condition, Test};
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
