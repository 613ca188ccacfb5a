//! When sockets connect: first connections, reconnects and replacements.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use crate::clock::{Nanos, now, seconds};

/// The connections that are due, and the churn.
pub(super) struct ConnectSchedule {
    /// Sockets of the worker.
    total: usize,
    /// Sockets that were scheduled for their first connection.
    opened: usize,
    due: BinaryHeap<Reverse<(Nanos, usize)>>,
    churn: Option<Churn>,
    /// Sockets that wait for their last events before they leave.
    pub(super) leaving: HashSet<usize>,
}

struct Churn {
    every: Nanos,
    next: Nanos,
}

impl ConnectSchedule {
    pub(super) fn new(total: usize) -> Self {
        Self { total, opened: 0, due: BinaryHeap::new(), churn: None, leaving: HashSet::new() }
    }

    /// Schedules first connections until this many sockets were opened.
    pub(super) fn open(&mut self, until: usize, per_second: f64) {
        let (begin, end) = (now(), until.clamp(self.opened, self.total));
        for (n, socket) in (self.opened..end).enumerate() {
            self.connect_at(begin + offset(n, per_second), socket);
        }
        self.opened = end;
    }

    pub(super) fn connect_at(&mut self, at: Nanos, socket: usize) {
        self.due.push(Reverse((at, socket)));
    }

    /// When the next socket is due.
    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Removes and returns a socket that is due by `moment`.
    pub(super) fn pop_due(&mut self, moment: Nanos) -> Option<usize> {
        if self.next_due()? > moment {
            return None;
        }
        self.due.pop().map(|Reverse((_, socket))| socket)
    }

    /// Cancels the connections of sockets that do not match.
    pub(super) fn retain(&mut self, matches: impl Fn(usize) -> bool) {
        self.due.retain(|Reverse((_, socket))| matches(*socket));
    }

    /// Sets the rate at which sockets leave; 0 ends the churn.
    pub(super) fn set_churn(&mut self, per_second: f64) {
        let every = seconds(1.0 / per_second).max(1);
        self.churn = (per_second > 0.0).then(|| Churn { every, next: now() + every });
    }

    /// The number of sockets that are due to leave.
    pub(super) fn take_due_leavers(&mut self, moment: Nanos) -> u32 {
        let Some(churn) = &mut self.churn else { return 0 };
        let mut due = 0;
        while churn.next <= moment {
            churn.next += churn.every;
            due += 1;
        }
        due
    }
}

/// Delay of the `n`th connection behind the first. At a rate of 0 all are due at once.
pub(super) fn offset(n: usize, per_second: f64) -> Nanos {
    if per_second > 0.0 { seconds(n as f64 / per_second) } else { 0 }
}
