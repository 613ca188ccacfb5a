//! Isolation and completeness as a property of random programs.
//!
//! A program has several organisations, dozens of sockets with random topics (including `call:<uuid>` of
//! other organisations' calls), and several connections that write concurrently. Half of the sockets have
//! random filters: of their token, of their joins, or of both, and some tokens are replaced during the
//! program. Some joins name columns, and some rows are too large for an event. Each socket must get every
//! committed event of its organisation, topics and filters, once per topic, in commit order for each row,
//! and nothing else. `WARDEN_SEED=n` runs the program of one seed; the interleaving of its connections
//! still depends on the machine.

mod check;
mod filters;
mod listener;
mod model;
mod program;
mod world;

use std::collections::HashMap;
use std::sync::Arc;

use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use crate::harness::{TestDb, TestGateway, is_full};
use check::Witnessed;
use filters::{Condition, Filters, random_condition, random_signed};
use listener::{JoinKind, LAST_MARK, Listener};
use model::{Expected, FIRST_STATE, Table};
use program::{NAMED_TOPICS, Worker};
use world::World;

/// Programs of one run: in the suite, and with `make full`.
const PROGRAMS: [u64; 2] = [3, 30];
const WORKERS: usize = 5;
const TRANSACTIONS_PER_WORKER: usize = 40;
/// Sockets that join while the program runs, and after it.
const LATE: usize = 4;
/// Progress of the program at which fresh tokens are sent.
const REFRESHES: std::ops::Range<usize> = 20..400;

/// Counts of one program, which show that it was not idle.
#[derive(Default)]
struct Tally {
    committed: usize,
    rolled_back: usize,
    deliveries: usize,
    filtered: usize,
    truncated: usize,
    refreshed: usize,
    sockets: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_socket_gets_exactly_the_events_of_its_organisation_topics_and_filters() {
    let replay = std::env::var("WARDEN_SEED").ok().map(|seed| seed.parse().expect("WARDEN_SEED is a number"));
    let first = replay.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let programs = if replay.is_some() { 1 } else { PROGRAMS[usize::from(is_full())] };
    for seed in first..first + programs {
        // The test runner shows this output only if the test fails.
        println!("replay with WARDEN_SEED={seed}");
        let tally = run_program(seed).await;
        println!(
            "{} changes committed, {} rolled back, {} deliveries to {} sockets, {} of them with a filter, \
             {} truncated, {} fresh tokens",
            tally.committed,
            tally.rolled_back,
            tally.deliveries,
            tally.sockets,
            tally.filtered,
            tally.truncated,
            tally.refreshed
        );
        assert!(
            tally.committed > 200
                && tally.rolled_back > 50
                && tally.deliveries > 2000
                && tally.filtered > 200
                && tally.truncated > 50
                && tally.refreshed > 2,
            "the program did too little"
        );
    }
}

/// The gateway of a program, and its sockets' filters.
struct Scene {
    t: TestGateway,
    world: Arc<World>,
    conditions: Vec<Arc<Condition>>,
    /// Cursor of each organisation before the program.
    since: HashMap<Uuid, Value>,
}

async fn run_program(seed: u64) -> Tally {
    let mut rng = Rng::with_seed(seed);
    let db = TestDb::create().await;
    let conditions = filters::prepare(&db, &mut rng).await;
    let world = Arc::new(populate(&db, &mut rng).await);
    // The gateway starts after the organisations exist, because their creation is not part of the program.
    let t = TestGateway::start_with(db, |_| {}).await;
    let mut scene = Scene { t, world, conditions, since: HashMap::new() };
    let world = Arc::clone(&scene.world);
    let mut listeners = Vec::new();
    for org in &world.orgs {
        let mut witness = Listener::connect(&scene.t, &world, *org, None).await;
        scene.since.insert(*org, witness.join("org", JoinKind::Live, None, None).await);
        witness.join("fin", JoinKind::Live, None, None).await;
        listeners.push(witness);
    }
    for _ in 0..rng.usize(24..36) {
        listeners.push(scene.listen(&mut rng, false).await);
    }
    // All sockets read while the program runs.
    let read = |listeners: Vec<Listener>, mark: &'static str| -> Vec<_> {
        let read = |l: Listener| tokio::spawn(l.read_to(mark));
        listeners.into_iter().map(read).collect()
    };
    let mut reading = read(listeners, "end");

    let mut holder = Worker::new(scene.t.db.url(), "holder", rng.u64(..), Arc::clone(&world)).await;
    holder.hold().await;
    let mut running = Vec::new();
    for n in 0..WORKERS {
        let worker = Worker::new(scene.t.db.url(), &format!("w{n}"), rng.u64(..), Arc::clone(&world)).await;
        running.push(tokio::spawn(worker.run(TRANSACTIONS_PER_WORKER)));
    }
    reading.extend(read(scene.listen_late(&mut rng).await, "end"));
    for worker in running {
        worker.await.expect("the worker finishes");
    }
    holder.release(rng.bool()).await;
    reading.extend(read(scene.listen_late(&mut rng).await, "end"));

