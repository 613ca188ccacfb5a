//! Those who behave: sockets that follow their organisation, and must see each of its events once and in
//! order, on the connection that they had from the start, and nothing of anybody's else.

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
use crate::attack::connect;
use crate::tokens::token;

/// Addresses of those who behave.
const BLOCK: u8 = 1;
const ADDRESSES: usize = 8;
const EVENT: &str = "witness.tick";
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(20);
/// Between two events, each of the next organisation.
const TICK_INTERVAL: Duration = Duration::from_millis(20);
/// From the last event until everybody has it.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(60);

/// How many events each organisation had, once that is known.
type Totals = Arc<Vec<u64>>;

pub(crate) struct Witnesses {
    tasks: Vec<JoinHandle<Result<u64, String>>>,
    totals: watch::Sender<Option<Totals>>,
    done: mpsc::UnboundedReceiver<()>,
    publisher: JoinHandle<Vec<u64>>,
    stop: CancellationToken,
    pub(crate) seen: Arc<AtomicU64>,
}

impl Witnesses {
    /// Joins them all, and begins to publish.
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

    /// The first of them that has failed, while the attack goes on.
    pub(crate) fn have_failed(&self) -> bool {
        self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Publishes no more; when everybody has seen everything: how much was published, and how much seen.
    pub(crate) async fn settle(&mut self) -> (u64, u64) {
        self.stop.cancel();
        let totals = (&mut self.publisher).await.expect("publishes");
        let published = totals.iter().sum();
        self.totals.send_replace(Some(Arc::new(totals)));
        let all = async {
            let mut left = self.tasks.len();
            // Who failed tells so at the end.
            while left > 0 && !self.have_failed() {
                let is_done = timeout(Duration::from_secs(1), self.done.recv()).await;
                left -= usize::from(is_done.is_ok());
            }
        };
        assert!(timeout(CATCH_UP_DEADLINE, all).await.is_ok(), "not everybody saw everything");
        (published, self.seen.load(Ordering::Relaxed))
    }

    /// Hangs up; fails where anybody missed anything.
    pub(crate) async fn end(self) {
        drop(self.totals);
        for task in self.tasks {
            if let Err(fault) = task.await.expect("runs") {
                panic!("a good socket: {fault}");
            }
        }
    }
}

/// A good client comes in and is served.
pub(crate) async fn join(gateway: SocketAddr, org: Uuid, n: usize) -> Socket {
    let address = u8::try_from(1 + n % ADDRESSES).expect("small");
    let stream = connect(gateway, BLOCK, address).await.expect("a good client connects");
    let mut socket =
        phoenix::connect_over(stream, &token(org), None).await.expect("a good client is accepted");
    phoenix::send_join(&mut socket, "1", "calls", None).await.expect("sends");
    match timeout(CATCH_UP_DEADLINE, phoenix::receive(&mut socket)).await {
        Ok(Received::Message(message)) if message.is_ok_reply() => socket,
        other => panic!("instead of the join's reply: {other:?}"),
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
        let mut has_told = false;
        loop {
            if !has_told && totals.borrow().as_ref().is_some_and(|totals| totals[self.org] == self.next) {
                has_told = true;
                let _ = self.is_done.send(());
            }
            tokio::select! {
                changed = totals.changed() => if changed.is_err() {
                    let total = totals.borrow().as_ref().map(|totals| totals[self.org]);
                    return if total == Some(self.next) { Ok(self.next) } else {
                        Err(format!("saw {} of {total:?} events", self.next))
                    };
                },
                _ = heartbeats.tick() => {
                    let sent = phoenix::send_heartbeat(&mut socket).await;
                    sent.map_err(|error| format!("its connection broke: {error}"))?;
                }
                received = phoenix::receive(&mut socket) => match received {
                    Received::Message(message) => self.take(&message)?,
                    other => return Err(format!("its session ended: {other:?}")),
                },
            }
        }
    }

    fn take(&mut self, message: &PhoenixMessage) -> Result<(), String> {
        let shown = format!("{message:?}");
        match message.event.as_str() {
            "warden.cursor" => Ok(()),
            "phx_reply" if message.reference == HEARTBEAT_REF && message.is_ok_reply() => Ok(()),
            EVENT if message.topic == "calls" && !shown.contains(MARK) => {
                if message.payload["data"] != json!({"org": self.id, "n": self.next}) {
                    return Err(format!("instead of event {} of {}: {shown}", self.next, self.id));
                }
                self.next += 1;
                self.seen.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(format!("what is not its own: {shown}")),
        }
    }
}

/// One event after another, of each organisation in turn, until told to stop; how many each had.
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
