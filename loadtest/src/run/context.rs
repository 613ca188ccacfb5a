//! The data of a run that its parts share.

use std::sync::{Arc, Mutex};

use bench_support::endpoint::Endpoint;

use crate::args::Plan;
use crate::observations::{Observations, Sample};

/// The plan of a run, what was found out when it was prepared, and its observations.
pub(super) struct RunContext {
    pub(super) plan: Plan,
    /// Id of the run.
    pub(super) run: String,
    pub(super) gateways: Vec<Endpoint>,
    pub(super) source_addresses: usize,
    /// Worker processes.
    pub(super) workers: usize,
    /// Start time in UTC (RFC 3339).
    pub(super) began: String,
    pub(super) observations: Arc<Mutex<Observations>>,
}

/// Moments of a run, with the usage until then.
pub(super) struct Milestones {
    pub(super) begin: Sample,
    /// All sockets that are opened first are open.
    pub(super) open: Sample,
    /// The schedule has ended, or the run was interrupted.
    pub(super) published: Sample,
    /// All events have arrived, or the deadline has passed.
    pub(super) settled: Sample,
}
