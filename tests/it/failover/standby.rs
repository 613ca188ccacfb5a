//! A primary and its streaming standby. The gateway follows only the primary, a promotion resyncs every
//! topic, and the gateway never returns to a former primary.

use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;
use warden::app::Gateway;
use warden_devkit::cluster::{Cluster, SUPERUSER};

use super::{client, expect_calls, expect_following, expect_lost, expect_open, gateway_at, through};
use crate::harness::{Client, Post, PostgresProxy, TestDb, cluster_options, eventually, handshake, token};
use crate::transactions::current_tx;

/// Two servers, each behind a proxy, and a gateway that knows both addresses, the standby's first.
struct Pair {
    first: Cluster,
    second: Cluster,
    before_first: PostgresProxy,
    before_second: PostgresProxy,
    db: TestDb,
    gateway: Gateway,
    org: Uuid,
    call: Uuid,
}

fn database(cluster: &Cluster) -> (String, String) {
    (cluster.url("postgres", SUPERUSER), cluster.url("postgres", "warden_gateway"))
}

impl Pair {
    async fn start() -> Self {
        let first = Cluster::start(cluster_options()).await.expect("PostgreSQL starts");
        let (url, gateway_url) = database(&first);
        warden::postgres::migrate_platform(&url).await.expect("migrates");
        let db = TestDb::at("postgres", &url, &gateway_url).await;
        db.run("alter role warden_gateway login").await;
        let org = db.create_org().await;
        let call = db.insert_call(org).await;
        let second = first.start_standby().await.expect("a standby starts");
        let before_first = PostgresProxy::start(first.socket_dir()).await;
        let before_second = PostgresProxy::start(second.socket_dir()).await;
        let url = through(&[&before_second, &before_first], "postgres", "warden_gateway");
        let gateway = gateway_at(&db, &url, |limits| {
            limits.recent.bytes_max = 0;
            limits.look_up_timeout = Duration::from_millis(500);
        })
        .await;
        Self { first, second, before_first, before_second, db, gateway, org, call }
    }

    /// Number of the gateway's connections to a server.
    async fn connections(cluster: &Cluster) -> i64 {
        let mut connection = PgConnection::connect(&database(cluster).0).await.expect("connects");
        sqlx::query_scalar("select count(*) from pg_stat_activity where application_name = 'warden'")
            .fetch_one(&mut connection)
            .await
            .expect("counts")
    }

    async fn replicated(&self) {
        let at: String = sqlx::query_scalar("select pg_current_wal_lsn()::text")
            .fetch_one(&self.db.pool)
            .await
            .expect("reads");
        let standby = TestDb::at("postgres", &database(&self.second).0, "").await;
        eventually("the standby has replayed the write", async || {
            let there = sqlx::query_scalar("select pg_last_wal_replay_lsn() >= $1::pg_lsn").bind(&at);
            there.fetch_one(&standby.pool).await.expect("reads")
        })
        .await;
    }
}

#[tokio::test]
async fn only_the_primary_is_followed_through_a_promotion() {
    let mut pair = Pair::start().await;
    let mut sessions = Sessions::open(&pair).await;
    a_standby_is_never_followed(&mut pair, &mut sessions).await;
    let promoted = a_promotion_resyncs_every_topic(&mut pair, &mut sessions).await;
    a_former_primary_is_not_followed(&mut pair, &mut sessions, &promoted).await;
    a_killed_primary_is_followed_by_its_standby(&mut pair, &mut sessions).await;
    pair.gateway.stop().await;
    pair.first.close().await.expect("ends");
    pair.second.close().await.expect("ends");
}

/// Two open sessions: one that joined several topics, and one of another organisation.
struct Sessions {
    client: Client,
    topics: Vec<String>,
    other: Client,
    cursor: String,
}

impl Sessions {
    async fn open(pair: &Pair) -> Self {
        let topics = vec!["calls".to_owned(), "recordings".to_owned(), format!("call:{}", pair.call)];
        let mut client = client(&pair.gateway, pair.org).await;
        let mut cursor = String::new();
        for topic in &topics {
            let reply = client.join(topic).await;
            reply["cursor"].as_str().expect("a cursor").clone_into(&mut cursor);
        }
        let mut other = self::client(&pair.gateway, pair.db.create_org().await).await;
        other.join("call_logs").await;
        Self { client, topics, other, cursor }
    }

    async fn expect_both_open(&mut self) {
        expect_open(&mut self.client).await;
        expect_open(&mut self.other).await;
    }

