//! The report of a run: its data and verdict, as JSON, as a table, and as an HTML page with plots.

mod html;
mod model;
mod plot;
mod table;

pub(crate) use self::model::{
    IntervalRow, PhaseReport, Report, ServerReport, StormReport, TesterReport, ThresholdResult,
};
pub(crate) use self::plot::Marker;
