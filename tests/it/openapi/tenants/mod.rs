//! Requests with values of another organisation, for every route and parameter of the OpenAPI document: each
//! answer equals the answer for a value that does not exist, in its status, headers and body, and nothing of
//! another organisation changes.

mod document;
mod requests;
mod values;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::PATH;
use crate::harness::{TestDb, TestGateway, Upgrade, token};
use document::{Operation, Place, operations};
use requests::{Caller, Requests, normal};
use values::{Owned, Tenant};

/// A table without row-level security, where nothing but the gateway separates organisations. And one with a
/// policy, which hides some rows of every organisation, and separates organisations neither.
const TABLES: [&str; 2] = ["notes", "memos"];

/// Role in the tokens of back ends.
const BACK_END: &str = "service_role";

/// Roles of tokens, a back end's and a user's, with the tables that they read.
const ROLES: [(&str, &[usize]); 2] = [(BACK_END, &[0, 1]), ("authenticated", &[1])];

/// Content that only this organisation may see.
fn secret(org: Uuid) -> String {
    format!("content of {org}")
}

fn token_of(org: Uuid, role: &str) -> String {
    token(org, &json!({"sub": format!("user-{org}"), "role": role}))
}

/// Operations of the gateway's document.
async fn documented(t: &TestGateway) -> Vec<Operation> {
    let document = Upgrade::plain(PATH).send(t.gateway.public_addr()).await;
    operations(&serde_json::from_str(&document.body).expect("JSON"))
}

async fn start() -> (TestGateway, [Uuid; 2]) {
    let db = TestDb::create().await;
    let orgs = [db.create_org().await, db.create_org().await];
    for table in TABLES {
        db.run(format!(
            "create table {table} (id uuid primary key, org_id uuid not null, body text,
                                   is_hidden boolean not null default false);
             grant select on {table} to authenticated"
        ))
        .await;
    }
    db.run(
        "alter table memos enable row level security;
         create policy shown on memos for select to authenticated using (not is_hidden)",
    )
    .await;
    for table in TABLES {
        db.run(format!("select warden.watch('{table}', '{table}', 'note', visibility => 'organisation')"))
            .await;
    }
    (TestGateway::start_with(db, super::without_rates).await, orgs)
}

/// Everything that is stored for organisations, as text. `condition` selects them by `org_id`.
async fn stored(db: &TestDb, condition: &str) -> String {
    let rows =
        ["notes", "memos", "warden.events", "warden.revocations", "warden.idempotency_keys"].map(|table| {
            format!("(select jsonb_agg(to_jsonb(r) order by r::text) from {table} r where {condition})")
        });
    let sql = format!("select jsonb_build_array({})::text", rows.join(", "));
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&db.pool).await.expect("reads")
}

/// Whether tokens of a role may use an operation.
fn is_allowed(operation: &Operation, role: &str) -> bool {
    role == BACK_END || !matches!(operation.path.as_str(), "/v1/events" | "/v1/revocations")
}

/// Requests of one caller: each operation, about each of these tables if it is about one.
fn requests<'a>(
    t: &TestGateway,
    operations: &'a [Operation],
    caller: &'a Caller,
    tables: &'a [usize],
) -> impl Iterator<Item = Requests<'a>> {
    let addr = t.gateway.public_addr();
    operations.iter().flat_map(move |operation| {
        let tables = if operation.path.contains("{topic}") { tables } else { &tables[..1] };
        tables.iter().map(move |n| Requests { addr, operation, table: (*n, TABLES[*n]), caller })
    })
}

/// The caller's own cursor, transaction, page and rows are known. So an answer for a foreign one is an answer
/// for that value, not for the rest of the request.
async fn expect_own_values_to_be_known(requests: &Requests<'_>) {
    let (operation, caller) = (requests.operation, requests.caller);
    let answer = requests.send().await;
    assert_eq!(answer.status / 100, 2, "{} {}: {answer:?}", operation.method, operation.path);
    if operation.path != "/v1/covers" {
        return;
    }
    for (field, value) in [("cursor", &caller.cursor), ("tx", &caller.tx), ("page", &caller.cursor)] {
        let answer = requests.send_with(&Place::Body(field.to_owned()), value).await;
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert!(answer.status == 200 && body["covered"].is_boolean(), "{field}: {answer:?}");
    }
}