    async fn expect_resync(&mut self, reason: &str) {
        let mut resynced = Vec::new();
        for _ in &self.topics {
            let event = self.client.next_event().await;
            assert_eq!((event.name.as_str(), &event.payload["data"]), ("warden.resync", &json!(null)));
            assert_eq!(event.payload["reason"], reason);
            assert!(event.payload["cursor"].is_string());
            resynced.push(event.topic);
        }
        resynced.sort_unstable();
        let mut topics = self.topics.clone();
        topics.sort_unstable();
        assert_eq!(resynced, topics);
        assert_eq!(self.other.expect_event("call_logs", "warden.resync").await.payload["reason"], reason);
    }
}

async fn a_standby_is_never_followed(pair: &mut Pair, sessions: &mut Sessions) {
    expect_following(&pair.gateway).await;
    let call = pair.db.insert_call(pair.org).await;
    expect_calls(&mut sessions.client, &[call]).await;
    assert!(Pair::connections(&pair.first).await >= 2);
    eventually("no connection to the standby remains", async || Pair::connections(&pair.second).await == 0)
        .await;

    pair.before_first.shut().await;
    expect_lost(&pair.gateway, &["is a standby", "connection refused", &pair.before_first.host()]).await;
    sessions.expect_both_open().await;
    // The node does not know this organisation. It must not look it up at the standby, which has it.
    let org = pair.db.create_org().await;
    pair.replicated().await;
    assert_eq!(look_up(&pair.gateway, org).await, Err(503));
    let calls = [pair.db.insert_call(pair.org).await, pair.db.insert_call(pair.org).await];

    pair.before_first.reopen().await;
    expect_following(&pair.gateway).await;
    expect_calls(&mut sessions.client, &calls).await;
    assert_eq!(look_up(&pair.gateway, org).await, Ok(()));
    let both = through(&[&pair.before_second, &pair.before_first], "postgres", SUPERUSER);
    let migrated = warden::postgres::migrate_platform(&both).await.expect("migrates the primary");
    assert_eq!(migrated.applied, Vec::new());
    // Replays read from the primary too.
    let mut back = client(&pair.gateway, pair.org).await;
    let reply = back.join_with("calls", json!({"since": sessions.cursor})).await;
    assert_eq!(reply, json!({"cursor": sessions.cursor}));
    expect_calls(&mut back, &[&[call][..], &calls].concat()).await;
}

/// Two primaries exist for a while. New connections take the later timeline, and every connection follows.
async fn a_promotion_resyncs_every_topic(pair: &mut Pair, sessions: &mut Sessions) -> TestDb {
    let (url, gateway_url) = database(&pair.second);
    let promoted = TestDb::at("postgres", &url, &gateway_url).await;
    let mut questions = Questions::ask(pair).await;
    promoted.run("select pg_promote()").await;
    // A restored log may hold rows with future transaction ids, which would look new forever.
    promoted
        .run(format!(
            "insert into warden.events (xid, org_id, topic, event, data)
             values ('99999999999', '{}', 'calls', 'call.future', '{{}}')",
            pair.org
        ))
        .await;
    // The tailer's connection breaks, while those of the pool still lead to the former primary.
    eventually("the tailer's connection is terminated", async || {
        let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where application_name = 'warden' and query like '%begun_since%' and pid <> pg_backend_pid()";
        sqlx::query_scalar::<_, i64>(end).fetch_one(&pair.db.pool).await.expect("ends") > 0
    })
    .await;
    sessions.expect_resync("epoch").await;
    expect_following(&pair.gateway).await;
    questions.expect_resync(pair).await;
    sessions.expect_both_open().await;
    let call = promoted.insert_call(pair.org).await;
    expect_calls(&mut sessions.client, &[call]).await;
    let future: i64 = sqlx::query_scalar("select count(*) from warden.events where event = 'call.future'")
        .fetch_one(&promoted.pool)
        .await
        .expect("counts");
    assert_eq!(future, 0);
    // Organisations of the promoted server exist; organisations that only the former primary has do not.
    let mut back = client(&pair.gateway, promoted.create_org().await).await;
    let reply = back.join_with("calls", json!({"since": sessions.cursor})).await;
    assert_eq!(reply["resync"], true);
    assert_eq!(look_up(&pair.gateway, pair.db.create_org().await).await, Err(403));
    promoted
}

/// Questions of a client about strings of the epoch before a promotion.
struct Questions {
    client: Client,
    cursor: String,
    /// A transaction that is open, so that its question waits.
    tx: String,
    _transaction: PgConnection,
}

