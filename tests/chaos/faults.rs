//! Faults of the database, the gateways and the network. Each has a task of its own, so that faults overlap.
//! They must not touch anything that the test did not start.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use warden_devkit::cluster::Cluster;
use warden_testkit::{Gate, TcpProxy};

use crate::gateways::Gateway;
use crate::record::Record;
use crate::writers::World;

// Pauses between faults, and durations of faults, in milliseconds. They are random on purpose.

const DATABASE_PAUSE_MS: std::ops::Range<u64> = 2_000..7_000;
const DATABASE_AWAY_MS: std::ops::Range<u64> = 0..2_500;
const GATEWAY_PAUSE_MS: std::ops::Range<u64> = 300..2_500;
const GATEWAY_AWAY_MS: std::ops::Range<u64> = 0..2_000;
const NETWORK_PAUSE_MS: std::ops::Range<u64> = 30..300;
const STALL_MS: std::ops::Range<u64> = 100..4_000;
/// One in this many network faults cuts all connections of a proxy.
const CUT_ALL_ONE_IN: u32 = 60;

/// Age of a slot of the log. The log is kept for at least seven times as long, much longer than any client is
/// away. So the database stays small in a run of any length, and a resync with `too_old` is a failure.
const SLOT_AGE: &str = "30 s";
const RETENTION_PAUSE_MS: std::ops::Range<u64> = 2_000..4_000;

/// Waits for a random time. Returns false if the faults are over.
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

/// Kills PostgreSQL with SIGKILL and restarts it.
pub(crate) async fn database(
    mut cluster: Cluster,
    record: Arc<Record>,
    mut stop: watch::Receiver<bool>,
    mut random: fastrand::Rng,
) -> Cluster {
    while pause(&mut stop, &mut random, DATABASE_PAUSE_MS).await {
        record.count("kill -9 of PostgreSQL");
        record.database_killed();
        cluster.kill9().await.expect("kills");
        pause(&mut stop, &mut random, DATABASE_AWAY_MS).await;
        cluster.start_again().await.expect("starts");
        record.database_restarted();
    }
    cluster
}

/// Rotates the log often, because the retention of the gateways keeps it for hours.
pub(crate) async fn retention(world: World, mut stop: watch::Receiver<bool>) {
    let mut random = fastrand::Rng::with_seed(0);
    while pause(&mut stop, &mut random, RETENTION_PAUSE_MS).await {
        let mut connection = world.connect().await;
        let sql = "select warden.rotate_events($1::interval, 1::bigint << 40)";
        let done: Result<String, _> = sqlx::query_scalar(sql).bind(SLOT_AGE).fetch_one(&mut connection).await;
        // The database may be killed at any time.
        if let Ok(done) = done {
            world.record.count(format!("rotations of the log: {done}"));
        }
    }
}

/// Ends gateways with SIGKILL or SIGTERM and restarts them. Of each two faults, one is a SIGKILL and one a
/// SIGTERM, in random order. A slow machine has time for few faults, and independent choices would then often
/// leave one kind out.
pub(crate) async fn gateways(
    mut gateways: Vec<Gateway>,
    record: Arc<Record>,
    mut stop: watch::Receiver<bool>,
    mut random: fastrand::Rng,
) -> Vec<Gateway> {
    let mut rest_of_pair = None;
    while pause(&mut stop, &mut random, GATEWAY_PAUSE_MS).await {
        let is_kill = rest_of_pair.take().unwrap_or_else(|| {
            let is_kill = random.bool();
            rest_of_pair = Some(!is_kill);
            is_kill
        });
        let at = random.usize(..gateways.len());
        let gateway = &mut gateways[at];
        if let Some(failure) = gateway.unexpected_end() {
            record.report_failure(failure);
        } else if is_kill {
            record.count("kill -9 of a gateway");
            gateway.kill().await;
        } else {
            record.count("SIGTERM of a gateway");
            if let Err(failure) = gateway.terminate().await {
                record.report_failure(failure);
            }
        }
        pause(&mut stop, &mut random, GATEWAY_AWAY_MS).await;
        gateway.start_again().await;
    }
    gateways
}

/// Cuts and stalls connections.
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
            gates.iter().for_each(|gate| set(gate, Gate::Cut));
        } else if random.bool() {
            record.count("connections cut");
            set(&gate, Gate::Cut);
        } else {
            record.count("connections stalled");
            let delay = Duration::from_millis(random.u64(STALL_MS));
            tokio::spawn(async move {
                set(&gate, Gate::Stalled);
                tokio::time::sleep(delay).await;
                set(&gate, Gate::Open);
            });
        }
    }
}

/// Sets a gate, unless the connection was cut.
fn set(gate: &watch::Sender<Gate>, to: Gate) {
    gate.send_if_modified(|gate| {
        let is_changed = *gate != Gate::Cut && *gate != to;
        if is_changed {
            *gate = to;
        }
        is_changed
    });
}
