//! A client that shows two tables together, as the recipe of docs/protocol.md does. It shares no code with
//! the recipe. It chooses at random when it disconnects, on which node it continues, and how it reads rows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;
use warden_testkit::phoenix::{self, PhoenixMessage, Received, Socket};

use super::property::{Shown, TOPICS};
use crate::harness::{Upgrade, token};

/// Rows of one page: small, so that every table has several.
const PAGE: usize = 7;
/// Delay before a client connects again.
const RETRY: Duration = Duration::from_millis(20);

/// When a client shows what it has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shows {
    /// At marks that all topics have reached.
    AtMarks,
    /// After every message, as if there were no marks.
    AtOnce,
}

/// States that a client has shown, and its interruptions.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Number of states that were shown.
    pub(super) shown: usize,
    /// States that the database cannot have had.
    pub(super) wrong: Vec<String>,
    pub(super) reconnected: usize,
    pub(super) rejoined: usize,
}

pub(super) struct Follower {
    nodes: Vec<SocketAddr>,
    org: Uuid,
    shows: Shows,
    random: fastrand::Rng,
    /// The rows at the end, when the writers are done.
    expected: watch::Receiver<Option<Shown>>,
    tables: Shown,
    held: [Vec<(String, Value)>; 2],
    /// Topics that had a mark since their join.
    ready: HashSet<String>,
    /// Topics whose rows must be read before anything is shown.
    unread: HashSet<String>,
    awaited: HashSet<String>,
    since: Option<String>,
    last: Option<String>,
    /// Reference of each topic's latest join, until it is answered.
    joining: HashMap<String, String>,
    next_ref: u64,
    outcome: Outcome,
    /// Number of states that all clients have shown.
    all_shown: watch::Sender<usize>,
}

fn index(topic: &str) -> usize {
    TOPICS.iter().position(|other| *other == topic).expect("a topic")
}

impl Follower {
    pub(super) fn new(
        nodes: Vec<SocketAddr>,
        org: Uuid,
        shows: Shows,
        seed: u64,
        expected: watch::Receiver<Option<Shown>>,
        all_shown: watch::Sender<usize>,
    ) -> Self {
        Self {
            nodes,
            org,
            shows,
            random: fastrand::Rng::with_seed(seed),
            expected,
            tables: Shown::default(),
            held: Default::default(),
            ready: HashSet::new(),
            unread: TOPICS.into_iter().map(str::to_owned).collect(),
            awaited: HashSet::new(),
            since: None,
            last: None,
            joining: HashMap::new(),
            next_ref: 0,
            outcome: Outcome::default(),
            all_shown,
        }
    }

    /// Follows until the rows are those of the end.
    pub(super) async fn run(mut self) -> Outcome {
        while self.follow().await.is_none() {
            self.outcome.reconnected += 1;
            tokio::time::sleep(RETRY).await;
        }
        self.outcome
    }

    /// Follows on one connection. None if it ended, or was ended.
    async fn follow(&mut self) -> Option<()> {
        let node = self.nodes[self.random.usize(..self.nodes.len())];
        let mut socket = phoenix::connect(node, &token(self.org, &json!({}))).await.ok()?;
        self.joining.clear();
        for topic in TOPICS {
            self.forget(topic);
            self.join(&mut socket, node, topic).await?;
        }
        // As long as the writers write, every connection ends after some messages. Most of them show a state
        // before: otherwise a client that misses more than these messages would never advance.
        let mut left = self.random.usize(5..80);
        let shown_before = self.random.usize(..4).checked_sub(1).map(|_| self.outcome.shown);
        // A topic begins again only once between two states. Its replay has more messages, so otherwise a
        // client that is far behind would begin again for ever.
        let mut rejoined_at = None;
        loop {
            let done = self.expected.borrow_and_update().clone();
            if done.as_ref() == Some(&self.tables) {
                return Some(());
            }
            if done.is_none() && left == 0 && shown_before != Some(self.outcome.shown) {
                return None;
            }
            left = left.saturating_sub(1);
            tokio::select! {
                changed = self.expected.changed() => changed.ok()?,
                received = phoenix::receive(&mut socket) => match received {
                    Received::Message(message) => self.receive(&mut socket, node, message).await?,
                    _ => return None,
                },
            }
            if done.is_none() && rejoined_at != Some(self.outcome.shown) && self.random.usize(..20) == 0 {
                // One topic begins again, while the other one continues.
                rejoined_at = Some(self.outcome.shown);
                let topic = TOPICS[self.random.usize(..TOPICS.len())];
                self.outcome.rejoined += 1;
                self.forget(topic);
                self.join(&mut socket, node, topic).await?;
            }
        }
    }

    fn forget(&mut self, topic: &str) {
        self.ready.remove(topic);
        self.held[index(topic)].clear();
    }

