//! Back-pressure: rates, memory, a database that is away, and a pooler in transaction mode.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use uuid::Uuid;
use warden::rate::Rate;

use super::{PATH, code, paid, post, publish, published, service, with_orgs};
use crate::harness::{Answer, Pooler, PostgresProxy, TestDb, TestGateway, eventually, within};

#[tokio::test]
async fn events_are_limited_per_organisation() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    db.run("select warden.declare_topic('invoices')").await;
    let t = TestGateway::start_with(db, |config| {
        config.limits.admission.publishes_per_org = Rate::new(1, 5);
        // Accepted requests do not count as handshakes, rejected ones do.
        config.limits.admission.handshakes_per_address = Rate::new(1, 3);
    })
    .await;
    let addr = t.gateway.public_addr();
    publish(addr, post(&service(org), &json!([paid(0), paid(1), paid(2)]))).await;
    publish(addr, post(&service(org), &paid(3))).await;
    for _ in 0..5 {
        publish(addr, post(&service(other), &paid(0))).await;
    }
    let answer = post(&service(org), &json!([paid(4), paid(5), paid(6)])).send(addr).await;
    assert_eq!(code(&answer), (429, "publishes_per_org".to_owned()), "{answer:?}");
    // Two seconds without the time that the requests took.
    assert!(matches!(answer.headers("retry-after")[..], ["1" | "2"]), "{answer:?}");
    assert_eq!(published(&t.db).await, 9);
    for _ in 0..2 {
        post("x.y.z", &paid(0)).send(addr).await;
    }
    let answer = post("x.y.z", &paid(0)).send(addr).await;
    assert_eq!(code(&answer), (429, "handshakes_per_address".to_owned()), "{answer:?}");
    t.gateway.stop().await;
}

#[tokio::test]
async fn bodies_that_do_not_arrive_take_memory_of_their_organisation_only() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    db.run("select warden.declare_topic('invoices')").await;
    let t = TestGateway::start_with(db, |config| {
        config.limits.serve.header_timeout = Duration::from_millis(1500);
    })
    .await;
    let addr = t.gateway.public_addr();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1048576\r\n\
         Authorization: Bearer {}\r\n\r\n{{",
        service(org)
    );
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        stream.write_all(head.as_bytes()).await.expect("writes");
        slow.push(stream);
    }
    let large = json!({"topic": "invoices", "event": "invoice.paid", "data": "x".repeat(900_000)});
    eventually("the organisation's memory is in use", async || {
        let answer = post(&service(org), &large).send(addr).await;
        code(&answer) == (503, "busy".to_owned()) && answer.headers("retry-after") == ["1"]
    })
    .await;
    publish(addr, post(&service(other), &paid(0))).await;
    slow.push(chunked(addr, other, &[b"{"]).await);
    for mut stream in slow {
        let answer = within("an answer", Answer::read(&mut stream)).await;
        assert_eq!(code(&answer), (408, "body_timeout".to_owned()), "{answer:?}");
    }
    // The memory is free again: the data is too long, which only the database says.
    let answer = post(&service(org), &large).send(addr).await;
    assert_eq!(code(&answer), (400, "invalid_events".to_owned()), "{answer:?}");
    t.gateway.stop().await;
}

/// Opens a request with a body of unknown length, and sends these chunks of it.
async fn chunked(addr: SocketAddr, org: Uuid, chunks: &[&[u8]]) -> TcpStream {
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\
         Authorization: Bearer {}\r\n\r\n",
        service(org)
    );
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    stream.write_all(head.as_bytes()).await.expect("writes");
    for chunk in chunks {
        let framed = [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
        stream.write_all(&framed).await.expect("writes");
    }
    stream
}

#[tokio::test]
async fn bodies_of_unknown_length_have_the_limits_of_others() {
    let (t, [org]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    let event = paid(0).to_string();
    let (first, rest) = event.as_bytes().split_at(20);
    let mut accepted = chunked(addr, org, &[first, rest, b""]).await;
    let answer = within("an answer", Answer::read(&mut accepted)).await;
    assert_eq!((answer.status, published(&t.db).await), (202, 1), "{answer:?}");
    // The last byte is one too many.
    let mut long = chunked(addr, org, &[&vec![b' '; 1024 * 1024], b"{"]).await;
    let answer = within("an answer", Answer::read(&mut long)).await;
    assert_eq!(code(&answer), (413, "body_too_long".to_owned()), "{answer:?}");
    // The memory of both is free again.
    publish(addr, post(&service(org), &paid(1))).await;
    t.gateway.stop().await;
}

/// Opens a request with a body of this length, of which nothing is sent. Returns whether memory was reserved.
async fn announce(addr: SocketAddr, org: Uuid, length: usize) -> (TcpStream, bool) {
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Expect: 100-continue\r\nAuthorization: Bearer {}\r\n\r\n",
        service(org)
    );
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    stream.write_all(head.as_bytes()).await.expect("writes");
    let answer = within("an answer to the head", Answer::read(&mut stream)).await;
    assert!(matches!(answer.status, 100 | 503), "{answer:?}");
    (stream, answer.status == 100)
}

