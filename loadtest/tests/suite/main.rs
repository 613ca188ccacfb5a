//! The load tester as operators use it: the binary, against real gateways on a real PostgreSQL. Nothing
//! here judges how fast anything is.
//!
//! | module | holds against |
//! |---|---|
//! | `scenarios` | each scenario for a few seconds: nothing lost, and the report has its form |
//! | `findings` | a stream of events that is not as it should be is found out |
//! | `endings` | interrupted, killed, refused, misused: what is said, and that nothing is left |

mod endings;
mod findings;
mod fixture;
mod scenarios;
