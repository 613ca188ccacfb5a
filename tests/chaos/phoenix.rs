//! Followers that are the published `phoenix` package in Node, with the recipe of docs/protocol.md: many
//! sockets in a process, `tests/clients/followers.mjs`, which reports what they see. This side keeps the
//! books and reads the state for them; it must not speak the protocol.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::follower::token;
use crate::following::{CALM, Following, LAST, Overlap, judge_resync};
use crate::snapshot::{self, Snapshot};
use crate::writers::World;

/// Chaos: the whole process stands still for so long, so often.
const FREEZE_MS: std::ops::Range<u64> = 100..4_000;
const FREEZE_PAUSE_MS: std::ops::Range<u64> = 3_000..12_000;

/// A client in the process.
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) org: Uuid,
    pub(crate) topics: Vec<Following>,
}

impl Client {
    pub(crate) fn new(name: String, org: Uuid, topics: &[&'static str]) -> Self {
        // The recipe joins first and reads the state then: what comes between is told by both.
        let topics = topics.iter().map(|topic| Following::new(topic, Overlap::Allowed)).collect();
        Self { name, org, topics }
    }
}

/// A state that was asked for.
struct Load {
    id: u64,
    reason: String,
    asked: Instant,
    snapshot: Option<Snapshot>,
}

/// See the module's documentation.
pub(crate) struct Followers {
    pub(crate) clients: Vec<Client>,
    world: World,
    loads: HashMap<(usize, usize), Load>,
    loaded: mpsc::UnboundedSender<((usize, usize), u64, Snapshot)>,
    /// Told of each topic that has its first state.
    ready: mpsc::UnboundedSender<()>,
}

fn start(url: &str, clients: &[Client]) -> Child {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    for package in ["phoenix", "ws"] {
        let file = directory.join("node_modules").join(package).join("package.json");
        assert!(file.is_file(), "{} is missing: run `npm ci --prefix tests/clients`", file.display());
    }
    let clients: Vec<Value> = clients
        .iter()
        .map(|client| {
            let topics: Vec<_> = client.topics.iter().map(|topic| topic.name).collect();
            json!({"token": token(client.org), "topics": topics})
        })
        .collect();
    let mut command = Command::new("node");
    command.arg(directory.join("followers.mjs")).arg(json!({"url": url, "clients": clients}).to_string());
    // It ends by itself with its standard input, also where nobody is left to kill it.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap_or_else(|e| panic!("node can't be started ({e}): install Node 20 (`make setup`)"))
}

/// Runs a process of these clients until each has seen the last event; gives them back.
pub(crate) async fn run(
    world: World,
    node: SocketAddr,
    clients: Vec<Client>,
    ready: mpsc::UnboundedSender<()>,
    mut random: fastrand::Rng,
) -> Vec<Client> {
    let mut child = start(&format!("ws://{node}/socket"), &clients);
    let mut stdin = child.stdin.take().expect("is piped");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let (send, mut loaded) = mpsc::unbounded_channel();
    let mut followers = Followers { clients, world, loads: HashMap::new(), loaded: send, ready };
    let mut freeze = tokio::time::interval(Duration::from_millis(random.u64(FREEZE_PAUSE_MS)));
    freeze.tick().await;
    while !followers.are_done() {
        let order = tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line.expect("reads") else {
                    followers.world.record.complain("Node ended by itself: see its messages above");
                    break;
                };
                followers.on_line(&serde_json::from_str(&line).expect("JSON"));
                continue;
            }
            Some((at, id, snapshot)) = loaded.recv() => {
                let Some(load) = followers.loads.get_mut(&at).filter(|load| load.id == id) else { continue };
                load.snapshot = Some(snapshot);
                json!({"loaded": id})
            }
            _ = freeze.tick() => {
                if *followers.world.stop.borrow() {
                    continue;
                }
                followers.world.record.count("freezes of a Node process with all its clients");
                json!({"freeze": random.u64(FREEZE_MS)})
            }
        };
        stdin.write_all(format!("{order}\n").as_bytes()).await.expect("Node runs");
    }
    followers.clients
}

impl Followers {
    fn are_done(&self) -> bool {
        self.clients.iter().all(|client| client.topics.iter().all(|topic| topic.is_done))
    }

    fn on_line(&mut self, line: &Value) {
        let record = &self.world.record;
        let number = |at: usize| line[at].as_u64().unwrap_or_default();
        let text = |at: usize| line[at].as_str().unwrap_or("none");
        let client = usize::try_from(number(0)).expect("small");
        let Client { name, org, topics } = &mut self.clients[client];
        if text(2) == "closed" {
            // phoenix.js gives its own closing, and a lost connection, codes of their own.
            let code = number(3);
            record.count(format!("sessions of phoenix closed with {code}"));
            if !matches!(code, 1000 | 1005 | 1006 | 1012 | 4429) {
                record.complain(format!("{name}: closed with {code}"));
            }
            return;
        }
        let topic = topics.iter().position(|topic| topic.name == text(1)).expect("joined");
        let following = &mut topics[topic];
        let at = (client, topic);
        match text(2) {
            "joined" if line[3]["resumed"] == true => record.count("resumes of phoenix"),
            "joined" => {}
            "event" if text(3) == LAST => following.is_done = true,
            "event" => {
                let wrong = match text(3) {
                    CALM => following.take_calm(*org, &line[4], record),
                    event => following.take(*org, event, &line[4]),
                };
                if let Some(wrong) = wrong {
                    record.complain(format!("{name} on {}: {wrong}", following.name));
                }
            }
            "load" => {
                let asked = Instant::now().checked_sub(Duration::from_millis(number(5)));
                let (id, asked) = (number(3), asked.unwrap_or_else(Instant::now));
                self.loads.insert(at, Load { id, reason: text(4).to_owned(), asked, snapshot: None });
                let (world, org, loaded) = (self.world.clone(), *org, self.loaded.clone());
                tokio::spawn(async move {
                    let _ = loaded.send((at, id, snapshot::take(&world, org).await));
                });
            }
            "replaced" => {
                let load = self.loads.remove(&at).filter(|load| load.id == number(3));
                let load = load.expect("only the last one is put in place");
                let snapshot = load.snapshot.expect("it was handed over");
                following.replace(*org, &snapshot, record);
                if load.reason == "first" {
                    let _ = self.ready.send(());
                } else {
                    let skipped = following.skipped_about(load.asked);
                    judge_resync(record, name, &load.reason, load.asked, Some(skipped));
                }
            }
            what => record.complain(format!("{name}: {what} {line}")),
        }
    }
}
