//! The share of each organisation in reading: connections, and memory of pages that are read or sent.
//!
//! An organisation uses at most half of either. A request waits in the queue of its own organisation first,
//! so that a flood of one organisation does not delay another one in the queue of the node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ReadError;
use crate::org::OrgId;
use crate::sync::lock;

/// Unit in which memory is counted.
const UNIT_BYTES: usize = 1024;

/// Shares of a node.
#[derive(Debug)]
pub(super) struct Shares {
    node: Capacity,
    orgs: Mutex<HashMap<OrgId, Arc<OrgShare>>>,
    connections_per_org: usize,
    memory_units_per_org: usize,
    waiting_per_org_max: usize,
    wait_timeout: Duration,
}

#[derive(Debug)]
struct Capacity {
    memory: Arc<Semaphore>,
}

#[derive(Debug)]
struct OrgShare {
    connections: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

/// Permission to read a page. It is kept until the page was sent.
#[derive(Debug)]
pub(super) struct ReadPermit {
    /// Released when the page has been read.
    connection: Option<OwnedSemaphorePermit>,
    memory: PageMemory,
}

/// Memory of a page that is read or sent.
#[derive(Debug)]
pub struct PageMemory {
    of_org: OwnedSemaphorePermit,
    of_node: OwnedSemaphorePermit,
    /// Keeps the organisation's share in the map.
    _share: Arc<OrgShare>,
}

impl Shares {
    pub(super) fn new(
        memory_bytes_max: usize,
        connections_max: usize,
        waiting_per_org_max: usize,
        wait_timeout: Duration,
    ) -> Self {
        let memory_units = memory_bytes_max / UNIT_BYTES;
        Self {
            node: Capacity { memory: Arc::new(Semaphore::new(memory_units)) },
            orgs: Mutex::default(),
            connections_per_org: (connections_max / 2).max(1),
            memory_units_per_org: memory_units / 2,
            waiting_per_org_max,
            wait_timeout,
        }
    }

    /// Waits for permission to read a page of up to this many bytes.
    pub(super) async fn acquire(&self, org: OrgId, bytes: usize) -> Result<ReadPermit, ReadError> {
        let share = self.share(org);
        // The map and this request hold one reference each.
        if Arc::strong_count(&share) > self.waiting_per_org_max + 2 {
            return Err(ReadError::OrgBusy);
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let of_org = async {
            let connection = Arc::clone(&share.connections).acquire_owned().await;
            (connection, Arc::clone(&share.memory).acquire_many_owned(units).await)
        };
        let (connection, of_org) =
            tokio::time::timeout(self.wait_timeout, of_org).await.map_err(|_| ReadError::OrgBusy)?;
        let of_node = Arc::clone(&self.node.memory).acquire_many_owned(units);
        let of_node = tokio::time::timeout(self.wait_timeout, of_node).await.map_err(|_| ReadError::Busy)?;
        // No semaphore is ever closed.
        let (Ok(connection), Ok(of_org), Ok(of_node)) = (connection, of_org, of_node) else {
            return Err(ReadError::Busy);
        };
        Ok(ReadPermit { connection: Some(connection), memory: PageMemory { of_org, of_node, _share: share } })
    }

    fn share(&self, org: OrgId) -> Arc<OrgShare> {
        let mut orgs = lock(&self.orgs);
        if let Some(share) = orgs.get(&org) {
            return Arc::clone(share);
        }
        // Shares that no request uses are dropped whenever another organisation reads.
        orgs.retain(|_, share| Arc::strong_count(share) > 1);
        let share = Arc::new(OrgShare {
            connections: Arc::new(Semaphore::new(self.connections_per_org)),
            memory: Arc::new(Semaphore::new(self.memory_units_per_org)),
        });
        orgs.insert(org, Arc::clone(&share));
        share
    }
}

impl ReadPermit {
    /// Ends the use of the connection, and keeps the memory of a page of this size.
    pub(super) fn into_memory(mut self, bytes: usize) -> PageMemory {
        self.connection = None;
        let units = bytes.div_ceil(UNIT_BYTES);
        for permit in [&mut self.memory.of_org, &mut self.memory.of_node] {
            drop(permit.split(permit.num_permits().saturating_sub(units)));
        }
        self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_organisation_gets_half_and_the_rest_remains() {
        let shares = Shares::new(8 * UNIT_BYTES, 4, 3, Duration::from_secs(1));
        let (greedy, other) = (OrgId::for_tests(1), OrgId::for_tests(2));
        let first = shares.acquire(greedy, 2 * UNIT_BYTES).await.expect("is free");
        let second = shares.acquire(greedy, 2 * UNIT_BYTES).await.expect("is free");
        // Both connections of the organisation are in use.
        assert!(matches!(shares.acquire(greedy, 1).await, Err(ReadError::OrgBusy)));
        let theirs = shares.acquire(other, 4 * UNIT_BYTES).await.expect("is free");
        // Pages that are being sent count with their own size.
        let sending = first.into_memory(1);
        let third = shares.acquire(greedy, UNIT_BYTES).await.expect("is free");
        assert!(matches!(shares.acquire(other, UNIT_BYTES).await, Err(ReadError::OrgBusy)));
        drop((second, third, theirs, sending));
        shares.acquire(greedy, 4 * UNIT_BYTES).await.expect("is free");
        assert_eq!(lock(&shares.orgs).len(), 2);
        shares.acquire(OrgId::for_tests(3), 1).await.expect("is free");
        assert_eq!(lock(&shares.orgs).len(), 1, "unused shares are dropped");
    }
}