    async fn join(&mut self, socket: &mut Socket, node: SocketAddr, topic: &str) -> Option<()> {
        let mut payload = json!({"marks": true});
        match &self.since {
            Some(since) if !self.unread.contains(topic) => payload["since"] = json!(since),
            _ if self.random.bool() => payload["snapshot"] = json!({"limit": PAGE}),
            _ => {
                let (first, last) = self.read_pages(node, topic).await?;
                (payload["since"], payload["seen"]) = (first, last);
            }
        }
        if self.random.bool() {
            // It selects all rows, so the client must see the same.
            payload["filter"] = json!("id=is.not_null");
        }
        self.next_ref += 1;
        let reference = self.next_ref.to_string();
        self.joining.insert(topic.to_owned(), reference.clone());
        phoenix::push(socket, &reference, topic, "phx_join", &payload).await.ok()
    }

    /// Reads all pages with GET. Returns the first and the last cursor.
    async fn read_pages(&mut self, node: SocketAddr, topic: &str) -> Option<(Value, Value)> {
        let token = token(self.org, &json!({}));
        let (mut first, mut path) = (None, format!("/v1/{topic}?limit={PAGE}"));
        loop {
            let request = Upgrade::bearer(&token).without("Upgrade").without("Connection").to(&path);
            let answer = request.send(node).await;
            let mut page: Value =
                (answer.status == 200).then(|| serde_json::from_str(&answer.body).ok())??;
            let cursor = page["cursor"].take();
            let next = page["next"].as_str().map(str::to_owned);
            self.held[index(topic)].push(("page".to_owned(), page));
            let first = first.get_or_insert_with(|| cursor.clone());
            match next {
                Some(next) => path = next,
                None => return Some((first.clone(), cursor)),
            }
        }
    }

    async fn receive(
        &mut self,
        socket: &mut Socket,
        node: SocketAddr,
        message: PhoenixMessage,
    ) -> Option<()> {
        let PhoenixMessage { reference, topic, event, mut payload, .. } = message;
        if let Some(joining) = self.joining.get(&topic) {
            if event == "phx_reply" && reference == joining.as_str() {
                assert_eq!(payload["status"], "ok", "{payload}");
                self.joining.remove(&topic);
                if payload["response"]["resync"] == true {
                    self.read_again(socket, node, &topic).await?;
                }
            }
            // Anything else belongs to an earlier join.
            return Some(());
        }
        match event.as_str() {
            "warden.resync" => self.read_again(socket, node, &topic).await?,
            "warden.mark" => self.reach(&topic, &payload),
            "warden.cursor" | "phx_close" => {}
            _ => self.held[index(&topic)].push((event, payload.take())),
        }
        if self.shows == Shows::AtOnce && self.unread.is_empty() {
            self.show();
        }
        Some(())
    }

    async fn read_again(&mut self, socket: &mut Socket, node: SocketAddr, topic: &str) -> Option<()> {
        self.forget(topic);
        self.unread.insert(topic.to_owned());
        self.join(socket, node, topic).await
    }

    fn reach(&mut self, topic: &str, mark: &Value) {
        self.ready.insert(topic.to_owned());
        let cursor = mark["cursor"].as_str().expect("a mark has a cursor").to_owned();
        let named = mark["topics"].as_array().expect("a mark names topics").iter();
        let named: Vec<_> = named.map(|topic| topic.as_str().expect("a string")).collect();
        assert!(!named.contains(&topic), "a mark names other topics: {mark}");
        if self.last.as_ref() != Some(&cursor) {
            self.awaited = named.into_iter().filter(|t| TOPICS.contains(t)).map(str::to_owned).collect();
        }
        self.awaited.remove(topic);
        self.last = Some(cursor);
        if self.awaited.is_empty() && self.ready.len() == TOPICS.len() {
            self.since.clone_from(&self.last);
            self.show();
        }
    }

    /// Applies everything that was held, and checks the state.
    fn show(&mut self) {
        for (n, topic) in TOPICS.into_iter().enumerate() {
            let rows = &mut self.tables[n];
            if self.unread.remove(topic) {
                rows.clear();
            }
            for (event, payload) in self.held[n].drain(..) {
                if let Some(page) = payload["rows"].as_array() {
                    rows.extend(page.iter().map(row));
                } else if event.ends_with(".deleted") {
                    rows.remove(&row(&payload["data"]).0);
                } else {
                    rows.extend([row(&payload["data"])]);
                }
            }
        }
        self.outcome.shown += 1;
        self.all_shown.send_modify(|shown| *shown += 1);
        if let Err(wrong) = super::property::check(&self.tables) {
            self.outcome.wrong.push(wrong);
        }
    }
}

fn row(row: &Value) -> (i64, i64) {
    (row["id"].as_i64().expect("an id"), row["n"].as_i64().expect("a number"))
}

/// The rows of a table by id.
pub(super) type Rows = BTreeMap<i64, i64>;
