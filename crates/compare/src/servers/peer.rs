//! A running server of another project.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::cost_meter::CostMeter;
use super::dialect::{Addresses, Dialect};
use super::process::{Process, free_address};
use super::programs::Programs;
use crate::clients::Dial;
use crate::plan::PublishPlan;

/// Channel without subscribers.
const EMPTY_CHANNEL: &str = "nobody";

pub(crate) struct Peer {
    dialect: Dialect,
    process: Process,
    at: Addresses,
    publisher: OwnedWriteHalf,
    /// Reads the answers to the publisher and discards them.
    drain: JoinHandle<()>,
}

impl Peer {
    pub(super) async fn start(dialect: Dialect, programs: &Programs) -> anyhow::Result<Self> {
        let program = dialect
            .find(programs)
            .with_context(|| format!("{} is not installed. {}", dialect.name(), dialect.install_advice()))?;
        let program = program.canonicalize().unwrap_or(program);
        let at = Addresses { sockets: free_address()?, native: free_address()? };
        let mut process =
            Process::start(dialect.name(), |dir| dialect.command(programs, &program, dir, &at))?;
        process.wait_until_listening(at.sockets).await?;
        let publish_to = dialect.publish_address(&at);
        process.wait_until_listening(publish_to).await?;
        let (mut reader, mut publisher) = TcpStream::connect(publish_to).await?.into_split();
        publisher.write_all(dialect.publisher_hello()).await?;
        // Clients count the events that arrive, so the answers are not needed.
        let drain = tokio::spawn(async move {
            let mut scratch = vec![0; 16 * 1024];
            while reader.read(&mut scratch).await.is_ok_and(|read| read > 0) {}
        });
        Ok(Self { dialect, process, at, publisher, drain })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.at.sockets
    }

    pub(super) fn dial(&self, group: usize, topics: usize) -> Dial {
        self.dialect.dial(self.at.sockets, group, topics)
    }

    pub(super) fn meter(&mut self) -> &mut CostMeter {
        self.process.meter()
    }

    pub(super) async fn publish(&mut self, plan: &PublishPlan) -> anyhow::Result<f64> {
        let began = Instant::now();
        let body = plan.body();
        let mut lag = Duration::ZERO;
        for n in 0..plan.bursts {
            let channel = plan.group(n).map_or_else(|| EMPTY_CHANNEL.to_owned(), |group| format!("g{group}"));
            let bytes = self.dialect.burst(self.at.sockets, &channel, &body, plan.burst);
            let due = plan.due(n);
            sleep(due.saturating_sub(began.elapsed())).await;
            lag = began.elapsed().saturating_sub(due);
            self.publisher.write_all(&bytes).await.context("the server stopped accepting events")?;
        }
        Ok(lag.as_secs_f64() * 1e3)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.drain.abort();
    }
}
