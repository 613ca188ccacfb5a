//! Integration tests: real PostgreSQL, real sockets, one binary.
//!
//! | module | holds against |
//! |---|---|
//! | `accept` | an accepted upgrade: its answer, and which organisations exist |
//! | `adoption` | a live database from the time before organisations, and every way in which it may not fit |
//! | `architecture` | the direction of imports, and who may make what |
//! | `audit` | each rule of `warden audit`, in a database where exactly that is broken |
//! | `cli` | the binary: its messages, exit codes and streams |
//! | `dev` | the command for development: nothing needed, nothing left |
//! | `delivery` | what reaches a socket, when, and in which order |
//! | `edge` | limits, proxies, cookies, TLS, the audit trail: what strangers and clients may use |
//! | `failover` | standbys, promotions, poolers, and connections that break in every way |
//! | `frames` | whatever a client may send, and how each session ends |
//! | `isolation` | random programs: every socket gets its own events, and no others |
//! | `keys` | whose keys verify a token; key servers that change, fail and lie |
//! | `language` | the language of comments, messages and documents, and links in documents |
//! | `limits` | silent sessions and slow ones |
//! | `membership` | users whose organisation changes |
//! | `phoenix` | the published JavaScript client, unmodified |
//! | `refresh` | the time of tokens, and tokens that replace them |
//! | `resume` | coming back with a cursor: what was missed, once, then live |
//! | `retention` | the ring of the log moves on |
//! | `revocation` | revoked sessions end, tokens from before stay out, and others notice nothing |
//! | `restart` | a database that goes away and comes back |
//! | `rls` | one organisation's rows from another, for every table, command and claim |
//! | `rolling` | nodes replaced one after the other behind a balancer |
//! | `schema` | rights, claims, and what the schema refuses, without a gateway |
//! | `secrecy` | tokens and secrets in logs |
//! | `shutdown` | going down, one session after the other |
//! | `slow` | clients that read slowly or vanish: they end, and alone |
//! | `threats` | what no other test shows of the table of threats in docs/security.md |
//! | `topics` | tokens that are limited to some topics |
//! | `upgrade` | who may not connect: each refusal with its status and code |

#![expect(unreachable_pub, reason = "nothing links against a test; pub marks the harness's designed API")]

mod accept;
mod adoption;
mod architecture;
mod audit;
mod cli;
mod delivery;
mod dev;
mod edge;
mod failover;
mod frames;
mod harness;
mod isolation;
mod keys;
mod language;
#[path = "../legacy/mod.rs"]
mod legacy;
mod limits;
mod membership;
mod phoenix;
mod refresh;
mod restart;
mod resume;
mod retention;
mod revocation;
mod rls;
mod rolling;
mod schema;
mod secrecy;
mod shutdown;
mod slow;
mod threats;
mod topics;
mod upgrade;
