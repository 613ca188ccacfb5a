//! Tests of the queue: turns, shares of places and memory, and what a cancelled resume leaves behind.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;

const LIMITS: ReplayQueueLimits = ReplayQueueLimits {
    places_max: 1000,
    place_bytes_max: 1_000_000,
    read_bytes: 10,
    bytes_max: 40,
    org_bytes_max: 20,
    hold_min: Duration::from_secs(2),
};

/// A waiter with a number.
#[derive(Debug)]
struct Numbered(PlaceId, u32);

impl Queued for Numbered {
    fn place(&self) -> PlaceId {
        self.0
    }
}

type TestQueue = Arc<ReplayQueue<Numbered>>;

fn queue_with(limits: ReplayQueueLimits) -> TestQueue {
    Arc::new(ReplayQueue::new(limits, Arc::default()))
}

fn queue() -> TestQueue {
    queue_with(LIMITS)
}

fn org(n: u128) -> OrgId {
    OrgId::for_tests(n)
}

fn push(queue: &TestQueue, org: OrgId, number: u32) -> Place<Numbered> {
    let place = queue.enter(org, 1).expect("a place");
    queue.push(org, Numbered(place.id(), number));
    place
}

fn next(queue: &TestQueue) -> Option<ReadJob<Numbered>> {
    queue.try_next_job().ok()
}

fn numbers(job: &ReadJob<Numbered>) -> Vec<u32> {
    job.waiters.iter().map(|waiter| waiter.1).collect()
}

#[test]
fn an_organisation_waits_for_at_most_one_read_of_each_other() {
    let queue = queue();
    let mut places: Vec<_> = (0..200).map(|n| push(&queue, org(1), n)).collect();
    let first = next(&queue).expect("a job");
    assert_eq!((first.org, first.waiters.len()), (org(1), 200));
    places.extend((0..100).map(|n| push(&queue, org(1), n)));
    places.push(push(&queue, org(2), 0));
    // An organisation has one read at a time.
    let second = next(&queue).expect("a job");
    assert_eq!(second.org, org(2));
    assert!(next(&queue).is_none());
    // Waiters that arrived during the read share the next one.
    drop(first);
    places.push(push(&queue, org(3), 0));
    let third = next(&queue).expect("a job");
    assert_eq!((third.org, third.waiters.len()), (org(1), 100));
    assert_eq!(next(&queue).expect("a job").org, org(3));
}

#[test]
fn other_organisations_are_served_between_the_groups_of_a_split_read() {
    let queue = queue();
    let mut places: Vec<_> = (0..4).map(|n| push(&queue, org(1), n)).collect();
    let mut job = next(&queue).expect("a job");
    places.push(push(&queue, org(1), 4));
    places.push(push(&queue, org(2), 0));
    let older = job.waiters.split_off(2);
    queue.requeue(org(1), vec![std::mem::take(&mut job.waiters), older]);
    drop(job);
    let orders: Vec<_> = std::iter::from_fn(|| next(&queue).map(|job| (job.org, numbers(&job)))).collect();
    assert_eq!(orders, [(org(2), vec![0]), (org(1), vec![0, 1]), (org(1), vec![2, 3]), (org(1), vec![4])]);
}

#[test]
fn places_are_shared_equally_once_all_are_taken() {
    const ORGS: u128 = 10;
    let queue = queue();
    let take = |n, bytes| std::iter::from_fn(|| queue.enter(org(n), bytes)).collect::<Vec<_>>();
    let kept = |places: &[Place<_>]| places.iter().filter(|place| !place.evicted.is_cancelled()).count();
    // One organisation gets at most half, and every other its part of the whole.
    let places: Vec<_> = (0..ORGS).map(|n| take(n, 1)).collect();
    assert_eq!(places[0].len(), 500);
    assert!(places.iter().all(|places| kept(places) == 100), "{:?}", places.iter().map(|p| kept(p)));
    // The newest places are evicted. The oldest have waited longest.
    assert!(!places[0][99].evicted.is_cancelled() && places[0][100].evicted.is_cancelled());
    assert_eq!(lock(&queue.state).places(), 1000);
    drop(places);
    assert!(lock(&queue.state).is_empty());
}

#[test]
fn cursor_bytes_are_shared_equally_once_all_are_taken() {
    let queue = queue();
    let take = |n, bytes| std::iter::from_fn(|| queue.enter(org(n), bytes)).collect::<Vec<_>>();
    let kept = |places: &[Place<_>]| places.iter().filter(|place| !place.evicted.is_cancelled()).count();
    let greedy = [take(1, 100_000), take(2, 100_000)];
    let small = take(3, 10_000);
    assert_eq!(greedy.map(|places| kept(&places)), [3, 3]);
    assert_eq!(kept(&small), 40);
}

