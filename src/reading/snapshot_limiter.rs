//! Limits how many snapshots an organisation may read at the same time, and how many may wait.
//!
//! A snapshot keeps its permit from its first page until the client has accepted the last one. So clients
//! that do not read their sockets hold the permits of their own organisation, and of no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ReadError;
use super::limits::ReadingLimits;
use crate::org::OrgId;
use crate::sync::lock;

/// Permits of all organisations that read snapshots now.
#[derive(Debug)]
pub(super) struct SnapshotLimiter {
    orgs: Mutex<HashMap<OrgId, Arc<Semaphore>>>,
    per_org_max: usize,
    waiting_max: usize,
    wait_timeout: Duration,
}

/// The permit of one snapshot. Dropping it frees it.
#[derive(Debug)]
pub(super) struct SnapshotPermit {
    /// Keeps the organisation in the map, too.
    _permit: OwnedSemaphorePermit,
}

impl SnapshotLimiter {
    pub(super) fn new(limits: &ReadingLimits) -> Self {
        Self {
            orgs: Mutex::default(),
            per_org_max: limits.snapshots_per_org_max,
            waiting_max: limits.snapshots_waiting_per_org_max,
            wait_timeout: limits.wait_timeout,
        }
    }

    /// Waits for a permit of the organisation.
    pub(super) async fn take(&self, org: OrgId) -> Result<SnapshotPermit, ReadError> {
        let places = self.of(org);
        // The map and this snapshot hold one reference each.
        if Arc::strong_count(&places) > self.per_org_max + self.waiting_max + 1 {
            return Err(ReadError::OrgBusy);
        }
        match tokio::time::timeout(self.wait_timeout, places.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(SnapshotPermit { _permit: permit }),
            // Too late. No semaphore is ever closed.
            Ok(Err(_)) | Err(_) => Err(ReadError::OrgBusy),
        }
    }

    fn of(&self, org: OrgId) -> Arc<Semaphore> {
        let mut orgs = lock(&self.orgs);
        if let Some(places) = orgs.get(&org) {
            return Arc::clone(places);
        }
        // Permits that no snapshot uses are dropped whenever another organisation begins one.
        orgs.retain(|_, places| Arc::strong_count(places) > 1);
        let places = Arc::new(Semaphore::new(self.per_org_max));
        orgs.insert(org, Arc::clone(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn permits_are_counted_by_organisation() {
        let (per_org_max, waiting_max, wait_timeout) = (2, 1, Duration::from_secs(1));
        let places = SnapshotLimiter { orgs: Mutex::default(), per_org_max, waiting_max, wait_timeout };
        let (greedy, other) = (OrgId::for_tests(1), OrgId::for_tests(2));
        let first = places.take(greedy).await.expect("is free");
        let _second = places.take(greedy).await.expect("is free");
        assert!(matches!(places.take(greedy).await, Err(ReadError::OrgBusy)), "waits in vain");
        places.take(other).await.expect("another organisation has permits of its own");
        let begun = Instant::now();
        let take_timed = async || (places.take(greedy).await.is_err(), begun.elapsed());
        let (waiting, beyond) = tokio::join!(take_timed(), take_timed());
        assert_eq!((waiting, beyond), ((true, wait_timeout), (true, Duration::ZERO)));
        drop(first);
        places.take(greedy).await.expect("a permit is free again");
        places.take(OrgId::for_tests(3)).await.expect("is free");
        assert_eq!(lock(&places.orgs).len(), 2, "unused entries are dropped");
    }
}
