//! The state of a worker.

use bench_support::endpoint::Endpoint;
use bench_support::token::TokenSigner;
use mio::Poll;

use super::bookkeeping::Bookkeeping;
use super::commands::CommandReader;
use super::event_cache::EventCache;
use super::schedule::ConnectSchedule;
use super::socket::Socket;
use crate::check::Ledger;
use crate::clock::Nanos;
use crate::histograms::Histograms;
use crate::message::{SocketCounts, SocketSpec, WorkerTask};

/// The sockets of this process and everything that they share.
pub(super) struct Worker {
    pub(super) poll: Poll,
    pub(super) books: Bookkeeping,
    pub(super) sockets: Vec<Socket>,
    pub(super) specs: Vec<SocketSpec>,
    pub(super) gateways: Vec<Endpoint>,
    pub(super) signer: TokenSigner,
    pub(super) counts: SocketCounts,
    pub(super) schedule: ConnectSchedule,
    /// Until when to wait for missing events, after publishing has ended.
    pub(super) deadline: Option<Nanos>,
    /// Whether to stop waiting.
    pub(super) hurry: bool,
    /// Whether the result of the first socket was reported.
    pub(super) reported_first: bool,
    pub(super) epoch: Nanos,
    pub(super) interval: Nanos,
    /// Intervals that were reported.
    pub(super) reported: usize,
    /// Whether no socket was connecting when this was last checked.
    pub(super) was_idle: bool,
}

impl Worker {
    pub(super) fn new(poll: Poll, commands: CommandReader, task: WorkerTask) -> Self {
        let sockets = task.sockets.iter().enumerate();
        let sockets: Vec<Socket> = sockets.map(|(n, spec)| Socket::new(n, spec.org, spec.filter)).collect();
        let books = Bookkeeping {
            run: task.run,
            topics: task.topics,
            ledger: Ledger::new(&task.orgs),
            commands,
            histograms: Histograms::default(),
            events: EventCache::new(task.orgs.len()),
            separate_first_org: task.separate_first_org,
        };
        Self {
            poll,
            books,
            schedule: ConnectSchedule::new(sockets.len()),
            sockets,
            specs: task.sockets,
            gateways: task.gateways,
            signer: TokenSigner::new(task.tokens),
            counts: SocketCounts::default(),
            deadline: None,
            hurry: false,
            reported_first: false,
            epoch: task.epoch,
            interval: task.interval.max(1),
            reported: 0,
            was_idle: true,
        }
    }

    /// Whether no socket is connecting or due to connect.
    pub(super) fn is_idle(&self) -> bool {
        self.schedule.next_due().is_none() && self.counts.connecting == 0
    }
}
