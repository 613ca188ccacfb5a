//! The published `phoenix` package (`tests/clients/phoenix.mjs`, in Node) against a gateway: what the
//! client does by itself, like heartbeats, reconnects and rejoins, is left to it and never imitated here.

pub mod driver;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sqlx::Executor as _;
use uuid::Uuid;
use warden::app::Gateway;
use warden::metrics::{CloseLabels, RejectionLabels};

use crate::harness::{TestDb, TestGateway, eventually, token, within};
use driver::{Phoenix, config};

/// Between a client's heartbeats in the tests that look at them, in milliseconds.
const HEARTBEAT_MS: u64 = 500;
/// A gateway's patience there: several heartbeats.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// For a client that must not send any heartbeat, in milliseconds.
const NO_HEARTBEAT_MS: u64 = 3_600_000;
/// Life of a token that must run out during a test, in seconds: time enough for one handshake.
const SHORT_TTL_SECONDS: u64 = 4;

fn good_token(org: Uuid) -> String {
    token(org, &json!({}))
}

/// A token that is good for a few seconds from now.
fn short_token(org: Uuid) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    token(org, &json!({"exp": now + SHORT_TTL_SECONDS}))
}

fn refused(gateway: &Gateway, code: &'static str) -> u64 {
    gateway.metrics().rejected.get_or_create(&RejectionLabels { code }).get()
}

fn closed(gateway: &Gateway, code: u16) -> u64 {
    gateway.metrics().closed.get_or_create(&CloseLabels { code }).get()
}

/// `follow.mjs` is what the chaos test and the rolling restart follow with.
#[test]
fn the_documented_recipe_is_the_one_that_is_tested() {
    let recipe = include_str!("../../clients/follow.mjs");
    assert!(
        include_str!("../../../docs/protocol.md").contains(recipe),
        "docs/protocol.md has another recipe"
    );
}

#[tokio::test]
async fn events_of_the_own_org_arrive_with_their_payload() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut client = Phoenix::connect(&t.gateway, &good_token(org), &["calls"]).await;

    let foreign = t.db.insert_call(other).await;
    let call = t.db.insert_call(org).await;
    let payload = client.expect_event("calls", "call.created").await;
    assert_eq!(payload["data"]["id"], json!(call));
    assert_eq!(payload["data"]["org_id"], json!(org));
    assert_eq!(payload["data"]["status"], "queued");
    assert!(payload["id"].as_i64().is_some_and(|id| id > 0), "{payload}");
    assert!(payload["cursor"].as_str().is_some_and(|cursor| !cursor.is_empty()), "{payload}");
    assert!(payload["at"].as_str().is_some_and(|at| at.starts_with("20") && at.ends_with('Z')), "{payload}");
    assert!(payload.get("old").is_none(), "{payload}");

    t.db.run(format!("update calls set status = 'ringing' where id = '{call}'")).await;
    let payload = client.expect_event("calls", "call.updated").await;
    assert_eq!(
        (&payload["data"]["status"], &payload["old"]),
        (&json!("ringing"), &json!({"status": "queued"}))
    );
    t.db.run(format!("delete from calls where id = '{call}'")).await;
    let payload = client.expect_event("calls", "call.deleted").await;
    assert_eq!(payload["data"]["id"], json!(call));
    assert!(!client.transcript.contains(&foreign.to_string()), "{}", client.transcript);
    t.gateway.stop().await;
}

