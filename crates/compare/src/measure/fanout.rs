//! The CPU time of a delivery.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;
use tokio::time::sleep;

use super::measurement::{CALM, Measurement};
use crate::clients::{Clients, Count};
use crate::plan::PublishPlan;
use crate::servers::{Server, ServerKind};
use crate::workload::Fanout;

/// An event that has not arrived this long after the last event was published is lost.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(60);
const ARRIVAL_POLL: Duration = Duration::from_millis(10);
/// Share of the duration for which events are published before the measurement.
const WARM_UP_SHARE: f64 = 0.2;
/// Share of the duration for which intake is measured.
const INTAKE_SHARE: f64 = 0.5;
/// Rate at which each group gets its first event.
const PROBES_PER_SECOND: f64 = 500.0;

/// The cost of deliveries in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FanoutCost {
    /// Microseconds of CPU time per delivery.
    pub(crate) delivery_us: f64,
    /// Microseconds of CPU time per delivery, without the cost of accepting the events.
    pub(crate) delivery_without_intake_us: f64,
    /// Microseconds per event without a subscriber. `None` for the baseline, which generates its events
    /// itself.
    pub(crate) intake_us: Option<f64>,
    pub(crate) bytes_per_delivery: f64,
    pub(crate) expected: u64,
    pub(crate) delivered: u64,
    /// Whether every socket received each event of its group exactly once.
    pub(crate) complete: bool,
    /// Delay of the last burst behind its schedule.
    pub(crate) lag_ms: f64,
}

impl FanoutCost {
    /// One line for people.
    pub(crate) fn summary(&self) -> String {
        let loss = if self.complete { "" } else { ", LOSS" };
        format!(
            "{:.2} us per delivery, {:.2} without intake{loss}",
            self.delivery_us, self.delivery_without_intake_us
        )
    }
}

impl Measurement<'_> {
    /// Measures deliveries.
    pub(crate) async fn fanout(&mut self, fanout: &Fanout) -> anyhow::Result<FanoutCost> {
        let setup = self.setup;
        let mut server = self.start_server(fanout.groups).await?;
        let mut clients = self.start_clients(&server, fanout.sockets, fanout.groups, 1)?;
        clients.open().await?;
        sleep(CALM).await;
        let plan = PublishPlan {
            bursts: fanout.bursts(setup.duration)?,
            burst: fanout.burst,
            bursts_per_second: fanout.bursts_per_second,
            groups: fanout.groups,
            pad_bytes: find_padding(&mut server, &mut clients, fanout, setup.event_bytes).await?,
        };
        let warm_up_bursts = fanout.bursts(setup.duration.mul_f64(WARM_UP_SHARE))?;
        let plan = PublishPlan {
            pad_bytes: warm_up(&mut server, &mut clients, fanout, &plan, warm_up_bursts, setup.event_bytes)
                .await?,
            ..plan
        };
        // The baseline accepts no events. Its work between events is part of the bare loop.
        let intake_us = match self.kind {
            ServerKind::Baseline => None,
            _ => Some(intake(&mut server, fanout, &plan, setup.duration).await?),
        };
        clients.beat().await?;
        sleep(CALM).await;
        clients.reset().await?;

        let expected = expected_deliveries(fanout, plan.bursts)?;
        let before = server.meter().cpu()?;
        let lag_ms = server.publish(&plan).await?;
        let count = wait_for_arrival(&mut clients, expected).await?;
        let spent = server.meter().cpu()? - before;

        // A duplicate may be the last event to arrive.
        sleep(CALM).await;
        let last = clients.count().await?;
        drop(clients);
        server.stop().await?;
        let spent_us = spent.as_secs_f64() * 1e6;
        let intake_total_us = intake_us.unwrap_or(0.0) * plan.events() as f64;
        Ok(FanoutCost {
            delivery_us: spent_us / expected as f64,
            delivery_without_intake_us: (spent_us - intake_total_us) / expected as f64,
            intake_us,
            bytes_per_delivery: count.bytes as f64 / count.events.max(1) as f64,
            expected,
            delivered: last.events,
            complete: is_complete(fanout, &plan, &last),
            lag_ms,
        })
    }
}

/// Deliveries that a number of bursts must cause. Every group gets equally many bursts.
fn expected_deliveries(fanout: &Fanout, bursts: u64) -> anyhow::Result<u64> {
    let each = bursts / u64::try_from(fanout.groups)? * u64::from(fanout.burst);
    Ok(u64::try_from(fanout.sockets)? * each)
}

