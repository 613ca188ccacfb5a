//! Access of each role to the registered tables, before and after the enforce phase.
//!
//! - `overview` prints, table by table and role by role, what each role may do.
//! - `conditions` asks about policies that read tables which will be isolated.
//! - `questions` lists what nobody but a person can decide: it blocks the enforce phase.
//!
//! Both only read the catalogs.

mod conditions;
mod overview;
mod questions;

pub(super) use conditions::question as condition_question;
pub use overview::AccessOverview;
pub(super) use questions::questions;
