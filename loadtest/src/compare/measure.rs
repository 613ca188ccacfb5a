//! One measurement of one server: what a delivery costs, what an idle socket holds, what a handshake costs. Each
//! starts the server and its clients anew and ends them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tokio::time::sleep;

use super::args::{CompareArgs, bursts};
use super::clients::{Clients, Count, Dial};
use super::servers::{Kind, Server};
use super::workload::Fanout;
use crate::floor::Plan;

/// What has not arrived so long after the last event was published is lost.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(60);
const ARRIVAL_POLL: Duration = Duration::from_millis(10);
/// Before a measurement begins, what the one before it woke goes to sleep.
const CALM: Duration = Duration::from_millis(300);
/// Handshakes that are under way at once.
const AT_ONCE: usize = 16;
/// Memory counts as settled when it changed by less than this share within a second.
const SETTLED_SHARE: f64 = 0.002;
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Allocators give memory back in their own time; they have so long, or until it is within this share of the start.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(12);
const GIVEN_BACK_SHARE: f64 = 0.05;
/// Sockets that come and go before handshakes or memory are measured.
const WARM_UP_CONNECTS: usize = 200;
/// Events that go out before measuring: this share of the time, at least so many bursts a group.
const WARM_UP_SHARE: f64 = 0.2;
/// The share of the time for which events go to nobody.
const INTAKE_SHARE: f64 = 0.5;
/// The rate at which each group is tried once.
const PROBES_PER_SECOND: f64 = 500.0;

/// What deliveries cost, in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FanoutCost {
    /// Microseconds of CPU time for each delivery.
    pub(crate) delivery_us: f64,
    /// Without what it costs to take the events in.
    pub(crate) delivery_without_intake_us: f64,
    /// Microseconds for an event that nobody listens to; none for the floor, which is given none.
    pub(crate) intake_us: Option<f64>,
    pub(crate) bytes_per_delivery: f64,
    pub(crate) expected: u64,
    pub(crate) delivered: u64,
    /// Every socket got each event of its group once.
    pub(crate) complete: bool,
    /// The last event was published so much after it was due.
    pub(crate) lag_ms: f64,
}

/// What idle sockets hold, in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct IdleCost {
    /// Kibibytes of resident memory for each socket.
    pub(crate) socket_kib: f64,
    /// Mebibytes before the first socket, with all, and after all have left.
    pub(crate) start_mib: f64,
    pub(crate) full_mib: f64,
    pub(crate) left_mib: f64,
    pub(crate) sockets: usize,
}

/// What handshakes cost, in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConnectCost {
    /// Microseconds of CPU time for an upgrade and a join.
    pub(crate) connect_us: f64,
    pub(crate) connects: usize,
}

/// Where a measurement belongs.
pub(super) struct Place<'a> {
    pub(super) args: &'a CompareArgs,
    pub(super) kind: Kind,
    /// Counts all measurements: each has source addresses of its own.
    pub(super) run: &'a mut usize,
}

