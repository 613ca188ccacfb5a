//! A follower. It connects and disconnects, sometimes stops reading, resumes with its cursors or reloads a
//! snapshot, and checks each event immediately. It must share no code with the gateway.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;
use warden_testkit::phoenix::{self, ConnectError, PhoenixMessage, Received, Socket};

use crate::filters::Filters;
use crate::gateways::SECRET;
use crate::record::Record;
use crate::snapshot;
use crate::topic_state::{TopicState, judge_resync};
use crate::writers::World;

/// Length of a session, if nothing else ends it.
const SESSION_MS: std::ops::Range<u64> = 300..8_000;
/// Time for which a follower stops reading.
const FREEZE_MS: std::ops::Range<u64> = 100..4_000;
/// One in this many sessions begins with a snapshot, although its cursors are valid.
const RELOAD_ONE_IN: u32 = 50;
/// One in this many messages makes a follower stop reading.
const FREEZE_ONE_IN: u32 = 400;
/// Time for which a follower stays disconnected.
const AWAY_MS: std::ops::Range<u64> = 20..400;
/// Longest handshake. A connection may be stalled.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(6);
/// Interval of heartbeats, well below the gateway's idle timeout of 60 s.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// Longest silence of a session. After it the follower reconnects, as a client would.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// End of a session.
enum SessionEnd {
    /// Every topic has seen the last event.
    Done,
    /// Reconnect with the present cursors.
    Reconnect,
    /// Reload this topic from a snapshot, because of a resync with this reason.
    Reload { at: usize, reason: String, asked: Instant },
}

/// A topic of a follower.
pub(crate) struct Topic {
    pub(crate) state: TopicState,
    pub(crate) cursor: Option<String>,
    /// Field `filter` of the reply to the last join.
    filter: Option<String>,
}

impl Topic {
    pub(crate) fn new(state: TopicState) -> Self {
        Self { state, cursor: None, filter: None }
    }

    /// The payload of a join.
    fn join(&self) -> Value {
        let mut join = serde_json::Map::new();
        let with = [
            ("since", self.cursor.clone()),
            ("since_filter", self.filter.clone().filter(|_| self.cursor.is_some())),
            ("filter", self.state.filters.asked()),
        ];
        join.extend(with.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))));
        Value::Object(join)
    }
}

/// A follower of some topics.
pub(crate) struct Follower {
    pub(crate) name: String,
    pub(crate) org: Uuid,
    pub(crate) topics: Vec<Topic>,
    pub(crate) filters: Filters,
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) world: World,
    pub(crate) random: fastrand::Rng,
    /// Notified once, when every topic has its first cursor.
    pub(crate) ready: Option<mpsc::UnboundedSender<()>>,
}

pub(crate) fn token(org: Uuid, filters: &Filters) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = json!({"sub": "chaos", "aud": "authenticated", "exp": now + 3600,
                        "app_metadata": filters.metadata(org)});
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs")
}