#[tokio::test]
async fn heartbeats_are_answered_and_keep_the_socket_open() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.session.idle_timeout = IDLE_TIMEOUT;
    })
    .await;
    let org = t.db.create_org().await;
    let mut lively = config(&t.gateway, &good_token(org));
    let mut silent = lively.clone();
    lively["heartbeatIntervalMs"] = json!(HEARTBEAT_MS);
    silent["heartbeatIntervalMs"] = json!(NO_HEARTBEAT_MS);
    let (mut lively, mut silent) = (Phoenix::start(&lively).await, Phoenix::start(&silent).await);

    // The second socket shows that the first would have been closed, and is opened again by its client.
    silent.next("open").await;
    silent.expect_close(4408).await;
    silent.next("open").await;
    silent.tell(&json!({"do": "heartbeat"})).await;
    silent.frame("the reply to a heartbeat", is_heartbeat_reply).await;

    lively.next("open").await;
    for _ in 0..2 * IDLE_TIMEOUT.as_millis() / u128::from(HEARTBEAT_MS) {
        let reply = lively.frame("the reply to a heartbeat", is_heartbeat_reply).await;
        assert_eq!(reply["payload"], json!({"status": "ok", "response": {}}));
    }
    assert_eq!((lively.count("open"), lively.count("close"), lively.count("error")), (1, 0, 0));
    t.gateway.stop().await;
}

fn is_heartbeat_reply(frame: &Value) -> bool {
    frame["topic"] == "phoenix" && frame["event"] == "phx_reply"
}

#[tokio::test]
async fn a_new_gateway_on_the_same_port_gets_its_clients_back() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = Phoenix::connect(&t.gateway, &good_token(org), &["calls"]).await;
    client.tell(&json!({"do": "join", "topic": "org", "since": true})).await;
    client.expect_reply("join", "org", "ok").await;
    t.db.insert_call(org).await;
    client.expect_event("calls", "call.created").await;
    client.expect_event("org", "call.created").await;

    let addr = t.gateway.public_addr();
    t.gateway.stop().await;
    client.expect_close(1012).await;
    let missed = t.db.insert_call(org).await;
    // The new gateway can't learn which topics there are until this lock goes: a client that was let in
    // before that would be told that its topic does not exist, or join at no cursor.
    let mut lock = t.db.pool.begin().await.expect("begins");
    lock.execute("lock table warden.topics in access exclusive mode").await.expect("locks");
    let (gateway, ()) = tokio::join!(TestGateway::gateway(&t.db, |config| config.listen = addr), async {
        let is_503 = |error: &Value| error["message"] == "Unexpected server response: 503";
        within("a refusal", async { while !is_503(&client.next("error").await) {} }).await;
        lock.commit().await.expect("unlocks");
    });

    client.next("open").await;
    // Channels rejoin in the order in which they were made.
    let fresh = client.expect_reply("join", "calls", "ok").await;
    assert!(fresh["cursor"].is_string() && fresh.get("resync").is_none(), "{fresh}");
    let resumed = client.expect_reply("join", "org", "ok").await;
    // A client that hands back its cursor gets what it missed, or is told that it must read anew.
    if resumed["resync"] != true {
        assert_eq!(client.expect_event("org", "call.created").await["data"]["id"], json!(missed));
    }
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await["data"]["id"], json!(call));
    assert_eq!(client.expect_event("org", "call.created").await["data"]["id"], json!(call));
    gateway.stop().await;
}

