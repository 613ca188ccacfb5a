//! What goes wrong: the database, the gateways and the network, each by its own task, so that faults
//! overlap. It must not touch what it did not start.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use warden_devkit::cluster::Cluster;
use warden_testkit::{Gate, TcpProxy};

use crate::gateways::Gateway;
use crate::record::Record;
use crate::writers::World;

/// Chaos, all of it: pauses between faults, and how long they last.
const DATABASE_PAUSE_MS: std::ops::Range<u64> = 2_000..7_000;
const DATABASE_AWAY_MS: std::ops::Range<u64> = 0..2_500;
const GATEWAY_PAUSE_MS: std::ops::Range<u64> = 300..2_500;
const GATEWAY_AWAY_MS: std::ops::Range<u64> = 0..2_000;
const NETWORK_PAUSE_MS: std::ops::Range<u64> = 30..300;
const STALL_MS: std::ops::Range<u64> = 100..4_000;
/// One in so many faults of the network cuts all connections of a gateway.
const CUT_ALL_ONE_IN: u32 = 60;

/// The log is kept for seven times this at the least, far longer than anybody is away: a run of any length has
/// a database of bounded size, and `too_old` is a failure.
const SLOT_AGE: &str = "30 s";
const RETENTION_PAUSE_MS: std::ops::Range<u64> = 2_000..4_000;

/// A delay that makes chaos. False: it is over.
async fn pause(
    stop: &mut watch::Receiver<bool>,
    random: &mut fastrand::Rng,
    ms: std::ops::Range<u64>,
) -> bool {
    let delay = Duration::from_millis(random.u64(ms));
    tokio::select! {
        () = tokio::time::sleep(delay) => true,
        _ = stop.wait_for(|stop| *stop) => false,
    }
}

/// kill -9, and start again.
pub(crate) async fn database(
    mut cluster: Cluster,
    record: Arc<Record>,
    mut stop: watch::Receiver<bool>,
    mut random: fastrand::Rng,
) -> Cluster {
    while pause(&mut stop, &mut random, DATABASE_PAUSE_MS).await {
        record.count("kill -9 of PostgreSQL");
        record.database_goes();
        cluster.kill9().await.expect("kills");
        pause(&mut stop, &mut random, DATABASE_AWAY_MS).await;
        cluster.start_again().await.expect("starts");
        record.database_is_back();
    }
    cluster
}

/// The gateways' own retention keeps the log for hours.
pub(crate) async fn retention(world: World, mut stop: watch::Receiver<bool>) {
    let mut random = fastrand::Rng::with_seed(0);
    while pause(&mut stop, &mut random, RETENTION_PAUSE_MS).await {
        let mut connection = world.connect().await;
        let sql = "select warden.rotate_events($1::interval, 1::bigint << 40)";
        let done: Result<String, _> = sqlx::query_scalar(sql).bind(SLOT_AGE).fetch_one(&mut connection).await;
        // The database may be killed at any time.
        if let Ok(done) = done {
            world.record.count(format!("slots of the log: {done}"));
        }
    }
}

/// kill -9 or SIGTERM, and start again.
pub(crate) async fn gateways(
    mut gateways: Vec<Gateway>,
    record: Arc<Record>,
    mut stop: watch::Receiver<bool>,
    mut random: fastrand::Rng,
) -> Vec<Gateway> {
    while pause(&mut stop, &mut random, GATEWAY_PAUSE_MS).await {
        let at = random.usize(..gateways.len());
        let gateway = &mut gateways[at];
        if let Some(ended) = gateway.has_ended() {
            record.complain(ended);
        } else if random.bool() {
            record.count("kill -9 of a gateway");
            gateway.kill().await;
        } else {
            record.count("SIGTERM of a gateway");
            if let Err(wrong) = gateway.terminate().await {
                record.complain(wrong);
            }
        }
        pause(&mut stop, &mut random, GATEWAY_AWAY_MS).await;
        gateway.start_again().await;
    }
    gateways
}

/// Connections cut and stalled.
pub(crate) async fn network(
    proxies: Vec<TcpProxy>,
    record: Arc<Record>,
    mut stop: watch::Receiver<bool>,
    mut random: fastrand::Rng,
) {
    while pause(&mut stop, &mut random, NETWORK_PAUSE_MS).await {
        let gates = proxies[random.usize(..proxies.len())].gates();
        if gates.is_empty() {
            continue;
        }
        let gate = gates[random.usize(..gates.len())].clone();
        if random.u32(..CUT_ALL_ONE_IN) == 0 {
            record.count("times that all connections of a proxy were cut");
            record.count_many("connections cut", gates.len());
            gates.iter().for_each(|gate| turn(gate, Gate::Cut));
        } else if random.bool() {
            record.count("connections cut");
            turn(&gate, Gate::Cut);
        } else {
            record.count("connections stalled");
            let delay = Duration::from_millis(random.u64(STALL_MS));
            tokio::spawn(async move {
                turn(&gate, Gate::Stalled);
                tokio::time::sleep(delay).await;
                turn(&gate, Gate::Open);
            });
        }
    }
}

/// What was cut stays cut.
fn turn(gate: &watch::Sender<Gate>, to: Gate) {
    gate.send_if_modified(|gate| {
        let is_news = *gate != Gate::Cut && *gate != to;
        if is_news {
            *gate = to;
        }
        is_news
    });
}
