//! The witnesses: well-behaved sockets. Each must receive every event of its organisation once and in order,
//! over the connection that it opened at the start, and nothing of another organisation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use warden_testkit::phoenix::{self, HEARTBEAT_REF, PhoenixMessage, Received, Socket};

use crate::MARK;
use crate::tokens::token;

/// Block of loopback addresses of the witnesses.
const BLOCK: u8 = 1;
const ADDRESSES: usize = 8;
const EVENT: &str = "witness.tick";
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(20);
/// Interval between two events. Each event belongs to the next organisation.
const TICK_INTERVAL: Duration = Duration::from_millis(20);
/// Deadline for the last event to reach every witness.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(60);

/// Number of published events of each organisation, known when the publisher has ended.
type Totals = Arc<Vec<u64>>;

/// All witnesses, and the task that publishes their events.
pub(crate) struct Witnesses {
    tasks: Vec<JoinHandle<Result<u64, String>>>,
    totals: watch::Sender<Option<Totals>>,
    done: mpsc::UnboundedReceiver<()>,
    publisher: JoinHandle<Vec<u64>>,
    stop: CancellationToken,
    pub(crate) seen: Arc<AtomicU64>,
}

impl Witnesses {
    /// Opens and joins all sockets, and begins to publish.
    pub(crate) async fn start(gateway: SocketAddr, database_url: &str, orgs: &[Uuid], count: usize) -> Self {
        let (totals, known) = watch::channel(None);
        let (is_done, done) = mpsc::unbounded_channel();
        let seen = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for n in 0..count {
            let org = n % orgs.len();
            let socket = join(gateway, orgs[org], n).await;
            let witness =
                Witness { org, id: orgs[org], next: 0, seen: Arc::clone(&seen), is_done: is_done.clone() };
            tasks.push(tokio::spawn(witness.follow(socket, known.clone())));
        }
        let connection = PgConnection::connect(database_url).await.expect("connects");
        let stop = CancellationToken::new();
        let publisher = tokio::spawn(publish(connection, orgs.to_vec(), stop.clone()));
        Self { tasks, totals, done, publisher, stop, seen }
    }

    /// Whether a witness has failed. A witness ends only if it fails or if [`Self::end`] is called.
    pub(crate) fn have_failed(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Stops publishing and waits until every witness has received all events. Returns the numbers of
    /// published and of received events.
    pub(crate) async fn settle(&mut self) -> (u64, u64) {
        self.stop.cancel();
        let totals = (&mut self.publisher).await.expect("publishes");
        let published = totals.iter().sum();
        self.totals.send_replace(Some(Arc::new(totals)));
        let all = async {
            let mut left = self.tasks.len();
            // `end` reports why a witness has failed.
            while left > 0 && !self.have_failed() {
                let is_done = timeout(Duration::from_secs(1), self.done.recv()).await;
                left -= usize::from(is_done.is_ok());
            }
        };
        assert!(timeout(CATCH_UP_DEADLINE, all).await.is_ok(), "a witness did not receive all events");
        (published, self.seen.load(Ordering::Relaxed))
    }

    /// Closes all sockets. Panics if a witness has missed an event.
    pub(crate) async fn end(self) {
        drop(self.totals);
        for task in self.tasks {
            if let Err(fault) = task.await.expect("runs") {
                panic!("witness: {fault}");
            }
        }
    }
}

/// Opens a socket and joins `calls`, as a well-behaved client does.
pub(crate) async fn join(gateway: SocketAddr, org: Uuid, n: usize) -> Socket {
    let address = u8::try_from(1 + n % ADDRESSES).expect("small");
    let stream = phoenix::stream_from(gateway, BLOCK, address).await.expect("a witness connects");
    let mut socket = phoenix::connect_over(stream, &token(org), None).await.expect("a witness is accepted");
    phoenix::send_join(&mut socket, "1", "calls", None).await.expect("sends");
    match timeout(CATCH_UP_DEADLINE, phoenix::receive(&mut socket)).await {
        Ok(Received::Message(message)) if message.is_ok_reply() => socket,
        other => panic!("expected the join's reply: {other:?}"),
    }
}

struct Witness {
    org: usize,
    id: Uuid,
    next: u64,
    seen: Arc<AtomicU64>,
    is_done: mpsc::UnboundedSender<()>,
}

impl Witness {
    async fn follow(
        mut self,
        mut socket: Socket,
        mut totals: watch::Receiver<Option<Totals>>,
    ) -> Result<u64, String> {
        let mut heartbeats =
            tokio::time::interval_at(Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL);
        let mut has_reported = false;
        loop {
            if !has_reported && totals.borrow().as_ref().is_some_and(|totals| totals[self.org] == self.next) {
                has_reported = true;
                let _ = self.is_done.send(());
            }
            tokio::select! {
                changed = totals.changed() => if changed.is_err() {
                    let total = totals.borrow().as_ref().map(|totals| totals[self.org]);
                    return if total == Some(self.next) { Ok(self.next) } else {
                        Err(format!("received {} of {total:?} events", self.next))
                    };
                },
                _ = heartbeats.tick() => {
                    let sent = phoenix::send_heartbeat(&mut socket).await;
                    sent.map_err(|error| format!("its connection broke: {error}"))?;
                }
                received = phoenix::receive(&mut socket) => match received {
                    Received::Message(message) => self.check(&message)?,
                    other => return Err(format!("its session ended: {other:?}")),
                },
            }
        }
    }

    fn check(&mut self, message: &PhoenixMessage) -> Result<(), String> {
        let shown = format!("{message:?}");
        match message.event.as_str() {
            "warden.cursor" => Ok(()),
            "phx_reply" if message.reference == HEARTBEAT_REF && message.is_ok_reply() => Ok(()),
            EVENT if message.topic == "calls" && !shown.contains(MARK) => {
                if message.payload["data"] != json!({"org": self.id, "n": self.next}) {
                    return Err(format!("expected event {} of {}: {shown}", self.next, self.id));
                }
                self.next += 1;
                self.seen.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(format!("unexpected message: {shown}")),
        }
    }
}

/// Publishes events, one for each organisation in turn, until stopped. Returns the number of events of each
/// organisation.
async fn publish(mut connection: PgConnection, orgs: Vec<Uuid>, stop: CancellationToken) -> Vec<u64> {
    let mut counts = vec![0; orgs.len()];
    let mut ticks = tokio::time::interval(TICK_INTERVAL);
    for org in (0..orgs.len()).cycle() {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            break;
        }
        let data = json!({"org": orgs[org], "n": counts[org]});
        sqlx::query("select warden.publish($1, 'calls', $2, $3)")
            .bind(orgs[org])
            .bind(EVENT)
            .bind(data)
            .execute(&mut connection)
            .await
            .expect("publishes");
        counts[org] += 1;
    }
    counts
}