impl Questions {
    async fn ask(pair: &Pair) -> Self {
        let mut client = client(&pair.gateway, pair.org).await;
        let cursor = client.join("recordings").await["cursor"].as_str().expect("a cursor").to_owned();
        let mut transaction = PgConnection::connect(&database(&pair.first).0).await.expect("connects");
        sqlx::raw_sql("begin").execute(&mut transaction).await.expect("begins");
        let tx = current_tx(&mut transaction, pair.org).await;
        client.send(&json!([null, "waiting", "recordings", "warden.covers", {"tx": tx}]).to_string()).await;
        client.expect_silence().await;
        Self { client, cursor, tx, _transaction: transaction }
    }

    /// Expects that every question is answered with a resync, the one that waits and later ones.
    async fn expect_resync(&mut self, pair: &Pair) {
        let Self { client, cursor, tx, .. } = self;
        let (mut answers, mut resyncs) = (Vec::new(), 0);
        while answers.is_empty() || resyncs == 0 {
            let event = client.next_event().await;
            match event.name.as_str() {
                "phx_reply" => answers.push(event.payload["response"].clone()),
                _ => resyncs += 1,
            }
        }
        assert_eq!(answers, [json!({"resync": true, "reason": "epoch"})]);
        for (question, reason) in
            [(json!({"tx": tx}), "unknown_tx"), (json!({"cursor": cursor}), "unknown_cursor")]
        {
            let reply = client.push("recordings", "warden.covers", question.clone()).await;
            assert_eq!(reply.response, json!({"resync": true, "reason": reason}), "{question}");
        }
        let now = client.join_with("call_logs", json!({})).await["cursor"].clone();
        for (question, reason) in [
            (json!({"cursor": cursor, "tx": tx}), "unknown_cursor"),
            (json!({"cursor": now, "tx": tx}), "unknown_tx"),
            (json!({"cursor": now, "page": cursor}), "unknown_page"),
        ] {
            let user = token(pair.org, &json!({}));
            let answer = Post::json("/v1/covers", &user, &question).send(pair.gateway.public_addr()).await;
            let body: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
            assert_eq!(body, json!({"resync": true, "reason": reason}), "{question}");
        }
    }
}

/// Attempts an upgrade for this organisation. The error is the HTTP status of the rejection.
async fn look_up(gateway: &Gateway, org: Uuid) -> Result<(), u16> {
    let bearer = format!("Bearer {}", token(org, &json!({})));
    let headers = [("authorization", bearer.as_str())];
    match handshake(gateway.public_addr(), "/socket/websocket?vsn=2.0.0", &headers).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.status().expect("an answer")),
    }
}

async fn a_former_primary_is_not_followed(pair: &mut Pair, sessions: &mut Sessions, promoted: &TestDb) {
    // A crashed primary may restart by itself.
    pair.first.kill9().await.expect("kills");
    pair.first.start_again().await.expect("starts");
    pair.before_second.reset();
    let call = promoted.insert_call(pair.org).await;
    expect_calls(&mut sessions.client, &[call]).await;
    pair.before_second.shut().await;
    expect_lost(&pair.gateway, &["is a former primary", "connection refused"]).await;
    sessions.expect_both_open().await;
    assert_eq!(look_up(&pair.gateway, pair.db.create_org().await).await, Err(503));
    let call = promoted.insert_call(pair.org).await;
    pair.before_second.reopen().await;
    expect_calls(&mut sessions.client, &[call]).await;
    expect_following(&pair.gateway).await;
}

/// The ordinary failover: the primary dies and its standby is promoted.
async fn a_killed_primary_is_followed_by_its_standby(pair: &mut Pair, sessions: &mut Sessions) {
    pair.first.stop().await.expect("stops");
    let third = pair.second.start_standby().await.expect("a standby starts");
    pair.before_first.lead_to(third.socket_dir());
    pair.second.kill9().await.expect("kills");
    expect_lost(&pair.gateway, &["is a standby"]).await;
    sessions.expect_both_open().await;
    let (url, gateway_url) = database(&third);
    let promoted = TestDb::at("postgres", &url, &gateway_url).await;
    promoted.run("select pg_promote()").await;
    sessions.expect_resync("epoch").await;
    let call = promoted.insert_call(pair.org).await;
    expect_calls(&mut sessions.client, &[call]).await;
    expect_following(&pair.gateway).await;
    third.close().await.expect("ends");
}
