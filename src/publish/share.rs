//! The memory and the turns of each organisation that publishes.
//!
//! A request reserves memory before its body is read. An organisation gets at most half of the memory, and
//! half of the connections, so that another one can always publish.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::org::OrgId;
use crate::sparse::shrink;
use crate::sync::lock;

/// Copies of a body: the body, the events for the database, and the connection's buffer.
const COPIES: usize = 3;

/// Estimated memory of a request beside its body.
const REQUEST_BYTES: usize = 16 * 1024;

/// Shares of all organisations that publish now.
#[derive(Debug)]
pub struct PublishShares {
    bytes_max: usize,
    org_turns_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    orgs: HashMap<OrgId, Share>,
}

#[derive(Debug)]
struct Share {
    bytes: usize,
    turns: Arc<Semaphore>,
}

/// Memory of one request, reserved while this exists.
#[derive(Debug)]
pub struct Reservation {
    shares: Arc<PublishShares>,
    org: OrgId,
    bytes: usize,
    turns: Arc<Semaphore>,
}

impl PublishShares {
    /// Shares of this memory, with at most this many turns of an organisation at a time.
    #[must_use]
    pub fn new(bytes_max: usize, org_turns_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, org_turns_max, state: Mutex::default() })
    }

    /// Reserves memory for a body of this size. Returns none if the organisation, or all of them together,
    /// would have too much.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, org: OrgId, body_bytes: usize) -> Option<Reservation> {
        let bytes = memory_of(body_bytes);
        let turns = self.take(org, bytes)?;
        Some(Reservation { shares: Arc::clone(self), org, bytes, turns })
    }

    fn take(&self, org: OrgId, bytes: usize) -> Option<Arc<Semaphore>> {
        let mut state = lock(&self.state);
        let of_org = state.orgs.get(&org).map_or(0, |share| share.bytes);
        if state.bytes + bytes > self.bytes_max || of_org + bytes > self.bytes_max / 2 {
            return None;
        }
        state.bytes += bytes;
        let new = || Share { bytes: 0, turns: Arc::new(Semaphore::new(self.org_turns_max)) };
        let share = state.orgs.entry(org).or_insert_with(new);
        share.bytes += bytes;
        Some(Arc::clone(&share.turns))
    }
}

/// Memory of a request with a body of this size.
fn memory_of(body_bytes: usize) -> usize {
    COPIES * body_bytes + REQUEST_BYTES
}

impl Reservation {
    /// Reserves more if the body is longer than announced. Returns false if there is not enough memory.
    #[must_use]
    pub fn cover(&mut self, body_bytes: usize) -> bool {
        let more = memory_of(body_bytes).saturating_sub(self.bytes);
        if more > 0 && self.shares.take(self.org, more).is_none() {
            return false;
        }
        self.bytes += more;
        true
    }

    /// Waits until the organisation may use one more connection.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.turns.acquire().await.ok()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = lock(&self.shares.state);
        state.bytes -= self.bytes;
        if let Some(share) = state.orgs.get_mut(&self.org) {
            share.bytes -= self.bytes;
            if share.bytes == 0 {
                state.orgs.remove(&self.org);
                shrink(&mut state.orgs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organisation_gets_half_and_leaves_the_rest() {
        let shares = PublishShares::new(8 * REQUEST_BYTES, 1);
        let (loud, quiet) = (OrgId::for_tests(1), OrgId::for_tests(2));
        let held: Vec<_> = std::iter::from_fn(|| shares.reserve(loud, 0)).collect();
        assert_eq!(held.len(), 4);
        assert!(shares.reserve(quiet, REQUEST_BYTES).is_some(), "a body counts with its copies");
        assert!(shares.reserve(quiet, 2 * REQUEST_BYTES).is_none());
        drop(held);
        let mut growing = shares.reserve(loud, 0).expect("memory");
        assert!(growing.cover(REQUEST_BYTES) && growing.cover(1) && !growing.cover(REQUEST_BYTES + 1));
        assert_eq!(growing.bytes, 4 * REQUEST_BYTES);
        drop(growing);
        let state = lock(&shares.state);
        assert_eq!((state.bytes, state.orgs.len()), (0, 0));
    }

    #[tokio::test]
    async fn requests_of_an_organisation_take_turns() {
        let shares = PublishShares::new(8 * REQUEST_BYTES, 1);
        let org = OrgId::for_tests(1);
        let (first, second) =
            (shares.reserve(org, 0).expect("memory"), shares.reserve(org, 0).expect("memory"));
        let other = shares.reserve(OrgId::for_tests(2), 0).expect("memory");
        let turn = first.turn().await.expect("a turn");
        assert!(second.turns.try_acquire().is_err() && other.turns.try_acquire().is_ok());
        drop(turn);
        assert!(second.turns.try_acquire().is_ok());
    }
}
