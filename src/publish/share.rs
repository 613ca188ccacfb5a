//! The memory and the connections of each organisation that publishes.
//!
//! A request reserves memory before its body is read. An organisation gets at most half of the memory and of
//! the connections, and less if others use much, so that another one can publish. Even its first request must
//! leave as much memory as it takes, unless its body is small. Its requests wait for a connection in a queue
//! of their own.

use std::sync::Arc;

use crate::capacity::{Capacity, HolderQueues, Portion, QueuedRequest};
use crate::org::OrgId;

/// Copies of a body: the body, the events for the database, and the connection's buffer.
const COPIES: usize = 3;

/// Estimated memory of a request beside its body.
const REQUEST_BYTES: usize = 16 * 1024;

/// Largest body of a first request that need not leave as much memory as it takes. Most events are smaller.
pub const SMALL_BODY_BYTES_MAX: usize = 4 * 1024;

/// Shares of all organisations that publish now.
#[derive(Debug)]
pub struct PublishShares {
    memory: Arc<Capacity<OrgId>>,
    connections: Arc<Capacity<OrgId>>,
    queues: HolderQueues<OrgId>,
}

/// Memory of one request, reserved while this exists.
#[derive(Debug)]
pub struct Reservation {
    org: OrgId,
    memory: Portion<OrgId>,
    connections: Arc<Capacity<OrgId>>,
    request: QueuedRequest,
}

impl PublishShares {
    /// Shares of this memory, and of this number of connections.
    #[must_use]
    pub fn new(bytes_max: usize, connections_max: usize) -> Self {
        Self {
            memory: Capacity::with_small_portions(bytes_max, memory_of(SMALL_BODY_BYTES_MAX)),
            connections: Capacity::new(connections_max),
            queues: HolderQueues::new(),
        }
    }

    /// Reserves memory for a body of this size. Returns none if it is beyond the share of the organisation,
    /// or not free.
    #[must_use]
    pub fn reserve(&self, org: OrgId, body_bytes: usize) -> Option<Reservation> {
        let memory = self.memory.try_take(org, memory_of(body_bytes))?;
        let (connections, request) = (Arc::clone(&self.connections), self.queues.enter(org));
        Some(Reservation { org, memory, connections, request })
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
        let more = memory_of(body_bytes).saturating_sub(self.memory.units());
        more == 0 || self.memory.grow(more)
    }

    /// Waits until the organisation may use one more connection.
    pub(super) async fn turn(&self) -> Portion<OrgId> {
        let _first = self.request.first().await;
        self.connections.take(self.org, 1).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;
    use crate::config::Limits;

    #[test]
    fn an_organisation_gets_half_and_leaves_the_rest() {
        let shares = PublishShares::new(8 * REQUEST_BYTES, 2);
        let org = OrgId::for_tests;
        let held: Vec<_> = std::iter::from_fn(|| shares.reserve(org(1), 0)).collect();
        assert_eq!(held.len(), 4);
        let more: Vec<_> = std::iter::from_fn(|| shares.reserve(org(2), 0)).collect();
        assert_eq!(more.len(), 2, "two organisations together do not take everything");
        assert!(shares.reserve(org(3), REQUEST_BYTES).is_none(), "a body counts with its copies");
        assert!(shares.reserve(org(3), 0).is_some());
        drop((held, more));
        let mut growing = shares.reserve(org(1), 0).expect("memory");
        assert!(growing.cover(REQUEST_BYTES) && growing.cover(1) && !growing.cover(REQUEST_BYTES + 1));
        assert_eq!(growing.memory.units(), 4 * REQUEST_BYTES);
    }

    /// As many as the page about isolation says.
    #[test]
    fn nine_organisations_that_send_the_largest_bodies_leave_memory_for_a_small_one() {
        let limits = Limits::default().publish;
        let shares = PublishShares::new(limits.memory_bytes_max, 1);
        let org = OrgId::for_tests;
        let take_all = |n| {
            let mut body_bytes = limits.body_bytes_max;
            let mut held = Vec::new();
            while body_bytes > 0 {
                match shares.reserve(org(n), body_bytes) {
                    Some(reservation) => held.push(reservation),
                    None => body_bytes /= 2,
                }
            }
            held
        };
        let mut held: Vec<_> = (1..=9).map(take_all).collect();
        drop(shares.reserve(org(10), SMALL_BODY_BYTES_MAX).expect("memory for a small body"));
        held.extend((10..=11).map(take_all));
        assert!(shares.reserve(org(12), 0).is_none(), "more of them use up all");
    }

    #[tokio::test]
    async fn requests_of_an_organisation_take_turns() {
        let shares = PublishShares::new(8 * REQUEST_BYTES, 2);
        let org = OrgId::for_tests(1);
        let (first, second) =
            (shares.reserve(org, 0).expect("memory"), shares.reserve(org, 0).expect("memory"));
        let other = shares.reserve(OrgId::for_tests(2), 0).expect("memory");
        let turn = first.turn().await;
        assert!(shares.connections.try_take(org, 1).is_none(), "the other connection remains");
        drop(other.turn().await);
        drop(turn);
        assert_eq!(second.turn().await.units(), 1);
    }

    /// A request that waits for its turn, and notes its number then. Counts how often it is polled.
    async fn counted_turn(number: usize, request: Reservation, polls: Arc<AtomicUsize>) -> usize {
        let mut turn = pin!(request.turn());
        let turn = poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            turn.as_mut().poll(cx)
        });
        drop(turn.await);
        number
    }

    #[tokio::test]
    async fn a_free_connection_wakes_one_request_of_an_organisation() {
        let shares = PublishShares::new(64 * REQUEST_BYTES, 4);
        let reserve = |org| shares.reserve(OrgId::for_tests(org), 0).expect("memory");
        let (first, second, other) = (reserve(1), reserve(1), reserve(2));
        let held = (first.turn().await, second.turn().await);
        let polls = Arc::new(AtomicUsize::new(0));
        let mut waiting = JoinSet::new();
        for number in 0..10 {
            waiting.spawn(counted_turn(number, reserve(1), Arc::clone(&polls)));
        }
        let count_after = async |releases| {
            for _ in 0..releases {
                drop(other.turn().await);
                tokio::task::yield_now().await;
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            polls.load(Ordering::Relaxed)
        };
        assert_eq!(count_after(0).await, 10);
        assert_eq!(count_after(5).await, 15, "the first request alone is woken");
        drop(held);
        let mut served = Vec::new();
        while let Some(number) = waiting.join_next().await {
            served.push(number.expect("ends"));
        }
        assert_eq!(served, (0..10).collect::<Vec<_>>());
    }
}
