//! `warden tail`: what it prints, and how it ends.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use uuid::Uuid;

use super::{fails, warden};
use crate::harness::{TestDb, TestGateway, token, within};
use warden_testkit::{Gate, TcpProxy};

/// A `warden tail` that runs.
struct Tail {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tail {
    fn start(t: &TestGateway, org: Uuid, args: &[&str]) -> Self {
        Self::start_at(t.gateway.public_addr(), org, args)
    }

    fn start_at(addr: SocketAddr, org: Uuid, args: &[&str]) -> Self {
        let url = format!("ws://{addr}/socket");
        let jwt = token(org, &json!({}));
        let args = [&["tail"], args].concat();
        let mut child =
            warden(&args, &[("WARDEN_URL", &url), ("WARDEN_TOKEN", &jwt)]).spawn().expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> Value {
        let line = within("a line", self.lines.next_line()).await.expect("reads").expect("tail runs");
        serde_json::from_str(&line).expect("every line is JSON")
    }

    /// Publishes until the tail prints it: from then on it follows. What it prints before is returned.
    async fn follows(&mut self, db: &TestDb, org: Uuid, event: &str) -> Vec<Value> {
        let mut before = Vec::new();
        let publish = async {
            loop {
                db.publish(org, "calls", event).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = publish => {}
            () = async {
                loop {
                    let line = self.line().await;
                    if line["event"] == event {
                        break;
                    }
                    before.push(line);
                }
            } => {}
        }
        before
    }

    /// The next line that is none of the events that [`Self::follows`] published.
    async fn next(&mut self, after: &str) -> Value {
        loop {
            let line = self.line().await;
            if line["event"] != after {
                return line;
            }
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id().expect("runs")).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("signals");
    }

    /// Its exit status, and what it said on standard error. Its output is closed first.
    async fn end(self) -> (ExitStatus, String) {
        let Self { mut child, lines } = self;
        drop(lines);
        let mut said = String::new();
        let mut stderr = child.stderr.take().expect("is piped");
        within("the end of tail", stderr.read_to_string(&mut said)).await.expect("reads");
        (within("the end of tail", child.wait()).await.expect("ends"), said)
    }
}

#[tokio::test]
async fn tail_prints_a_line_per_event_and_ends_on_sigint() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut tail = Tail::start(&t, org, &["calls", "recordings"]);
    tail.follows(&t.db, org, "ready").await;
    t.db.insert_call(other).await;
    let call = t.db.insert_call(org).await;
    let line = tail.next("ready").await;
    assert_eq!((&line["topic"], &line["event"]), (&json!("calls"), &json!("call.created")), "{line}");
    assert_eq!(line["payload"]["data"]["id"], call.to_string());
    assert!(line["payload"]["cursor"].is_string(), "{line}");
    t.db.publish(org, "recordings", "second.topic").await;
    assert_eq!(tail.line().await["topic"], "recordings");

    tail.signal(rustix::process::Signal::INT);
    let (status, said) = tail.end().await;
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    t.gateway.stop().await;
}

#[tokio::test]
async fn tail_comes_back_when_the_gateway_was_replaced() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut tail = Tail::start(&t, org, &["calls"]);
    tail.follows(&t.db, org, "first").await;
    let TestGateway { db, gateway } = t;
    let addr = gateway.public_addr();
    gateway.stop().await;
    let gateway = TestGateway::gateway(&db, |config| config.listen = addr).await;
    tail.follows(&db, org, "second").await;
    let call = db.insert_call(org).await;
    assert_eq!(tail.next("second").await["payload"]["data"]["id"], call.to_string());

    // And it ends on a signal also while there is no gateway.
    gateway.stop().await;
    let mut words = String::new();
    let mut stderr = BufReader::new(tail.child.stderr.take().expect("is piped"));
    while !words.contains("is the gateway") {
        assert_ne!(within("a word", stderr.read_line(&mut words)).await.expect("reads"), 0, "{words}");
    }
    assert!(words.contains("1012") && words.contains(&addr.to_string()), "{words}");
    tail.signal(rustix::process::Signal::INT);
    assert_eq!(within("the end", tail.child.wait()).await.expect("ends").code(), Some(0));
}

/// The gateway's host vanishes without a word: neither a FIN nor a reset comes.
#[tokio::test]
async fn tail_notices_a_gateway_that_vanished() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let proxy = TcpProxy::start(vec![t.gateway.public_addr()]).await;
    let mut tail = Tail::start_at(proxy.addr(), org, &["calls", "--heartbeat-seconds", "1"]);
    tail.follows(&t.db, org, "before").await;
    for gate in proxy.gates() {
        gate.send_replace(Gate::Stalled);
    }
    // Not on the connection that carries nothing any more.
    let missed = t.db.insert_call(org).await;
    assert_eq!(tail.next("before").await["payload"]["data"]["id"], missed.to_string());
    tail.signal(rustix::process::Signal::INT);
    let (status, said) = tail.end().await;
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("no reply to a heartbeat within 1 s"), "{said}");
    t.gateway.stop().await;
}

#[tokio::test]
async fn tail_says_why_it_is_refused() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let url = format!("ws://{}/socket", t.gateway.public_addr());
    let good = token(org, &json!({}));
    let expired = token(org, &json!({"exp": 1000}));
    let stranger = token(Uuid::new_v4(), &json!({}));
    let homeless = token(org, &json!({"app_metadata": {}}));
    for (jwt, shown) in [
        (&expired, &["401", "expired"]),
        (&"abc".to_owned(), &["401", "not a signed JSON Web Token"]),
        (&stranger, &["403", "does not exist"]),
        (&homeless, &["403", "app_metadata.org_id"]),
    ] {
        let variables = [("WARDEN_URL", url.as_str()), ("WARDEN_TOKEN", jwt)];
        fails(&["tail", "calls"], &variables, 1, shown, &[jwt]).await;
    }
    let variables = [("WARDEN_URL", url.as_str()), ("WARDEN_TOKEN", good.as_str())];
    let shown = ["callz", "unmatched topic", "topics: ", "recordings"];
    fails(&["tail", "callz"], &variables, 1, &shown, &[&good]).await;
    let org_topic = format!("calls:{org}");
    fails(&["tail", "calls", &org_topic], &variables, 1, &["none names an organisation"], &[&good]).await;
    fails(&["tail", "calls"], &[("WARDEN_URL", &url)], 2, &["WARDEN_TOKEN"], &[]).await;
    fails(&["tail"], &variables, 2, &["TOPIC"], &[&good]).await;
    for wrong in ["localhost", "ftp://localhost/socket", "ws://"] {
        let variables = [("WARDEN_URL", wrong), ("WARDEN_TOKEN", good.as_str())];
        fails(&["tail", "calls"], &variables, 1, &[], &[&good]).await;
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn tail_ends_quietly_when_nobody_reads_it() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut tail = Tail::start(&t, org, &["calls"]);
    tail.follows(&t.db, org, "ready").await;
    let publish = async {
        loop {
            t.db.publish(org, "calls", "unread").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // As `| head -1` does.
    tokio::select! {
        () = publish => {}
        (status, said) = tail.end() => assert_eq!((status.code(), said.as_str()), (Some(0), "")),
    }
    t.gateway.stop().await;
}
