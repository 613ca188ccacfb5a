//! One measurement of one server. Each measurement starts the server and its clients, and ends them
//! afterwards.

mod connect;
mod fanout;
mod idle;
mod measurement;

pub(crate) use self::connect::ConnectCost;
pub(crate) use self::fanout::FanoutCost;
pub(crate) use self::idle::IdleCost;
pub(crate) use self::measurement::{MeasureSetup, Measurement};
