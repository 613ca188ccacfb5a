//! The servers that are compared: how each is started, dialled, published to and measured, behind one
//! interface. Each runs for one measurement only.

mod baseline;
mod cost_meter;
mod dialect;
mod gateway;
mod kind;
mod peer;
mod process;
mod process_tree;
mod programs;
mod server;

pub(crate) use self::dialect::Dialect;
pub(crate) use self::gateway::GatewaySource;
pub(crate) use self::kind::ServerKind;
pub(crate) use self::programs::Programs;
pub(crate) use self::server::{Server, ServerSetup};
