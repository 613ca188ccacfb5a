//! The kinds of servers.

use serde::{Serialize, Serializer};

use super::dialect::Dialect;

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum ServerKind {
    /// The bare write loop
    Baseline,
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

impl ServerKind {
    /// All kinds, in the order in which they are measured.
    pub(crate) const ALL: [Self; 6] =
        [Self::Baseline, Self::Gateway, Self::Nchan, Self::Nats, Self::Bun, Self::Centrifugo];

    /// The dialect of another project's server; `None` for the baseline and the gateway.
    pub(crate) fn dialect(self) -> Option<Dialect> {
        match self {
            Self::Baseline | Self::Gateway => None,
            Self::Nchan => Some(Dialect::Nchan),
            Self::Nats => Some(Dialect::Nats),
            Self::Bun => Some(Dialect::Bun),
            Self::Centrifugo => Some(Dialect::Centrifugo),
        }
    }

    /// Name in tables and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match (self, self.dialect()) {
            (_, Some(dialect)) => dialect.name(),
            (Self::Gateway, None) => "gateway",
            (_, None) => "baseline",
        }
    }
}

impl Serialize for ServerKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
