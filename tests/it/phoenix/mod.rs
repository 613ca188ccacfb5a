//! The published `phoenix` package, unmodified, against a gateway. The package runs in Node
//! (`tests/clients/phoenix.mjs`) and does its own heartbeats, reconnects and rejoins.

pub mod driver;
mod rows;
mod tables;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sqlx::Executor as _;
use uuid::Uuid;
use warden::app::Gateway;
use warden::metrics::{CloseLabels, RejectionLabels};

use crate::harness::{TestDb, TestGateway, eventually, token, within};
use driver::{Phoenix, config};

/// Interval of heartbeats in the test of heartbeats, in milliseconds.
const HEARTBEAT_MS: u64 = 500;
/// Idle timeout of the gateway in that test: several heartbeats.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval for a client that must not send a heartbeat, in milliseconds.
const NO_HEARTBEAT_MS: u64 = 3_600_000;
/// Validity of a token that expires during a test, in seconds: enough for one handshake.
const SHORT_TTL_SECONDS: u64 = 4;

fn good_token(org: Uuid) -> String {
    token(org, &json!({}))
}

/// Creates a token that expires within seconds.
fn short_token(org: Uuid) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    token(org, &json!({"exp": now + SHORT_TTL_SECONDS}))
}

fn rejected(gateway: &Gateway, code: &'static str) -> u64 {
    gateway.metrics().rejected.get_or_create(&RejectionLabels { code }).get()
}

fn closed(gateway: &Gateway, code: u16) -> u64 {
    gateway.metrics().closed.get_or_create(&CloseLabels { code }).get()
}

/// The chaos test and the rolling restart use `follow.mjs`, `rows` uses `follow-rows.mjs`, and `tables` uses
/// `follow-tables.mjs`. All are recipes of docs/protocol.md.
#[test]
fn the_documented_recipes_are_the_tested_ones() {
    let recipes = [
        include_str!("../../clients/follow.mjs"),
        include_str!("../../clients/follow-rows.mjs"),
        include_str!("../../clients/follow-tables.mjs"),
    ];
    for recipe in recipes {
        let page = include_str!("../../../docs/protocol.md");
        assert!(page.contains(recipe), "docs/protocol.md has another recipe than {recipe}");
    }
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
async fn heartbeats_are_answered_and_keep_the_session_open() {
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

    // The silent client shows that a session without heartbeats is closed. Its package then reconnects.
    silent.next("open").await;
    silent.expect_close(4408).await;
    silent.next("open").await;
    silent.command(&json!({"do": "heartbeat"})).await;
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
async fn clients_reconnect_to_a_restarted_gateway() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = Phoenix::connect(&t.gateway, &good_token(org), &["calls"]).await;
    client.command(&json!({"do": "join", "topic": "org", "since": true})).await;
    client.expect_reply("join", "org", "ok").await;
    t.db.insert_call(org).await;
    client.expect_event("calls", "call.created").await;
    client.expect_event("org", "call.created").await;

    let addr = t.gateway.public_addr();
    t.gateway.stop().await;
    client.expect_close(1012).await;
    let missed = t.db.insert_call(org).await;
    // The lock keeps the new gateway from loading the topics. If it accepted a client before that, it would
    // reject the client's topics as unknown, or have no cursor for its joins.
    let mut lock = t.db.pool.begin().await.expect("begins");
    lock.execute("lock table warden.topics in access exclusive mode").await.expect("locks");
    let (gateway, ()) = tokio::join!(TestGateway::gateway(&t.db, |config| config.listen = addr), async {
        let is_503 = |error: &Value| error["message"] == "Unexpected server response: 503";
        within("a rejection", async { while !is_503(&client.next("error").await) {} }).await;
        lock.commit().await.expect("unlocks");
    });

    client.next("open").await;
    // Channels rejoin in the order in which they were created.
    let fresh = client.expect_reply("join", "calls", "ok").await;
    assert!(fresh["cursor"].is_string() && fresh.get("resync").is_none(), "{fresh}");
    let resumed = client.expect_reply("join", "org", "ok").await;
    // A client that sends its cursor receives the missed events, or a resync.
    if resumed["resync"] != true {
        assert_eq!(client.expect_event("org", "call.created").await["data"]["id"], json!(missed));
    }
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await["data"]["id"], json!(call));
    assert_eq!(client.expect_event("org", "call.created").await["data"]["id"], json!(call));
    gateway.stop().await;
}

