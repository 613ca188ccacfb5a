//! One socket of the test: handshake, joins, heartbeats, and handing every event to the ledger.
//! It judges nothing itself, and it does not reconnect: a socket that ends early is a finding.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_util::sync::CancellationToken;

use crate::check::{Arrival, Kind, Ledger, Subscription, Verdict};
use crate::report::Timings;
use crate::target::Target;
use crate::wire::{self, Event, Frame, JoinResponse, Reply};

/// Handshake and joins together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// What phoenix.js does. A heartbeat that is unanswered when the next one is due ends the socket.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How many sockets are in which state.
#[derive(Default)]
pub(crate) struct SocketCounts {
    pub(crate) joined: AtomicUsize,
    pub(crate) refused: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
}

/// What all sockets of a run share.
pub(crate) struct Shared {
    pub(crate) run: String,
    pub(crate) target: Target,
    pub(crate) ledger: Ledger,
    pub(crate) timings: Timings,
    pub(crate) sockets: SocketCounts,
    /// Ends the sockets, after the last event.
    pub(crate) closing: CancellationToken,
}

/// A socket that has joined its topics.
pub(crate) struct Session {
    index: usize,
    org: usize,
    stream: WebSocketStream<TcpStream>,
    subscriptions: Vec<Subscription>,
    /// Bit of each subscription whose join was answered.
    joined: Vec<bool>,
    last_ref: usize,
    heartbeat_unanswered: bool,
}

impl Session {
    /// Connects, shakes hands and joins. The error says what the gateway answered.
    pub(crate) async fn open(shared: &Shared, index: usize) -> anyhow::Result<Self> {
        timeout(OPEN_TIMEOUT, Self::open_unbounded(shared, index))
            .await
            .map_err(|_| anyhow!("no answer to handshake and joins within {OPEN_TIMEOUT:?}: is the gateway overloaded? Try a lower --connect-rate"))?
    }

    async fn open_unbounded(shared: &Shared, index: usize) -> anyhow::Result<Self> {
        let target = &shared.target;
        let org = index % shared.ledger.orgs();
        let began = Instant::now();
        let stream = target.shake_hands(index, shared.ledger.org_id(org)).await?;
        shared.timings.connect.record(began.elapsed());
        let subscriptions: Vec<_> =
            target.topics.iter().map(|topic| Subscription::new(org, index, topic)).collect();
        let last_ref = subscriptions.len();
        let joined = vec![false; last_ref];
        let mut session =
            Self { index, org, stream, subscriptions, joined, last_ref, heartbeat_unanswered: false };
        session.join(shared).await?;
        shared.timings.join.record(began.elapsed());
        for subscription in &session.subscriptions {
            shared.ledger.joined(subscription);
        }
        Ok(session)
    }

    async fn join(&mut self, shared: &Shared) -> anyhow::Result<()> {
        for (n, topic) in shared.target.topics.iter().enumerate() {
            self.stream
                .send(Message::text(wire::join(n + 1, topic)))
                .await
                .map_err(|error| anyhow!("cannot send a join: {error}"))?;
        }
        while self.joined.contains(&false) {
            let message = self.stream.next().await;
            self.received(shared, message, Instant::now())?;
        }
        Ok(())
    }

    /// Reads until the test ends or the socket does, and gives back what it has seen.
    pub(crate) async fn run(mut self, shared: &Shared) -> Vec<Subscription> {
        if let Err(error) = self.read_until_closing(shared).await {
            shared.sockets.dropped.fetch_add(1, Relaxed);
            shared.ledger.sample(|| format!("socket {} dropped: {error:#}", self.index));
        }
        self.subscriptions
    }

    async fn read_until_closing(&mut self, shared: &Shared) -> anyhow::Result<()> {
        // Spread over the interval, so that the heartbeats of all sockets don't come at one moment.
        let first = HEARTBEAT_EVERY.mul_f64(0.5 + 0.5 * fastrand::f64());
        let mut heartbeat = interval_at(tokio::time::Instant::now() + first, HEARTBEAT_EVERY);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let closing = shared.closing.cancelled();
        tokio::pin!(closing);
        loop {
            tokio::select! {
                message = self.stream.next() => self.received(shared, message, Instant::now())?,
                _ = heartbeat.tick() => self.beat().await?,
                () = &mut closing => {
                    // Only politeness: what has come after the deadline doesn't count any more.
                    let _ = timeout(SEND_TIMEOUT, self.stream.close(None)).await;
                    return Ok(());
                }
            }
        }
    }

