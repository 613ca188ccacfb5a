//! Random filters of followers: of their token, of their joins, of both, or none.
//!
//! PostgreSQL evaluates each filter on every state that a row can have, before the run. So each event can be
//! judged when it arrives. This module must not know the gateway's code.

use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;
use warden_testkit::filters::{Random, RandomFilter, State, create_states, evaluate};

use crate::record::{Record, Written};

/// States of the rows that the writers write.
pub(crate) const STATES: usize = 30;
/// State of the rows of the calm. Every filter selects it.
pub(crate) const CALM_STATE: State = STATES;
/// The state that makes a row too large for an event.
const LARGE_STATE: usize = 5;
/// Filters that are created. Those that select all states or none are left out.
const FILTERS: usize = 48;
/// Columns that filters compare. They are few, so that a replay may contain many events.
const COLUMNS: [&str; 3] = ["b", "i", "c"];

/// A filter, and whether PostgreSQL selects each state.
#[derive(Debug)]
pub(crate) struct Condition {
    filter: RandomFilter,
    selects: Vec<bool>,
}

/// Gives the table columns, and creates filters on them.
pub(crate) async fn prepare(connection: &mut PgConnection, mut rng: fastrand::Rng) -> Vec<Arc<Condition>> {
    let mut random = Random::of_columns(rng.fork(), |kind| COLUMNS.contains(&kind.name));
    let sql = create_states(&mut random, STATES + 1, &["calls"]);
    connection.execute(AssertSqlSafe(sql)).await.expect("creates");
    // Rows of a bulk statement are checked in their order, and large ones arrive after the others.
    let is_large = format!("state = {LARGE_STATE} and metadata->>'bulk' is null");
    let pad = format!("case when {is_large} then repeat('x', 70000) end");
    let sql = format!("alter table calls add column pad text generated always as ({pad}) stored");
    connection.execute(AssertSqlSafe(sql)).await.expect("adds a column");
    let filters = (0..FILTERS).map(|_| random.filter(1).or_state(CALM_STATE));
    let filters: Vec<RandomFilter> = filters.collect();
    let selected: Vec<Vec<bool>> =
        sqlx::query_scalar(AssertSqlSafe(evaluate(&filters))).fetch_all(connection).await.expect("evaluates");
    let condition = |(n, filter)| {
        let selects: Vec<bool> = selected.iter().map(|selected| selected[n]).collect();
        let is_partial = selects[..STATES].contains(&true) && selects.contains(&false);
        is_partial.then(|| Arc::new(Condition { filter, selects }))
    };
    filters.into_iter().enumerate().filter_map(condition).collect()
}

/// Compares the evaluation of each filter with the rows of the table at the end.
pub(crate) async fn check(connection: &mut PgConnection, conditions: &[Arc<Condition>], record: &Record) {
    connection.execute("set timezone = 'UTC'").await.expect("sets");
    for condition in conditions {
        let sql = format!(
            "select distinct state, ({}) is true from calls where state is not null",
            condition.filter.sql
        );
        let query = sqlx::query_as(AssertSqlSafe(sql));
        let rows: Vec<(i32, bool)> = query.fetch_all(&mut *connection).await.expect("reads");
        for (state, is_selected) in rows {
            if condition.selects[usize::try_from(state).expect("a state")] != is_selected {
                record.report_final_failure(format!("rows of state {state} and {}", condition.filter.sql));
            }
        }
    }
}

/// Filters of one follower.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    signed: Option<Arc<Condition>>,
    asked: Option<Arc<Condition>>,
}

/// Form in which an event arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// `entered` or `left`.
    pub(crate) filter: Option<&'static str>,
    pub(crate) has_old: bool,
    /// Whether the event has the key alone.
    pub(crate) is_key: bool,
}

impl Filters {
    /// Random filters. A quarter of the followers has none, and a quarter has both kinds.
    pub(crate) fn random(conditions: &[Arc<Condition>], rng: &mut fastrand::Rng) -> Self {
        let mut some = || rng.bool().then(|| Arc::clone(&conditions[rng.usize(..conditions.len())]));
        Self { signed: some(), asked: some() }
    }

    /// The claims of the token about an organisation.
    pub(crate) fn metadata(&self, org: Uuid) -> Value {
        match &self.signed {
            None => json!({"org_id": org}),
            Some(condition) => {
                json!({"org_id": org, "warden_filters": {"calls": condition.filter.query(), "call_logs": "*"}})
            }
        }
    }

    /// The filters that apply to a topic. `org` has no filter of the join.
    pub(crate) fn on(&self, topic: &str) -> Self {
        Self { signed: self.signed.clone(), asked: self.asked.clone().filter(|_| topic == "calls") }
    }

    /// The filter of the join.
    pub(crate) fn asked(&self) -> Option<String> {
        self.asked.as_ref().map(|condition| condition.filter.query())
    }

    pub(crate) fn are_some(&self) -> bool {
        self.signed.is_some() || self.asked.is_some()
    }

    /// Whether all filters select rows of a state.
    pub(crate) fn select(&self, state: State) -> bool {
        self.signed.iter().chain(&self.asked).all(|condition| condition.selects[state])
    }

    /// The form in which an event arrives. None if it does not.
    pub(crate) fn form(&self, written: &Written) -> Option<Form> {
        let whole = |filter, has_old| Some(Form { filter, has_old, is_key: false });
        let Some(row) = &written.row else {
            // A published event is no row. The token allows those on `call_logs`.
            return if written.on_calls && self.are_some() { None } else { whole(None, false) };
        };
        let selects = |state: Option<State>| state.is_some_and(|state| self.select(state));
        let is_update = row.states.iter().all(Option::is_some);
        match row.states.map(selects) {
            [false, false] => None,
            [true, true] => whole(None, true),
            [false, true] if is_update => whole(Some("entered"), self.signed.is_none()),
            [true, false] if is_update && self.signed.is_some() => {
                Some(Form { filter: Some("left"), has_old: false, is_key: true })
            }
            [true, false] if is_update => whole(Some("left"), true),
            _ => whole(None, false),
        }
    }
}

impl Form {
    /// The form of an event as it arrived.
    pub(crate) fn of(payload: &Value) -> Self {
        let filter = match payload["filter"].as_str() {
            Some("entered") => Some("entered"),
            Some("left") => Some("left"),
            Some(_) => Some("another"),
            None => None,
        };
        let is_key = payload["data"].as_object().is_some_and(|row| row.len() == 1);
        Self { filter, has_old: payload.get("old").is_some(), is_key }
    }
}
