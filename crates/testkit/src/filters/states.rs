//! States: the columns that filters compare have a limited number of contents in a test. So PostgreSQL
//! evaluates each filter on all of them once, and a test can judge each event at once.

use super::{Random, RandomFilter, TYPES};

/// Number of a state.
pub type State = usize;

/// Statements that create the table `states` with this number of random rows, and give these tables its
/// columns. They are generated from the column `state`.
pub fn create_states(random: &mut Random, count: usize, tables: &[&str]) -> String {
    let mut columns = vec!["state int".to_owned()];
    let mut added = vec!["add column state int".to_owned()];
    for kind in random.kinds().to_vec() {
        let value = |state| format!(" when {state} then {}::{}", random.value(kind), kind.value_type());
        let cases: String = (0..count).map(value).collect();
        let column = format!("{} {} generated always as (case state{cases} end) stored", kind.name, kind.sql);
        added.push(format!("add column {column}"));
        columns.push(column);
    }
    let tables: String =
        tables.iter().map(|table| format!("alter table {table} {};", added.join(", "))).collect();
    format!(
        "set local timezone = 'UTC';
         {TYPES};
         create table states ({});
         insert into states select generate_series(0, {});
         {tables}",
        columns.join(", "),
        count - 1
    )
}

/// A query whose only value is an array for each state, in order: whether each of the filters selects it.
#[must_use]
pub fn evaluate(filters: &[RandomFilter]) -> String {
    let conditions: Vec<String> = filters.iter().map(|filter| format!("({}) is true", filter.sql)).collect();
    format!("select array[{}]::boolean[] from states order by state", conditions.join(", "))
}
