//! A rolling restart. Two nodes behind a plain TCP load balancer are replaced one after the other while a
//! backend writes. Every client, including those of the published `phoenix` package, receives every event
//! once and in order. Some clients disconnect by themselves in the middle of a batch. Then only the id in
//! their cursor shows which part of the batch they have seen.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;
use uuid::Uuid;
use warden_testkit::TcpProxy;
use warden_testkit::phoenix::{self, Received};

use crate::harness::{Node, TestDb, token, within};
use crate::phoenix::driver::node;

/// Clients of each kind.
const CLIENTS: usize = 10;
/// Statements write one row, two rows, and so on up to this number, then one again. The rows of one statement
/// are always read as one batch.
const ROWS_MAX: usize = 4;
/// After this many statements every restless client has disconnected.
const STATEMENTS_MIN: usize = ROWS_MAX * CLIENTS;
const LAST: &str = "last";
/// Delay before a client reconnects, because the load balancer's connection to a stopped node fails.
const RECONNECT_DELAY: std::time::Duration = std::time::Duration::from_millis(20);

/// Events and close codes that one client received.
#[derive(Default)]
struct Seen {
    calls: Vec<String>,
    /// Close codes of its sessions.
    closed: Vec<u64>,
    /// Statements during which it disconnected.
    disconnected_in: BTreeSet<usize>,
}

/// Whether the client with this number disconnects at this row. Each restless client does so in the middle of
/// some of the longest statements, and each in other ones.
fn disconnects_at(client: usize, statement: usize, row: usize) -> bool {
    statement % ROWS_MAX == ROWS_MAX - 1
        && statement / ROWS_MAX % CLIENTS == client
        && row == ROWS_MAX / 2
        && is_restless(client)
}

/// Every second client disconnects by itself. The others stay until their node stops.
fn is_restless(client: usize) -> bool {
    client.is_multiple_of(2)
}

/// Follows `calls` to the last event. The client resumes with its cursor whenever it was disconnected.
async fn follow(balancer: SocketAddr, token: String, number: usize, ready: mpsc::Sender<()>) -> Seen {
    let (mut seen, mut since) = (Seen::default(), None::<String>);
    loop {
        // All nodes may be down, or this one may be shutting down.
        let Ok(mut socket) = phoenix::connect(balancer, &token).await else {
            tokio::time::sleep(RECONNECT_DELAY).await;
            continue;
        };
        if phoenix::send_join(&mut socket, "1", "calls", since.as_deref()).await.is_err() {
            continue;
        }
        loop {
            let message = match phoenix::receive(&mut socket).await {
                Received::Message(message) => message,
                Received::Closed(code) => {
                    seen.closed.push(u64::from(code));
                    continue;
                }
                Received::Ended(_) => break,
                Received::Invalid(text) => panic!("{text}"),
            };
            let payload = &message.payload;
            let cursor = message.cursor().unwrap_or_else(|| panic!("no cursor: {message:?}"));
            match message.event.as_str() {
                "phx_reply" => {
                    assert!(payload["response"]["resync"].is_null(), "{message:?}");
                    if since.is_none() {
                        ready.send(()).await.expect("is awaited");
                    }
                }
                "call.created" => seen.calls.push(payload["data"]["id"].as_str().expect("an id").to_owned()),
                LAST => return seen,
                _ => panic!("{message:?}"),
            }
            since = Some(cursor.to_owned());
            // Once for each statement. Otherwise a repeated statement would make it disconnect forever.
            if let (Some(statement), Some(row)) = position_of(payload)
                && disconnects_at(number, statement, row)
                && seen.disconnected_in.insert(statement)
            {
                break;
            }
        }
    }
}

/// The number of the statement that wrote a row, and the number of the row within the statement.
fn position_of(payload: &Value) -> (Option<usize>, Option<usize>) {
    let number = |name: &str| usize::try_from(payload["data"]["metadata"][name].as_u64()?).ok();
    (number("statement"), number("row"))
}

/// Writes the rows of one statement, and returns their ids in the order of their events.
async fn write(db: &TestDb, org: Uuid, statement: usize) -> Vec<String> {
    let insert = "insert into calls (org_id, metadata)
                  select $1, jsonb_build_object('statement', $2::bigint, 'row', n)
                  from generate_series(1, $3::bigint) n
                  returning id::text";
    sqlx::query_scalar(insert)
        .bind(org)
        .bind(i64::try_from(statement).expect("small"))
        .bind(i64::try_from(statement % ROWS_MAX + 1).expect("small"))
        .fetch_all(&db.pool)
        .await
        .expect("inserts")
}

