//! Filters of tokens and joins, and what a socket must receive because of them.
//!
//! PostgreSQL evaluates each filter on every state that a row can have. The documented rules are applied to
//! these results. Neither knows the code of the gateway.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;
use warden_testkit::filters::{Random, RandomFilter, State, create_states, evaluate};

use super::model::{Delivery, Fact, Kind, Seen, Table};
use crate::harness::{TestDb, token};

/// States of rows.
pub const STATES: usize = 40;
/// Each tenth state, from this one, makes the row too large for an event.
const LARGE_STATE: usize = 7;
/// Filters that are created. Those that select all states or none are left out.
const FILTERS: usize = 60;

/// A filter, and whether PostgreSQL selects each state.
#[derive(Debug)]
pub struct Condition {
    pub filter: RandomFilter,
    selects: Vec<bool>,
}

/// Part of a topic that a token allows.
#[derive(Clone, Debug)]
pub enum Allowed {
    Everything,
    Rows(Arc<Condition>),
}

/// The filters of a token by topic. None if it has no such claim.
pub type Signed = Option<BTreeMap<String, Allowed>>;

/// Gives the tables columns, and creates filters on them.
pub async fn prepare(db: &TestDb, rng: &mut Rng) -> Vec<Arc<Condition>> {
    let skipped = rng.u8(..3);
    let mut position = 0;
    let mut random = Random::of_columns(rng.fork(), |_| {
        position += 1;
        position % 3 != skipped
    });
    db.run(create_states(&mut random, STATES, &Table::ALL.map(Table::name))).await;
    for table in Table::ALL.map(Table::name) {
        let pad = format!("case when state % 10 = {LARGE_STATE} then repeat('x', 70000) end");
        db.run(format!("alter table {table} add column pad text generated always as ({pad}) stored")).await;
    }
    db.run(format!(
        "create function random_state(id uuid, mark text) returns int language sql immutable
         return (hashtext(id::text || mark) & 2147483647) % {STATES}"
    ))
    .await;
    let filters: Vec<RandomFilter> = (0..FILTERS).map(|_| random.filter(1)).collect();
    let mut transaction = db.pool.begin().await.expect("begins");
    sqlx::query("set local timezone = 'UTC'").execute(&mut *transaction).await.expect("sets");
    let query = sqlx::query_scalar(AssertSqlSafe(evaluate(&filters)));
    let states: Vec<Vec<bool>> = query.fetch_all(&mut *transaction).await.expect("evaluates");
    let condition = |(n, filter)| {
        let selects: Vec<bool> = states.iter().map(|selected| selected[n]).collect();
        let is_partial = selects.contains(&true) && selects.contains(&false);
        is_partial.then(|| Arc::new(Condition { filter, selects }))
    };
    filters.into_iter().enumerate().filter_map(condition).collect()
}

pub fn is_aggregate(topic: &str) -> bool {
    topic == "org" || topic.starts_with("call:")
}

/// Random filters for a token: of each table everything, some rows or nothing. `fin` is allowed.
pub fn random_signed(conditions: &[Arc<Condition>], rng: &mut Rng) -> Signed {
    let mut signed = BTreeMap::from([("fin".to_owned(), Allowed::Everything)]);
    for topic in Table::ALL.map(Table::name) {
        match rng.u8(..8) {
            0 => None,
            1 => signed.insert(topic.to_owned(), Allowed::Everything),
            _ => signed.insert(topic.to_owned(), Allowed::Rows(random_condition(conditions, rng))),
        };
    }
    if rng.bool() {
        signed.insert("notes".to_owned(), Allowed::Everything);
    }
    Some(signed)
}

pub fn random_condition(conditions: &[Arc<Condition>], rng: &mut Rng) -> Arc<Condition> {
    Arc::clone(&conditions[rng.usize(..conditions.len())])
}

