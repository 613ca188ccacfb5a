//! Tenancy of a PostgreSQL database: the registry of tables that belong to organisations, the executor that
//! adopts them while the application keeps writing, and the audit that checks the result.
//!
//! - [`registry`] reads the registered tables; [`plan`] lists the objects that each table still lacks.
//! - [`executor`] creates them online; [`preview`] describes the same steps without changing anything.
//! - [`preflight`] checks what exists before anything is changed, and registers the tables that the operator
//!   lists.
//! - `undecided` finds rows of which nothing says to which organisation they belong.
//! - [`access`] describes who may do what before and after enforcement, and lists the questions that block
//!   it.
//! - [`audit`] checks a database against every tenancy rule.
//!
//! Everything here runs as the migrating role (the operator's `DATABASE_URL`), never as the gateway, and no
//! client session reaches it. Every run reads its work from the catalogs and stores no progress of its own,
//! so the next run completes a run that was killed.

pub mod access;
pub mod audit;
pub mod executor;
mod issue;
pub mod plan;
pub mod preflight;
pub mod preview;
pub mod registry;
mod sql;
mod undecided;

pub use issue::AdoptionIssue;
pub use undecided::is_question as is_default_question;
