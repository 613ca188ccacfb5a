//! `warden tail`: its output, reconnects, and exit codes.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use uuid::Uuid;
use warden::metrics::FilterKindLabels;
use warden_testkit::{Gate, TcpProxy};

use super::{fails, warden};
use crate::harness::{TestDb, TestGateway, eventually, token, within};

/// A running `warden tail`.
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

    async fn text(&mut self) -> String {
        within("a line", self.lines.next_line()).await.expect("reads").expect("tail runs")
    }

    async fn line(&mut self) -> Value {
        serde_json::from_str(&self.text().await).expect("every line is JSON")
    }

    /// Publishes an event until the command prints it. Returns the lines before it.
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

    /// Returns the next line that is not an event of [`Self::follows`].
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

    /// Closes the output and waits. Returns the exit status and the standard error.
    async fn end(self) -> (ExitStatus, String) {
        let Self { mut child, lines } = self;
        drop(lines);
        let mut errors = String::new();
        let mut stderr = child.stderr.take().expect("is piped");
        within("the end of tail", stderr.read_to_string(&mut errors)).await.expect("reads");
        (within("the end of tail", child.wait()).await.expect("ends"), errors)
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
    let (status, errors) = tail.end().await;
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
    t.gateway.stop().await;
}

#[tokio::test]
async fn tail_reconnects_to_a_replaced_gateway() {
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

    // Without a gateway, a signal ends the command as well.
    gateway.stop().await;
    let mut errors = String::new();
    let mut stderr = BufReader::new(tail.child.stderr.take().expect("is piped"));
    while !errors.contains("is the gateway") {
        assert_ne!(within("a line", stderr.read_line(&mut errors)).await.expect("reads"), 0, "{errors}");
    }
    assert!(errors.contains("1012") && errors.contains(&addr.to_string()), "{errors}");
    tail.signal(rustix::process::Signal::INT);
    assert_eq!(within("the end", tail.child.wait()).await.expect("ends").code(), Some(0));
}

/// The gateway's host vanishes: the client receives neither a FIN nor an RST.
#[tokio::test]
async fn tail_detects_a_vanished_gateway_by_its_heartbeats() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let proxy = TcpProxy::start(vec![t.gateway.public_addr()]).await;
    let mut tail = Tail::start_at(proxy.addr(), org, &["calls", "--heartbeat-seconds", "1"]);
    tail.follows(&t.db, org, "before").await;
    for gate in proxy.gates() {
        gate.send_replace(Gate::Stalled);
    }
    // The missed event arrives on a new connection.
    let missed = t.db.insert_call(org).await;
    assert_eq!(tail.next("before").await["payload"]["data"]["id"], missed.to_string());
    tail.signal(rustix::process::Signal::INT);
    let (status, errors) = tail.end().await;
    assert_eq!(status.code(), Some(0));
    assert!(errors.contains("no reply to a heartbeat within 1 s"), "{errors}");
    t.gateway.stop().await;
}

