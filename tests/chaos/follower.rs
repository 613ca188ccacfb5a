//! A follower: speaks the protocol by itself, comes and goes, stops reading at times, resumes with its
//! cursors, and checks what it can at once. It must share no code with the gateway.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt as _, StreamExt as _};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use uuid::Uuid;

use crate::gateways::SECRET;
use crate::record::{Key, Record};

/// Published at the very end.
pub(crate) const LAST: &str = "chaos.last";
/// Chaos: a session lasts so long, if nothing else ends it.
const SESSION_MS: std::ops::Range<u64> = 300..8_000;
/// Chaos: a follower stops reading for so long.
const FREEZE_MS: std::ops::Range<u64> = 100..4_000;
/// One in so many messages makes a follower stop reading.
const FREEZE_ONE_IN: u32 = 400;
/// Chaos: a follower stays away for so long.
const AWAY_MS: std::ops::Range<u64> = 20..400;
/// Longest handshake: a stalled connection is given up.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(6);
/// Well below the gateway's limit of 60 s.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// When all is quiet a session without a word for so long is given up, as a client would.
const SILENCE_MAX: Duration = Duration::from_secs(20);

type Socket = WebSocketStream<TcpStream>;

/// What became of a session.
enum End {
    Done,
    Again,
}

/// One topic of a follower.
pub(crate) struct Following {
    pub(crate) name: &'static str,
    cursor: Option<String>,
    pub(crate) seen: HashSet<Key>,
    last_of_writer: HashMap<u64, u64>,
    is_done: bool,
}

/// See the module's documentation.
pub(crate) struct Follower {
    pub(crate) name: String,
    pub(crate) org: Uuid,
    pub(crate) topics: Vec<Following>,
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) record: Arc<Record>,
    pub(crate) random: fastrand::Rng,
    /// True: nothing goes wrong on purpose any more.
    pub(crate) quiet: watch::Receiver<bool>,
    /// Told once when every topic has its first cursor.
    pub(crate) ready: Option<mpsc::UnboundedSender<()>>,
}

impl Following {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, cursor: None, seen: HashSet::new(), last_of_writer: HashMap::new(), is_done: false }
    }

    /// Takes an event; what is wrong about it.
    fn take(&mut self, org: Uuid, name: &str, data: &Value) -> Option<String> {
        if data["org_id"] != org.to_string().as_str() {
            return Some(format!("{name} of another organisation: {data}"));
        }
        // Of a row the numbers are in its metadata.
        let numbers = if data["writer"].is_u64() { data } else { &data["metadata"] };
        let (Some(writer), Some(n)) = (numbers["writer"].as_u64(), numbers["n"].as_u64()) else {
            return Some(format!("{name} is nobody's: {data}"));
        };
        let is_deletion = name == "call.deleted";
        if is_deletion {
            if !self.seen.contains(&Key { is_deletion: false, writer, n }) {
                return Some(format!("the deletion of a call before its last change {writer}/{n}"));
            }
        } else {
            let before = self.last_of_writer.insert(writer, n);
            if before.is_some_and(|before| before >= n) {
                return Some(format!("{writer}/{n} after {before:?}: twice, or out of order"));
            }
        }
        let is_new = self.seen.insert(Key { is_deletion, writer, n });
        (!is_new).then(|| format!("{name} {writer}/{n} twice"))
    }
}

fn token(org: Uuid) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = json!({"sub": "chaos", "aud": "authenticated", "exp": now + 3600,
                        "app_metadata": {"org_id": org}});
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs")
}