    // All transactions have ended, so a snapshot that contains the final event contains everything before it.
    let mut closer = Worker::new(scene.t.db.url(), "closer", rng.u64(..), Arc::clone(&world)).await;
    publish_final_events(&mut closer, &world, "end").await;
    let listeners: Vec<Listener> =
        join_all(reading).await.into_iter().map(|l| l.expect("the socket gets all events")).collect();
    // No other event arrives after the final event, on any topic.
    publish_final_events(&mut closer, &world, LAST_MARK).await;
    let listeners: Vec<Listener> = join_all(read(listeners, LAST_MARK))
        .await
        .into_iter()
        .map(|l| l.expect("the socket gets the last event"))
        .collect();
    let tally = scene.check(&listeners).await;
    scene.t.gateway.stop().await;
    tally
}

impl Scene {
    /// Connects a socket of a random organisation with random topics and filters. Its entity topics may be
    /// calls of other organisations.
    async fn listen(&self, rng: &mut Rng, is_late: bool) -> Listener {
        let org = self.world.orgs[rng.usize(..self.world.orgs.len())];
        let random_signed = |rng: &mut Rng| random_signed(&self.conditions, rng);
        let signed = if rng.bool() { random_signed(rng) } else { None };
        let has_asked = rng.bool();
        let filters = Filters { signed: signed.clone(), asked: None, has_select: false };
        let mut topics: Vec<String> =
            NAMED_TOPICS.iter().filter(|_| rng.bool()).map(|name| (*name).to_owned()).collect();
        for _ in 0..rng.usize(1..9) {
            let calls = [&self.world.anchors, &self.world.planned][rng.usize(..2)];
            topics.push(format!("call:{}", calls[rng.usize(..calls.len())].1));
        }
        topics.retain(|topic| filters.allows(topic));
        topics.push("fin".to_owned());
        topics.sort_unstable();
        topics.dedup();
        rng.shuffle(&mut topics);
        let mut listener = Listener::connect(&self.t, &self.world, org, signed).await;
        for topic in &topics {
            let table = Table::of_topic(topic);
            let is_table = table.is_some();
            let condition =
                (is_table && has_asked && rng.u8(..4) > 0).then(|| random_condition(&self.conditions, rng));
            let kind = match is_late {
                false => JoinKind::Live,
                true if is_table && rng.bool() => JoinKind::Snapshot,
                true => JoinKind::Replay(self.since[&org].clone()),
            };
            let select = table.filter(|_| rng.u8(..3) == 0).map(|table| table.random_columns(rng));
            listener.join(topic, kind, condition, select).await;
        }
        if !is_late {
            for _ in 0..rng.usize(..3) {
                let signed = if rng.u8(..4) > 0 { random_signed(rng) } else { None };
                listener.refreshes.push_back((rng.usize(REFRESHES), signed));
            }
        }
        listener
    }

    /// Connects sockets that replay what they missed, or begin with a snapshot.
    async fn listen_late(&self, rng: &mut Rng) -> Vec<Listener> {
        let mut listeners = Vec::new();
        for _ in 0..LATE {
            listeners.push(self.listen(rng, true).await);
        }
        listeners
    }

    async fn check(&self, listeners: &[Listener]) -> Tally {
        let (mut done, rolled_back) = self.world.outcome();
        done.retain(|change| change.seen.mark != LAST_MARK);
        let mut tally = Tally { committed: done.len(), rolled_back, ..Tally::default() };
        let expected = Expected::new(done);
        // The witnesses are the first ones, in the order of the organisations.
        for (witness, org) in listeners.iter().zip(&self.world.orgs) {
            let seen: Vec<_> =
                witness.topics["org"].segments[0].deliveries.iter().map(|d| d.seen.clone()).collect();
            expected.check(*org, "org", &seen);
            let witnessed = Witnessed::new(witness, &expected);
            for listener in listeners.iter().filter(|listener| listener.org == *org) {
                tally.sockets += 1;
                tally.refreshed += listener.refreshed;
                tally.truncated += listener.truncated;
                tally.filtered += check::check(&self.t.db, listener, &witnessed, &expected).await;
                let segments = listener.topics.values().flat_map(|joined| &joined.segments);
                tally.deliveries += segments.map(|segment| segment.deliveries.len()).sum::<usize>();
            }
        }
        tally
    }
}

/// Creates organisations and calls, and plans the ids of further calls.
async fn populate(db: &TestDb, rng: &mut Rng) -> World {
    db.run("select warden.declare_topic('notes'), warden.declare_topic('fin')").await;
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
    db.run(format!(
        "update calls set metadata = '{{\"v\": 1}}', ended_reason = 'start', state = {FIRST_STATE}"
    ))
    .await;
    World::new(orgs, anchors, planned)
}

/// Publishes to `fin` of every organisation, each time in a transaction of its own.
async fn publish_final_events(closer: &mut Worker, world: &World, mark: &str) {
    for org in &world.orgs {
        closer.publish(*org, "fin", mark).await.expect("no lock is in the way");
        closer.conclude(true);
    }
}
