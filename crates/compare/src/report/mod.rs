//! The result of a comparison, as tables for people and as JSON.

mod markdown;
mod median;
mod model;

pub(crate) use self::model::{Medians, Report, Row, Table};