/// Starts a process with the `phoenix` clients.
fn start_phoenix(balancer: SocketAddr, org: Uuid) -> Child {
    let client = json!({"token": token(org, &json!({})), "topics": ["calls"]});
    let config = json!({"url": format!("ws://{balancer}/socket"), "clients": vec![client; CLIENTS]});
    node("followers.mjs", &config).spawn().expect("node can be started: `make setup` installs it")
}

/// Reads the reports of the `phoenix` clients until each has received the last event. The table was empty
/// when they started, so there is no state to load.
async fn follow_by_phoenix(mut child: Child, ready: mpsc::Sender<()>) -> Vec<Seen> {
    let mut stdin = child.stdin.take().expect("is piped");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let mut seen: Vec<Seen> = (0..CLIENTS).map(|_| Seen::default()).collect();
    let mut done = 0;
    while done < CLIENTS {
        let line = lines.next_line().await.expect("reads").expect("node runs");
        let line: Value = serde_json::from_str(&line).expect("JSON");
        let client = &mut seen[usize::try_from(line[0].as_u64().expect("a number")).expect("small")];
        match line[2].as_str().expect("a word") {
            "load" => {
                assert_eq!(line[4], "first", "a resync: {line}");
                let order = json!({"loaded": line[3]});
                stdin.write_all(format!("{order}\n").as_bytes()).await.expect("node runs");
            }
            "replaced" => ready.send(()).await.expect("is awaited"),
            "event" if line[3] == LAST => done += 1,
            "event" => client.calls.push(line[4]["id"].as_str().expect("an id").to_owned()),
            "closed" => client.closed.push(line[3].as_u64().expect("a code")),
            "joined" => {}
            _ => panic!("{line}"),
        }
    }
    seen
}

#[tokio::test]
async fn a_rolling_restart_loses_and_duplicates_nothing() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let start = async |name: &str| Node::start(db.gateway_url(), name, &[]).await;
    let mut nodes = [start("rolling-a").await, start("rolling-b").await];
    let balancer = TcpProxy::start(nodes.iter().map(|node| node.addr).collect()).await.addr();
    let (ready, mut are_ready) = mpsc::channel(2 * CLIENTS);
    let own: Vec<_> = (0..CLIENTS)
        .map(|n| tokio::spawn(follow(balancer, token(org, &json!({})), n, ready.clone())))
        .collect();
    let phoenix = tokio::spawn(follow_by_phoenix(start_phoenix(balancer, org), ready));
    for _ in 0..2 * CLIENTS {
        within("every client has joined", are_ready.recv()).await.expect("runs");
    }

    let is_over = Cell::new(false);
    let replace = async {
        for node in &mut nodes {
            node.replace().await;
        }
        is_over.set(true);
    };
    let write = async {
        let (mut written, mut statement) = (Vec::new(), 0);
        while !is_over.get() || statement < STATEMENTS_MIN {
            written.extend(write(&db, org, statement).await);
            statement += 1;
        }
        db.publish(org, "calls", LAST).await;
        written
    };
    let ((), written) = tokio::join!(replace, write);
    let mut all = Vec::new();
    for client in own {
        all.push(within("a client sees the last event", client).await.expect("follows"));
    }
    all.extend(within("phoenix sees the last event", phoenix).await.expect("follows"));
    for (number, seen) in all.iter().enumerate() {
        let (closed, disconnected_in) = (&seen.closed, &seen.disconnected_in);
        assert_eq!(
            seen.calls.len(),
            written.len(),
            "closed: {closed:?}; disconnected in: {disconnected_in:?}"
        );
        assert_eq!(seen.calls, written, "every call once and in order; disconnected in: {disconnected_in:?}");
        // A restless client may happen to leave each node before that node stops.
        let is_restless = number < CLIENTS && is_restless(number);
        assert_eq!(
            !disconnected_in.is_empty(),
            is_restless,
            "client {number} disconnected in: {disconnected_in:?}"
        );
        assert!(
            is_restless || closed.contains(&1012),
            "the client was not moved to another node: {closed:?}"
        );
        assert!(seen.closed.iter().all(|code| [1012, 1006].contains(code)), "{:?}", seen.closed);
    }
    for node in &nodes {
        node.discard_log();
    }
}