fn is_complete(fanout: &Fanout, plan: &PublishPlan, count: &Count) -> bool {
    let each = plan.events() / fanout.groups as u64;
    count.open == fanout.sockets && count.least == each && count.most == each
}

/// Publishes one event to each group, and derives from its length the padding that gives events the wanted
/// length. If every socket receives the event once, all sockets have joined.
async fn find_padding(
    server: &mut Server,
    clients: &mut Clients,
    fanout: &Fanout,
    event_bytes: usize,
) -> anyhow::Result<usize> {
    let probe = PublishPlan {
        bursts: u64::try_from(fanout.groups)?,
        burst: 1,
        bursts_per_second: PROBES_PER_SECOND,
        groups: fanout.groups,
        // Close to the final length, so that the frame's header is equally long.
        pad_bytes: event_bytes,
    };
    server.publish(&probe).await?;
    let sockets = u64::try_from(fanout.sockets)?;
    let count = wait_for_arrival(clients, sockets).await?;
    ensure!(
        is_complete(fanout, &probe, &count),
        "not all {sockets} sockets received the first event exactly once: {count:?}"
    );
    let envelope = usize::try_from(count.bytes / sockets)?.saturating_sub(probe.pad_bytes);
    Ok(event_bytes.saturating_sub(envelope))
}

/// Publishes before the measurement, and returns the padding for the envelope at this rate. A cursor may grow
/// with the number of transactions in progress.
async fn warm_up(
    server: &mut Server,
    clients: &mut Clients,
    fanout: &Fanout,
    plan: &PublishPlan,
    bursts: u64,
    event_bytes: usize,
) -> anyhow::Result<usize> {
    clients.reset().await?;
    server.publish(&PublishPlan { bursts, ..*plan }).await?;
    let count = wait_for_arrival(clients, expected_deliveries(fanout, bursts)?).await?;
    let envelope = usize::try_from(count.bytes / count.events.max(1))?.saturating_sub(plan.pad_bytes);
    Ok(event_bytes.saturating_sub(envelope))
}

/// Microseconds of CPU time per event without a subscriber.
async fn intake(
    server: &mut Server,
    fanout: &Fanout,
    plan: &PublishPlan,
    duration: Duration,
) -> anyhow::Result<f64> {
    let bursts = fanout.bursts(duration.mul_f64(INTAKE_SHARE))?;
    let plan = PublishPlan { bursts, groups: 0, ..*plan };
    sleep(CALM).await;
    let before = server.meter().cpu()?;
    let began = Instant::now();
    server.publish(&plan).await?;
    // The last event is published one interval before the schedule ends.
    sleep(plan.due(plan.bursts).saturating_sub(began.elapsed())).await;
    let spent = server.meter().cpu()? - before;
    Ok(spent.as_secs_f64() * 1e6 / plan.events() as f64)
}

/// Waits until this many events have arrived, and returns the counts. Late events are missing from them.
async fn wait_for_arrival(clients: &mut Clients, expected: u64) -> anyhow::Result<Count> {
    let deadline = Instant::now() + ARRIVAL_TIMEOUT;
    loop {
        let count = clients.count().await?;
        if count.events >= expected || Instant::now() > deadline {
            return Ok(count);
        }
        sleep(ARRIVAL_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_noticed_even_if_a_duplicate_balances_it() {
        let fanout =
            Fanout { name: "x".to_owned(), sockets: 5, groups: 2, burst: 3, bursts_per_second: 10.0 };
        let plan = PublishPlan {
            bursts: fanout.bursts(Duration::from_millis(350)).unwrap(),
            burst: 3,
            bursts_per_second: 10.0,
            groups: 2,
            pad_bytes: 0,
        };
        assert_eq!((plan.bursts, plan.events()), (4, 12));
        let count = Count { open: 5, events: 30, bytes: 0, least: 6, most: 6 };
        assert_eq!(expected_deliveries(&fanout, plan.bursts).unwrap(), count.events);
        assert!(is_complete(&fanout, &plan, &count));
        assert!(!is_complete(&fanout, &plan, &Count { least: 5, most: 7, ..count }));
        assert!(!is_complete(&fanout, &plan, &Count { open: 4, ..count }));
    }
}