impl Place<'_> {
    fn clients(
        &mut self,
        server: &Server,
        sockets: usize,
        groups: usize,
        topics: usize,
    ) -> anyhow::Result<Clients> {
        let dials: Vec<Dial> =
            (0..sockets).map(|n| server.dial(n % groups, topics)).collect::<Result<_, _>>()?;
        *self.run += 1;
        Clients::start(server.addr(), dials, AT_ONCE, server.heartbeat(), *self.run)
    }

    async fn server(&self, groups: usize) -> anyhow::Result<Server> {
        let server = Server::start(self.kind, self.args, groups).await?;
        sleep(CALM).await;
        Ok(server)
    }

    /// What a delivery costs.
    pub(super) async fn fanout(&mut self, fanout: &Fanout) -> anyhow::Result<FanoutCost> {
        let mut server = self.server(fanout.groups).await?;
        let mut clients = self.clients(&server, fanout.sockets, fanout.groups, 1)?;
        clients.open().await?;
        sleep(CALM).await;
        let plan = Plan {
            bursts: bursts(fanout, self.args.duration)?,
            burst: fanout.burst,
            bursts_per_second: fanout.bursts_per_second,
            groups: fanout.groups,
            pad_bytes: pad(&mut server, &mut clients, fanout, self.args.bytes).await?,
        };
        let plan = warm_up(&mut server, &mut clients, fanout, plan, self.args).await?;
        // Nothing is given to the floor: what it does between events is part of the bare loop.
        let intake_us = match self.kind {
            Kind::Floor => None,
            _ => Some(intake(&mut server, fanout, &plan, self.args.duration).await?),
        };
        clients.beat().await?;
        sleep(CALM).await;
        clients.reset().await?;

        let expected = expected(fanout, plan.bursts)?;
        let before = server.meter().cpu()?;
        let published = server.publish(&plan).await?;
        let count = arrived(&mut clients, expected).await?;
        let spent = server.meter().cpu()? - before;

        // What comes twice comes last.
        sleep(CALM).await;
        let last = clients.count().await?;
        drop(clients);
        server.stop().await?;
        let spent_us = spent.as_secs_f64() * 1e6;
        let deliveries = expected as f64;
        Ok(FanoutCost {
            delivery_us: spent_us / deliveries,
            delivery_without_intake_us: (spent_us - intake_us.unwrap_or(0.0) * plan.events() as f64)
                / deliveries,
            intake_us,
            bytes_per_delivery: count.bytes as f64 / count.events.max(1) as f64,
            expected,
            delivered: last.events,
            complete: is_complete(fanout, &plan, &last),
            lag_ms: published.lag_ms,
        })
    }

    /// What an idle socket holds.
    pub(super) async fn idle(&mut self, sockets: usize) -> anyhow::Result<IdleCost> {
        const KIB: f64 = 1024.0;
        let mut server = self.server(1).await?;
        self.warm_up(&server, sockets).await?;
        let start = settled(&mut server).await?;
        let mut clients = self.clients(&server, sockets, 1, 2)?;
        clients.open().await?;
        let full = settled(&mut server).await?;
        let open = clients.count().await?.open;
        ensure!(open == sockets, "of {sockets} sockets only {open} stayed open");
        clients.close().await?;
        let left = given_back(&mut server, start).await?;
        server.stop().await?;
        Ok(IdleCost {
            socket_kib: (full - start) / KIB / sockets as f64,
            start_mib: start / KIB / KIB,
            full_mib: full / KIB / KIB,
            left_mib: left / KIB / KIB,
            sockets,
        })
    }

    /// The first sockets load code and fill pools that the others share. So many come and go, at most as many as are
    /// measured.
    async fn warm_up(&mut self, server: &Server, at_most: usize) -> anyhow::Result<()> {
        let mut clients = self.clients(server, at_most.min(WARM_UP_CONNECTS), 1, 1)?;
        clients.open().await
    }

    /// What an upgrade and a join cost.
    pub(super) async fn connect(&mut self, connects: usize) -> anyhow::Result<ConnectCost> {
        let mut server = self.server(1).await?;
        self.warm_up(&server, connects).await?;
        let mut clients = self.clients(&server, connects, 1, 1)?;
        sleep(CALM).await;
        let before = server.meter().cpu()?;
        clients.open().await?;
        let spent = server.meter().cpu()? - before;
        drop(clients);
        server.stop().await?;
        Ok(ConnectCost { connect_us: spent.as_secs_f64() * 1e6 / connects as f64, connects })
    }
}

/// Every group gets as many bursts as another.
fn expected(fanout: &Fanout, bursts: u64) -> anyhow::Result<u64> {
    let each = bursts / u64::try_from(fanout.groups)? * u64::from(fanout.burst);
    Ok(u64::try_from(fanout.sockets)? * each)
}

fn is_complete(fanout: &Fanout, plan: &Plan, count: &Count) -> bool {
    let each = plan.events() / fanout.groups as u64;
    count.open == fanout.sockets && count.least == each && count.most == each
}

/// Publishes one event to each group, and from its length finds the padding with which an event is as long as it
/// should be. That every socket gets it once shows that all have joined.
async fn pad(
    server: &mut Server,
    clients: &mut Clients,
    fanout: &Fanout,
    bytes: usize,
) -> anyhow::Result<usize> {
    let probe = Plan {
        bursts: u64::try_from(fanout.groups)?,
        burst: 1,
        bursts_per_second: PROBES_PER_SECOND,
        groups: fanout.groups,
        // The frame's header is as long as that of the events that follow.
        pad_bytes: bytes,
    };
    server.publish(&probe).await?;
    let sockets = u64::try_from(fanout.sockets)?;
    let count = arrived(clients, sockets).await?;
    ensure!(
        is_complete(fanout, &probe, &count),
        "of {sockets} sockets not each got the first event once: {count:?}"
    );
    let envelope = usize::try_from(count.bytes / sockets)?.saturating_sub(probe.pad_bytes);
    Ok(bytes.saturating_sub(envelope))
}

