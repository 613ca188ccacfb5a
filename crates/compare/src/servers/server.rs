//! A running server of any kind.

use std::net::SocketAddr;

use anyhow::Context as _;
use bench_support::phoenix;

use super::baseline::Baseline;
use super::cost_meter::CostMeter;
use super::gateway::{Gateway, GatewaySource};
use super::kind::ServerKind;
use super::peer::Peer;
use super::programs::Programs;
use crate::clients::Dial;
use crate::plan::PublishPlan;

/// Reference of heartbeats, beyond those of the joins.
const HEARTBEAT_REF: usize = 9;

/// Settings with which any server can be started.
#[derive(Debug)]
pub(crate) struct ServerSetup {
    pub(crate) programs: Programs,
    /// `None` if the gateway is not measured.
    pub(crate) gateway: Option<GatewaySource>,
}

/// A server that runs. It ends when this is dropped.
pub(crate) enum Server {
    Baseline(Baseline),
    Gateway(Box<Gateway>),
    Peer(Peer),
}

impl Server {
    /// Starts a server for this many groups of sockets.
    pub(crate) async fn start(kind: ServerKind, setup: &ServerSetup, groups: usize) -> anyhow::Result<Self> {
        if let Some(dialect) = kind.dialect() {
            return Ok(Self::Peer(Peer::start(dialect, &setup.programs).await?));
        }
        if kind == ServerKind::Baseline {
            return Ok(Self::Baseline(Baseline::start().await?));
        }
        let source = setup.gateway.as_ref().context("no gateway is configured: see --warden and --url")?;
        Ok(Self::Gateway(Box::new(Gateway::start(source, groups).await?)))
    }

    /// The address to which sockets connect.
    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Self::Baseline(baseline) => baseline.addr(),
            Self::Gateway(gateway) => gateway.addr(),
            Self::Peer(peer) => peer.addr(),
        }
    }

    /// How to open a socket of a group that joins one topic, or two.
    pub(crate) fn dial(&self, group: usize, topics: usize) -> anyhow::Result<Dial> {
        match self {
            Self::Baseline(baseline) => Ok(baseline.dial(group)),
            Self::Gateway(gateway) => gateway.dial(group, topics),
            Self::Peer(peer) => Ok(peer.dial(group, topics)),
        }
    }

    /// The message that keeps an idle socket open, if the server needs one.
    pub(crate) fn heartbeat(&self) -> Option<String> {
        match self {
            Self::Gateway(_) => Some(phoenix::heartbeat(HEARTBEAT_REF)),
            Self::Baseline(_) | Self::Peer(_) => None,
        }
    }

    /// Measures the server's process.
    pub(crate) fn meter(&mut self) -> &mut CostMeter {
        match self {
            Self::Baseline(baseline) => baseline.meter(),
            Self::Gateway(gateway) => gateway.meter(),
            Self::Peer(peer) => peer.meter(),
        }
    }

    /// Publishes on schedule, and returns when the last event is handed over: the delay of the last burst
    /// behind its schedule, in milliseconds.
    pub(crate) async fn publish(&mut self, plan: &PublishPlan) -> anyhow::Result<f64> {
        match self {
            Self::Baseline(baseline) => baseline.publish(plan).await,
            Self::Gateway(gateway) => gateway.publish(plan).await,
            Self::Peer(peer) => peer.publish(plan).await,
        }
    }

    /// Stops the server and cleans up.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Gateway(gateway) => gateway.stop().await,
            Self::Baseline(_) | Self::Peer(_) => Ok(()),
        }
    }
}