impl Follower {
    /// Follows until every topic has seen the last event.
    pub(crate) async fn run(&mut self) {
        loop {
            if let Some(socket) = self.connect().await {
                match self.session(socket).await {
                    SessionEnd::Done => return,
                    SessionEnd::Reconnect => {}
                    SessionEnd::Reload { at, reason, asked } => {
                        let skipped = self.reload(at).await;
                        judge_resync(self.record(), &self.name, &reason, asked, Some(skipped));
                        if self.topics.iter().all(|t| t.state.is_done) {
                            return;
                        }
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(AWAY_MS))).await;
            if self.ready.is_none() && !self.is_over() && self.random.u32(..RELOAD_ONE_IN) == 0 {
                self.record().count("sessions that reloaded a snapshot without a resync");
                for at in 0..self.topics.len() {
                    self.reload(at).await;
                }
            }
        }
    }

    /// Replaces state and cursor with those of a snapshot. Returns the number of events that are skipped
    /// because of it.
    async fn reload(&mut self, at: usize) -> usize {
        let snapshot = snapshot::take(&self.world, self.org).await;
        let topic = &mut self.topics[at];
        topic.cursor = Some(snapshot.cursor.clone());
        topic.state.replace(self.org, &snapshot, &self.world.record)
    }

    fn record(&self) -> &Record {
        &self.world.record
    }

    fn is_over(&self) -> bool {
        *self.world.stop.borrow()
    }

    async fn connect(&mut self) -> Option<Socket> {
        let node = self.nodes[self.random.usize(..self.nodes.len())];
        let token = token(self.org, &self.filters);
        match tokio::time::timeout(HANDSHAKE_DEADLINE, phoenix::connect(node, &token)).await {
            Ok(Ok(socket)) => {
                self.record().count("sessions");
                Some(socket)
            }
            Ok(Err(ConnectError::Rejected { status, .. })) => {
                if status != 503 {
                    self.record().report_failure(format!("{}: rejected with {status}", self.name));
                }
                self.record().count(format!("handshakes rejected with {status}"));
                None
            }
            _ => {
                self.record().count("handshakes failed");
                None
            }
        }
    }

    async fn session(&mut self, mut socket: Socket) -> SessionEnd {
        let asked = Instant::now();
        for topic in &self.topics {
            let name = topic.state.name;
            if phoenix::push(&mut socket, name, name, "phx_join", &topic.join()).await.is_err() {
                return SessionEnd::Reconnect;
            }
        }
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        let is_ready = self.ready.is_none();
        let leave = tokio::time::sleep(Duration::from_millis(self.random.u64(SESSION_MS)));
        tokio::pin!(leave);
        loop {
            let is_over = self.is_over();
            tokio::select! {
                received = tokio::time::timeout(SILENCE_MAX, phoenix::receive(&mut socket)) => match received {
                    Ok(Received::Message(message)) => {
                        if let Some(end) = self.on_message(&message, asked) {
                            return end;
                        }
                    }
                    Ok(Received::Closed(code)) => {
                        self.on_close(code);
                        return SessionEnd::Reconnect;
                    }
                    Ok(Received::Invalid(text)) => {
                        self.record().report_failure(format!("{}: not a message: {text}", self.name));
                        return SessionEnd::Reconnect;
                    }
                    Ok(Received::Ended(_)) | Err(_) => return SessionEnd::Reconnect,
                },
                _ = heartbeat.tick() => {
                    if phoenix::send_heartbeat(&mut socket).await.is_err() {
                        return SessionEnd::Reconnect;
                    }
                }
                () = &mut leave, if !is_over && is_ready => {
                    self.record().count("sessions left");
                    if self.random.bool() {
                        let _ = tokio::time::timeout(HANDSHAKE_DEADLINE, socket.close(None)).await;
                    }
                    return SessionEnd::Reconnect;
                }
            }
            if !is_over && is_ready && self.random.u32(..FREEZE_ONE_IN) == 0 {
                self.record().count("freezes of a follower");
                tokio::time::sleep(Duration::from_millis(self.random.u64(FREEZE_MS))).await;
            }
        }
    }

    fn on_close(&self, code: u16) {
        self.record().count(format!("sessions closed with {code}"));
        // 1012: the gateway shut down. 4429: this follower read too slowly. Any other code is a fault of the
        // gateway.
        if !matches!(code, 1000 | 1012 | 4429) {
            self.record().report_failure(format!("{}: closed with {code}", self.name));
        }
    }

    fn on_message(&mut self, message: &PhoenixMessage, asked: Instant) -> Option<SessionEnd> {
        let PhoenixMessage { topic, event: name, payload, .. } = message;
        if topic == "phoenix" {
            return None;
        }
        let Some(at) = self.topics.iter().position(|t| t.state.name == *topic) else {
            self.record().report_failure(format!("{}: {name} on {topic}, which it did not join", self.name));
            return None;
        };
        match name.as_str() {
            "phx_reply" => return self.on_reply(at, payload, asked),
            "warden.resync" => {
                let reason = payload["reason"].as_str().unwrap_or("none");
                return Some(self.on_resync(at, reason, asked));
            }
            _ => {}
        }
        let org = self.org;
        let Topic { state, cursor: latest, .. } = &mut self.topics[at];
        let Some(cursor) = payload["cursor"].as_str() else {
            self.record().report_failure(format!("{}: {name} without a cursor: {payload}", self.name));
            return None;
        };
        *latest = Some(cursor.to_owned());
        if name != "warden.cursor"
            && let Some(failure) = state.take(org, name, payload, &self.world.record)
        {
            self.record().report_failure(format!("{} on {topic}: {failure}", self.name));
        }
        self.topics.iter().all(|t| t.state.is_done).then_some(SessionEnd::Done)
    }

    fn on_reply(&mut self, at: usize, payload: &Value, asked: Instant) -> Option<SessionEnd> {
        let response = &payload["response"];
        let is_filtered = self.topics[at].state.filters.are_some();
        if is_filtered && response["reason"] == "unavailable" && self.record().was_unavailable_since(asked) {
            // The gateway reads the columns of the table for a filter.
            self.record().count("joins with a filter while the database was unavailable");
            return Some(SessionEnd::Reconnect);
        }
        if payload["status"] != "ok" {
            self.record().report_failure(format!("{}: join rejected: {payload}", self.name));
            return Some(SessionEnd::Reconnect);
        }
        if response["resync"] == true {
            return Some(self.on_resync(at, "in the reply", asked));
        }
        self.topics[at].filter = response["filter"].as_str().map(str::to_owned);
        match &self.topics[at].cursor {
            Some(since) if response["cursor"] != since.as_str() => {
                self.record().report_failure(format!("{}: the reply to {since} is {response}", self.name));
            }
            Some(_) => {
                self.record().count("resumes");
                if is_filtered {
                    self.record().count("resumes with a filter");
                }
            }
            None => self.topics[at].cursor = response["cursor"].as_str().map(str::to_owned),
        }
        if self.topics.iter().all(|t| t.cursor.is_some())
            && let Some(ready) = self.ready.take()
        {
            let _ = ready.send(());
            // The first session is over; faults may begin.
            return Some(SessionEnd::Reconnect);
        }
        None
    }

    /// Chooses how to continue after a resync. A client reloads its state. If only the log was unavailable,
    /// it may also reconnect with its cursor, and half of them do. The check is the same in both cases.
    fn on_resync(&mut self, at: usize, reason: &str, asked: Instant) -> SessionEnd {
        if reason != "too_many" && self.random.bool() {
            judge_resync(self.record(), &self.name, reason, asked, None);
            return SessionEnd::Reconnect;
        }
        SessionEnd::Reload { at, reason: reason.to_owned(), asked }
    }
}
