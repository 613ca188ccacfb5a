//! The client side of a measurement, the same for every server. Separate processes hold the sockets. They run
//! at the lowest priority, so that the clients do not slow down the server that is measured.

mod connection;
mod pool;
mod protocol;
mod socket_holder;

pub(crate) use self::pool::Clients;
pub(crate) use self::protocol::{Count, Dial};
pub(crate) use self::socket_holder::run as hold_sockets;
