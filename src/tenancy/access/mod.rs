//! Access of each role to the registered tables, before and after the enforce phase.
//!
//! - `overview` prints, table by table and role by role, what each role may do.
//! - `questions` lists what nobody but a person can decide: it blocks the enforce phase.
//!
//! Both only read the catalogs.

mod overview;
mod questions;

pub use overview::AccessOverview;
pub(super) use questions::questions;
