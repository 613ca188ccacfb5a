//! Filters on events, compared with PostgreSQL: for random rows and filters, the gateway selects the same
//! rows from the JSON of events as a page with the same filter contains. `WARDEN_SEED` repeats a run, and
//! `WARDEN_FILTERS` sets the number of filters.

use std::collections::{BTreeSet, HashMap};

use sqlx::AssertSqlSafe;
use uuid::Uuid;
use warden::filter::{Change, Columns, Filter, FilterId, FilterIndex, Row, Verdict};
use warden::rate::Rate;
use warden::reading::RowRequest;
use warden_testkit::filters::{KINDS, Random, RandomFilter, TYPES};

use super::page;
use crate::harness::{TestDb, TestGateway};

/// Rows of a run.
const ROWS: usize = 80;
/// Filters of a run, unless `WARDEN_FILTERS` says otherwise.
const FILTERS: usize = 60;

/// A filter in both forms.
struct Case {
    query: String,
    filter: Filter,
    /// The condition as a test writes it in SQL.
    sql: String,
}

async fn case(db: &TestDb, columns: &Columns, random: RandomFilter) -> Case {
    let (query, group) = (random.query(), random.group.as_str());
    let conditions = RowRequest::parse(&query).expect(group).conditions;
    let literals = Filter::literals(&conditions, columns).expect(group);
    let mut converted = "[]".to_owned();
    if let Some(sql) = literals.query() {
        let mut transaction = db.pool.begin().await.expect("begins");
        sqlx::query("set local timezone = 'UTC'").execute(&mut *transaction).await.expect("sets");
        let mut select = sqlx::query_scalar(AssertSqlSafe(sql));
        for (_, value) in &literals.values {
            select = select.bind(value);
        }
        converted = select.fetch_one(&mut *transaction).await.expect(group);
    }
    let converted: Vec<&serde_json::value::RawValue> = serde_json::from_str(&converted).expect("JSON");
    let converted: Vec<&str> = converted.into_iter().map(serde_json::value::RawValue::get).collect();
    let filter = Filter::compile(&conditions, columns, &converted).expect(group);
    Case { query, filter, sql: random.sql }
}

/// Ids of the rows that PostgreSQL selects, by the SQL of a page and by that of the test.
async fn selected(t: &TestGateway, org: Uuid, case: &Case) -> BTreeSet<i64> {
    let body = page(t, org, &format!("/v1/things?select=id&limit=1000&{}", case.query)).await;
    let rows = body["rows"].as_array().expect("rows").iter();
    let found: BTreeSet<i64> = rows.map(|row| row["id"].as_i64().expect("an id")).collect();
    let mut transaction = t.db.pool.begin().await.expect("begins");
    sqlx::query("set local timezone = 'UTC'").execute(&mut *transaction).await.expect("sets");
    let sql = format!("select id from things where ({}) is true", case.sql);
    let ids: Vec<i64> =
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut *transaction).await.expect(&case.sql);
    assert_eq!(found, ids.into_iter().collect(), "{} is {}", case.query, case.sql);
    found
}

/// Events since the last call: id of the row, data and old.
async fn events(db: &TestDb, after: &mut i64) -> Vec<(i64, String, Option<String>)> {
    let rows: Vec<(i64, i64, String, Option<String>)> = sqlx::query_as(
        "select id, (data ->> 'id')::bigint, data::text, old::text from warden.events
         where topic = 'things' and id > $1 and not truncated order by id",
    )
    .bind(*after)
    .fetch_all(&db.pool)
    .await
    .expect("reads");
    *after = rows.last().map_or(*after, |row| row.0);
    rows.into_iter().map(|(_, id, data, old)| (id, data, old)).collect()
}

/// Verdicts of the gateway: for each filter, by the id of the row.
fn verdicts(
    events: &[(i64, String, Option<String>)],
    columns: &Columns,
    cases: &[Case],
) -> Vec<HashMap<i64, Verdict>> {
    let mut index = FilterIndex::default();
    let ids: Vec<FilterId> = cases.iter().map(|case| index.add(&case.filter)).collect();
    let mut found: Vec<HashMap<i64, Verdict>> = cases.iter().map(|_| HashMap::new()).collect();
    for (id, data, old) in events {
        let row = Row::new(columns, data).expect("an object");
        let before = old.as_ref().map(|old| row.before(columns, old).expect("an object"));
        let change = Change { row, before, entity: None };
        let indexed: HashMap<FilterId, Verdict> = index.verdicts(&change).into_iter().collect();
        for (n, case) in cases.iter().enumerate() {
            let verdict = case.filter.verdict(&change);
            assert_eq!(indexed.get(&ids[n]).copied(), verdict, "{} {data} {old:?}", case.query);
            found[n].extend(verdict.map(|verdict| (*id, verdict)));
        }
    }
    found
}

/// A table with random rows, and filters that are compared on it.
struct Comparison {
    t: TestGateway,
    org: Uuid,
    seed: u64,
    random: Random,
    columns: Columns,
    cases: Vec<Case>,
    /// Id of the last event that was read.
    after: i64,
}

