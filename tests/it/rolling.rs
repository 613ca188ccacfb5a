//! Two nodes behind a plain TCP balancer are replaced one after the other while a backend writes: every
//! client, the published `phoenix` package among them, sees every event once and in order. Some break off by
//! themselves in the middle of a batch, where only the id in their cursor tells what they have seen of it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use uuid::Uuid;
use warden_testkit::phoenix::{self, Received};
use warden_testkit::{GatewayProcess, TcpProxy, free_port};

use crate::harness::{SECRET, TestDb, eventually, token, within};
use crate::shutdown::status;

/// Of each kind.
const CLIENTS: usize = 10;
/// Statements write from one row to so many, in turn; the rows of one are always read as one batch.
const ROWS_MAX: usize = 4;
/// Until here every client has broken off that ever does.
const STATEMENTS_MIN: usize = ROWS_MAX * CLIENTS;
const LAST: &str = "last";
/// A balancer's connection to a node that just went down fails: tried again so often.
const RECONNECT_DELAY: std::time::Duration = std::time::Duration::from_millis(20);

/// A node: what it is started with again.
struct Node {
    addr: SocketAddr,
    admin: SocketAddr,
    database_url: String,
    log: PathBuf,
    process: GatewayProcess,
}

impl Node {
    async fn start(database_url: &str, name: &str) -> Self {
        let (addr, admin) = (free_port(), free_port());
        let log = format!("rolling-{}-{name}.log", std::process::id());
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(log);
        let process = serve(addr, admin, database_url, &log).await;
        let node = Self { addr, admin, database_url: database_url.to_owned(), log, process };
        node.is_ready().await;
        node
    }

    async fn is_ready(&self) {
        eventually("the node is ready", async || status(self.admin, "/readyz").await == Some(200)).await;
    }

    /// SIGTERM, its end, and another in its place.
    async fn replace(&mut self) {
        self.process.signal(Signal::TERM);
        let status = within("the node's end", self.process.wait()).await;
        assert!(status.success(), "{status}; its log: {}", self.log.display());
        self.process = serve(self.addr, self.admin, &self.database_url, &self.log).await;
        self.is_ready().await;
    }
}

async fn serve(addr: SocketAddr, admin: SocketAddr, database_url: &str, log: &Path) -> GatewayProcess {
    let variables = [
        ("DATABASE_URL", database_url),
        ("WARDEN_JWT_SECRET", SECRET),
        ("WARDEN_LISTEN", &addr.to_string()),
        ("WARDEN_ADMIN_LISTEN", &admin.to_string()),
        ("WARDEN_DRAIN_SECONDS", "1"),
    ];
    GatewayProcess::serve(env!("CARGO_BIN_EXE_warden"), &variables, log).await
}

/// What a client saw.
#[derive(Default)]
struct Seen {
    calls: Vec<String>,
    /// Codes with which its sessions were closed.
    closed: Vec<u64>,
    /// Statements in the middle of which it broke off.
    broke_off: BTreeSet<usize>,
}

/// Whether the client with this number breaks off at this row: each does at other statements of the longest, in
/// their middle.
fn breaks_off(client: usize, statement: usize, row: usize) -> bool {
    statement % ROWS_MAX == ROWS_MAX - 1
        && statement / ROWS_MAX % CLIENTS == client
        && row == ROWS_MAX / 2
        && is_restless(client)
}

/// Every other client breaks off; the rest stay until their node goes down.
fn is_restless(client: usize) -> bool {
    client.is_multiple_of(2)
}

/// Follows `calls` to the last event, coming back with its cursor whenever it must, or breaks off.
async fn follow(balancer: SocketAddr, token: String, number: usize, ready: mpsc::Sender<()>) -> Seen {
    let (mut seen, mut since) = (Seen::default(), None::<String>);
    loop {
        // No node may be there to answer, or it shuts down.
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
            // Once for each statement, so that one that comes again does not hold it up for ever.
            if let (Some(statement), Some(row)) = place_of(payload)
                && breaks_off(number, statement, row)
                && seen.broke_off.insert(statement)
            {
                break;
            }
        }
    }
}

/// Which statement wrote a row, and which of its rows it is.
fn place_of(payload: &Value) -> (Option<usize>, Option<usize>) {
    let number = |name: &str| usize::try_from(payload["data"]["metadata"][name].as_u64()?).ok();
    (number("statement"), number("row"))
}

/// Writes the next rows; their ids in the order of their events.
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

/// A process with the `phoenix` clients.
fn start_phoenix(balancer: SocketAddr, org: Uuid) -> Child {
    let client = json!({"token": token(org, &json!({})), "topics": ["calls"]});
    let config = json!({"url": format!("ws://{balancer}/socket"), "clients": vec![client; CLIENTS]});
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/followers.mjs");
    Command::new("node")
        .arg(script)
        .arg(config.to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node can be started: `make setup` installs it")
}

/// Reads what they report until each has seen the last event. The table was empty when they began, so there
/// is no state to load.
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
async fn a_rolling_restart_loses_and_doubles_nothing() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut nodes = [Node::start(db.gateway_url(), "a").await, Node::start(db.gateway_url(), "b").await];
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
    let mut everybody = Vec::new();
    for client in own {
        everybody.push(within("a client sees the last event", client).await.expect("follows"));
    }
    everybody.extend(within("phoenix sees the last event", phoenix).await.expect("follows"));
    for (number, seen) in everybody.iter().enumerate() {
        let (closed, broke_off) = (&seen.closed, &seen.broke_off);
        assert_eq!(seen.calls.len(), written.len(), "closed: {closed:?}; broke off: {broke_off:?}");
        assert_eq!(seen.calls, written, "each once, and in order; broke off: {broke_off:?}");
        // Who breaks off may by chance leave each node before it goes down.
        let is_restless = number < CLIENTS && is_restless(number);
        assert_eq!(!broke_off.is_empty(), is_restless, "client {number} broke off: {broke_off:?}");
        assert!(is_restless || closed.contains(&1012), "moved: {closed:?}");
        assert!(seen.closed.iter().all(|code| [1012, 1006].contains(code)), "{:?}", seen.closed);
    }
    for node in &nodes {
        let _ = std::fs::remove_file(&node.log);
    }
}
