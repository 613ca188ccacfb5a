//! Integration tests with real PostgreSQL and real sockets, in one test binary.
//!
//! | module | tests |
//! |---|---|
//! | `accept` | accepted upgrades: the answer, and which organisations exist |
//! | `adoption` | the adoption of live databases, and every way in which one may not fit |
//! | `architecture` | the direction of imports, and the creators of sensitive types |
//! | `attackers` | ways to read, write or join another organisation, in each phase of an adoption |
//! | `audit` | each rule of `warden audit`, on a database that breaks this rule only |
//! | `autobahn` | the cases of the Autobahn test suite, with Phoenix messages |
//! | `claims` | `warden claims sync` against a stand-in of Supabase Auth, and tokens of other providers |
//! | `cli` | the binary: messages, exit codes and streams |
//! | `dev` | `warden dev` needs no server and leaves nothing behind |
//! | `delivery` | which events reach a socket, when, and in which order |
//! | `documents` | what events contain, for columns of every type |
//! | `edge` | limits, proxies, cookies, TLS and the audit trail |
//! | `failover` | standbys, promotions, poolers, and broken connections |
//! | `frames` | every kind of frame that a client may send, and each close code |
//! | `isolation` | random programs: every socket receives its own events, and no others |
//! | `keys` | which keys verify a token; key servers that change, fail or answer wrongly |
//! | `language` | the language of comments, messages and documents, and links in documents |
//! | `limits` | silent sessions and slow sessions |
//! | `membership` | users whose organisation changes |
//! | `openapi` | the OpenAPI document, the answers that it describes, and CORS |
//! | `order` | the order of the events of one row, when triggers of the application change it as well |
//! | `orms` | real applications with an ORM, whose tables Warden adopts |
//! | `phoenix` | the published JavaScript client, unmodified |
//! | `publishing` | back ends that publish through HTTP |
//! | `reading` | rows over HTTP: bytes, filters, pages, cursors, and who sees what |
//! | `refresh` | expiry of tokens, and tokens that replace them |
//! | `resume` | joins with a cursor: missed events once, then live events |
//! | `retention` | rotation of the slots of the log |
//! | `revocation` | revoked sessions end, earlier tokens are rejected, other sessions are unaffected |
//! | `restart` | a restart of the database |
//! | `rls` | access to rows of other organisations, for every table, command and claim |
//! | `rolling` | nodes that are replaced one after the other behind a balancer |
//! | `schema` | rights, claims and constraints of the schema, without a gateway |
//! | `schemas` | schemas of real applications, from the plan to a restored dump |
//! | `secrecy` | tokens and secrets in logs |
//! | `shares` | resources that one organisation takes to their limit, while another is served |
//! | `shutdown` | the drain, one session after the other |
//! | `slow` | clients that read slowly or vanish: their sessions end, and no others |
//! | `threats` | threats of docs/security.md that no other test covers |
//! | `tls` | TLS to the database, in every `sslmode`, with good and bad certificates |
//! | `topics` | tokens that are limited to some topics |
//! | `transactions` | the string `tx`: from the database, live and in replays |
//! | `upgrade` | rejected upgrades, each with its status and code |
//! | `visibility` | sockets show nothing that the same claims may not SELECT |

#![expect(unreachable_pub, reason = "nothing links against a test; pub marks the API of the harness")]

mod accept;
mod access;
mod adoption;
mod architecture;
mod attackers;
mod audit;
mod autobahn;
mod claims;
mod cli;
mod clients;
mod delivery;
mod dev;
mod documents;
mod edge;
mod failover;
mod filters;
mod frames;
mod harness;
mod isolation;
mod keys;
mod language;
#[path = "../legacy/mod.rs"]
mod legacy;
mod limits;
mod membership;
mod openapi;
mod order;
mod orms;
mod phoenix;
mod publishing;
mod reading;
mod recordings;
mod refresh;
mod restart;
mod resume;
mod retention;
mod revocation;
mod rls;
mod rolling;
mod schema;
mod schemas;
mod secrecy;
mod shares;
mod shutdown;
mod slow;
mod threats;
mod tls;
mod topics;
mod transactions;
mod upgrade;
mod visibility;
