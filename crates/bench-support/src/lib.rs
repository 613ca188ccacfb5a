//! Code that the load tester (`warden-loadtest`) and the comparison with peers (`warden-compare`) share: the
//! parts of a WebSocket client, the tokens and organisations of a run, and facts about this machine.
//!
//! It shares no code with the gateway, so that a mistake there is not repeated here. It contains no event
//! loop either: the load tester parses and checks every event, while the comparison only counts marks in the
//! bytes that it reads, because its clients run beside the server that it measures.

pub mod connect;
pub mod database;
pub mod duration;
pub mod endpoint;
pub mod frames;
pub mod handshake;
pub mod machine;
pub mod phoenix;
pub mod process;
pub mod token;