/// Publishes for a while before anything counts. Returns the plan with padding that takes into account how long an
/// envelope is at this rate: a cursor may grow with the transactions that are under way.
async fn warm_up(
    server: &mut Server,
    clients: &mut Clients,
    fanout: &Fanout,
    plan: Plan,
    args: &CompareArgs,
) -> anyhow::Result<Plan> {
    let bursts = bursts(fanout, args.duration.mul_f64(WARM_UP_SHARE))?;
    clients.reset().await?;
    server.publish(&Plan { bursts, ..plan }).await?;
    let count = arrived(clients, expected(fanout, bursts)?).await?;
    let envelope = usize::try_from(count.bytes / count.events.max(1))?.saturating_sub(plan.pad_bytes);
    Ok(Plan { pad_bytes: args.bytes.saturating_sub(envelope), ..plan })
}

/// Microseconds of CPU time for an event that nobody listens to.
async fn intake(
    server: &mut Server,
    fanout: &Fanout,
    plan: &Plan,
    duration: Duration,
) -> anyhow::Result<f64> {
    let bursts = bursts(fanout, duration.mul_f64(INTAKE_SHARE))?;
    let plan = Plan { bursts, groups: 0, ..*plan };
    sleep(CALM).await;
    let before = server.meter().cpu()?;
    let began = Instant::now();
    server.publish(&plan).await?;
    // As long as the schedule says, also where the last event needs no wait.
    sleep(plan.due(plan.bursts).saturating_sub(began.elapsed())).await;
    let spent = server.meter().cpu()? - before;
    Ok(spent.as_secs_f64() * 1e6 / plan.events() as f64)
}

/// Waits until so many events have arrived; those that don't come in time are missing in what it returns.
async fn arrived(clients: &mut Clients, expected: u64) -> anyhow::Result<Count> {
    let deadline = Instant::now() + ARRIVAL_TIMEOUT;
    loop {
        let count = clients.count().await?;
        if count.events >= expected || Instant::now() > deadline {
            return Ok(count);
        }
        sleep(ARRIVAL_POLL).await;
    }
}

/// Resident bytes once they no longer change.
async fn settled(server: &mut Server) -> anyhow::Result<f64> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    let mut before = resident(server)?;
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = resident(server)?;
        if (now - before).abs() <= before * SETTLED_SHARE || Instant::now() > deadline {
            return Ok(now);
        }
        before = now;
    }
}

/// Resident bytes after all have left: once they are close to those at the start, or have had their time.
async fn given_back(server: &mut Server, start: f64) -> anyhow::Result<f64> {
    let deadline = Instant::now() + GIVE_BACK_TIMEOUT;
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = resident(server)?;
        if now <= start * (1.0 + GIVEN_BACK_SHARE) || Instant::now() > deadline {
            return Ok(now);
        }
    }
}

fn resident(server: &mut Server) -> anyhow::Result<f64> {
    Ok(server.meter().resident_bytes().context("its memory can't be read")? as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_doubles_show_even_where_they_balance() {
        let fanout =
            Fanout { name: "x".to_owned(), sockets: 5, groups: 2, burst: 3, bursts_per_second: 10.0 };
        let plan = Plan {
            bursts: bursts(&fanout, Duration::from_millis(350)).unwrap(),
            burst: 3,
            bursts_per_second: 10.0,
            groups: 2,
            pad_bytes: 0,
        };
        assert_eq!((plan.bursts, plan.events()), (4, 12));
        let count = Count { open: 5, events: 30, bytes: 0, least: 6, most: 6 };
        assert_eq!(expected(&fanout, plan.bursts).unwrap(), count.events);
        assert!(is_complete(&fanout, &plan, &count));
        assert!(!is_complete(&fanout, &plan, &Count { least: 5, most: 7, ..count }));
        assert!(!is_complete(&fanout, &plan, &Count { open: 4, ..count }));
    }
}
