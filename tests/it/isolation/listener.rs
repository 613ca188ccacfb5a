//! A socket with random topics and filters, and the events that it receives.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::filters::{Condition, Filters, Signed, signed_token};
use super::model::{Delivery, Kind, Table};
use super::world::World;
use crate::harness::{Client, Event, TestGateway, within};

/// Mark of the event that ends the test. It is not part of the comparison.
pub const LAST_MARK: &str = "last";

/// Reasons why the gateway cannot read about the table of a filter at the moment.
const BUSY: [&str; 2] = ["unavailable", "org_reads"];

/// How a socket joins a topic.
#[derive(Clone, Debug)]
pub enum JoinKind {
    Live,
    /// From a cursor of the time before the program.
    Replay(Value),
    Snapshot,
}

/// Events between two changes of the filters.
#[derive(Debug)]
pub struct Segment {
    pub filters: Filters,
    /// Events of transactions with this number and later ones belong to it.
    pub from: usize,
    pub deliveries: Vec<Delivery>,
}

/// A joined topic.
#[derive(Debug)]
pub struct Joined {
    pub kind: JoinKind,
    pub asked: Option<Arc<Condition>>,
    /// Columns that the join names.
    pub select: Option<BTreeSet<String>>,
    pub segments: Vec<Segment>,
    /// Whether the gateway closed the topic, because a fresh token does not allow it.
    pub is_closed: bool,
    /// Version and mark of each row, after a join with a snapshot.
    pub rows: BTreeMap<String, (i64, String)>,
}

/// A socket.
pub struct Listener {
    client: Client,
    world: Arc<World>,
    pub org: Uuid,
    signed: Signed,
    pub topics: HashMap<String, Joined>,
    /// Filters of fresh tokens, and the progress of the program at which each is sent.
    pub refreshes: VecDeque<(usize, Signed)>,
    /// Topics that a fresh token moves or closes.
    awaited: HashSet<String>,
    pub refreshed: usize,
    /// Number of events that lack the largest column of their row.
    pub truncated: usize,
}

impl Listener {
    pub async fn connect(t: &TestGateway, world: &Arc<World>, org: Uuid, signed: Signed) -> Self {
        let client = Client::connect(t.gateway.public_addr(), &signed_token(org, &signed)).await;
        Self {
            client,
            world: Arc::clone(world),
            org,
            signed,
            topics: HashMap::new(),
            refreshes: VecDeque::new(),
            awaited: HashSet::new(),
            refreshed: 0,
            truncated: 0,
        }
    }

    /// Joins a topic, and returns the cursor of the reply.
    pub async fn join(
        &mut self,
        topic: &str,
        kind: JoinKind,
        asked: Option<Arc<Condition>>,
        select: Option<BTreeSet<String>>,
    ) -> Value {
        let mut payload = match &kind {
            JoinKind::Live => json!({}),
            JoinKind::Replay(since) => json!({"since": since}),
            JoinKind::Snapshot => json!({"snapshot": {"limit": 7}}),
        };
        ask(&mut payload, asked.as_deref(), select.as_ref());
        let reply = self.push_join(topic, payload).await;
        let (signed, has_select) = (self.signed.clone(), select.is_some());
        let filters = Filters { signed, asked: asked.clone(), has_select };
        let segments = vec![Segment { filters, from: 0, deliveries: Vec::new() }];
        let joined = Joined { kind, asked, select, segments, is_closed: false, rows: BTreeMap::new() };
        self.topics.insert(topic.to_owned(), joined);
        reply["cursor"].clone()
    }

    /// Sends a join, and sends it again while the gateway cannot read about the table of a filter, as clients
    /// do. Many sockets join or get fresh tokens at the same time.
    async fn push_join(&mut self, topic: &str, payload: Value) -> Value {
        within("joins", async {
            loop {
                let reply = self.client.push(topic, "phx_join", payload.clone()).await;
                if reply.status == "ok" {
                    return reply.response;
                }
                assert!(BUSY.contains(&reply.response["reason"].as_str().unwrap_or_default()), "{reply:?}");
            }
        })
        .await
    }

    /// Joins a topic again that a fresh token could not move.
    async fn join_again(&mut self, topic: &str) {
        let mut payload = json!({});
        ask(&mut payload, self.topics[topic].asked.as_deref(), self.topics[topic].select.as_ref());
        self.push_join(topic, payload).await;
        self.begin_segment(topic);
    }

    fn begin_segment(&mut self, topic: &str) {
        let from = self.world.begun.load(Ordering::SeqCst);
        let joined = self.topics.get_mut(topic).expect("the topic was joined");
        let filters = joined.filters(&self.signed);
        joined.segments.push(Segment { filters, from, deliveries: Vec::new() });
    }

    /// Reads until the event on `fin` with this mark, and sends fresh tokens in between.
    pub async fn read_to(mut self, mark: &str) -> Self {
        let mut progress = self.world.progress.subscribe();
        loop {
            let refresh = self.refreshes.front().filter(|_| self.awaited.is_empty()).map(|(at, _)| *at);
            let event = tokio::select! {
                event = self.client.next_event() => Some(event),
                () = reached(&mut progress, refresh) => None,
            };
            match event {
                Some(event) if event.name == "phx_error" => {
                    assert!(self.awaited.remove(&event.topic), "no fresh token has caused it: {event:?}");
                    assert!(
                        BUSY.contains(&event.payload["reason"].as_str().unwrap_or_default()),
                        "{event:?}"
                    );
                    self.join_again(&event.topic).await;
                }
                Some(event) if self.take(&event) == Some(mark) => {
                    self.catch_up(&event.payload["tx"]).await;
                    return self;
                }
                Some(_) => {}
                None => self.refresh().await,
            }
        }
    }

