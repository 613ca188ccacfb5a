//! The client of another organisation, whose operations are measured.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sqlx::postgres::PgPool;
use uuid::Uuid;
use warden_testkit::phoenix::{self, PhoenixMessage, Received, Socket};

use crate::tokens::token;

/// The measured operations, in the order of [`Samples`]. "publish" is the statement with its commit, which
/// the application's database serves alone; "receive" is the time from the commit to the client.
pub(crate) const OPERATIONS: [&str; 4] = ["connect and join", "publish", "receive", "resume"];
const CONNECT: usize = 0;
pub(crate) const PUBLISH: usize = 1;
const RECEIVE: usize = 2;
const RESUME: usize = 3;

/// Block of loopback addresses of the client, and their number: one alone would exceed its limit of
/// handshakes.
const BLOCK: u8 = 1;
const ADDRESSES: u8 = 200;
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
const OPERATION_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// Times of each operation, and failures.
#[derive(Default)]
pub(crate) struct Samples {
    times: [Vec<Duration>; OPERATIONS.len()],
    pub(crate) errors: Vec<String>,
}

impl Samples {
    /// Median and p99 of an operation.
    pub(crate) fn quantiles(&self, operation: usize) -> [Duration; 2] {
        let mut times = self.times[operation].clone();
        times.sort_unstable();
        let at = |percent: usize| {
            times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied()
        };
        [50, 99].map(|percent| at(percent).unwrap_or(OPERATION_MAX))
    }
}

/// A well-behaved client with one open socket, which opens others.
pub(crate) struct Victim {
    addr: SocketAddr,
    pool: PgPool,
    org: Uuid,
    live: Socket,
    heartbeat_at: Instant,
    address: u8,
}

impl Victim {
    pub(crate) async fn start(addr: SocketAddr, pool: PgPool, org: Uuid) -> anyhow::Result<Self> {
        let (live, _) = join(addr, 0, org, None).await?;
        Ok(Self { addr, pool, org, live, heartbeat_at: Instant::now(), address: 0 })
    }

    /// Repeats all operations for this time.
    pub(crate) async fn run(&mut self, length: Duration, samples: &mut Samples) {
        let end = Instant::now() + length;
        while Instant::now() < end {
            let done = tokio::time::timeout(OPERATION_MAX, self.operations(samples)).await;
            let done = done.unwrap_or_else(|_| Err(anyhow::anyhow!("no end within {OPERATION_MAX:?}")));
            if let Err(error) = done {
                samples.errors.push(format!("{error:#}"));
                if let Ok((live, _)) = join(self.addr, 0, self.org, None).await {
                    self.live = live;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn operations(&mut self, samples: &mut Samples) -> anyhow::Result<()> {
        self.address = (self.address + 1) % ADDRESSES;
        // More often would exceed the session's own limit of messages.
        if self.heartbeat_at.elapsed() > HEARTBEAT_INTERVAL {
            phoenix::send_heartbeat(&mut self.live).await?;
            self.heartbeat_at = Instant::now();
        }
        let started = Instant::now();
        let (socket, cursor) =
            join(self.addr, self.address, self.org, None).await.context("connect and join")?;
        samples.times[CONNECT].push(started.elapsed());
        drop(socket);

        let mark = Uuid::new_v4();
        let started = Instant::now();
        sqlx::query("select warden.publish($1, 'calls', 'tick', jsonb_build_object('mark', $2::text))")
            .bind(self.org)
            .bind(mark.to_string())
            .execute(&self.pool)
            .await?;
        samples.times[PUBLISH].push(started.elapsed());

        let started = Instant::now();
        receive_mark(&mut self.live, mark).await.context("receive")?;
        samples.times[RECEIVE].push(started.elapsed());

        let started = Instant::now();
        let (mut socket, _) =
            join(self.addr, self.address, self.org, Some(&cursor)).await.context("resume")?;
        receive_mark(&mut socket, mark).await.context("resume")?;
        samples.times[RESUME].push(started.elapsed());
        Ok(())
    }
}

/// Connects and joins `calls`. Returns the cursor of the reply.
async fn join(
    addr: SocketAddr,
    address: u8,
    org: Uuid,
    since: Option<&str>,
) -> anyhow::Result<(Socket, String)> {
    let stream = phoenix::stream_from(addr, BLOCK, address + 1).await?;
    let opened = phoenix::connect_over(stream, &token(org), None).await;
    let mut socket = opened.map_err(|error| anyhow::anyhow!("the handshake failed: {error:?}"))?;
    phoenix::send_join(&mut socket, "1", "calls", since).await?;
    let reply = next(&mut socket).await?;
    anyhow::ensure!(reply.is_ok_reply(), "the join failed: {reply:?}");
    let cursor = reply.cursor().context("the reply has no cursor")?.to_owned();
    Ok((socket, cursor))
}

async fn receive_mark(socket: &mut Socket, mark: Uuid) -> anyhow::Result<()> {
    loop {
        let message = next(socket).await?;
        match message.event.as_str() {
            "tick" if message.payload["data"]["mark"] == mark.to_string() => return Ok(()),
            // An event that a former operation gave up waiting for, the reply to a heartbeat, a fresh cursor.
            "tick" | "phx_reply" | "warden.cursor" => {}
            _ => bail!("unexpected message {message:?}"),
        }
    }
}

async fn next(socket: &mut Socket) -> anyhow::Result<PhoenixMessage> {
    match phoenix::receive(socket).await {
        Received::Message(message) => Ok(message),
        other => bail!("the session ended: {other:?}"),
    }
}
