//! The result of a comparison: all rounds, their medians, and ratios to the baseline of the same round.

use serde::Serialize;

use super::median::median;
use crate::conditions::Conditions;
use crate::measure::{ConnectCost, FanoutCost, IdleCost};
use crate::servers::ServerKind;
use crate::workload::Fanout;

/// Everything that a comparison measured. The field names are those of the JSON report.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    #[serde(rename = "machine")]
    pub(crate) conditions: Conditions,
    /// Commit of the folder in which the gateway's program is.
    pub(crate) commit: Option<String>,
    pub(crate) command: String,
    pub(crate) rounds: usize,
    /// Wanted length of an event on the wire.
    pub(crate) bytes: usize,
    /// Servers that are not installed, and how to install them.
    pub(crate) missing: Vec<(ServerKind, &'static str)>,
    pub(crate) fanout: Vec<Table<Fanout, FanoutCost>>,
    pub(crate) idle: Vec<Table<(), IdleCost>>,
    pub(crate) connect: Vec<Table<(), ConnectCost>>,
    /// Errors of measurements.
    pub(crate) failures: Vec<String>,
    /// Whether the comparison was stopped early.
    pub(crate) interrupted: bool,
}

/// One measurement of every server.
#[derive(Debug, Serialize)]
pub(crate) struct Table<W, C> {
    pub(crate) workload: W,
    pub(crate) servers: Vec<Row<C>>,
}

/// The figures of one server.
#[derive(Debug, Serialize)]
pub(crate) struct Row<C> {
    pub(crate) server: ServerKind,
    pub(crate) medians: Medians,
    /// `None` for a round in which the measurement failed.
    pub(crate) rounds: Vec<Option<C>>,
}

/// Medians over the rounds. Figures that do not apply to the workload are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Medians {
    /// Valid rounds: those in which every event arrived exactly once.
    pub(crate) rounds: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivery_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivery_to_baseline: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) without_intake_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) without_intake_to_baseline: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) intake_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) socket_kib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) left_to_start: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connect_us: Option<f64>,
}

impl Report {
    /// Whether everything was measured and every event arrived exactly once.
    pub(crate) fn passed(&self) -> bool {
        let rows = self.fanout.iter().flat_map(|table| &table.servers);
        let complete = |cost: &Option<FanoutCost>| cost.as_ref().is_some_and(|cost| cost.complete);
        self.failures.is_empty() && !self.interrupted && rows.flat_map(|row| &row.rounds).all(complete)
    }

    /// Computes the medians of every row.
    pub(crate) fn compute_medians(&mut self) {
        for table in &mut self.fanout {
            let baseline = baseline_rounds(&table.servers);
            for row in &mut table.servers {
                row.medians = fanout_medians(&row.rounds, &baseline);
            }
        }
        for row in self.idle.iter_mut().flat_map(|table| &mut table.servers) {
            let rounds: Vec<_> = row.rounds.iter().flatten().collect();
            row.medians = Medians {
                rounds: rounds.len(),
                socket_kib: median(rounds.iter().map(|cost| cost.socket_kib)),
                left_to_start: median(rounds.iter().map(|cost| cost.left_mib / cost.start_mib)),
                ..Medians::default()
            };
        }
        for row in self.connect.iter_mut().flat_map(|table| &mut table.servers) {
            let rounds: Vec<_> = row.rounds.iter().flatten().collect();
            row.medians = Medians {
                rounds: rounds.len(),
                connect_us: median(rounds.iter().map(|cost| cost.connect_us)),
                ..Medians::default()
            };
        }
    }
}

fn baseline_rounds(rows: &[Row<FanoutCost>]) -> Vec<Option<FanoutCost>> {
    let baseline = rows.iter().find(|row| row.server == ServerKind::Baseline);
    baseline.map(|row| row.rounds.clone()).unwrap_or_default()
}

/// Medians over the valid rounds. A round with a loss is invalid, and a ratio needs a valid baseline of its
/// round.
fn fanout_medians(rounds: &[Option<FanoutCost>], baseline: &[Option<FanoutCost>]) -> Medians {
    let valid = |cost: &Option<FanoutCost>| cost.clone().filter(|cost| cost.complete);
    let costs: Vec<FanoutCost> = rounds.iter().filter_map(valid).collect();
    let pairs = rounds.iter().zip(baseline);
    let pairs: Vec<(FanoutCost, FanoutCost)> =
        pairs.filter_map(|(cost, baseline)| Some((valid(cost)?, valid(baseline)?))).collect();
    let ratio = |figure: fn(&FanoutCost) -> f64| {
        median(pairs.iter().map(|(cost, baseline)| figure(cost) / baseline.delivery_us))
    };
    Medians {
        rounds: costs.len(),
        delivery_us: median(costs.iter().map(|cost| cost.delivery_us)),
        delivery_to_baseline: ratio(|cost| cost.delivery_us),
        without_intake_us: median(costs.iter().map(|cost| cost.delivery_without_intake_us)),
        without_intake_to_baseline: ratio(|cost| cost.delivery_without_intake_us),
        intake_us: median(costs.iter().filter_map(|cost| cost.intake_us)),
        bytes: median(costs.iter().map(|cost| cost.bytes_per_delivery)),
        ..Medians::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(delivery_us: f64, complete: bool) -> Option<FanoutCost> {
        Some(FanoutCost {
            delivery_us,
            delivery_without_intake_us: delivery_us - 1.0,
            intake_us: Some(50.0),
            bytes_per_delivery: 250.0,
            expected: 100,
            delivered: if complete { 100 } else { 99 },
            complete,
            lag_ms: 0.0,
        })
    }

    #[test]
    fn a_round_with_a_loss_does_not_count() {
        let baseline = [cost(4.0, true), cost(5.0, true), cost(6.0, true)];
        let gateway = [cost(4.4, true), cost(99.0, false), cost(6.6, true)];
        let medians = fanout_medians(&gateway, &baseline);
        assert_eq!(medians.rounds, 2);
        assert!((medians.delivery_us.unwrap() - 5.5).abs() < 1e-9);
        assert!((medians.delivery_to_baseline.unwrap() - 1.1).abs() < 1e-9);
    }

    #[test]
    fn a_loss_of_the_baseline_only_removes_the_ratio_of_its_round() {
        let rounds = [cost(4.0, true), cost(5.0, true), cost(6.0, true)];
        let medians = fanout_medians(&rounds, &[cost(4.0, false), cost(5.0, true), None]);
        assert!((medians.delivery_to_baseline.unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(medians.rounds, 3);
    }
}
