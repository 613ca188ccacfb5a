//! Filters and orders, compared with SQL, and requests that are rejected.

use serde_json::Value;
use uuid::Uuid;

use super::{code, get, page, strings, with_table};
use crate::harness::TestGateway;

const TABLE: &str = "
    create table things (id int, org_id uuid not null, part text not null, n int, label text, at timestamptz, ok boolean,
                         price numeric, ref uuid, doc json, ssn text, primary key (org_id, id, part));
    grant select on things to authenticated;
    select warden.watch('things', 'things', 'thing', omit_columns => '{ssn}', visibility => 'organisation')";

/// Filters with the condition that they mean.
const FILTERS: &[(&str, &str)] = &[
    ("", "true"),
    ("n=eq.2", "n = 2"),
    ("n=not.eq.2", "not n = 2"),
    ("n=neq.2&ok=is.true", "n <> 2 and ok"),
    ("n=gt.1&n=lte.3", "n > 1 and n <= 3"),
    ("n=in.(1,3)", "n in (1, 3)"),
    ("n=not.in.(1,3)", "n not in (1, 3)"),
    ("n=in.()", "false"),
    ("n=is.null", "n is null"),
    ("n=not.is.null", "n is not null"),
    ("ok=is.unknown", "ok is null"),
    ("ok=is.false", "not ok"),
    ("label=like.*a*", "label like '%a%'"),
    ("label=ilike.B*", "label ilike 'b%'"),
    ("label=not.like.*a*", "label not like '%a%'"),
    ("label=eq.%22", "label = '\"'"),
    ("label=eq.a,b", "label = 'a,b'"),
    ("label=in.(%22a,b%22,c)", "label in ('a,b', 'c')"),
    ("doc=is.null", "doc is null"),
    ("at=gte.2026-01-02&price=lt.2.5", "at >= '2026-01-02 UTC' and price < 2.5"),
    ("or=(n.eq.1,n.is.null)", "(n = 1 or n is null)"),
    ("or=(n.eq.1,and(n.gt.2,ok.is.true))", "(n = 1 or (n > 2 and ok))"),
    ("not.or=(n.eq.1,label.eq.c)", "not (n = 1 or label = 'c')"),
    ("and=(n.gte.1,or(label.like.*b*,price.not.gt.1))", "(n >= 1 and (label like '%b%' or not price > 1))"),
];

/// Orders with their SQL.
const ORDERS: &[(&str, &str)] = &[
    ("", "id, part"),
    ("order=n", "n nulls last, id, part"),
    ("order=n.desc", "n desc nulls first, id desc, part desc"),
    ("order=n.desc.nullslast", "n desc nulls last, id desc, part desc"),
    ("order=n.asc.nullsfirst,label.desc", "n nulls first, label desc nulls first, id desc, part desc"),
    ("order=ok,price.desc.nullslast,part", "ok nulls last, price desc nulls last, part, id"),
    ("order=id.desc", "id desc, part desc"),
    ("order=label.nullsfirst,at.desc", "label nulls first, at desc nulls first, id desc, part desc"),
    ("order=part.desc,id", "part desc, id"),
];

async fn read_all(t: &TestGateway, org: Uuid, query: &str, limit: usize) -> Vec<String> {
    let mut path = format!("/v1/things?limit={limit}&{query}");
    let mut found = Vec::new();
    loop {
        let body = page(t, org, &path).await;
        let rows = body["rows"].as_array().expect("rows");
        assert!(rows.len() <= limit);
        found.extend(
            rows.iter().map(|row| format!("{} {}", row["id"], row["part"].as_str().expect("a part"))),
        );
        match body["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => return found,
        }
    }
}

