//! Fifty callers send the same events to two nodes while these are killed. Each event is published once, and
//! every caller gets the same ids.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::{PATH, paid, service};
use crate::harness::{Node, TestDb};

const CALLERS: usize = 50;
/// Events of a run, and of one with `WARDEN_KILLS=full`.
const EVENTS: usize = 200;
const EVENTS_FULL: usize = 1000;
/// Events of one request, unless `WARDEN_KILLS=full`. Then each has a request of its own.
const BATCH: usize = 20;
/// The first events have a request each in every run.
const SINGLES: usize = 10;
const KILLS: usize = 2;
const KILLS_FULL: usize = 20;
/// Delay before a caller tries the other node.
const RETRY: Duration = Duration::from_millis(20);
/// Time in which all callers must have their answers.
const DEADLINE: Duration = Duration::from_secs(120);
const DEADLINE_FULL: Duration = Duration::from_mins(30);

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// How a caller makes its events idempotent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `Idempotency-Key`, one for each request.
    Key,
    /// CloudEvents, whose `source` and `id` are the key of each event. Callers divide the events into
    /// different batches, so that requests with some of the same keys meet.
    CloudEvents,
}

/// A caller, and what it has learned.
struct Caller {
    client: HttpClient,
    nodes: [SocketAddr; 2],
    token: String,
    form: Form,
    /// The node that it uses now.
    node: usize,
    /// Id of each event, and whether the answer called it new.
    answers: Vec<(i64, bool)>,
    /// Requests without an answer.
    interrupted: usize,
}

/// Ranges of the events of one request each.
fn requests(caller: usize, form: Form, count: usize, batch: usize) -> Vec<std::ops::Range<usize>> {
    let mut ranges: Vec<_> = (0..SINGLES).map(|n| n..n + 1).collect();
    let mut start = SINGLES;
    // One key belongs to one body, so requests with such keys are divided alike.
    let mut length = if form == Form::CloudEvents { caller % batch + 1 } else { batch };
    while start < count {
        let end = (start + length).min(count);
        ranges.push(start..end);
        (start, length) = (end, batch);
    }
    // Half of the callers begin in the middle.
    let middle = if caller.is_multiple_of(2) { 0 } else { ranges.len() / 2 };
    ranges.rotate_left(middle);
    ranges
}

impl Caller {
    fn body(&self, events: std::ops::Range<usize>) -> (&'static str, Value) {
        let is_single = events.len() == 1;
        let cloud_event = |n: usize| {
            json!({"specversion": "1.0", "id": n.to_string(), "source": "/kills", "type": "invoice.paid",
                   "subject": "invoices", "data": {"n": n}})
        };
        match (self.form, is_single) {
            (Form::Key, true) => ("application/json", paid(events.start)),
            (Form::Key, false) => ("application/json", events.map(paid).collect()),
            (Form::CloudEvents, true) => ("application/cloudevents+json", cloud_event(events.start)),
            (Form::CloudEvents, false) => {
                ("application/cloudevents-batch+json", events.map(cloud_event).collect())
            }
        }
    }

    /// Sends a request once. None if there is no answer, or one that asks for another attempt.
    async fn attempt(&mut self, events: std::ops::Range<usize>) -> Option<Value> {
        let (media_type, body) = self.body(events.clone());
        let mut request = Request::post(format!("http://{}{PATH}", self.nodes[self.node]))
            .header("Authorization", format!("Bearer {}", self.token))
            .header("Content-Type", media_type);
        if self.form == Form::Key {
            request = request.header("Idempotency-Key", format!("{events:?}"));
        }
        let request = request.body(Full::from(body.to_string())).expect("a request");
        let Ok(response) = self.client.request(request).await else {
            self.interrupted += 1;
            return None;
        };
        let status = response.status();
        // The process may end within the body.
        let body = response.into_body().collect().await.ok()?.to_bytes();
        match status {
            StatusCode::ACCEPTED => Some(serde_json::from_slice(&body).expect("JSON")),
            StatusCode::SERVICE_UNAVAILABLE => None,
            other => panic!("{other}: {}", String::from_utf8_lossy(&body)),
        }
    }