/// Sends requests with a value in each place, and with one that does not exist. Returns their number.
async fn expect_like_nobodys(requests: &Requests<'_>, org: Uuid, owned: &Owned) -> usize {
    let (operation, Owned { kind, value, nobodys }) = (requests.operation, owned);
    for place in &operation.places {
        let answer = requests.send_with(place, value).await;
        let unknown = requests.send_with(place, nobodys).await;
        let context = format!("{} {} {place:?}, {kind} of {org}", operation.method, operation.path);
        assert!(!answer.body.contains(&secret(org)), "{context}: {answer:?}");
        assert_eq!(normal(&answer, value), normal(&unknown, nobodys), "{context}:\n{answer:?}\n{unknown:?}");
    }
    operation.places.len()
}

#[tokio::test]
async fn values_of_another_organisation_are_answered_like_values_that_do_not_exist() {
    let (t, orgs) = start().await;
    let operations = documented(&t).await;
    let (us, them) = (Tenant::new(&t, orgs[0]).await, Tenant::new(&t, orgs[1]).await);
    let of_others = format!("org_id <> '{}'", us.org);
    let (before, all_before) = (stored(&t.db, &of_others).await, stored(&t.db, "true").await);
    let mut asked = 0;
    for (role, tables) in ROLES {
        let caller = us.caller(role);
        for requests in requests(&t, &operations, &caller, tables) {
            if !is_allowed(requests.operation, role) {
                assert_eq!(requests.send().await.status, 403);
                continue;
            }
            expect_own_values_to_be_known(&requests).await;
            let (table, _) = requests.table;
            for owned in them.values(table) {
                asked += expect_like_nobodys(&requests, them.org, owned).await;
            }
            // A row of the own organisation that the table's policy hides.
            if requests.operation.path == "/v1/{topic}/{id}" && TABLES[table] == "memos" {
                let id = &us.hidden;
                let place = Place::Path("id".to_owned());
                let (answer, unknown) = (
                    requests.send_with(&place, &id.value).await,
                    requests.send_with(&place, &id.nobodys).await,
                );
                assert_eq!(normal(&answer, &id.value), normal(&unknown, &id.nobodys), "{answer:?}");
            }
        }
    }
    assert!(asked > 500, "{asked} values");
    assert!(stored(&t.db, &of_others).await == before, "rows of other organisations have changed");
    assert!(stored(&t.db, "true").await != all_before, "no request wrote anything");
    // Nothing of this revoked a token of the others.
    for (role, tables) in ROLES {
        let theirs = them.caller(role);
        for requests in requests(&t, &operations, &theirs, tables) {
            if requests.operation.path.contains("{topic}") {
                let answer = requests.send().await;
                assert!(answer.status == 200 && answer.body.contains(&secret(them.org)), "{answer:?}");
            }
        }
    }
    t.gateway.stop().await;
}

/// Status of a valid request with the token of another organisation than that of the values in it.
fn status_with_foreign_values(operation: &Operation, role: &str) -> u16 {
    match operation.path.as_str() {
        _ if !is_allowed(operation, role) => 403,
        "/v1/events" => 202,
        "/v1/revocations" => 201,
        "/v1/{topic}/{id}" => 404,
        _ => 200,
    }
}

/// With another organisation's token, a caller is in that organisation. The caller's own values do not exist
/// there.
#[tokio::test]
async fn with_a_token_of_another_organisation_own_values_do_not_exist() {
    let (t, orgs) = start().await;
    let operations = documented(&t).await;
    let us = Tenant::new(&t, orgs[0]).await;
    let ours = format!("org_id = '{}'", us.org);
    let before = stored(&t.db, &ours).await;
    for (role, _) in ROLES {
        let token = token_of(orgs[1], role);
        let with_ours = Caller { token: token.clone(), ..us.caller(role) };
        let with_nobodys = us.nobody(&token);
        let like = requests(&t, &operations, &with_nobodys, &[0, 1]);
        for (requests, like) in requests(&t, &operations, &with_ours, &[0, 1]).zip(like) {
            let operation = requests.operation;
            if !operation.takes_token {
                continue;
            }
            let (answer, unknown) = (requests.send().await, like.send().await);
            let context = format!("{} {} {role}: {answer:?}", operation.method, operation.path);
            assert_eq!(answer.status, status_with_foreign_values(operation, role), "{context}");
            let ours = [secret(us.org), us.org.to_string()];
            assert!(!ours.iter().any(|content| answer.body.contains(content)), "{context}");
            let (n, _) = requests.table;
            let (answer, unknown) =
                (normal(&answer, &with_ours.rows[n]), normal(&unknown, &with_nobodys.rows[n]));
            assert_eq!(answer, unknown, "{context}");
        }
    }
    assert!(stored(&t.db, &ours).await == before, "rows of the caller's own organisation have changed");
    t.gateway.stop().await;
}