impl Follower {
    /// Until the last event was seen on every topic.
    pub(crate) async fn run(&mut self) {
        loop {
            if let Some(socket) = self.connect().await
                && matches!(self.session(socket).await, End::Done)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(AWAY_MS))).await;
        }
    }

    async fn connect(&mut self) -> Option<Socket> {
        let node = self.nodes[self.random.usize(..self.nodes.len())];
        let url = format!("ws://{node}/socket/websocket?vsn=2.0.0");
        let mut request = url.into_client_request().expect("a request");
        let bearer = format!("Bearer {}", token(self.org)).parse().expect("a header");
        request.headers_mut().insert("authorization", bearer);
        let handshake = async { client_async(request, TcpStream::connect(node).await?).await };
        match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
            Ok(Ok((socket, _))) => {
                self.record.count("sessions");
                Some(socket)
            }
            Ok(Err(Error::Http(response))) => {
                let status = response.status().as_u16();
                if status != 503 {
                    self.record.complain(format!("{}: refused with {status}", self.name));
                }
                self.record.count(format!("handshakes refused with {status}"));
                None
            }
            _ => {
                self.record.count("handshakes failed");
                None
            }
        }
    }

    async fn session(&mut self, mut socket: Socket) -> End {
        let mut asked = Instant::now();
        for following in &self.topics {
            let payload = following.cursor.as_ref().map_or(json!({}), |since| json!({"since": since}));
            let join = json!([following.name, following.name, following.name, "phx_join", payload]);
            if socket.send(Message::text(join.to_string())).await.is_err() {
                return End::Again;
            }
        }
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        let is_ready = self.ready.is_none();
        let leave = tokio::time::sleep(Duration::from_millis(self.random.u64(SESSION_MS)));
        tokio::pin!(leave);
        loop {
            let is_quiet = *self.quiet.borrow();
            tokio::select! {
                message = tokio::time::timeout(SILENCE_MAX, socket.next()) => match message {
                    Ok(Some(Ok(Message::Text(text)))) => {
                        if let Some(end) = self.on_message(&text, &mut asked) {
                            return end;
                        }
                    }
                    Ok(Some(Ok(Message::Close(Some(frame))))) => {
                        self.on_close(u16::from(frame.code));
                        return End::Again;
                    }
                    Ok(Some(Ok(_))) => {}
                    _ => return End::Again,
                },
                _ = heartbeat.tick() => {
                    let beat = Message::text(r#"[null,"h","phoenix","heartbeat",{}]"#);
                    if socket.send(beat).await.is_err() {
                        return End::Again;
                    }
                }
                () = &mut leave, if !is_quiet && is_ready => {
                    self.record.count("sessions left");
                    if self.random.bool() {
                        let _ = tokio::time::timeout(HANDSHAKE_DEADLINE, socket.close(None)).await;
                    }
                    return End::Again;
                }
            }
            if !is_quiet && is_ready && self.random.u32(..FREEZE_ONE_IN) == 0 {
                self.record.count("freezes");
                tokio::time::sleep(Duration::from_millis(self.random.u64(FREEZE_MS))).await;
            }
        }
    }

    fn on_close(&self, code: u16) {
        self.record.count(format!("sessions closed with {code}"));
        // A restart, and a reader that was too slow: all else would be the gateway's fault.
        if !matches!(code, 1000 | 1012 | 4429) {
            self.record.complain(format!("{}: closed with {code}", self.name));
        }
    }

    fn on_message(&mut self, text: &str, asked: &mut Instant) -> Option<End> {
        let Ok((_, _, topic, name, payload)) =
            serde_json::from_str::<(Value, Value, String, String, Value)>(text)
        else {
            self.record.complain(format!("{}: not a message: {text}", self.name));
            return Some(End::Again);
        };
        if topic == "phoenix" {
            return None;
        }
        let Some(at) = self.topics.iter().position(|t| t.name == topic) else {
            self.record.complain(format!("{}: {name} on {topic}, which it did not join", self.name));
            return None;
        };
        match name.as_str() {
            "phx_reply" => return self.on_reply(at, &payload, *asked),
            "warden.resync" => {
                return self.on_resync(payload["reason"].as_str().unwrap_or("none"), *asked);
            }
            _ => {}
        }
        let following = &mut self.topics[at];
        let Some(cursor) = payload["cursor"].as_str() else {
            self.record.complain(format!("{}: without a cursor: {name} {payload}", self.name));
            return None;
        };
        following.cursor = Some(cursor.to_owned());
        if name == LAST {
            following.is_done = true;
        } else if name != "warden.cursor"
            && let Some(wrong) = following.take(self.org, &name, &payload["data"])
        {
            self.record.complain(format!("{} on {topic}: {wrong}", self.name));
        }
        self.topics.iter().all(|t| t.is_done).then_some(End::Done)
    }

    fn on_reply(&mut self, at: usize, payload: &Value, asked: Instant) -> Option<End> {
        let following = &mut self.topics[at];
        let response = &payload["response"];
        if payload["status"] != "ok" {
            self.record.complain(format!("{}: join refused: {payload}", self.name));
            return Some(End::Again);
        }
        if response["resync"] == true {
            return self.on_resync("in the reply", asked);
        }
        match &following.cursor {
            Some(since) if response["cursor"] != since.as_str() => {
                self.record.complain(format!("{}: the reply to {since} is {response}", self.name));
            }
            Some(_) => self.record.count("resumes"),
            None => following.cursor = response["cursor"].as_str().map(str::to_owned),
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

    /// Where the log can't be read the client may come back later with the same cursor, and does: so the
    /// check stays exact. Everything else is a failure.
    fn on_resync(&self, reason: &str, asked: Instant) -> Option<End> {
        let is_unavailable = matches!(reason, "unavailable" | "in the reply");
        match self.record.excuse(asked).filter(|_| is_unavailable) {
            Some(excuse) => self.record.count(format!("resyncs ({reason}; {excuse})")),
            None => {
                self.record.complain(format!("{}: resync: {reason}", self.name));
            }
        }
        Some(End::Again)
    }
}