impl Comparison {
    async fn start(seed: u64, filters: usize) -> Self {
        let db = TestDb::create().await;
        let org = db.create_org().await;
        let declared: Vec<String> = KINDS.iter().map(|kind| format!("{} {}", kind.name, kind.sql)).collect();
        db.run(format!(
            "{TYPES};
             create table things (id bigint primary key, org_id uuid not null, {});
             grant select on things to authenticated;
             select warden.watch('things', 'things', 'thing', as_text => '{{amount,ratio}}',
                                 visibility => 'organisation')",
            declared.join(", ")
        ))
        .await;
        let t = TestGateway::start_with(db, |config| {
            config.limits.admission.reads_per_user = Rate::new(100_000, 100_000);
            config.limits.admission.reads_per_org = Rate::new(100_000, 100_000);
        })
        .await;
        let columns: String =
            sqlx::query_scalar("select (warden.reading('things', null, 65536) -> 'columns')::text")
                .fetch_one(&t.db.pool)
                .await
                .expect("describes");
        let columns: Columns = serde_json::from_str(&columns).expect("columns");
        let mut random = Random::of_columns(fastrand::Rng::with_seed(seed), |_| true);
        let mut cases = Vec::new();
        for _ in 0..filters {
            cases.push(case(&t.db, &columns, random.filter(2)).await);
        }
        Self { t, org, seed, random, columns, cases, after: 0 }
    }

    /// Verdicts on the events since the last call.
    async fn verdicts(&mut self) -> Vec<HashMap<i64, Verdict>> {
        let events = events(&self.t.db, &mut self.after).await;
        verdicts(&events, &self.columns, &self.cases)
    }

    /// A description of a failure.
    fn name(&self, case: &Case) -> String {
        format!("WARDEN_SEED={}: {}", self.seed, case.query)
    }

    /// Inserts rows. Returns the ids that each filter selects.
    async fn create_rows(&mut self) -> Vec<BTreeSet<i64>> {
        let org = self.org;
        for id in 0..ROWS {
            let values: Vec<String> = KINDS.iter().map(|kind| self.random.value(kind)).collect();
            self.t.db.run(format!("insert into things values ({id}, '{org}', {})", values.join(", "))).await;
        }
        let mut selected_ids = Vec::new();
        let created = self.verdicts().await;
        for (case, found) in self.cases.iter().zip(created) {
            let expected = selected(&self.t, org, case).await;
            assert!(found.values().all(|verdict| *verdict == Verdict::Selected), "{}", self.name(case));
            assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), expected, "{}", self.name(case));
            selected_ids.push(expected);
        }
        selected_ids
    }

    /// Changes some columns of each row. Returns the ids that each filter selects now.
    async fn update_rows(&mut self, before: &[BTreeSet<i64>]) -> Vec<BTreeSet<i64>> {
        for id in 0..ROWS {
            let count = 1 + self.random.rng.usize(..4);
            let kinds: Vec<_> = (0..count).map(|_| &KINDS[self.random.rng.usize(..KINDS.len())]).collect();
            let changes: HashMap<_, _> =
                kinds.into_iter().map(|kind| (kind.name, self.random.value(kind))).collect();
            let changes: Vec<String> =
                changes.into_iter().map(|(name, value)| format!("{name} = {value}")).collect();
            self.t.db.run(format!("update things set {} where id = {id}", changes.join(", "))).await;
        }
        let mut selected_ids = Vec::new();
        let updated = self.verdicts().await;
        for ((case, found), before) in self.cases.iter().zip(updated).zip(before) {
            let now = selected(&self.t, self.org, case).await;
            // Rows that an update did not change have no event.
            let (stayed, moved): (HashMap<_, _>, HashMap<_, _>) =
                found.into_iter().partition(|(_, verdict)| *verdict == Verdict::Selected);
            let mut expected: HashMap<i64, Verdict> = HashMap::new();
            expected.extend(now.difference(before).map(|id| (*id, Verdict::Entered)));
            expected.extend(before.difference(&now).map(|id| (*id, Verdict::Left)));
            assert_eq!(moved, expected, "{}", self.name(case));
            let stays = |id: &i64| now.contains(id) && before.contains(id);
            assert!(stayed.keys().all(stays), "{}", self.name(case));
            selected_ids.push(now);
        }
        selected_ids
    }

    async fn delete_rows(&mut self, before: &[BTreeSet<i64>]) {
        self.t.db.run("delete from things").await;
        let deleted = self.verdicts().await;
        for ((case, found), before) in self.cases.iter().zip(deleted).zip(before) {
            assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), *before, "{}", self.name(case));
        }
    }
}

#[tokio::test]
async fn filters_select_the_same_events_as_postgresql_selects_rows() {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let count = std::env::var("WARDEN_FILTERS").ok().and_then(|s| s.parse().ok()).unwrap_or(FILTERS);
    eprintln!("WARDEN_SEED={seed}");
    let mut comparison = Comparison::start(seed, count).await;
    let created = comparison.create_rows().await;
    let partial = created.iter().filter(|ids| !ids.is_empty() && ids.len() < ROWS).count();
    assert!(partial * 2 > count, "WARDEN_SEED={seed}: {partial} of {count} filters select some rows");
    let updated = comparison.update_rows(&created).await;
    comparison.delete_rows(&updated).await;
    comparison.t.gateway.stop().await;
}