    /// Publishes all events, each request until it is answered, at the other node after each failure.
    async fn run(mut self, ranges: Vec<std::ops::Range<usize>>, done: watch::Sender<usize>) -> Self {
        for events in ranges {
            let answer = loop {
                if let Some(answer) = self.attempt(events.clone()).await {
                    break answer;
                }
                self.node = 1 - self.node;
                tokio::time::sleep(RETRY).await;
            };
            let answers = answer["events"].as_array().expect("events");
            assert_eq!(answers.len(), events.len(), "{answer}");
            for (n, answer) in events.zip(answers) {
                self.answers[n] = (answer["id"].as_i64().expect("an id"), answer.get("duplicate").is_none());
            }
            done.send_modify(|done| *done += 1);
        }
        self
    }
}

/// Kills one node after the other, evenly over the run, and finally both at once.
async fn kill(nodes: &mut [Node; 2], kills: usize, requests: usize, mut done: watch::Receiver<usize>) {
    for n in 1..=kills {
        let due = requests * n / (kills + 1);
        done.wait_for(|done| *done >= due).await.expect("callers run");
        let [a, b] = nodes;
        if n == kills {
            tokio::join!(a.kill(), b.kill());
            tokio::join!(a.start_again(), b.start_again());
        } else {
            let node = if n % 2 == 0 { a } else { b };
            node.kill().await;
            node.start_again().await;
        }
    }
}

async fn start(db: &TestDb, name: &str) -> Node {
    let unlimited =
        ["WARDEN_PUBLISHES_PER_ORG", "WARDEN_ARRIVALS_PER_ADDRESS"].map(|limit| (limit, "1000000:1000000"));
    Node::start(db.gateway_url(), name, &unlimited).await
}

async fn publish_while_nodes_are_killed(form: Form, name: &str) {
    let is_full = std::env::var("WARDEN_KILLS").is_ok_and(|value| value == "full");
    let (count, batch, kills, deadline) =
        if is_full { (EVENTS_FULL, 1, KILLS_FULL, DEADLINE_FULL) } else { (EVENTS, BATCH, KILLS, DEADLINE) };
    let db = TestDb::create().await;
    let org: Uuid = db.create_org().await;
    db.run("select warden.declare_topic('invoices')").await;
    let mut nodes = [start(&db, &format!("{name}-a")).await, start(&db, &format!("{name}-b")).await];
    let (done, progress) = watch::channel(0);
    let ranges: Vec<_> = (0..CALLERS).map(|caller| requests(caller, form, count, batch)).collect();
    let total = ranges.iter().map(Vec::len).sum();
    let callers: Vec<_> = (0..CALLERS)
        .zip(ranges)
        .map(|(n, ranges)| {
            let caller = Caller {
                client: Client::builder(TokioExecutor::new()).build_http(),
                nodes: [nodes[0].addr, nodes[1].addr],
                token: service(org),
                form,
                node: n % 2,
                answers: vec![(0, false); count],
                interrupted: 0,
            };
            tokio::spawn(caller.run(ranges, done.clone()))
        })
        .collect();
    let all = async { tokio::join!(join_all(callers), kill(&mut nodes, kills, total, progress)).0 };
    let callers = tokio::time::timeout(deadline, all).await.expect("every caller has its answers");
    let callers: Vec<Caller> = callers.into_iter().map(|caller| caller.expect("runs")).collect();

    let stored: Vec<(i64, i64)> = sqlx::query_as(
        "select (data ->> 'n')::bigint, id from warden.events where event = 'invoice.paid' order by 1, 2",
    )
    .fetch_all(&db.pool)
    .await
    .expect("reads");
    assert_eq!(stored.len(), count, "events in the log");
    for (n, (stored_n, id)) in stored.into_iter().enumerate() {
        assert_eq!(usize::try_from(stored_n), Ok(n));
        assert!(callers.iter().all(|caller| caller.answers[n].0 == id), "event {n} has several ids");
        let new = callers.iter().filter(|caller| caller.answers[n].1).count();
        // None if the answer to the first request was lost.
        assert!(new <= 1, "{new} callers got the answer that event {n} is new");
    }
    let interrupted: usize = callers.iter().map(|caller| caller.interrupted).sum();
    assert!(interrupted >= kills, "the kills interrupted {interrupted} requests");
    nodes.iter().for_each(Node::discard_log);
}

#[tokio::test]
async fn an_idempotency_key_publishes_once_while_nodes_are_killed() {
    publish_while_nodes_are_killed(Form::Key, "kills-keys").await;
}

#[tokio::test]
async fn source_and_id_publish_once_while_nodes_are_killed() {
    publish_while_nodes_are_killed(Form::CloudEvents, "kills-cloudevents").await;
}