/// Every page of every order and filter together contains exactly the rows of the table, in its order.
#[tokio::test]
async fn pages_of_any_order_and_filter_contain_each_row_once() {
    let (t, [org, other]) = with_table(TABLE).await;
    t.db.run(format!(
        "select setseed(0.5);
         insert into things select i, o, p, nullif(floor(random() * 5)::int, 0),
           (array['a', 'b', 'ab', 'a,b', 'c', '\"', null, 'B', ''])[1 + floor(random() * 9)::int],
           case when random() < 0.7 then timestamptz '2026-01-01 UTC' + floor(random() * 4) * interval '12 hours' end,
           (array[true, false, null])[1 + floor(random() * 3)::int], round((random() * 4)::numeric, 1),
           null, case when random() < 0.5 then '{{}}'::json end, 'secret'
         from generate_series(1, 23) i, unnest(array['{org}', '{other}']::uuid[]) o, unnest(array['x', 'y']) p"
    ))
    .await;
    let mut rng = fastrand::Rng::with_seed(7);
    for (n, (filter, condition)) in FILTERS.iter().enumerate() {
        // Each filter with two of the orders, and each order with several filters.
        for (order, sql) in [ORDERS[n % ORDERS.len()], ORDERS[rng.usize(..ORDERS.len())]] {
            let limit = 1 + rng.usize(..13);
            let expected = strings(
                &t.db,
                &format!("select id || ' ' || part from things where org_id = '{org}' and ({condition}) order by {sql}"),
            )
            .await;
            let found = read_all(&t, org, &format!("{filter}&{order}"), limit).await;
            assert_eq!(found, expected, "{filter} {order}, {limit} rows");
        }
    }
    t.gateway.stop().await;
}