/// A token with these filters.
pub fn signed_token(org: Uuid, signed: &Signed) -> String {
    let Some(signed) = signed else { return token(org, &json!({})) };
    let query = |allowed: &Allowed| match allowed {
        Allowed::Everything => json!("*"),
        Allowed::Rows(condition) => json!(condition.filter.query()),
    };
    let filters: BTreeMap<&String, Value> = signed.iter().map(|(topic, a)| (topic, query(a))).collect();
    token(org, &json!({"app_metadata": {"org_id": org, "warden_filters": filters}}))
}

/// The filters of one subscription.
#[derive(Clone, Debug)]
pub struct Filters {
    pub signed: Signed,
    pub asked: Option<Arc<Condition>>,
    /// Whether the join names columns. It gets rows alone then.
    pub has_select: bool,
}

impl Filters {
    pub fn is_empty(&self) -> bool {
        self.signed.is_none() && self.asked.is_none() && !self.has_select
    }

    /// Whether the token allows a join of the topic.
    pub fn allows(&self, topic: &str) -> bool {
        is_aggregate(topic) || self.signed.as_ref().is_none_or(|signed| signed.contains_key(topic))
    }

    /// The part of the token's filters that applies to a topic, in a form that can be compared.
    pub fn identity(&self, topic: &str) -> String {
        let Some(signed) = &self.signed else { return String::new() };
        let query = |allowed: Option<&Allowed>| match allowed {
            None => "nothing".to_owned(),
            Some(Allowed::Everything) => String::new(),
            Some(Allowed::Rows(condition)) => condition.filter.query(),
        };
        if is_aggregate(topic) {
            return signed
                .iter()
                .map(|(topic, allowed)| format!("{topic}: {};", query(Some(allowed))))
                .collect();
        }
        query(signed.get(topic))
    }

    /// The conditions that rows of a table must fulfil: of the token, and of the join. None if the token
    /// allows no row.
    pub fn conditions(&self, origin: &str) -> Option<[Option<&Arc<Condition>>; 2]> {
        let signed = match &self.signed {
            None => None,
            Some(signed) => match signed.get(origin)? {
                Allowed::Everything => None,
                Allowed::Rows(condition) => Some(condition),
            },
        };
        Some([signed, self.asked.as_ref()])
    }

    /// Whether these filters select the same states as others, in every topic.
    pub fn selects_as(&self, others: &Self) -> bool {
        let states = |filters: &Self, origin: &str| {
            let conditions = filters.conditions(origin)?;
            Some(conditions.map(|condition| condition.map(|condition| condition.selects.clone())))
        };
        Table::ALL.map(Table::name).iter().chain(&["notes"]).all(|o| states(self, o) == states(others, o))
    }

    /// The form in which an event arrives. None if it does not.
    pub fn delivery(&self, id: i64, seen: &Seen, fact: &Fact) -> Option<Delivery> {
        let conditions = self.conditions(&fact.origin)?;
        let is_filtered = conditions.iter().any(Option::is_some);
        let whole = |filter: Option<&str>, has_old| {
            Some(Delivery { id, seen: seen.clone(), filter: filter.map(str::to_owned), has_old })
        };
        if seen.kind == Kind::Published {
            return if is_filtered || self.has_select { None } else { whole(None, false) };
        }
        let is_selected = |state: Option<State>| {
            state.is_some_and(|state| conditions.into_iter().flatten().all(|c| c.selects[state]))
        };
        let is_signed = conditions[0].is_some();
        match (seen.kind, fact.states.map(is_selected)) {
            (_, [false, false]) => None,
            (Kind::Updated, [true, true]) => whole(None, true),
            (Kind::Updated, [false, true]) => whole(Some("entered"), !is_signed),
            (Kind::Updated, [true, false]) if is_signed => {
                let seen = Seen::key(seen.what.clone());
                Some(Delivery { id, seen, filter: Some("left".to_owned()), has_old: false })
            }
            (Kind::Updated, [true, false]) => whole(Some("left"), true),
            _ => whole(None, false),
        }
    }
}
