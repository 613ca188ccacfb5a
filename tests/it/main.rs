//! Integration tests: real PostgreSQL, real sockets, one binary.
//!
//! | module | holds against |
//! |---|---|
//! | `architecture` | the direction of imports, and who may make what |
//! | `delivery` | what reaches a socket, when, and in which order |

#![expect(unreachable_pub, reason = "nothing links against a test; pub marks the harness's designed API")]

mod architecture;
mod delivery;
mod harness;