#[tokio::test]
async fn a_left_channel_receives_nothing_and_a_second_join_replaces_the_first() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = Phoenix::connect(&t.gateway, &good_token(org), &["calls", "org"]).await;

    // The package closes a channel before the gateway answers. Only the frames show the answer.
    client.command(&json!({"do": "leave", "topic": "calls"})).await;
    client.expect_reply("leave", "calls", "ok").await;
    assert_eq!(
        client.next("channel").await,
        json!({"on": "channel", "topic": "calls", "event": "phx_close"})
    );
    // On this topic, only the reply to the join has the ref of the join.
    let to_leave =
        |f: &Value| f["event"] == "phx_reply" && f["topic"] == "calls" && f["ref"] != f["join_ref"];
    let reply = client.frame("the reply to the leave", to_leave).await;
    assert_eq!(reply["payload"], json!({"status": "ok", "response": {}}));
    let close = client.frame("the close of the join", |f| f["event"] == "phx_close").await;
    assert!(close["topic"] == "calls" && close["join_ref"].is_string(), "{close}");
    t.db.insert_call(org).await;
    let event = client.frame("an event", |f| f["event"] == "call.created").await;
    assert_eq!(event["topic"], "org", "an event of a left topic");
    client.expect_event("org", "call.created").await;

    // On the second join the package leaves the first channel. The second one receives each event once.
    for _ in 0..2 {
        client.command(&json!({"do": "join", "topic": "recordings"})).await;
        client.expect_reply("join", "recordings", "ok").await;
    }
    assert_eq!(client.next("channel").await["topic"], "recordings");
    t.db.run(format!("insert into recordings (org_id) values ('{org}')")).await;
    client.expect_event("recordings", "recording.created").await;
    client.expect_event("org", "recording.created").await;
    t.db.insert_call(org).await;
    client.expect_event("org", "call.created").await;

    client.command(&json!({"do": "disconnect"})).await;
    client.next("done").await;
    eventually("the session ends with code 1000", async || closed(&t.gateway, 1000) == 1).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn unknown_topics_and_events_get_an_error_and_the_session_continues() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut client = Phoenix::connect(&t.gateway, &good_token(org), &["calls"]).await;

    for topic in ["nothing".to_owned(), format!("org:{other}")] {
        client.command(&json!({"do": "join", "topic": topic})).await;
        let response = client.expect_reply("join", &topic, "error").await;
        assert_eq!(response["reason"], "unmatched topic");
        // Otherwise the package would retry the join for ever.
        client.command(&json!({"do": "leave", "topic": topic})).await;
        client.expect_reply("leave", &topic, "ok").await;
    }
    let push = |event: &str, payload: Value| json!({"do": "push", "topic": "calls", "event": event, "payload": payload});
    client.command(&push("call.created", json!({"status": "forged"}))).await;
    assert_eq!(client.expect_reply("call.created", "calls", "error").await["reason"], "unknown event");
    client.command(&push("access_token", json!({"access_token": "nonsense"}))).await;
    assert_eq!(client.expect_reply("access_token", "calls", "error").await["reason"], "invalid token");
    client.command(&push("access_token", json!({"access_token": good_token(org)}))).await;
    client.expect_reply("access_token", "calls", "ok").await;

    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await["data"]["id"], json!(call));
    assert_eq!((client.count("open"), client.count("close"), client.count("error")), (1, 0, 0));
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_invalid_token_never_opens_a_session() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    // Only the signature is wrong: it is that of another token.
    let (good, another) = (good_token(org), good_token(Uuid::nil()));
    let (claims, _) = good.rsplit_once('.').expect("a token");
    let (_, signature) = another.rsplit_once('.').expect("a token");
    let forged = format!("{claims}.{signature}");
    let mut settings = config(&t.gateway, &forged);
    settings["authTokenFunction"] = json!(true);
    settings["topics"] = json!(["calls"]);
    let mut client = Phoenix::start(&settings).await;
    // The package reconnects by itself, and is rejected again.
    for _ in 0..3 {
        assert_eq!(client.next("error").await["message"], "Unexpected server response: 401");
        client.expect_close(1006).await;
    }
    assert_eq!((client.count("open"), t.gateway.metrics().accepted.get()), (0, 0));
    assert!(rejected(&t.gateway, "invalid_token") >= 3);

    // The package puts `params` into the URL, where no credential is accepted, even a valid one.
    let mut in_url = config(&t.gateway, &good_token(org));
    in_url["params"] = json!({"token": good_token(org)});
    let mut in_url = Phoenix::start(&in_url).await;
    assert_eq!(in_url.next("error").await["message"], "Unexpected server response: 400");
    eventually("the rejection is counted", async || rejected(&t.gateway, "credential_in_url") >= 1).await;
    assert_eq!((in_url.count("open"), t.gateway.metrics().accepted.get()), (0, 0));

    // Earlier rejections do not count against the client: with a valid token the next attempt succeeds.
    client.command(&json!({"do": "token", "token": good_token(org)})).await;
    client.next("open").await;
    client.expect_reply("join", "calls", "ok").await;
    t.db.insert_call(org).await;
    client.expect_event("calls", "call.created").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn each_connect_uses_a_fresh_token() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut settings = config(&t.gateway, "");
    settings["authTokenFunction"] = json!(true);
    settings["connect"] = json!(false);
    settings["topics"] = json!(["calls"]);
    let mut client = Phoenix::start(&settings).await;

    for command in [json!({"do": "token", "token": short_token(org)}), json!({"do": "connect"})] {
        client.command(&command).await;
    }
    client.next("open").await;
    client.expect_reply("join", "calls", "ok").await;
    client.command(&json!({"do": "token", "token": good_token(org)})).await;
    client.expect_close(4401).await;
    client.next("open").await;
    client.expect_reply("join", "calls", "ok").await;
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await["data"]["id"], json!(call));

    // The user signs in to another organisation: the same Socket connects with another token.
    client.command(&json!({"do": "token", "token": good_token(other)})).await;
    client.command(&json!({"do": "disconnect"})).await;
    client.command(&json!({"do": "connect"})).await;
    client.next("open").await;
    client.expect_reply("join", "calls", "ok").await;
    t.db.insert_call(org).await;
    let call = t.db.insert_call(other).await;
    assert_eq!(client.expect_event("calls", "call.created").await["data"]["id"], json!(call));
    assert_eq!(rejected(&t.gateway, "token_expired"), 0);
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_expired_token_is_rejected_on_reconnect() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    // Node starts before the token is issued, because starting it could take longer than the token is valid.
    let mut settings = config(&t.gateway, "");
    settings["authTokenFunction"] = json!(true);
    settings["connect"] = json!(false);
    let mut client = Phoenix::start(&settings).await;
    client.command(&json!({"do": "token", "token": short_token(org)})).await;
    client.command(&json!({"do": "connect"})).await;
    client.next("open").await;
    client.expect_close(4401).await;
    // The package reconnects after 10 ms. If leeway admitted the token, it would reconnect a hundred times a
    // second.
    assert_eq!(client.next("error").await["message"], "Unexpected server response: 401");
    assert_eq!(client.count("open"), 1);
    eventually("the rejection is counted", async || rejected(&t.gateway, "token_expired") >= 1).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn tabs_of_two_orgs_receive_no_events_of_each_other() {
    let t = TestGateway::start().await;
    let orgs = [t.db.create_org().await, t.db.create_org().await];
    let calls = [t.db.insert_call(orgs[0]).await, t.db.insert_call(orgs[1]).await];
    let mut tabs = Vec::new();
    for n in 0..2 {
        // Each tab also joins the other's call, because knowing a UUID must grant nothing.
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
        // All frames arrive before the Close frame, so the transcript is complete.
        let transcript = &tabs[n].transcript;
        assert!(!transcript.contains(&orgs[1 - n].to_string()), "{transcript}");
        assert_eq!(tabs[n].count("event"), 6, "{transcript}");
    }
}
