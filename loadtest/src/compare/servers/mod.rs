//! The servers that are compared: how each is started, dialled, published to and measured, in one form. Each is
//! started for one measurement and ends with it.

mod floor;
mod gateway;
mod peer;
mod process;

use std::net::SocketAddr;

use serde::{Serialize, Serializer};

pub(crate) use gateway::GatewaySource;
pub(crate) use peer::Dialect;
pub(crate) use process::Meter;

use super::args::CompareArgs;
use super::clients::Dial;
use crate::floor::Plan;

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The bare write loop
    Floor,
    /// Warden
    Gateway,
    /// nginx with the module Nchan
    Nchan,
    /// nats-server, over WebSocket
    Nats,
    /// Bun's WebSocket server and its pub/sub
    Bun,
    /// Centrifugo
    Centrifugo,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Floor, Self::Gateway, Self::Nchan, Self::Nats, Self::Bun, Self::Centrifugo];

    /// None for what is our own.
    pub(crate) fn dialect(self) -> Option<Dialect> {
        match self {
            Self::Floor | Self::Gateway => None,
            Self::Nchan => Some(Dialect::Nchan),
            Self::Nats => Some(Dialect::Nats),
            Self::Bun => Some(Dialect::Bun),
            Self::Centrifugo => Some(Dialect::Centrifugo),
        }
    }

    /// As in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Gateway => "gateway",
            Self::Nchan => "nchan",
            Self::Nats => "nats",
            Self::Bun => "bun",
            Self::Centrifugo => "centrifugo",
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What became of a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    /// The last burst was published so much after it was due, in milliseconds.
    pub(crate) lag_ms: f64,
}

/// A server that runs.
pub(crate) enum Server {
    Floor(floor::Floor),
    Gateway(Box<gateway::Gateway>),
    Peer(peer::Peer),
}

impl Server {
    /// Starts a server for so many groups of sockets.
    pub(crate) async fn start(kind: Kind, args: &CompareArgs, groups: usize) -> anyhow::Result<Self> {
        Ok(match kind.dialect() {
            Some(dialect) => Self::Peer(peer::Peer::start(dialect, args).await?),
            None if kind == Kind::Floor => Self::Floor(floor::Floor::start().await?),
            None => Self::Gateway(Box::new(gateway::Gateway::start(args, groups).await?)),
        })
    }

    /// Where sockets connect to.
    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Self::Floor(floor) => floor.addr(),
            Self::Gateway(gateway) => gateway.addr(),
            Self::Peer(peer) => peer.addr(),
        }
    }

    /// How a socket of a group is opened, joined to one topic or to two.
    pub(crate) fn dial(&self, group: usize, topics: usize) -> anyhow::Result<Dial> {
        match self {
            Self::Floor(floor) => Ok(floor.dial(group)),
            Self::Gateway(gateway) => gateway.dial(group, topics),
            Self::Peer(peer) => Ok(peer.dial(group, topics)),
        }
    }

    /// What a client sends to be kept.
    pub(crate) fn heartbeat(&self) -> Option<&'static str> {
        match self {
            Self::Gateway(_) => Some(r#"[null,"9","phoenix","heartbeat",{}]"#),
            Self::Floor(_) | Self::Peer(_) => None,
        }
    }

    pub(crate) fn meter(&mut self) -> &mut Meter {
        match self {
            Self::Floor(floor) => floor.meter(),
            Self::Gateway(gateway) => gateway.meter(),
            Self::Peer(peer) => peer.meter(),
        }
    }

    /// Publishes on schedule, and returns when the last event was handed over.
    pub(crate) async fn publish(&mut self, plan: &Plan) -> anyhow::Result<Published> {
        match self {
            Self::Floor(floor) => floor.publish(plan).await,
            Self::Gateway(gateway) => gateway.publish(plan).await,
            Self::Peer(peer) => peer.publish(plan).await,
        }
    }

    /// Ends it in order. Dropping it ends it too.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Gateway(gateway) => gateway.stop().await,
            Self::Floor(_) | Self::Peer(_) => Ok(()),
        }
    }
}

/// The head of an upgrade, with more lines where needed.
fn upgrade(addr: SocketAddr, path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}
