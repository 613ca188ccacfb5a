//! The CPU time of an upgrade and a join.

use serde::Serialize;
use tokio::time::sleep;

use super::measurement::{CALM, Measurement};

/// The cost of handshakes in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConnectCost {
    /// Microseconds of CPU time per upgrade and join.
    pub(crate) connect_us: f64,
    pub(crate) connects: usize,
}

impl ConnectCost {
    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        format!("{:.1} us per upgrade and join", self.connect_us)
    }
}

impl Measurement<'_> {
    /// Measures handshakes.
    pub(crate) async fn connect(&mut self, connects: usize) -> anyhow::Result<ConnectCost> {
        let mut server = self.start_server(1).await?;
        self.warm_up(&server, connects).await?;
        let mut clients = self.start_clients(&server, connects, 1, 1)?;
        sleep(CALM).await;
        let before = server.meter().cpu()?;
        clients.open().await?;
        let spent = server.meter().cpu()? - before;
        drop(clients);
        server.stop().await?;
        Ok(ConnectCost { connect_us: spent.as_secs_f64() * 1e6 / connects as f64, connects })
    }
}