#[tokio::test]
async fn tail_reports_why_it_was_rejected() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let url = format!("ws://{}/socket", t.gateway.public_addr());
    let good = token(org, &json!({}));
    let expired = token(org, &json!({"exp": 1000}));
    let stranger = token(Uuid::new_v4(), &json!({}));
    let without_org = token(org, &json!({"app_metadata": {}}));
    for (jwt, shown) in [
        (&expired, &["401", "expired"]),
        (&"abc".to_owned(), &["401", "not a signed JSON Web Token"]),
        (&stranger, &["403", "does not exist"]),
        (&without_org, &["403", "app_metadata.org_id"]),
    ] {
        let variables = [("WARDEN_URL", url.as_str()), ("WARDEN_TOKEN", jwt)];
        fails(&["tail", "calls"], &variables, 1, shown, &[jwt]).await;
    }
    let variables = [("WARDEN_URL", url.as_str()), ("WARDEN_TOKEN", good.as_str())];
    let shown = ["callz", "unmatched topic", "topics: ", "recordings"];
    fails(&["tail", "callz"], &variables, 1, &shown, &[&good]).await;
    let org_topic = format!("calls:{org}");
    fails(&["tail", "calls", &org_topic], &variables, 1, &["none of them names an organisation"], &[&good])
        .await;
    fails(&["tail", "calls"], &[("WARDEN_URL", &url)], 2, &["WARDEN_TOKEN"], &[]).await;
    fails(&["tail"], &variables, 2, &["TOPIC"], &[&good]).await;
    for wrong in ["localhost", "ftp://localhost/socket", "ws://"] {
        let variables = [("WARDEN_URL", wrong), ("WARDEN_TOKEN", good.as_str())];
        fails(&["tail", "calls"], &variables, 1, &[], &[&good]).await;
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn tail_ends_without_an_error_when_its_output_is_closed() {
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
    // The output is closed, as by `| head -1`.
    tokio::select! {
        () = publish => {}
        (status, errors) = tail.end() => assert_eq!((status.code(), errors.as_str()), (Some(0), "")),
    }
    t.gateway.stop().await;
}

/// Rows, pages of a second topic, events, a resync and a restart.
#[tokio::test]
async fn tail_prints_rows_before_events() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    t.db.run(format!(
        "insert into calls (org_id, to_number) select '{org}', '+49' || n from generate_series(1, 25) n;
         insert into calls (org_id, to_number) values ('{org}', '+1')"
    ))
    .await;
    let filters =
        ["--filter", "to_number=like.+49*", "--filter", "limit=10", "--filter", "select=id,to_number"];
    let mut tail = Tail::start(&t, org, &[&["calls", "--snapshot"], &filters[..]].concat());
    for _ in 0..25 {
        let line = tail.line().await;
        assert_eq!((&line["topic"], &line["event"]), (&json!("calls"), &json!("warden.snapshot")), "{line}");
        let number = line["payload"]["data"]["to_number"].as_str().expect("a number");
        assert!(number.starts_with("+49"), "{line}");
    }
    let end = tail.line().await;
    assert_eq!(end["payload"]["last"], true, "{end}");
    // Events have the same filter and columns.
    let insert = |number: &str| format!("insert into calls (org_id, to_number) values ('{org}', '{number}')");
    t.db.run(format!("{}; {}", insert("+2"), insert("+4926"))).await;
    let line = tail.line().await;
    let data = line["payload"]["data"].as_object().expect("a row");
    assert_eq!((data.len(), &data["to_number"]), (2, &json!("+4926")), "{line}");

    // After a restart the command resumes, and does not print the rows again.
    let TestGateway { db, gateway } = t;
    let addr = gateway.public_addr();
    gateway.stop().await;
    db.run(format!("{}; {}", insert("+3"), insert("+4927"))).await;
    let gateway = TestGateway::gateway(&db, |config| config.listen = addr).await;
    let line = tail.line().await;
    assert_eq!(
        (&line["event"], &line["payload"]["data"]["to_number"]),
        (&json!("call.created"), &json!("+4927")),
        "{line}"
    );
    // After a resync it does.
    db.run(format!("truncate calls cascade; insert into calls (org_id, to_number) values ('{org}', '+490')"))
        .await;
    let resync = tail.line().await;
    assert_eq!(resync["event"], "warden.resync", "{resync}");
    let again = loop {
        let line = tail.line().await;
        if line["event"] == "warden.snapshot" {
            break line;
        }
    };
    assert_eq!(again["payload"]["data"]["to_number"], "+490", "{again}");
    assert_eq!(tail.line().await["payload"]["last"], true);
    tail.signal(rustix::process::Signal::INT);
    let (status, errors) = tail.end().await;
    assert_eq!(status.code(), Some(0));
    assert!(errors.contains("calls: warden.resync, truncated: reading the rows again"), "{errors}");

    let (url, jwt) = (format!("ws://{addr}/socket"), token(org, &json!({})));
    let variables = [("WARDEN_URL", url.as_str()), ("WARDEN_TOKEN", jwt.as_str())];
    let wrong = ["tail", "calls", "--snapshot", "--filter", "ssn=eq.1"];
    fails(&wrong, &variables, 1, &["calls: invalid_query", "unknown column"], &[&jwt]).await;
    fails(&["tail", "org", "--snapshot"], &variables, 1, &["unknown_topic", "several tables"], &[&jwt]).await;
    fails(&["tail", "calls", "--snapshot", "--since", "x"], &variables, 2, &["--since"], &[&jwt]).await;
    fails(&["tail", "calls", "--filter", "limit=5"], &variables, 1, &["--snapshot"], &[&jwt]).await;
    gateway.stop().await;
}

/// Numbers that a double cannot represent, of a row that is read and of one that is streamed.
#[tokio::test]
async fn tail_prints_numbers_with_all_digits() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    // Before the gateway starts, so that it knows the topic.
    db.run(format!(
        "create table amounts (id int primary key, org_id uuid not null, exact numeric, large numeric);
         grant select on amounts to authenticated;
         select warden.watch('amounts', 'amounts', 'amount', visibility => 'organisation');
         insert into amounts values (1, '{org}', 12345678901234567890.123456789, 1e350)"
    ))
    .await;
    let t = TestGateway::start_with(db, |_| {}).await;
    let large = format!(r#""large": 1{}"#, "0".repeat(350));
    let has_digits = |line: &str| {
        assert!(
            line.contains(r#""exact": 12345678901234567890.123456789"#) && line.contains(&large),
            "{line}"
        );
    };
    let mut tail = Tail::start(&t, org, &["amounts", "--snapshot"]);
    has_digits(&tail.text().await);
    assert_eq!(tail.line().await["payload"]["last"], true);
    t.db.run("update amounts set id = 2").await;
    let deleted = tail.text().await;
    assert!(deleted.contains("amount.deleted"), "{deleted}");
    has_digits(&deleted);
    has_digits(&tail.text().await);
    tail.signal(rustix::process::Signal::INT);
    assert_eq!(tail.end().await.0.code(), Some(0));
    t.gateway.stop().await;
}

#[tokio::test]
async fn tail_filters_events_without_a_snapshot() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut tail = Tail::start(&t, org, &["calls", "--filter", "to_number=like.+49*"]);
    let filters = t.gateway.metrics().filters.get_or_create(&FilterKindLabels { kind: "scanned" }).clone();
    eventually("tail has joined with its filter", async || filters.get() == 1).await;
    for number in ["+1", "+491", "+2", "+492"] {
        t.db.run(format!("insert into calls (org_id, to_number) values ('{org}', '{number}')")).await;
    }
    t.db.run("update calls set to_number = '+3' where to_number = '+491'").await;
    for (number, filter) in [("+491", Value::Null), ("+492", Value::Null), ("+3", json!("left"))] {
        let line = tail.line().await;
        let payload = &line["payload"];
        assert_eq!((&payload["data"]["to_number"], &payload["filter"]), (&json!(number), &filter), "{line}");
    }
    tail.signal(rustix::process::Signal::INT);
    assert_eq!(tail.end().await.0.code(), Some(0));
    t.gateway.stop().await;
}
