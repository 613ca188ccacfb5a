//! The share of each organisation in reading: connections, and memory of pages that are read or sent.
//!
//! An organisation uses at most half of either, and less if others use much. The other half of the memory is
//! for organisations that hold no page, so it takes many of them to use up all. Requests of an organisation
//! wait in a queue of their own, so that a flood of one organisation does not delay another one.

use std::sync::Arc;
use std::time::Duration;

use super::error::ReadError;
use crate::capacity::{Capacity, HolderQueues, Portion, QueuedRequest};
use crate::org::OrgId;

/// Shares of a node.
#[derive(Debug)]
pub(super) struct Shares {
    connections: Arc<Capacity<OrgId>>,
    memory: Arc<Capacity<OrgId>>,
    /// Requests of each organisation, until their pages were sent.
    queues: HolderQueues<OrgId>,
    waiting_per_org_max: usize,
    wait_timeout: Duration,
}

/// Permission to read a page. It is kept until the page was sent.
#[derive(Debug)]
pub(super) struct ReadPermit {
    /// Freed when the page has been read.
    connection: Portion<OrgId>,
    memory: PageMemory,
}

/// Memory of a page that is read or sent.
#[derive(Debug)]
pub struct PageMemory {
    portion: Portion<OrgId>,
    _request: QueuedRequest,
}

impl Shares {
    pub(super) fn new(
        memory_bytes_max: usize,
        connections_max: usize,
        waiting_per_org_max: usize,
        wait_timeout: Duration,
    ) -> Self {
        Self {
            connections: Capacity::new(connections_max),
            memory: Capacity::with_reserve(memory_bytes_max, memory_bytes_max / 2),
            queues: HolderQueues::new(),
            waiting_per_org_max,
            wait_timeout,
        }
    }

    /// Waits for permission to read a page of up to this many bytes.
    pub(super) async fn acquire(&self, org: OrgId, bytes: usize) -> Result<ReadPermit, ReadError> {
        let request = self.queues.enter(org);
        if request.count() > self.waiting_per_org_max + 1 {
            return Err(ReadError::OrgBusy);
        }
        let portions = async {
            let _first = request.first().await;
            // Memory first: a request without memory does not keep a connection.
            let memory = self.memory.take(org, bytes).await;
            (memory, self.connections.take(org, 1).await)
        };
        match tokio::time::timeout(self.wait_timeout, portions).await {
            Ok((portion, connection)) => {
                Ok(ReadPermit { connection, memory: PageMemory { portion, _request: request } })
            }
            Err(_) if self.memory.is_holder(org) => Err(ReadError::OrgBusy),
            Err(_) => Err(ReadError::Busy),
        }
    }
}

impl ReadPermit {
    /// Ends the use of the connection, and keeps the memory of a page of this size.
    pub(super) fn into_memory(self, bytes: usize) -> PageMemory {
        let Self { connection, mut memory } = self;
        drop(connection);
        memory.portion.shrink_to(bytes);
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_organisation_gets_half_and_the_rest_remains() {
        let shares = Shares::new(8, 4, 3, Duration::from_secs(1));
        let (greedy, other) = (OrgId::for_tests(1), OrgId::for_tests(2));
        let first = shares.acquire(greedy, 2).await.expect("is free");
        let second = shares.acquire(greedy, 2).await.expect("is free");
        // Both connections of the organisation are in use.
        assert!(matches!(shares.acquire(greedy, 0).await, Err(ReadError::OrgBusy)));
        let theirs = shares.acquire(other, 2).await.expect("is free");
        // Pages that are being sent count with their own size.
        let sending = first.into_memory(1);
        assert!(matches!(shares.acquire(greedy, 1).await, Err(ReadError::OrgBusy)), "others use much");
        drop(theirs);
        let third = shares.acquire(greedy, 1).await.expect("is free");
        assert!(matches!(shares.acquire(other, 5).await, Err(ReadError::Busy)));
        drop((second, third, sending));
        shares.acquire(greedy, 4).await.expect("is free");
        assert_eq!(shares.queues.len(), 2);
        shares.acquire(OrgId::for_tests(3), 1).await.expect("is free");
        assert_eq!(shares.queues.len(), 1, "unused queues are dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn two_organisations_that_take_all_that_they_get_leave_room_for_another_one() {
        let shares = Shares::new(16, 4, 9, Duration::from_secs(1));
        let mut held = Vec::new();
        for org in [1, 2].map(OrgId::for_tests) {
            while let Ok(permit) = shares.acquire(org, 2).await {
                held.push(permit);
            }
        }
        assert_eq!(held.len(), 3, "connections");
        let reading = shares.acquire(OrgId::for_tests(3), 2).await.expect("a connection and memory");
        drop(reading);
        // Pages that nobody receives need no connection.
        let mut unsent: Vec<_> = held.into_iter().map(|permit| permit.into_memory(2)).collect();
        for org in [1, 2].map(OrgId::for_tests) {
            while let Ok(permit) = shares.acquire(org, 2).await {
                unsent.push(permit.into_memory(2));
            }
        }
        shares.acquire(OrgId::for_tests(3), 2).await.expect("memory");
    }

    #[tokio::test(start_paused = true)]
    async fn eight_organisations_with_unread_pages_leave_a_page_for_another_one() {
        // A page of one unit takes two while it is read.
        let shares = Shares::new(16, 4, 99, Duration::from_secs(1));
        let mut unread = Vec::new();
        for org in (1..=8).map(OrgId::for_tests) {
            while let Ok(permit) = shares.acquire(org, 2).await {
                unread.push(permit.into_memory(1));
            }
        }
        assert_eq!(unread.len(), 7 + 7, "the first one has seven pages");
        shares.acquire(OrgId::for_tests(9), 2).await.expect("memory for a page");
    }
}