#[tokio::test]
async fn leaving_ends_a_channel_and_joining_twice_replaces_it() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = Phoenix::connect(&t.gateway, &good_token(org), &["calls", "org"]).await;

    // The package closes a channel before it has heard of the gateway, whose answer only frames show.
    client.tell(&json!({"do": "leave", "topic": "calls"})).await;
    client.expect_reply("leave", "calls", "ok").await;
    assert_eq!(
        client.next("channel").await,
        json!({"on": "channel", "topic": "calls", "event": "phx_close"})
    );
    // Of the replies on this topic only a join's has the join's own ref.
    let to_leave =
        |f: &Value| f["event"] == "phx_reply" && f["topic"] == "calls" && f["ref"] != f["join_ref"];
    let reply = client.frame("the reply to the leave", to_leave).await;
    assert_eq!(reply["payload"], json!({"status": "ok", "response": {}}));
    let close = client.frame("the close of the join", |f| f["event"] == "phx_close").await;
    assert!(close["topic"] == "calls" && close["join_ref"].is_string(), "{close}");
    t.db.insert_call(org).await;
    let event = client.frame("an event", |f| f["event"] == "call.created").await;
    assert_eq!(event["topic"], "org", "what was left is still delivered");
    client.expect_event("org", "call.created").await;

    // Twice: the package leaves the earlier channel by itself, and the later one gets events once.
    for _ in 0..2 {
        client.tell(&json!({"do": "join", "topic": "recordings"})).await;
        client.expect_reply("join", "recordings", "ok").await;
    }
    assert_eq!(client.next("channel").await["topic"], "recordings");
    t.db.run(format!("insert into recordings (org_id) values ('{org}')")).await;
    client.expect_event("recordings", "recording.created").await;
    client.expect_event("org", "recording.created").await;
    t.db.insert_call(org).await;
    client.expect_event("org", "call.created").await;

    client.tell(&json!({"do": "disconnect"})).await;
    client.next("done").await;
    eventually("the session ends as a goodbye", async || closed(&t.gateway, 1000) == 1).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn what_is_unknown_gets_an_error_and_ends_nothing() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut client = Phoenix::connect(&t.gateway, &good_token(org), &["calls"]).await;

    for topic in ["nothing".to_owned(), format!("org:{other}")] {
        client.tell(&json!({"do": "join", "topic": topic})).await;
        let response = client.expect_reply("join", &topic, "error").await;
        assert_eq!(response["reason"], "unmatched topic");
        // Else the package tries again, now and then, for ever.
        client.tell(&json!({"do": "leave", "topic": topic})).await;
        client.expect_reply("leave", &topic, "ok").await;
    }
    let push = |event: &str, payload: Value| json!({"do": "push", "topic": "calls", "event": event, "payload": payload});
    client.tell(&push("call.created", json!({"status": "forged"}))).await;
    assert_eq!(client.expect_reply("call.created", "calls", "error").await["reason"], "unknown event");
    client.tell(&push("access_token", json!({"access_token": "nonsense"}))).await;
    assert_eq!(client.expect_reply("access_token", "calls", "error").await["reason"], "invalid token");
    client.tell(&push("access_token", json!({"access_token": good_token(org)}))).await;
    client.expect_reply("access_token", "calls", "ok").await;

    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await["data"]["id"], json!(call));
    assert_eq!((client.count("open"), client.count("close"), client.count("error")), (1, 0, 0));
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_wrong_token_never_opens() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    // Everything is as it should be but the signature, which is that of another token.
    let (good, another) = (good_token(org), good_token(Uuid::nil()));
    let (claims, _) = good.rsplit_once('.').expect("a token");
    let (_, signature) = another.rsplit_once('.').expect("a token");
    let forged = format!("{claims}.{signature}");
    let mut settings = config(&t.gateway, &forged);
    settings["authTokenFunction"] = json!(true);
    settings["topics"] = json!(["calls"]);
    let mut client = Phoenix::start(&settings).await;
    // The client tries again by itself, and is refused again.
    for _ in 0..3 {
        assert_eq!(client.next("error").await["message"], "Unexpected server response: 401");
        client.expect_close(1006).await;
    }
    assert_eq!((client.count("open"), t.gateway.metrics().accepted.get()), (0, 0));
    assert!(refused(&t.gateway, "invalid_token") >= 3);

    // What `params` holds goes into the URL, where no credential may be, good as it is.
    let mut in_url = config(&t.gateway, &good_token(org));
    in_url["params"] = json!({"token": good_token(org)});
    let mut in_url = Phoenix::start(&in_url).await;
    assert_eq!(in_url.next("error").await["message"], "Unexpected server response: 400");
    eventually("the refusal is counted", async || refused(&t.gateway, "credential_in_url") >= 1).await;
    assert_eq!((in_url.count("open"), t.gateway.metrics().accepted.get()), (0, 0));

    // The gateway has kept nothing against the client: with a good token the next attempt succeeds.
    client.tell(&json!({"do": "token", "token": good_token(org)})).await;
    client.next("open").await;
    client.expect_reply("join", "calls", "ok").await;
    t.db.insert_call(org).await;
    client.expect_event("calls", "call.created").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn each_connect_asks_for_the_token_anew() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut settings = config(&t.gateway, "");
    settings["authTokenFunction"] = json!(true);
    settings["connect"] = json!(false);
    settings["topics"] = json!(["calls"]);
    let mut client = Phoenix::start(&settings).await;

    for command in [json!({"do": "token", "token": short_token(org)}), json!({"do": "connect"})] {
        client.tell(&command).await;
    }
    client.next("open").await;
    client.expect_reply("join", "calls", "ok").await;
    client.tell(&json!({"do": "token", "token": good_token(org)})).await;
    client.expect_close(4401).await;
    client.next("open").await;
    client.expect_reply("join", "calls", "ok").await;
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await["data"]["id"], json!(call));

    // A user who signs in to another organisation: the same Socket, the other token.
    client.tell(&json!({"do": "token", "token": good_token(other)})).await;
    client.tell(&json!({"do": "disconnect"})).await;
    client.tell(&json!({"do": "connect"})).await;
    client.next("open").await;
    client.expect_reply("join", "calls", "ok").await;
    t.db.insert_call(org).await;
    let call = t.db.insert_call(other).await;
    assert_eq!(client.expect_event("calls", "call.created").await["data"]["id"], json!(call));
    assert_eq!(refused(&t.gateway, "token_expired"), 0);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_token_that_ran_out_is_not_let_in_again() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    // Started first: of the token's short life nothing goes into starting Node.
    let mut settings = config(&t.gateway, "");
    settings["authTokenFunction"] = json!(true);
    settings["connect"] = json!(false);
    let mut client = Phoenix::start(&settings).await;
    client.tell(&json!({"do": "token", "token": short_token(org)})).await;
    client.tell(&json!({"do": "connect"})).await;
    client.next("open").await;
    client.expect_close(4401).await;
    // The package comes back after 10 ms: let in by some leeway, it would do so a hundred times a second.
    assert_eq!(client.next("error").await["message"], "Unexpected server response: 401");
    assert_eq!(client.count("open"), 1);
    eventually("the refusal is counted", async || refused(&t.gateway, "token_expired") >= 1).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn tabs_of_two_orgs_see_nothing_of_each_other() {
    let t = TestGateway::start().await;
    let orgs = [t.db.create_org().await, t.db.create_org().await];
    let calls = [t.db.insert_call(orgs[0]).await, t.db.insert_call(orgs[1]).await];
    let mut tabs = Vec::new();
    for n in 0..2 {
        // Each listens to the other's call as well: who knows a uuid has no right by it.
        let (own, foreign) = (format!("call:{}", calls[n]), format!("call:{}", calls[1 - n]));
        tabs.push(Phoenix::connect(&t.gateway, &good_token(orgs[n]), &["org", &own, &foreign]).await);
    }
    for round in 0..3 {
        for n in 0..2 {
            t.db.run(format!("update calls set metadata = '{{\"n\": {round}}}' where id = '{}'", calls[n]))
                .await;
            tabs[n].expect_event(&format!("call:{}", calls[n]), "call.updated").await;
            let payload = tabs[n].expect_event("org", "call.updated").await;
            assert_eq!(payload["data"]["metadata"], json!({"n": round}));
        }
    }
    t.gateway.stop().await;
    for n in 0..2 {
        tabs[n].expect_close(1012).await;
        // Until its close a socket has received everything that was sent to it.
        let transcript = &tabs[n].transcript;
        assert!(!transcript.contains(&orgs[1 - n].to_string()), "{transcript}");
        assert_eq!(tabs[n].count("event"), 6, "{transcript}");
    }
}