    async fn beat(&mut self) -> anyhow::Result<()> {
        ensure!(!self.heartbeat_unanswered, "no answer to a heartbeat within {HEARTBEAT_EVERY:?}");
        self.last_ref += 1;
        let frame = Message::text(wire::heartbeat(self.last_ref));
        timeout(SEND_TIMEOUT, self.stream.send(frame))
            .await
            .map_err(|_| anyhow!("the gateway has read nothing for {SEND_TIMEOUT:?}"))?
            .map_err(|error| anyhow!("cannot send a heartbeat: {error}"))?;
        self.heartbeat_unanswered = true;
        Ok(())
    }

    fn received(
        &mut self,
        shared: &Shared,
        message: Option<Result<Message, WsError>>,
        at: Instant,
    ) -> anyhow::Result<()> {
        match message
            .context("the gateway cut the connection")?
            .map_err(|error| anyhow!("reading failed: {error}"))?
        {
            Message::Text(text) => self.frame(shared, &text, at),
            Message::Close(Some(close)) => {
                bail!("the gateway closed it: {} {}", u16::from(close.code), close.reason)
            }
            Message::Close(None) => bail!("the gateway closed it without a code"),
            Message::Binary(_) => {
                self.odd(shared, "a binary message");
                Ok(())
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    fn frame(&mut self, shared: &Shared, text: &str, at: Instant) -> anyhow::Result<()> {
        let Ok(frame) = Frame::parse(text) else {
            self.odd(shared, "a message that is no V2 frame");
            return Ok(());
        };
        match &*frame.event {
            "phx_reply" => return self.reply(shared, &frame),
            "phx_error" | "phx_close" => {
                bail!("the gateway ended topic {}: {}", frame.topic, frame.payload)
            }
            "warden.cursor" => {}
            "warden.resync" => {
                shared.ledger.counts.resyncs.fetch_add(1, Relaxed);
                shared.ledger.sample(|| {
                    format!("resync of topic {} at socket {}: {}", frame.topic, self.index, frame.payload)
                });
            }
            _ => self.event(shared, &frame, at),
        }
        Ok(())
    }

    fn reply(&mut self, shared: &Shared, frame: &Frame<'_>) -> anyhow::Result<()> {
        let reference: usize = frame.reference.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        if frame.topic == "phoenix" && reference == self.last_ref {
            self.heartbeat_unanswered = false;
            return Ok(());
        }
        let n = reference.wrapping_sub(1);
        if self.subscriptions.get(n).is_none_or(|s| s.topic() != frame.topic || self.joined[n]) {
            self.odd(shared, "a reply to nothing that was asked");
            return Ok(());
        }
        let reply: Reply<'_> =
            serde_json::from_str(frame.payload.get()).context("the reply to a join has no status")?;
        ensure!(
            reply.status == "ok",
            "join of topic {} was refused: {}. See --topics",
            frame.topic,
            reply.response
        );
        serde_json::from_str::<JoinResponse>(reply.response.get())
            .context("the reply to a join has no cursor")?;
        self.joined[n] = true;
        Ok(())
    }

    /// Another organisation's event is one whatever else is wrong with it, so that is looked at first.
    fn event(&mut self, shared: &Shared, frame: &Frame<'_>, at: Instant) {
        let name = format_args!("{} on topic {}", frame.event, frame.topic);
        let Ok(event) = serde_json::from_str::<Event<'_>>(frame.payload.get()) else {
            return self.odd(shared, &format!("{name} without id, at, cursor or data.id"));
        };
        let row = event.data;
        let is_org = frame.event.starts_with("org.");
        let Some(org) = row.org_id.or_else(|| is_org.then_some(row.id)) else {
            return self.odd(shared, &format!("{name} without org_id"));
        };
        if org != shared.ledger.org_id(self.org) {
            return shared.ledger.stray(self.index, &name.to_string(), true);
        }
        let topic = self.subscriptions.iter().position(|s| s.topic() == frame.topic);
        let Some(n) = topic.filter(|n| self.joined[*n]) else {
            return self.odd(shared, &format!("{name}, which is not joined"));
        };
        let kind = match &*frame.event {
            "call.created" => Kind::Created,
            "call.updated" => Kind::Updated,
            "call.deleted" => return self.odd(shared, &format!("{name}: nothing was deleted")),
            // A gateway may still be about to tell that the organisation was created.
            _ => return,
        };
        let marks = row.metadata.filter(|m| m.lt_run.as_deref() == Some(&shared.run));
        let Some((n_change, seq)) = marks.and_then(|m| Some((m.lt_change?, m.lt_seq?))) else {
            return self.odd(shared, &format!("{name} that is not of this run"));
        };
        let arrival = Arrival { org, call: row.id, kind, n: n_change, seq, at };
        let verdict = shared.ledger.arrived(&mut self.subscriptions[n], &arrival);
        if let Verdict::Delivered { latency, .. } = verdict {
            shared.timings.latency(self.index).record(latency);
        }
    }

    fn odd(&self, shared: &Shared, what: &str) {
        shared.ledger.stray(self.index, what, false);
    }
}