    /// Waits until each topic has everything before a transaction. A topic that resumes or receives a
    /// snapshot may be behind the others.
    async fn catch_up(&mut self, tx: &Value) {
        let open = self.topics.iter().filter(|(_, joined)| !joined.is_closed);
        let topics: Vec<String> = open.map(|(topic, _)| topic.clone()).collect();
        for topic in topics {
            loop {
                let reply = self.client.push(&topic, "warden.covers", json!({"tx": tx})).await;
                assert_eq!(reply.status, "ok", "{reply:?}");
                if reply.response["covered"] == true {
                    break;
                }
            }
        }
        for event in self.client.take_kept_events() {
            self.take(&event);
        }
    }

    /// Sends the next token. What arrives before the reply belongs to the former one.
    async fn refresh(&mut self) {
        let Some((_, signed)) = self.refreshes.pop_front() else { return };
        let payload = json!({"access_token": signed_token(self.org, &signed)});
        let reply = self.client.push("phoenix", "access_token", payload).await;
        assert_eq!(reply.status, "ok", "{reply:?}");
        for (topic, joined) in self.topics.iter().filter(|(_, joined)| !joined.is_closed) {
            let before = &joined.segments.last().expect("the first one").filters;
            let after = joined.filters(&signed);
            if before.identity(topic) != after.identity(topic) {
                self.awaited.insert(topic.clone());
            }
        }
        self.signed = signed;
        self.refreshed += 1;
    }

    /// Records an event. Returns its mark if it is on `fin`.
    fn take<'a>(&mut self, event: &'a Event) -> Option<&'a str> {
        let Some(joined) = self.topics.get_mut(&event.topic) else {
            panic!("an event on a topic that was not joined: {event:?}");
        };
        assert!(!joined.is_closed, "an event on a closed topic: {event:?}");
        match event.name.as_str() {
            "warden.cursor" => return None,
            "warden.snapshot" => {
                let table = Table::of_topic(&event.topic).expect("a table");
                for row in event.payload["rows"].as_array().expect("rows") {
                    joined.check_columns(row);
                    let id = row["id"].as_str().expect("an id").to_owned();
                    joined.rows.insert(id, table.content_of(row));
                }
                return None;
            }
            "warden.resync" | "phx_close" => {
                assert!(self.awaited.remove(&event.topic), "no fresh token has caused it: {event:?}");
                let filters = joined.filters(&self.signed);
                joined.is_closed = event.name == "phx_close";
                let reason = if joined.is_closed { "forbidden topic" } else { "filter" };
                assert_eq!(event.payload["reason"], reason, "{event:?}");
                assert_eq!(filters.allows(&event.topic), !joined.is_closed, "{event:?}");
                if !joined.is_closed {
                    self.begin_segment(&event.topic);
                }
                return None;
            }
            _ => {}
        }
        joined.check_columns(&event.payload["data"]);
        self.truncated += usize::from(event.payload["truncated"] == true);
        let delivery = Delivery::from_event(event, self.org);
        if delivery.seen.mark == LAST_MARK {
            // It may arrive on other topics later.
            return (event.topic == "fin").then_some(LAST_MARK);
        }
        if matches!(joined.kind, JoinKind::Snapshot) && delivery.seen.kind != Kind::Published {
            let id = event.data("id").as_str().unwrap_or_default().to_owned();
            if delivery.filter.as_deref() == Some("left") || event.name.ends_with(".deleted") {
                joined.rows.remove(&id);
            } else {
                joined.rows.insert(id, (delivery.seen.version, delivery.seen.mark.clone()));
            }
        }
        joined.segments.last_mut().expect("the first one").deliveries.push(delivery);
        (event.topic == "fin").then(|| event.data("mark").as_str().expect("a mark"))
    }

    /// Checks that each topic was moved whose filters select other states now.
    pub fn check_moved(&self) {
        for topic in &self.awaited {
            let joined = &self.topics[topic];
            let last = &joined.segments.last().expect("the first one").filters;
            let now = joined.filters(&self.signed);
            assert!(last.selects_as(&now), "{topic} still has the filters of a former token");
        }
    }
}

impl Joined {
    /// The filters with a token that has these.
    fn filters(&self, signed: &Signed) -> Filters {
        Filters { signed: signed.clone(), asked: self.asked.clone(), has_select: self.select.is_some() }
    }

    /// Checks that a row has no other columns than those that the join names.
    fn check_columns(&self, row: &Value) {
        let Some(select) = &self.select else { return };
        let columns = row.as_object().expect("a row");
        assert!(columns.keys().all(|column| select.contains(column)), "{row} has more than {select:?}");
    }
}

/// Adds the filter and the columns of a join.
fn ask(payload: &mut Value, asked: Option<&Condition>, select: Option<&BTreeSet<String>>) {
    if let Some(condition) = asked {
        payload["filter"] = json!(condition.filter.query());
    }
    if let Some(select) = select {
        payload["select"] = json!(select.iter().map(String::as_str).collect::<Vec<_>>().join(","));
    }
}

/// Waits until the program has made this many changes. Without a number, waits for ever.
async fn reached(progress: &mut watch::Receiver<usize>, at: Option<usize>) {
    let Some(at) = at else { return std::future::pending().await };
    progress.wait_for(|progress| *progress >= at).await.expect("the program exists");
}