#[test]
fn cancelled_resumes_free_their_places_and_leave_the_queue() {
    let queue = queue();
    // In a group of a split read, in a read, and waiting.
    let mut places: Vec<_> = (0..3).map(|n| push(&queue, org(1), n)).collect();
    let mut job = next(&queue).expect("a job");
    drop(places.pop());
    queue.requeue(org(1), vec![std::mem::take(&mut job.waiters)]);
    drop(places.pop());
    drop(job);
    let job = next(&queue).expect("a job");
    assert_eq!(numbers(&job), [0]);
    places.extend((3..6).map(|n| push(&queue, org(1), n)));
    places.clear();
    drop(job);
    assert!(lock(&queue.state).is_empty());
    // An organisation whose waiters have all left has no turn.
    let left = push(&queue, org(1), 0);
    let stays = push(&queue, org(2), 0);
    drop(left);
    assert_eq!(next(&queue).expect("a job").org, org(2));
    assert!(next(&queue).is_none());
    drop(stays);
    assert!(lock(&queue.state).is_empty());
}

/// Reads for the organisation, and keeps events of this size.
fn hold(queue: &TestQueue, n: u128, bytes: usize) -> MemoryReservation<Numbered> {
    let _place = push(queue, org(n), 0);
    let mut job = next(queue).expect("a job");
    assert_eq!(job.org, org(n));
    job.reservation.shrink_to(bytes);
    job.reservation
}

#[tokio::test(start_paused = true)]
async fn reserved_memory_is_bounded_in_total_and_per_organisation() {
    let queue = queue();
    let mut held = vec![hold(&queue, 1, 10), hold(&queue, 1, 10)];
    // The first organisation has used its share and is skipped. The others are not.
    let _places: Vec<_> = (1..5).map(|n| push(&queue, org(n), 0)).collect();
    let jobs = [next(&queue).expect("a job"), next(&queue).expect("a job")];
    assert_eq!((jobs[0].org, jobs[1].org), (org(2), org(3)));
    assert!(next(&queue).is_none());
    assert_eq!(lock(&queue.state).reserved(), LIMITS.bytes_max);
    // The last free memory goes to the organisation that holds none, although another has waited longer.
    held.pop();
    assert_eq!(next(&queue).expect("a job").org, org(4));
    drop(jobs);
    assert_eq!(next(&queue).expect("a job").org, org(1));
}

#[tokio::test(start_paused = true)]
async fn exhausted_memory_is_reclaimed_for_an_organisation_that_holds_less() {
    let queue = queue();
    let held = [hold(&queue, 1, 10), hold(&queue, 1, 9), hold(&queue, 2, 10), hold(&queue, 3, 10)];
    let place = push(&queue, org(4), 0);
    // The events have just been read: their clients have some time to receive them.
    let retry_at = queue.try_next_job().expect_err("no memory").expect("a time");
    assert_eq!(retry_at, Instant::now() + LIMITS.hold_min);
    let is_reclaimed = |n: usize| {
        let held: &MemoryReservation<_> = &held[n];
        futures_util::FutureExt::now_or_never(held.reclaimed()).is_some()
    };
    assert!(!is_reclaimed(0));
    let mut job = Box::pin(queue.next_job());
    tokio::select! {
        _ = &mut job => unreachable!("no memory"),
        () = tokio::time::sleep(LIMITS.hold_min * 2) => {}
    }
    // The oldest of the one that holds most, and no more than is needed.
    assert_eq!([0, 1, 2, 3].map(is_reclaimed), [true, false, false, false]);
    let [oldest, others @ ..] = held;
    drop(oldest);
    let job = job.await;
    assert_eq!(job.org, org(4));
    drop((others, job, place));
    assert!(lock(&queue.state).is_empty());
}

#[tokio::test]
async fn memory_without_a_read_leaves_the_memory_of_the_next_read() {
    let queue = queue();
    let held = [queue.reserve(org(1), 20), queue.reserve(org(2), 10)].map(|held| held.expect("memory"));
    assert!(queue.reserve(org(3), 1).is_none());
    let place = push(&queue, org(3), 0);
    drop(next(&queue).expect("a job"));
    drop(place);
    // The share of an organisation counts reads and other events together.
    drop(held);
    let held = queue.reserve(org(1), 15).expect("memory");
    assert!(queue.reserve(org(1), 6).is_none() && queue.reserve(org(2), 6).is_some());
    let place = push(&queue, org(1), 0);
    assert!(next(&queue).is_none());
    drop(held);
    assert_eq!(next(&queue).expect("a job").org, org(1));
    drop(place);
    assert!(lock(&queue.state).is_empty());
}

#[tokio::test]
async fn idle_tasks_are_woken_for_new_jobs() {
    let queue = queue();
    let taken = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let (queue, taken) = (Arc::clone(&queue), Arc::clone(&taken));
            tokio::spawn(async move {
                loop {
                    let job = queue.next_job().await;
                    tokio::task::yield_now().await;
                    taken.fetch_add(job.waiters.len(), Ordering::Relaxed);
                }
            })
        })
        .collect();
    let all = async {
        while taken.load(Ordering::Relaxed) < 200 {
            tokio::task::yield_now().await;
        }
    };
    let mut places = Vec::new();
    for n in 0..200 {
        places.push(push(&queue, org(u128::from(n % 3)), n));
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("every job is taken");
    for task in tasks {
        task.abort();
    }
}