/// Six bodies of six organisations would take all but a few KiB of the 16 MiB.
#[tokio::test]
async fn slow_bodies_of_several_organisations_leave_memory_for_a_small_one() {
    let (t, [a, b, c, d, e, f, other]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    let mut slow = Vec::new();
    for org in [a, b, c, d, e] {
        slow.push(announce(addr, org, 1024 * 1024).await);
    }
    slow.push(announce(addr, f, 316_000).await);
    publish(addr, post(&service(other), &paid(0))).await;
    let reserved = slow.iter().filter(|(_, is_reserved)| *is_reserved).count();
    assert_eq!(reserved, 5, "four large bodies and the other one");
    drop(slow);
    t.gateway.stop().await;
}

/// Statements of callers with a key that wait for the lock of the keys.
async fn waiting_statements(db: &TestDb) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock' and query ~ 'publish_within'",
    )
    .fetch_one(&db.pool)
    .await
    .expect("counts")
}

/// A statement goes on when its caller leaves, so the caller's organisation keeps its share until then.
#[tokio::test]
async fn callers_that_leave_do_not_use_the_connections_of_others() {
    let (t, [org, other]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    let body = paid(0).to_string();
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Idempotency-Key: k\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n{body}",
        body.len(),
        service(org)
    );
    let send_four = async || {
        let mut streams = Vec::new();
        for _ in 0..4 {
            let mut stream = TcpStream::connect(addr).await.expect("connects");
            stream.write_all(request.as_bytes()).await.expect("writes");
            streams.push(stream);
        }
        streams
    };
    let mut lock = t.db.pool.begin().await.expect("begins");
    sqlx::query("lock table warden.idempotency_keys in exclusive mode")
        .execute(&mut *lock)
        .await
        .expect("locks");
    let left = send_four().await;
    eventually("the organisation uses its share", async || waiting_statements(&t.db).await == 4).await;
    drop(left);
    let stayed = send_four().await;
    for n in 0..20 {
        publish(addr, post(&service(other), &paid(n))).await;
        assert!(waiting_statements(&t.db).await <= 4, "callers that left use connections");
    }
    lock.rollback().await.expect("ends");
    for mut stream in stayed {
        let answer = within("an answer", Answer::read(&mut stream)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_database_that_is_away_is_reported_and_a_key_makes_the_retry_safe() {
    let (t, [org]) = with_orgs().await;
    t.gateway.stop().await;
    let mut proxy = PostgresProxy::start(&t.db.socket_dir()).await;
    let url = format!("postgres://warden_gateway@{}/{}", proxy.host(), t.db.name);
    let gateway = TestGateway::gateway(&t.db, |config| {
        config.database = warden::postgres::options(&url).expect("a URL");
        config.limits.publish.timeout = Duration::from_millis(500);
    })
    .await;
    let addr = gateway.public_addr();
    let keyed = || post(&service(org), &paid(0)).with("Idempotency-Key", "k");
    // On a busy machine the first connection may take longer than the time to publish.
    eventually("the gateway publishes", async || keyed().send(addr).await.status == 202).await;
    proxy.shut().await;
    proxy.cut();
    let answer = keyed().send(addr).await;
    assert_eq!(code(&answer), (503, "unavailable".to_owned()), "{answer:?}");
    assert_eq!(answer.headers("retry-after"), ["1"]);
    proxy.reopen().await;
    eventually("the gateway publishes again", async || keyed().send(addr).await.status == 202).await;
    assert_eq!(published(&t.db).await, 1);
    gateway.stop().await;
}

/// Through a pooler the connection is inside a transaction, which must be committed before the answer.
#[tokio::test]
async fn through_a_pooler_the_answer_follows_the_commit() {
    let (t, [org]) = with_orgs().await;
    t.gateway.stop().await;
    let pooler = Pooler::start(&t.db, "transaction").await;
    let url = pooler.url(&t.db.name, "postgres");
    let gateway = TestGateway::gateway(&t.db, |config| {
        config.database = warden::postgres::options(&url).expect("a URL");
    })
    .await;
    let addr = gateway.public_addr();
    for n in 1..=10 {
        let keyed = || post(&service(org), &paid(0)).with("Idempotency-Key", &n.to_string());
        publish(addr, keyed()).await;
        assert_eq!(published(&t.db).await, n, "the answer came before the commit");
        assert_eq!(publish(addr, keyed()).await["events"][0]["duplicate"], true);
    }
    gateway.stop().await;
}
