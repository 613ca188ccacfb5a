//! Nobody reads rows of another organisation, or more than the application's policies and grants allow.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{code, get, page, request, with_table};
use crate::harness::{Pooler, TestDb, TestGateway, Upgrade, eventually, token};

/// Notes without row-level security: only the gateway's own condition separates organisations.
const OPEN: &str = "
    create table notes (id int primary key, org_id uuid not null, owner uuid, body text, internal text);
    grant select on notes to authenticated;
    select warden.watch('notes', 'notes', 'note', visibility => 'organisation')";

fn ids(body: &Value) -> Vec<i64> {
    body["rows"].as_array().expect("rows").iter().map(|row| row["id"].as_i64().expect("an id")).collect()
}

#[tokio::test]
async fn nothing_of_another_organisation_is_read() {
    let (t, [org, other]) = with_table(OPEN).await;
    t.db.run(format!(
        "insert into notes (id, org_id, body) select n, (array['{org}', '{other}'])[1 + n % 2]::uuid, 'b' from generate_series(1, 9) n"
    ))
    .await;
    assert_eq!(ids(&page(&t, org, "/v1/notes").await), [2, 4, 6, 8]);
    // Filters cannot widen what is read.
    let widened = format!("/v1/notes?or=(org_id.eq.{other},id.gt.0)&org_id=in.({org},{other})");
    assert_eq!(ids(&page(&t, org, &widened).await), [2, 4, 6, 8]);
    // Another organisation's id is answered exactly as one that never existed.
    let (theirs, nobodys) = (get(&t, org, "/v1/notes/1").await, get(&t, org, "/v1/notes/99").await);
    assert_eq!((theirs.status, code(&theirs)), (404, "unknown_row".to_owned()));
    assert_eq!(theirs.body, nobodys.body);
    // Another organisation's page and cursor give nothing of it.
    let first = page(&t, other, "/v1/notes?limit=2").await;
    let next = first["next"].as_str().expect("another page");
    assert_eq!(ids(&page(&t, org, next).await), [4, 6]);
    let mut client = t.connect(org).await;
    let reply = client.join_with("notes", json!({"since": first["cursor"]})).await;
    assert_eq!(reply["resync"], true, "{reply}");
    let addr = t.gateway.public_addr();
    let without = Upgrade::new().to("/v1/notes").send(addr).await;
    assert_eq!((without.status, code(&without)), (401, "no_token".to_owned()));
    let stranger = get(&t, Uuid::new_v4(), "/v1/notes").await;
    assert_eq!((stranger.status, code(&stranger)), (403, "unknown_organisation".to_owned()));
    let in_url = request(org, &format!("/v1/notes?token={}", token(org, &json!({})))).send(addr).await;
    assert_eq!((in_url.status, code(&in_url)), (400, "credential_in_url".to_owned()));
    // A back end's token reads as its organisation, too.
    let service =
        Upgrade::bearer(&token(org, &json!({"role": "service_role"}))).to("/v1/notes").send(addr).await;
    let body: Value = serde_json::from_str(&service.body).expect("JSON");
    assert_eq!(ids(&body), [2, 4, 6, 8]);
    t.gateway.stop().await;
}

/// Policies of the application see the claims of the token, and ungranted columns do not exist.
#[tokio::test]
async fn policies_and_column_grants_of_the_application_apply() {
    let (t, [org, _]) = with_table(OPEN).await;
    let (me, you) = ("11111111-1111-4111-8111-111111111111", Uuid::new_v4());
    t.db.run(format!(
        "alter table notes enable row level security;
         create policy own on notes for select to authenticated
           using (owner::text = current_setting('request.jwt.claims')::json ->> 'sub');
         insert into notes values (1, '{org}', '{me}', 'mine', 'i'), (2, '{org}', '{you}', 'yours', 'i')"
    ))
    .await;
    assert_eq!(ids(&page(&t, org, "/v1/notes").await), [1]);
    assert_eq!(get(&t, org, "/v1/notes/2").await.status, 404);
    // The transaction's role and claims are gone afterwards: another user on the same connection is another.
    let theirs = Upgrade::bearer(&token(org, &json!({"sub": you})))
        .to("/v1/notes")
        .send(t.gateway.public_addr())
        .await;
    assert_eq!(ids(&serde_json::from_str(&theirs.body).expect("JSON")), [2]);
    t.db.run("revoke select on notes from authenticated; grant select (id, org_id, owner, body) on notes to authenticated").await;
    let row = page(&t, org, "/v1/notes/1").await;
    assert_eq!((row.get("internal"), &row["body"]), (None, &json!("mine")));
    assert_eq!(code(&get(&t, org, "/v1/notes?internal=eq.i").await), "invalid_query");
    t.db.run("revoke select (id) on notes from authenticated").await;
    let answer = get(&t, org, "/v1/notes").await;
    assert_eq!((answer.status, code(&answer)), (503, "not_readable".to_owned()));
    t.db.run("grant select on notes to authenticated; select warden.watch('notes', 'notes', 'note', omit_columns => '{body}', visibility => 'claim')").await;
    eventually("the topic needs a claim", async || {
        code(&get(&t, org, "/v1/notes").await) == "forbidden_topic"
    })
    .await;
    let named = token(org, &json!({"app_metadata": {"org_id": org, "warden_topics": ["notes"]}}));
    let answer = Upgrade::bearer(&named).to("/v1/notes").send(t.gateway.public_addr()).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("mine"), "{answer:?}");
    t.gateway.stop().await;
}

/// A pooler lends sessions to others, which must not inherit a role or claims.
#[tokio::test]
async fn rows_are_read_through_a_pooler_and_leave_nothing_behind() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let call = db.insert_call(org).await;
    let pooler = Pooler::start(&db, "transaction").await;
    let url = pooler.url(&db.name, "postgres");
    let t = TestGateway::start_with(db, |config| {
        config.database = warden::postgres::options(&url).expect("a URL");
    })
    .await;
    for _ in 0..8 {
        let body = page(&t, org, "/v1/calls").await;
        assert_eq!(body["rows"][0]["id"], call.to_string());
        t.db.open_cursor(org, body["cursor"].as_str().expect("a cursor")).await;
    }
    assert_eq!(get(&t, org, "/v1/calls?id=eq.x").await.status, 400);
    assert_eq!(page(&t, org, "/v1/calls").await["rows"][0]["id"], call.to_string());
    pooler.expect_clean_sessions(&t.db.name).await;
    t.gateway.stop().await;
}
