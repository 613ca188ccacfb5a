//! Followers that use the published `phoenix` package in Node, with the recipe of docs/protocol.md. A process
//! of `tests/clients/followers.mjs` has many sockets and reports their events. This module checks the events
//! and reads snapshots for the clients. It must not know the protocol.

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

use crate::filters::Filters;
use crate::follower::token;
use crate::snapshot::{self, Snapshot};
use crate::topic_state::{Overlap, TopicState, judge_resync};
use crate::writers::World;

/// Time for which a whole process freezes.
const FREEZE_MS: std::ops::Range<u64> = 100..4_000;
/// Time after a freeze in which clients may still read replies from before.
const AFTER_FREEZE: Duration = Duration::from_secs(2);
/// Pause between freezes of a process.
const FREEZE_PAUSE_MS: std::ops::Range<u64> = 3_000..12_000;

/// A client of a process.
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) org: Uuid,
    pub(crate) topics: Vec<TopicState>,
}

impl Client {
    pub(crate) fn new(name: String, org: Uuid, topics: &[&'static str]) -> Self {
        // The recipe joins first and then reads the state. Events in between are part of both.
        let topics = topics
            .iter()
            .map(|topic| TopicState::new(topic, Overlap::Allowed, &Filters::default()))
            .collect();
        Self { name, org, topics }
    }
}

/// A requested state.
struct Load {
    id: u64,
    reason: String,
    asked: Instant,
    snapshot: Option<Snapshot>,
}

/// The clients of one process.
pub(crate) struct Followers {
    pub(crate) clients: Vec<Client>,
    world: World,
    loads: HashMap<(usize, usize), Load>,
    loaded: mpsc::UnboundedSender<((usize, usize), u64, Snapshot)>,
    /// Begin and end of the latest freeze.
    frozen: Option<(Instant, Instant)>,
    /// Notified once per topic, when it has its first state.
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
            json!({"token": token(client.org, &Filters::default()), "topics": topics})
        })
        .collect();
    let mut command = Command::new("node");
    command.arg(directory.join("followers.mjs")).arg(json!({"url": url, "clients": clients}).to_string());
    // The process ends at the end of its standard input, even if this process was killed.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap_or_else(|e| panic!("node cannot be started ({e}): install Node 20 (`make setup`)"))
}

/// Runs a process of these clients until each has seen the last event, and returns them.
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
    let mut followers =
        Followers { clients, world, loads: HashMap::new(), loaded: send, frozen: None, ready };
    let mut freeze = tokio::time::interval(Duration::from_millis(random.u64(FREEZE_PAUSE_MS)));
    freeze.tick().await;
    while !followers.are_done() {
        let command = tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line.expect("reads") else {
                    followers.world.record.report_failure("Node ended by itself: see its messages above");
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
                let ms = random.u64(FREEZE_MS);
                followers.frozen = Some((Instant::now(), Instant::now() + Duration::from_millis(ms)));
                json!({"freeze": ms})
            }
        };
        stdin.write_all(format!("{command}\n").as_bytes()).await.expect("Node runs");
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
            // phoenix.js uses codes of its own for its own close and for a lost connection.
            let code = number(3);
            record.count(format!("sessions of phoenix closed with {code}"));
            if !matches!(code, 1000 | 1005 | 1006 | 1012 | 4429) {
                record.report_failure(format!("{name}: closed with {code}"));
            }
            return;
        }
        let topic = topics.iter().position(|topic| topic.name == text(1)).expect("joined");
        let state = &mut topics[topic];
        let at = (client, topic);
        match text(2) {
            "joined" if line[3]["resumed"] == true => record.count("resumes of phoenix"),
            "joined" => {}
            "event" => {
                if let Some(failure) = state.take(*org, text(3), &json!({"data": line[4]}), record) {
                    record.report_failure(format!("{name} on {}: {failure}", state.name));
                }
            }
            "load" => {
                let asked = Instant::now().checked_sub(Duration::from_millis(number(5)));
                let (id, asked) = (number(3), joined_before(self.frozen, asked.unwrap_or_else(Instant::now)));
                self.loads.insert(at, Load { id, reason: text(4).to_owned(), asked, snapshot: None });
                let (world, org, loaded) = (self.world.clone(), *org, self.loaded.clone());
                tokio::spawn(async move {
                    let _ = loaded.send((at, id, snapshot::take(&world, org).await));
                });
            }
            "replaced" => {
                let load = self.loads.remove(&at).filter(|load| load.id == number(3));
                let load = load.expect("only the last requested state replaces the rows");
                let snapshot = load.snapshot.expect("the state was loaded");
                state.replace(*org, &snapshot, record);
                if load.reason == "first" {
                    let _ = self.ready.send(());
                } else {
                    let skipped = state.skipped_about(load.asked);
                    judge_resync(record, name, &load.reason, load.asked, Some(skipped));
                }
            }
            other => record.report_failure(format!("{name}: {other} {line}")),
        }
    }
}

/// The earliest time at which the join was sent that a reply belongs to. After a freeze, phoenix.js may join
/// again before it reads the reply to its former join, and Node measures from the latest join.
fn joined_before(frozen: Option<(Instant, Instant)>, asked: Instant) -> Instant {
    match frozen {
        Some((begin, end)) if asked >= begin && asked <= end + AFTER_FREEZE => begin,
        _ => asked,
    }
}