/// Columns whose collations order strings in other ways than their bytes do, or take different strings as
/// equal.
const WORDS: &str = "
    create collation no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    create table words (id int primary key, org_id uuid not null, word text collate \"und-x-icu\",
                        code text collate no_case, padded char(3) collate \"und-x-icu\");
    grant select on words to authenticated;
    select warden.watch('words', 'words', 'word', visibility => 'organisation')";

/// Filters on words with the ids of the rows that they select. In the order of bytes: B, a, b, Ä, ä.
const WORD_FILTERS: &[(&str, &[i64])] = &[
    ("word=gt.a", &[3, 4, 5]),
    ("word=gte.a&word=lt.%C3%84", &[2, 3]),
    ("word=lte.B", &[1]),
    ("or=(word.lt.a,word.not.lte.%C3%84)", &[1, 5]),
    // The case of ASCII letters does not count. That of others does.
    ("word=ilike.B", &[1, 3]),
    ("word=ilike.%C3%A4*", &[5]),
    ("word=like.b", &[3]),
    ("word=eq.b", &[3]),
    ("word=in.(b,B,%C3%84)", &[1, 3, 4]),
    ("code=eq.b", &[3]),
    ("code=neq.b", &[1, 2, 4, 5]),
    ("code=in.(A,b)", &[3]),
    ("code=like.b*", &[3]),
    ("code=gt.a", &[3, 4, 5]),
    // Spaces at the end do not count in comparisons.
    ("padded=gt.a", &[3, 4, 5]),
    ("padded=eq.b", &[3]),
];

#[tokio::test]
async fn text_is_compared_by_its_bytes_whatever_its_collation_is() {
    let (t, [org, _]) = with_table(WORDS).await;
    t.db.run(format!(
        "insert into words select n, '{org}', w, w, w from unnest('{{B,a,b,Ä,ä}}'::text[]) with ordinality v (w, n)"
    ))
    .await;
    for (filter, expected) in WORD_FILTERS {
        let body = page(&t, org, &format!("/v1/words?{filter}")).await;
        let rows = body["rows"].as_array().expect("rows");
        let ids: Vec<i64> = rows.iter().map(|row| row["id"].as_i64().expect("an id")).collect();
        assert_eq!(ids, *expected, "{filter}");
    }
    // The order of a page, and so its position, is that of the column.
    let mut path = "/v1/words?order=word&limit=1&word=gte.B".to_owned();
    let mut words = Vec::new();
    loop {
        let body = page(&t, org, &path).await;
        words.extend(body["rows"][0]["word"].as_str().map(str::to_owned));
        let Some(next) = body["next"].as_str() else { break };
        path = next.to_owned();
    }
    assert_eq!(words, ["a", "ä", "Ä", "b", "B"]);
    // A gateway notices that a column got another collation.
    t.db.run("alter table words alter code type text collate \"C\"").await;
    let body = page(&t, org, "/v1/words?code=gt.a&select=id").await;
    assert_eq!(body["rows"].as_array().map(Vec::len), Some(3));
    t.gateway.stop().await;
}

/// Queries that are rejected, each with a part of the reason.
const INVALID: &[(&str, &str)] = &[
    ("nope=eq.1", "unknown column"),
    ("ssn=eq.secret", "unknown column"),
    ("ssn=like.s*", "unknown column"),
    ("ssn=is.null", "unknown column"),
    ("select=ssn", "unknown column"),
    ("select=id,(x)", "unknown column"),
    ("select=id::text", "unknown column"),
    ("order=ssn", "unknown column"),
    ("or=(id.eq.1,ssn.eq.secret)", "unknown column"),
    ("ctid=eq.(0,1)", "unknown column"),
    ("n=matches.1", "unknown operator"),
    ("n=1", r#"parameter \"n\": unknown operator \"1\": use eq"#),
    ("offset=5", r#"parameter \"offset\": unknown operator \"5\": use eq"#),
    ("n=eq.x", "does not fit"),
    ("n=eq.99999999999999999999", "does not fit"),
    ("ref=in.(1)", "does not fit"),
    ("at=eq.never", "does not fit"),
    ("price=gt.1e999999", "does not fit"),
    ("doc=eq.1", "does not apply"),
    ("n=like.1*", "does not apply"),
    ("order=doc", "does not apply"),
    ("or=(n.eq.1", "expected"),
    ("n=eq.%00", "U+0000"),
    ("n=eq.%ff", "UTF-8"),
    ("limit=0", "limit"),
    ("limit=1001", "limit"),
    ("limit=1&limit=1", "more than once"),
    ("order=n&after=bm9wZQ", "after does not fit"),
    ("order=n&after=WyJ4IiwgIjEiLCAieCJd", "does not fit"),
    ("after=W10", "after does not fit"),
];

#[tokio::test]
async fn malformed_requests_get_a_clear_answer() {
    let (t, [org, _]) = with_table(TABLE).await;
    t.db.run(format!("insert into things (id, org_id, part, ssn) values (1, '{org}', 'x', 'secret')")).await;
    let long = format!("n=in.({})", ["1"; 501].join(","));
    let many = ["n=eq.1"; 65].join("&");
    let deep = format!("and=({}n.eq.1{})", "and(".repeat(8), ")".repeat(8));
    let own = [(long.as_str(), "500 values"), (&many, "64 conditions"), (&deep, "8 levels")];
    let mut omitted = Vec::new();
    for (query, reason) in INVALID.iter().chain(&own) {
        let answer = get(&t, org, &format!("/v1/things?{query}")).await;
        assert_eq!((answer.status, code(&answer)), (400, "invalid_query".to_owned()), "{query}: {answer:?}");
        assert!(answer.body.contains(reason), "{query}: {}", answer.body);
        if query.starts_with("ssn=eq") || query.starts_with("nope=eq") {
            omitted.push(answer.body.replace("ssn", "nope"));
        }
    }
    // An omitted column is answered as one that does not exist.
    assert_eq!(omitted[0], omitted[1]);
    for path in
        ["/v1/nowhere", "/v1/Things", "/v1/thing:1", "/v1/things/1,x/2", "/v1/", "/v1/%00", "/v1/things%2F1"]
    {
        let answer = get(&t, org, path).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }
    for id in ["1", "x,x", "1,x,y", "%ff,x", "1,%00", "2,x"] {
        let answer = get(&t, org, &format!("/v1/things/{id}")).await;
        assert_eq!((answer.status, code(&answer)), (404, "unknown_row".to_owned()), "{id}: {answer:?}");
    }
    let body: Value = page(&t, org, "/v1/things/1,x").await;
    assert_eq!(body["part"], "x");
    // One row has no parameter but `select`.
    let own = ["id=eq.1", "part=eq.other", "or=(id.eq.1)", "order=id", "limit=1", "after=WyIxIl0"];
    for (query, _) in INVALID.iter().copied().chain(own.map(|query| (query, ""))) {
        let answer = get(&t, org, &format!("/v1/things/1,x?{query}")).await;
        assert_eq!((answer.status, code(&answer)), (400, "invalid_query".to_owned()), "{query}: {answer:?}");
    }
    let answer = get(&t, org, "/v1/things/1,x?select=id&nope=eq.1").await;
    assert!(answer.body.contains("\\\"nope\\\" does not apply to one row"), "{}", answer.body);
    let one = get(&t, org, "/v1/things/1,x?select=id,part").await;
    assert_eq!(one.body, r#"{"id": 1, "part": "x"}"#);
    t.gateway.stop().await;
}
