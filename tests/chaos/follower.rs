//! A follower: speaks the protocol by itself, comes and goes, stops reading at times, resumes with its
//! cursors or begins anew with a snapshot, and checks what it can at once. It must share no code with the
//! gateway.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;
use warden_testkit::phoenix::{self, ConnectError, PhoenixMessage, Received, Socket};

use crate::following::{CALM, Following, LAST, judge_resync};
use crate::gateways::SECRET;
use crate::record::Record;
use crate::snapshot;
use crate::writers::World;

/// Chaos: a session lasts so long, if nothing else ends it.
const SESSION_MS: std::ops::Range<u64> = 300..8_000;
/// Chaos: a follower stops reading for so long.
const FREEZE_MS: std::ops::Range<u64> = 100..4_000;
/// One in so many sessions begins anew with a snapshot, although its cursors would do.
const ANEW_ONE_IN: u32 = 50;
/// One in so many messages makes a follower stop reading.
const FREEZE_ONE_IN: u32 = 400;
/// Chaos: a follower stays away for so long.
const AWAY_MS: std::ops::Range<u64> = 20..400;
/// Longest handshake: a stalled connection is given up.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(6);
/// Well below the gateway's limit of 60 s.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// When all is quiet a session without a word for so long is given up, as a client would.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What became of a session.
enum End {
    Done,
    Again,
    /// With a snapshot for this topic, after a resync that this reason was given for.
    Anew {
        at: usize,
        reason: String,
        asked: Instant,
    },
}

/// One topic of a follower.
pub(crate) struct Topic {
    pub(crate) following: Following,
    pub(crate) cursor: Option<String>,
}

/// See the module's documentation.
pub(crate) struct Follower {
    pub(crate) name: String,
    pub(crate) org: Uuid,
    pub(crate) topics: Vec<Topic>,
    pub(crate) nodes: Vec<SocketAddr>,
    /// When its `stop` is true, nothing goes wrong on purpose any more.
    pub(crate) world: World,
    pub(crate) random: fastrand::Rng,
    /// Told once when every topic has its first cursor.
    pub(crate) ready: Option<mpsc::UnboundedSender<()>>,
}

pub(crate) fn token(org: Uuid) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = json!({"sub": "chaos", "aud": "authenticated", "exp": now + 3600,
                        "app_metadata": {"org_id": org}});
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs")
}

