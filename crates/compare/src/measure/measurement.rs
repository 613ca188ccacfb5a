//! The common part of all measurements: starting a server and its clients.

use std::time::Duration;

use tokio::time::sleep;

use crate::clients::{Clients, Dial};
use crate::servers::{Server, ServerKind, ServerSetup};

/// Pause before a measurement begins, in which the processes that the last step woke go back to sleep.
pub(super) const CALM: Duration = Duration::from_millis(300);
/// Handshakes in progress at the same time.
const CONCURRENT_HANDSHAKES: usize = 16;
/// Sockets that connect and leave before handshakes or memory are measured.
const WARM_UP_CONNECTS: usize = 200;

/// Settings that all measurements of a comparison share.
#[derive(Debug)]
pub(crate) struct MeasureSetup {
    pub(crate) servers: ServerSetup,
    /// How long each measurement publishes.
    pub(crate) duration: Duration,
    /// Wanted length of an event on the wire.
    pub(crate) event_bytes: usize,
}

/// One measurement of one server.
pub(crate) struct Measurement<'a> {
    pub(crate) setup: &'a MeasureSetup,
    pub(crate) kind: ServerKind,
    /// Counts all measurements, because each has source addresses of its own.
    pub(crate) run: &'a mut usize,
}

impl Measurement<'_> {
    pub(super) async fn start_server(&self, groups: usize) -> anyhow::Result<Server> {
        let server = Server::start(self.kind, &self.setup.servers, groups).await?;
        sleep(CALM).await;
        Ok(server)
    }

    /// Starts the clients' processes, which open no socket yet.
    pub(super) fn start_clients(
        &mut self,
        server: &Server,
        sockets: usize,
        groups: usize,
        topics: usize,
    ) -> anyhow::Result<Clients> {
        let dials: Vec<Dial> =
            (0..sockets).map(|n| server.dial(n % groups, topics)).collect::<Result<_, _>>()?;
        *self.run += 1;
        let heartbeat = server.heartbeat();
        Clients::start(server.addr(), dials, CONCURRENT_HANDSHAKES, heartbeat.as_deref(), *self.run)
    }

    /// Opens and closes up to 200 sockets, at most as many as will be measured. The first sockets load code
    /// and fill pools that all later ones share.
    pub(super) async fn warm_up(&mut self, server: &Server, measured: usize) -> anyhow::Result<()> {
        let mut clients = self.start_clients(server, measured.min(WARM_UP_CONNECTS), 1, 1)?;
        clients.open().await
    }
}
