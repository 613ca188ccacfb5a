//! Isolation and completeness as a property of random programs.
//!
//! A program has several organisations, dozens of sockets with random topics (including `call:<uuid>` of
//! other organisations' calls), and several connections that write concurrently. Each socket must get every
//! committed event of its organisation and topics, once per topic, in commit order for each row, and nothing
//! else. `WARDEN_SEED=n` runs the program of one seed; the interleaving of its connections still depends on
//! the machine.

mod model;
mod program;
mod world;

use std::collections::HashMap;
use std::sync::Arc;

use fastrand::Rng;
use futures_util::future::join_all;
use uuid::Uuid;

use crate::harness::{Client, TestDb, TestGateway};
use model::{Expected, Seen};
use program::{NAMED_TOPICS, Worker};
use world::World;

const PROGRAMS: u64 = 6;
const WORKERS: usize = 5;
const TRANSACTIONS_PER_WORKER: usize = 40;

/// A socket, with the events that it received on each joined topic, in order.
struct Listener {
    client: Client,
    org: Uuid,
    seen: HashMap<String, Vec<Seen>>,
    /// Ids of the received events by topic.
    ids: HashMap<String, Vec<i64>>,
}

impl Listener {
    /// Reads until every topic has received the event that was published with this mark and the topic's name.
    async fn read_to(mut self, mark: &str) -> Self {
        let mut missing = self.seen.len();
        while missing > 0 {
            let event = self.client.next_event().await;
            if event.name == "warden.cursor" {
                continue;
            }
            let seen = Seen::from_event(&event, self.org);
            if seen.mark == format!("{mark} {}", event.topic) {
                missing -= 1;
            }
            let id = event.payload["id"].as_i64().expect("an id");
            self.ids.entry(event.topic.clone()).or_default().push(id);
            let Some(topic) = self.seen.get_mut(&event.topic) else {
                panic!("an event on a topic that was not joined: {event:?}");
            };
            topic.push(seen);
        }
        self
    }

    fn check(mut self, expected: &Expected) {
        for (topic, seen) in &self.seen {
            expected.check(self.org, topic, seen);
        }
        for (topic, ids) in &mut self.ids {
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), count, "an event arrived twice on {topic}");
        }
    }
}

/// Counts of one program, which show that it was not idle.
#[derive(Default)]
struct Tally {
    committed: usize,
    rolled_back: usize,
    deliveries: usize,
    sockets: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_socket_gets_exactly_the_events_of_its_organisation_and_topics() {
    let replay = std::env::var("WARDEN_SEED").ok().map(|seed| seed.parse().expect("WARDEN_SEED is a number"));
    let first = replay.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let programs = if replay.is_some() { 1 } else { PROGRAMS };
    for seed in first..first + programs {
        // The test runner shows this output only if the test fails.
        println!("replay with WARDEN_SEED={seed}");
        let tally = run_program(seed).await;
        println!(
            "{} changes committed, {} rolled back, {} deliveries to {} sockets",
            tally.committed, tally.rolled_back, tally.deliveries, tally.sockets
        );
        assert!(
            tally.committed > 200 && tally.rolled_back > 50 && tally.deliveries > 2000,
            "the program did too little"
        );
    }
}

async fn run_program(seed: u64) -> Tally {
    let mut rng = Rng::with_seed(seed);
    let db = TestDb::create().await;
    let world = Arc::new(populate(&db, &mut rng).await);
    // The gateway starts after the organisations exist, because their creation is not part of the program.
    let t = TestGateway::start_with(db, |_| {}).await;
    let mut listeners = Vec::new();
    for _ in 0..rng.usize(24..36) {
        listeners.push(listen(&t, &world, &mut rng).await);
    }
    // All sockets read while the program runs.
    let reading: Vec<_> =
        listeners.into_iter().map(|l| tokio::spawn(async move { l.read_to("end").await })).collect();

    let mut holder = Worker::new(t.db.url(), "holder", rng.u64(..), Arc::clone(&world)).await;
    holder.hold().await;
    let mut running = Vec::new();
    for n in 0..WORKERS {
        let worker = Worker::new(t.db.url(), &format!("w{n}"), rng.u64(..), Arc::clone(&world)).await;
        running.push(tokio::spawn(worker.run(TRANSACTIONS_PER_WORKER)));
    }
    for worker in running {
        worker.await.expect("the worker finishes");
    }
    holder.release(rng.bool()).await;
    let (done, rolled_back) = world.outcome();
    let mut tally = Tally { committed: done.len(), rolled_back, ..Tally::default() };

    // All transactions have ended, so a snapshot that contains the final events contains everything before
    // them.
    let mut closer = Worker::new(t.db.url(), "closer", rng.u64(..), Arc::clone(&world)).await;
    publish_final_events(&mut closer, &world, "end").await;
    let listeners: Vec<Listener> =
        join_all(reading).await.into_iter().map(|l| l.expect("the socket gets all events")).collect();
    // No other event arrives after the final events.
    publish_final_events(&mut closer, &world, "very end").await;
    let listeners = join_all(listeners.into_iter().map(|l| l.read_to("very end"))).await;

    let expected = Expected::new(world.outcome().0);
    for listener in listeners {
        tally.sockets += 1;
        tally.deliveries += listener.seen.values().map(Vec::len).sum::<usize>();
        listener.check(&expected);
    }
    t.gateway.stop().await;
    tally
}

/// Creates organisations and calls, and plans the ids of further calls.
async fn populate(db: &TestDb, rng: &mut Rng) -> World {
    db.run("select warden.declare_topic('notes')").await;
    let mut orgs = Vec::new();
    let (mut anchors, mut planned) = (Vec::new(), Vec::new());
    for _ in 0..rng.usize(3..6) {
        let org = db.create_org().await;
        orgs.push(org);
        for _ in 0..3 {
            let call = db.insert_call(org).await;
            anchors.push((org, call));
        }
        for _ in 0..8 {
            planned.push((org, uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()));
        }
    }
    db.run("update calls set metadata = '{\"v\": 1}', ended_reason = 'start'").await;
    World::new(orgs, anchors, planned)
}

/// Connects a socket of a random organisation with random topics. Its entity topics may be calls of other
/// organisations.
async fn listen(t: &TestGateway, world: &World, rng: &mut Rng) -> Listener {
    let org = world.orgs[rng.usize(..world.orgs.len())];
    let mut topics: Vec<String> =
        NAMED_TOPICS.iter().filter(|_| rng.bool()).map(|name| (*name).to_owned()).collect();
    for _ in 0..rng.usize(1..9) {
        let calls = [&world.anchors, &world.planned][rng.usize(..2)];
        topics.push(format!("call:{}", calls[rng.usize(..calls.len())].1));
    }
    topics.sort_unstable();
    topics.dedup();
    rng.shuffle(&mut topics);
    let mut client = t.connect(org).await;
    for topic in &topics {
        client.join(topic).await;
    }
    let seen = topics.into_iter().map(|topic| (topic, Vec::new())).collect();
    Listener { client, org, seen, ids: HashMap::new() }
}

/// Publishes to every topic of every organisation, each time in a transaction of its own.
async fn publish_final_events(closer: &mut Worker, world: &World, mark: &str) {
    let calls = world.anchors.iter().chain(&world.planned).map(|(_, call)| format!("call:{call}"));
    let topics: Vec<String> = calls.chain(NAMED_TOPICS.map(str::to_owned)).collect();
    for org in &world.orgs {
        for topic in &topics {
            closer.publish(*org, topic, &format!("{mark} {topic}")).await.expect("no lock is in the way");
        }
    }
    closer.conclude(true);
}
