//! Rows of watched tables over HTTP: the bytes of events, filters, pages, cursors, and who sees what.

mod crowd;
mod events;
mod filters;
mod isolation;
mod memory;
mod snapshot;
mod stream;

use serde_json::{Value, json};
use uuid::Uuid;
use warden::rate::Rate;

use crate::harness::{Answer, TestDb, TestGateway, Upgrade, token};

/// A request for rows with a valid token of the organisation.
fn request(org: Uuid, path: &str) -> Upgrade {
    Upgrade::bearer(&token(org, &json!({}))).without("Upgrade").without("Connection").to(path)
}

async fn get(t: &TestGateway, org: Uuid, path: &str) -> Answer {
    request(org, path).send(t.gateway.public_addr()).await
}

/// A page that must be read.
async fn page(t: &TestGateway, org: Uuid, path: &str) -> Value {
    let answer = get(t, org, path).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

/// Code of an error, whichever form the document has.
fn code(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let code = body["code"].as_str().or_else(|| body["error"]["code"].as_str());
    code.unwrap_or_default().to_owned()
}

/// The text of the rows of a page, as the server sent them.
fn rows_text(answer: &Answer) -> &str {
    let body = answer.body.strip_prefix("{\"rows\":[").expect("begins with the rows");
    &body[..body.rfind("],\"cursor\":").expect("a cursor follows")]
}

async fn strings(db: &TestDb, sql: &str) -> Vec<String> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_all(&db.pool).await.expect("queries")
}

/// A database that uses row-level security as Supabase's do, and a gateway.
async fn with_table(sql: &str) -> (TestGateway, [Uuid; 2]) {
    let t = TestGateway::start().await;
    let orgs = [t.db.create_org().await, t.db.create_org().await];
    t.db.run(sql).await;
    (t, orgs)
}

/// Columns of many types, one of which is omitted, one is sent as text, and one may be large.
const SAMPLES: &str = "
    create type mood as enum ('calm', 'Loud');
    create table samples (
      id bigint primary key, org_id uuid not null, \"Line\"\"s\" text, at timestamptz, day date, span interval,
      price float8, amount numeric, big bigint, raw bytea, document json, binary_document jsonb, tags text[], mood mood,
      code char(4), net inet, secret text);
    grant select on samples to authenticated;
    select warden.watch('samples', 'samples', 'sample', omit_columns => '{secret}', as_text => '{big}',
                        visibility => 'organisation')";

