//! The memory of idle sockets, and the memory that the server still uses after they have closed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tokio::time::sleep;

use super::measurement::Measurement;
use crate::servers::Server;

const KIB: f64 = 1024.0;
/// Memory is stable if it changes by less than this share within a second.
const STABLE_SHARE: f64 = 0.002;
const STABLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Allocators return memory with a delay. The measurement waits this long, or until the memory is within this
/// share of the start.
const RETURN_TIMEOUT: Duration = Duration::from_secs(12);
const RETURNED_SHARE: f64 = 0.05;

/// The cost of idle sockets in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IdleCost {
    /// KiB of resident memory per socket.
    pub(crate) socket_kib: f64,
    /// MiB before the first socket.
    pub(crate) start_mib: f64,
    /// MiB with all sockets.
    pub(crate) full_mib: f64,
    /// MiB after all sockets have left.
    pub(crate) left_mib: f64,
    pub(crate) sockets: usize,
}

impl IdleCost {
    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        format!("{:.2} KiB per socket", self.socket_kib)
    }
}

impl Measurement<'_> {
    /// Measures idle sockets, each of which joins two topics.
    pub(crate) async fn idle(&mut self, sockets: usize) -> anyhow::Result<IdleCost> {
        let mut server = self.start_server(1).await?;
        self.warm_up(&server, sockets).await?;
        let start = stable_bytes(&mut server).await?;
        let mut clients = self.start_clients(&server, sockets, 1, 2)?;
        clients.open().await?;
        let full = stable_bytes(&mut server).await?;
        let open = clients.count().await?.open;
        ensure!(open == sockets, "only {open} of {sockets} sockets stayed open");
        clients.close().await?;
        let left = bytes_after_return(&mut server, start).await?;
        server.stop().await?;
        Ok(IdleCost {
            socket_kib: (full - start) / KIB / sockets as f64,
            start_mib: start / KIB / KIB,
            full_mib: full / KIB / KIB,
            left_mib: left / KIB / KIB,
            sockets,
        })
    }
}

/// Resident bytes once they are stable.
async fn stable_bytes(server: &mut Server) -> anyhow::Result<f64> {
    let deadline = Instant::now() + STABLE_TIMEOUT;
    let mut before = resident(server)?;
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = resident(server)?;
        if (now - before).abs() <= before * STABLE_SHARE || Instant::now() > deadline {
            return Ok(now);
        }
        before = now;
    }
}

/// Resident bytes after all sockets have left: when they are close to the start, or at the timeout.
async fn bytes_after_return(server: &mut Server, start: f64) -> anyhow::Result<f64> {
    let deadline = Instant::now() + RETURN_TIMEOUT;
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = resident(server)?;
        if now <= start * (1.0 + RETURNED_SHARE) || Instant::now() > deadline {
            return Ok(now);
        }
    }
}

fn resident(server: &mut Server) -> anyhow::Result<f64> {
    Ok(server.meter().resident_bytes().context("cannot read the server's memory")? as f64)
}
