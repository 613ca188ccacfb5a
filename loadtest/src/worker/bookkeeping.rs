//! The records that all sockets of a worker share.

use super::commands::CommandReader;
use super::event_cache::EventCache;
use crate::check::Ledger;
use crate::clock::Nanos;
use crate::histograms::{Histograms, Label, LatencyKind};

/// The ledger, the histograms, and what is needed to fill them.
pub(super) struct Bookkeeping {
    /// Id of the run, which marks its changes.
    pub(super) run: String,
    pub(super) topics: Vec<String>,
    pub(super) ledger: Ledger,
    pub(super) commands: CommandReader,
    pub(super) histograms: Histograms,
    pub(super) events: EventCache,
    pub(super) separate_first_org: bool,
}

impl Bookkeeping {
    /// Reads all commands that were written so far.
    pub(super) fn read_commands(&mut self) -> anyhow::Result<()> {
        self.commands.read_available(&mut self.ledger)
    }

    /// Records a duration of a socket of an organisation.
    pub(super) fn record(&mut self, kind: LatencyKind, phase: usize, org: usize, nanos: Nanos) {
        let group = usize::from(!(self.separate_first_org && org == 0));
        self.histograms.record(Label { kind, phase, group }, nanos);
    }
}