#[tokio::test]
async fn rows_have_the_bytes_of_events() {
    let (t, [org, _]) = with_table(SAMPLES).await;
    t.db.run(format!(
        "set timezone = 'Asia/Kolkata'; set datestyle = 'German, DMY';
         insert into samples values
         (1, '{org}', 'a\\b''c ü', '2026-02-03 04:05:06.7+02', '2026-02-03', 'P1DT2S', 0.1, 1.50, 9007199254740993, '\\x00ff',
          '{{\"a\": \"\\n\"}}', '{{\"b\": 1e2, \"aa\": null}}', '{{a,NULL}}', 'Loud', 'ab', '10.0.0.1', 'hidden'),
         (2, '{org}', null, 'infinity', '-infinity', null, 'NaN', 'NaN', null, null, null, null, '{{}}', null, null, null, 'x'),
         (3, '{org}', repeat('y', 100000), null, null, null, null, null, null, null, null, null, null, null, null, null, null),
         (4, '{org}', null, null, null, null, null, null, null, null, '{{\"a\": \"\\u0000\"}}', null, null, null, null, null,
          null),
         (5, '{org}', 'z', null, null, null, null, 1e500, 7, null, '{{}}', '{{\"n\": 1e500}}', null, null, null, null, null)"
    ))
    .await;
    let events =
        strings(&t.db, "select data::text from warden.events where event = 'sample.created' order by id")
            .await;
    let answer = get(&t, org, "/v1/samples").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let rows = rows_text(&answer);
    assert!(rows.starts_with(&format!("{},{},", events[0], events[1])), "{rows}\n{events:?}");
    // The event of row 3 is truncated, and the row is complete.
    assert!(events[2].len() < 1000 && rows.contains(&"y".repeat(100_000)), "{}", events[2]);
    // No event contains a value that jsonb cannot represent. A page has the key alone of such a row.
    assert!(!events[3].contains(r#""document""#), "{}", events[3]);
    assert!(rows.ends_with(r#",{"id": 4},{"id": 5}"#), "{rows}");
    let body: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!((&body["truncated"], &body["next"]), (&json!([3, 4]), &Value::Null));
    assert!(!answer.body.contains("hidden"));

    let one = get(&t, org, "/v1/samples/3").await;
    assert_eq!((one.status, one.body.len() > 100_000), (200, true));
    let small = get(&t, org, "/v1/samples/1").await;
    assert_eq!(small.body, events[0]);
    let selected = get(&t, org, "/v1/samples/3?select=id,day").await;
    assert_eq!(selected.body, r#"{"id": 3, "day": null}"#);
    // A single row lacks the columns that its event lacks.
    for (id, event) in [(4, &events[3]), (5, &events[4])] {
        assert_eq!(get(&t, org, &format!("/v1/samples/{id}")).await.body, *event);
    }
    let selected = get(&t, org, "/v1/samples/5?select=big,amount").await;
    assert_eq!(selected.body, r#"{"big": "7"}"#);

    // A row that has not changed is not sent again.
    let etag = small.headers("etag")[0].to_owned();
    let again =
        request(org, "/v1/samples/1").with("If-None-Match", &etag).send(t.gateway.public_addr()).await;
    assert_eq!((again.status, again.body.as_str(), again.headers("etag")[0]), (304, "", etag.as_str()));
    for name in ["vary", "cache-control"] {
        let of_row = small.headers(name);
        assert!(!of_row.is_empty() && again.headers(name) == of_row, "{name}: {again:?}");
    }
    t.db.run("update samples set price = 7 where id = 1").await;
    let changed =
        request(org, "/v1/samples/1").with("If-None-Match", &etag).send(t.gateway.public_addr()).await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.headers("etag")[0], etag);
    t.gateway.stop().await;
}

#[tokio::test]
async fn pages_have_links_totals_and_compression() {
    let (t, [org, _]) = with_table("").await;
    t.db.run(format!(
        "insert into calls (org_id, to_number) select '{org}', '+49' || n from generate_series(1, 250) n"
    ))
    .await;
    let addr = t.gateway.public_addr();
    let first =
        request(org, "/v1/calls?to_number=like.%2B49*").with("Prefer", "count=exact").send(addr).await;
    let body: Value = serde_json::from_str(&first.body).expect("JSON");
    assert_eq!((body["rows"].as_array().map(Vec::len), &body["total"]), (Some(100), &json!(250)));
    let next = body["next"].as_str().expect("another page");
    assert!(next.starts_with("/v1/calls?to_number=like.%2B49*&after="), "{next}");
    assert_eq!(first.headers("link"), [format!("<{next}>; rel=\"next\"")]);
    let second = page(&t, org, next).await;
    assert_eq!((second["rows"].as_array().map(Vec::len), second.get("total")), (Some(100), None));
    let last = page(&t, org, second["next"].as_str().expect("another page")).await;
    assert_eq!((last["rows"].as_array().map(Vec::len), &last["next"]), (Some(50), &Value::Null));
    // Each page has the cursor of its own moment.
    t.db.open_cursor(org, last["cursor"].as_str().expect("a cursor")).await;

    let plain = get(&t, org, "/v1/calls?limit=250&order=id").await;
    let packed =
        request(org, "/v1/calls?limit=250&order=id").with("Accept-Encoding", "br, gzip").send(addr).await;
    assert_eq!((packed.status, packed.headers("content-encoding")), (200, vec!["gzip"]));
    let length = |answer: &Answer| answer.headers("content-length")[0].parse::<usize>().expect("a length");
    assert!(length(&packed) * 4 < length(&plain), "{} of {}", length(&packed), length(&plain));
    let head = request(org, "/v1/calls").method("POST").send(addr).await;
    assert_eq!((head.status, head.headers("allow")), (405, vec!["GET,HEAD,OPTIONS"]));
    for table in ["call_logs", "recordings", "org"] {
        assert_eq!(page(&t, org, &format!("/v1/{table}")).await["next"], Value::Null);
    }
    t.gateway.stop().await;
}

/// A page ends before its limit of bytes, and goes on with the next row.
#[tokio::test]
async fn pages_are_limited_by_bytes_rates_costs_and_time() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(format!(
        "create table texts (id int primary key, org_id uuid not null, body text);
         create function slow() returns boolean language sql volatile as 'select pg_sleep(60) is not null';
         create table sleepers (id int primary key, org_id uuid not null);
         alter table sleepers enable row level security;
         create policy sleeping on sleepers for select to authenticated using (slow());
         grant select on texts, sleepers to authenticated;
         select warden.watch('texts', 'texts', 'text', visibility => 'organisation'),
                warden.watch('sleepers', 'sleepers', 'sleeper', visibility => 'organisation');
         insert into texts select n, '{org}', repeat('x', 400) from generate_series(1, 40) n;
         insert into texts values (41, '{org}', repeat('x', 20000));
         insert into sleepers values (1, '{org}'); analyze texts"
    ))
    .await;
    let t = TestGateway::start_with(db, |config| {
        config.limits.reading.page_bytes_max = 4096;
        config.limits.reading.statement_timeout = std::time::Duration::from_secs(1);
        config.limits.reading.cost_max = 100;
        config.limits.admission.reads_per_user = Rate::new(1, 30);
    })
    .await;
    let (mut path, mut ids, mut pages) = ("/v1/texts?limit=1000".to_owned(), Vec::new(), 0);
    loop {
        let body = page(&t, org, &path).await;
        ids.extend(
            body["rows"].as_array().expect("rows").iter().map(|row| row["id"].as_i64().expect("an id")),
        );
        pages += 1;
        let Some(next) = body["next"].as_str() else {
            // The last row does not fit into any page.
            assert_eq!(body["truncated"], json!([body["rows"].as_array().expect("rows").len() - 1]));
            break;
        };
        path = next.to_owned();
    }
    assert_eq!(ids, (1..=41).collect::<Vec<i64>>());
    assert!((4..=8).contains(&pages), "{pages}");
    let large = get(&t, org, "/v1/texts/41").await;
    assert_eq!((large.status, code(&large)), (422, "row_too_large".to_owned()), "{large:?}");
    let slow = get(&t, org, "/v1/sleepers").await;
    assert_eq!((slow.status, code(&slow)), (400, "query_too_slow".to_owned()), "{slow:?}");
    t.db.run(format!(
        "insert into texts select n, '{org}', 'y' from generate_series(100, 20000) n; analyze texts"
    ))
    .await;
    let costly = get(&t, org, "/v1/texts?order=body").await;
    assert_eq!((costly.status, code(&costly)), (400, "query_too_expensive".to_owned()), "{costly:?}");
    // The answer does not depend on the estimate, and so not on rows of others.
    assert!(costly.body.contains("(the estimated cost is above 100)"), "{costly:?}");
    let limited = loop {
        let answer = get(&t, org, "/v1/texts/1").await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((limited.status, code(&limited)), (429, "reads_per_user".to_owned()));
    assert_eq!(limited.headers("retry-after"), ["1"]);
    t.gateway.stop().await;
}