impl Follower {
    /// Until the last event was seen on every topic.
    pub(crate) async fn run(&mut self) {
        loop {
            if let Some(socket) = self.connect().await {
                match self.session(socket).await {
                    End::Done => return,
                    End::Again => {}
                    End::Anew { at, reason, asked } => {
                        let skipped = self.begin_anew(at).await;
                        judge_resync(self.record(), &self.name, &reason, asked, Some(skipped));
                        if self.topics.iter().all(|t| t.following.is_done) {
                            return;
                        }
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(AWAY_MS))).await;
            if self.ready.is_none() && !self.is_quiet() && self.random.u32(..ANEW_ONE_IN) == 0 {
                self.record().count("sessions begun anew with a snapshot");
                for at in 0..self.topics.len() {
                    self.begin_anew(at).await;
                }
            }
        }
    }

    /// Takes the state and its cursor in place of its own; how many events it does not see because of it.
    async fn begin_anew(&mut self, at: usize) -> usize {
        let snapshot = snapshot::take(&self.world, self.org).await;
        let topic = &mut self.topics[at];
        topic.cursor = Some(snapshot.cursor.clone());
        topic.following.replace(self.org, &snapshot, &self.world.record)
    }

    fn record(&self) -> &Record {
        &self.world.record
    }

    fn is_quiet(&self) -> bool {
        *self.world.stop.borrow()
    }

    async fn connect(&mut self) -> Option<Socket> {
        let node = self.nodes[self.random.usize(..self.nodes.len())];
        let token = token(self.org);
        match tokio::time::timeout(HANDSHAKE_DEADLINE, phoenix::connect(node, &token)).await {
            Ok(Ok(socket)) => {
                self.record().count("sessions");
                Some(socket)
            }
            Ok(Err(ConnectError::Rejected { status, .. })) => {
                if status != 503 {
                    self.record().complain(format!("{}: refused with {status}", self.name));
                }
                self.record().count(format!("handshakes refused with {status}"));
                None
            }
            _ => {
                self.record().count("handshakes failed");
                None
            }
        }
    }

    async fn session(&mut self, mut socket: Socket) -> End {
        let asked = Instant::now();
        for topic in &self.topics {
            let name = topic.following.name;
            if phoenix::send_join(&mut socket, name, name, topic.cursor.as_deref()).await.is_err() {
                return End::Again;
            }
        }
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        let is_ready = self.ready.is_none();
        let leave = tokio::time::sleep(Duration::from_millis(self.random.u64(SESSION_MS)));
        tokio::pin!(leave);
        loop {
            let is_quiet = self.is_quiet();
            tokio::select! {
                received = tokio::time::timeout(SILENCE_MAX, phoenix::receive(&mut socket)) => match received {
                    Ok(Received::Message(message)) => {
                        if let Some(end) = self.on_message(&message, asked) {
                            return end;
                        }
                    }
                    Ok(Received::Closed(code)) => {
                        self.on_close(code);
                        return End::Again;
                    }
                    Ok(Received::Invalid(text)) => {
                        self.record().complain(format!("{}: not a message: {text}", self.name));
                        return End::Again;
                    }
                    Ok(Received::Ended(_)) | Err(_) => return End::Again,
                },
                _ = heartbeat.tick() => {
                    if phoenix::send_heartbeat(&mut socket).await.is_err() {
                        return End::Again;
                    }
                }
                () = &mut leave, if !is_quiet && is_ready => {
                    self.record().count("sessions left");
                    if self.random.bool() {
                        let _ = tokio::time::timeout(HANDSHAKE_DEADLINE, socket.close(None)).await;
                    }
                    return End::Again;
                }
            }
            if !is_quiet && is_ready && self.random.u32(..FREEZE_ONE_IN) == 0 {
                self.record().count("freezes");
                tokio::time::sleep(Duration::from_millis(self.random.u64(FREEZE_MS))).await;
            }
        }
    }

    fn on_close(&self, code: u16) {
        self.record().count(format!("sessions closed with {code}"));
        // A restart, and a reader that was too slow: all else would be the gateway's fault.
        if !matches!(code, 1000 | 1012 | 4429) {
            self.record().complain(format!("{}: closed with {code}", self.name));
        }
    }

    fn on_message(&mut self, message: &PhoenixMessage, asked: Instant) -> Option<End> {
        let PhoenixMessage { topic, event: name, payload, .. } = message;
        if topic == "phoenix" {
            return None;
        }
        let Some(at) = self.topics.iter().position(|t| t.following.name == *topic) else {
            self.record().complain(format!("{}: {name} on {topic}, which it did not join", self.name));
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
        let Topic { following, cursor: mine } = &mut self.topics[at];
        let Some(cursor) = payload["cursor"].as_str() else {
            self.record().complain(format!("{}: without a cursor: {name} {payload}", self.name));
            return None;
        };
        *mine = Some(cursor.to_owned());
        if name == LAST {
            following.is_done = true;
        } else if name == CALM {
            if let Some(wrong) = following.take_calm(org, &payload["data"], &self.world.record) {
                self.world.record.complain(format!("{} on {topic}: {wrong}", self.name));
            }
        } else if name != "warden.cursor"
            && let Some(wrong) = following.take(org, name, &payload["data"])
        {
            self.record().complain(format!("{} on {topic}: {wrong}", self.name));
        }
        self.topics.iter().all(|t| t.following.is_done).then_some(End::Done)
    }

    fn on_reply(&mut self, at: usize, payload: &Value, asked: Instant) -> Option<End> {
        let response = &payload["response"];
        if payload["status"] != "ok" {
            self.record().complain(format!("{}: join refused: {payload}", self.name));
            return Some(End::Again);
        }
        if response["resync"] == true {
            return Some(self.on_resync(at, "in the reply", asked));
        }
        match &self.topics[at].cursor {
            Some(since) if response["cursor"] != since.as_str() => {
                self.record().complain(format!("{}: the reply to {since} is {response}", self.name));
            }
            Some(_) => self.record().count("resumes"),
            None => self.topics[at].cursor = response["cursor"].as_str().map(str::to_owned),
        }
        if self.topics.iter().all(|t| t.cursor.is_some())
            && let Some(ready) = self.ready.take()
        {
            let _ = ready.send(());
            // What follows is chaos.
            return Some(End::Again);
        }
        None
    }

    /// A client reads its state anew. Where only the log could not be read just now it may as well come back
    /// later with the cursor that it has, and half of them do: nothing is excused from the check either way.
    fn on_resync(&mut self, at: usize, reason: &str, asked: Instant) -> End {
        if reason != "too_many" && self.random.bool() {
            judge_resync(self.record(), &self.name, reason, asked, None);
            return End::Again;
        }
        End::Anew { at, reason: reason.to_owned(), asked }
    }
}
