//! Building blocks of the tests and benchmarks: a Phoenix client, faulty proxies, key servers, and gateways
//! in processes of their own.
//!
//! It depends on no code of the gateway. A client that shared the gateway's codec would share its mistakes.
//! Functions here panic on failure, because a test has no better answer; only [`phoenix`] reports errors,
//! for clients that expect their connections to break.

mod client;
pub mod filters;
pub mod frames;
pub mod keys;
pub mod phoenix;
mod process;
mod proxy;
mod wait;

pub use client::{Client, Event, Reply};
pub use process::{GatewayProcess, free_port};
pub use proxy::{Gate, PostgresProxy, TcpProxy};
pub use wait::{DEADLINE, eventually, within};
