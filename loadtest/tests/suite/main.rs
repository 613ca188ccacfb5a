//! The load tester as operators use it: the binary, against real gateways on a real PostgreSQL. The tests do
//! not judge speed.
//!
//! | module | tests |
//! |---|---|
//! | `scenarios` | each scenario for a few seconds: nothing is lost, and the report is complete |
//! | `findings` | every kind of faulty event stream is detected |
//! | `exits` | runs that are interrupted, killed or misused: their messages, and that nothing remains |

mod exits;
mod findings;
mod fixture;
mod scenarios;
