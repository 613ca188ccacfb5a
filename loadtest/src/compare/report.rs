//! What was measured, as tables for people and as JSON: medians over the rounds, with ratios to the floor of the
//! same round. It measures nothing.

use std::fmt::Write as _;

use serde::Serialize;

use super::machine::Machine;
use super::measure::{ConnectCost, FanoutCost, IdleCost};
use super::servers::Kind;
use super::workload::Fanout;

/// All that a comparison found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Of the folder where the gateway's program lies.
    pub(crate) commit: Option<String>,
    pub(crate) command: String,
    pub(crate) rounds: usize,
    /// Wanted length of an event on the wire.
    pub(crate) bytes: usize,
    /// Servers that are not installed, and how to install them.
    pub(crate) missing: Vec<(Kind, &'static str)>,
    pub(crate) fanout: Vec<Table<Fanout, FanoutCost>>,
    pub(crate) idle: Vec<Table<(), IdleCost>>,
    pub(crate) connect: Vec<Table<(), ConnectCost>>,
    /// What could not be measured, in words.
    pub(crate) failures: Vec<String>,
    /// The comparison was ended before it was through.
    pub(crate) interrupted: bool,
}

/// One measurement of every server.
#[derive(Debug, Serialize)]
pub(crate) struct Table<W, C> {
    pub(crate) workload: W,
    pub(crate) servers: Vec<Row<C>>,
}

/// One server.
#[derive(Debug, Serialize)]
pub(crate) struct Row<C> {
    pub(crate) server: Kind,
    pub(crate) medians: Medians,
    /// None where it could not be measured in that round.
    pub(crate) rounds: Vec<Option<C>>,
}

/// The figures of the table. Those that do not apply are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Medians {
    /// Rounds that count: those in which every event arrived once.
    pub(crate) rounds: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivery_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivery_to_floor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) without_intake_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) without_intake_to_floor: Option<f64>,
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
    /// Whether everything was measured and everything arrived.
    pub(crate) fn passed(&self) -> bool {
        let rows = self.fanout.iter().flat_map(|table| &table.servers);
        let complete = |cost: &Option<FanoutCost>| cost.as_ref().is_some_and(|cost| cost.complete);
        self.failures.is_empty() && !self.interrupted && rows.flat_map(|row| &row.rounds).all(complete)
    }

    /// Works out every median.
    pub(crate) fn conclude(&mut self) {
        for table in &mut self.fanout {
            let floor = rounds_of(&table.servers, Kind::Floor);
            for row in &mut table.servers {
                row.medians = fanout_medians(&row.rounds, &floor);
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

    /// Tables in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let commit = self.commit.as_deref().unwrap_or("unknown");
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}; commit {commit}\n`{}`\n", self.machine.title(), self.command);
        let _ = writeln!(
            text,
            "Medians of {} rounds, events of {} bytes; CPU time of the server's process per delivery.",
            self.rounds, self.bytes
        );
        if self.machine.is_busy() {
            text += "\nTHE MACHINE WAS BUSY before: events then gather and share writes, and figures and ratios don't count.\n";
        }
        for table in &self.fanout {
            fanout_table(&mut text, table);
        }
        for table in &self.idle {
            idle_table(&mut text, table);
        }
        for table in &self.connect {
            connect_table(&mut text, table);
        }
        for (server, advice) in &self.missing {
            let _ = writeln!(text, "\nNot measured: {}. {advice}.", server.name());
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nFAILED: {failure}");
        }
        if self.interrupted {
            text += "\nInterrupted: the rounds that were through count.\n";
        }
        text
    }
}

fn rounds_of(rows: &[Row<FanoutCost>], kind: Kind) -> Vec<Option<FanoutCost>> {
    rows.iter().find(|row| row.server == kind).map(|row| row.rounds.clone()).unwrap_or_default()
}

/// A round with a loss is not counted, and a ratio is to the floor of the same round.
fn fanout_medians(rounds: &[Option<FanoutCost>], floor: &[Option<FanoutCost>]) -> Medians {
    let whole = |cost: &Option<FanoutCost>| cost.clone().filter(|cost| cost.complete);
    let counted: Vec<FanoutCost> = rounds.iter().filter_map(whole).collect();
    let pairs: Vec<(FanoutCost, FanoutCost)> =
        rounds.iter().zip(floor).filter_map(|(cost, floor)| Some((whole(cost)?, whole(floor)?))).collect();
    Medians {
        rounds: counted.len(),
        delivery_us: median(counted.iter().map(|cost| cost.delivery_us)),
        delivery_to_floor: median(pairs.iter().map(|(cost, floor)| cost.delivery_us / floor.delivery_us)),
        without_intake_us: median(counted.iter().map(|cost| cost.delivery_without_intake_us)),
        without_intake_to_floor: median(
            pairs.iter().map(|(cost, floor)| cost.delivery_without_intake_us / floor.delivery_us),
        ),
        intake_us: median(counted.iter().filter_map(|cost| cost.intake_us)),
        bytes: median(counted.iter().map(|cost| cost.bytes_per_delivery)),
        ..Medians::default()
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn fanout_table(text: &mut String, table: &Table<Fanout, FanoutCost>) {
    let _ = writeln!(text, "\n{}\n", table.workload.title());
    text.push_str(
        "| server | us per delivery | x floor | without intake: us | x floor | intake: us per event | bytes | deliveries |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in &table.servers {
        let m = &row.medians;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.server.name(),
            cell(m.delivery_us, 2),
            cell(m.delivery_to_floor, 2),
            cell(m.without_intake_us, 2),
            cell(m.without_intake_to_floor, 2),
            cell(m.intake_us, 0),
            cell(m.bytes, 0),
            deliveries(&row.rounds)
        );
    }
}

fn deliveries(rounds: &[Option<FanoutCost>]) -> String {
    let rounds: Vec<_> = rounds.iter().flatten().collect();
    let (expected, delivered): (u64, u64) =
        rounds.iter().fold((0, 0), |sum, cost| (sum.0 + cost.expected, sum.1 + cost.delivered));
    let bad = rounds.iter().filter(|cost| !cost.complete).count();
    match bad {
        0 => format!("all of {expected}"),
        bad => format!("LOSS: {delivered} of {expected}; {bad} of {} rounds don't count", rounds.len()),
    }
}

fn idle_table(text: &mut String, table: &Table<(), IdleCost>) {
    let sockets = table.servers.iter().flat_map(|row| &row.rounds).flatten().map(|cost| cost.sockets).next();
    let _ = writeln!(text, "\nidle: {} sockets, each joined to two topics\n", sockets.unwrap_or_default());
    text.push_str(
        "| server | KiB per socket | MiB at the start | with all | after they left | to the start |\n|---|---:|---:|---:|---:|---:|\n",
    );
    for row in &table.servers {
        let of = |figure: fn(&IdleCost) -> f64| cell(median(row.rounds.iter().flatten().map(figure)), 1);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            row.server.name(),
            cell(row.medians.socket_kib, 2),
            of(|cost| cost.start_mib),
            of(|cost| cost.full_mib),
            of(|cost| cost.left_mib),
            cell(row.medians.left_to_start, 2)
        );
    }
}

fn connect_table(text: &mut String, table: &Table<(), ConnectCost>) {
    let connects =
        table.servers.iter().flat_map(|row| &row.rounds).flatten().map(|cost| cost.connects).next();
    let _ = writeln!(
        text,
        "\nconnect: {} upgrades, each with a join (the gateway's with a token, HS256; the others know nobody)\n",
        connects.unwrap_or_default()
    );
    text.push_str("| server | us per upgrade and join |\n|---|---:|\n");
    for row in &table.servers {
        let _ = writeln!(text, "| {} | {} |", row.server.name(), cell(row.medians.connect_us, 1));
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
    fn a_round_with_a_loss_is_marked_and_not_counted() {
        let floor = [cost(4.0, true), cost(5.0, true), cost(6.0, true)];
        let gateway = [cost(4.4, true), cost(99.0, false), cost(6.6, true)];
        let medians = fanout_medians(&gateway, &floor);
        assert_eq!(medians.rounds, 2);
        assert!((medians.delivery_us.unwrap() - 5.5).abs() < 1e-9);
        assert!((medians.delivery_to_floor.unwrap() - 1.1).abs() < 1e-9);
        assert_eq!(deliveries(&gateway), "LOSS: 299 of 300; 1 of 3 rounds don't count");
        // A loss of the floor leaves the ratios of that round out, and no more.
        let medians = fanout_medians(&floor, &[cost(4.0, false), cost(5.0, true), None]);
        assert!((medians.delivery_to_floor.unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(medians.rounds, 3);
    }

    #[test]
    fn the_tables_have_every_server() {
        let fanout =
            Fanout { name: "small".to_owned(), sockets: 200, groups: 1, burst: 1, bursts_per_second: 500.0 };
        let row = |server, us| Row { server, medians: Medians::default(), rounds: vec![cost(us, true)] };
        let servers = vec![row(Kind::Floor, 4.0), row(Kind::Gateway, 4.4)];
        let mut report = Report { fanout: vec![Table { workload: fanout, servers }], ..Report::default() };
        report.missing.push((Kind::Nats, "apt install nats-server"));
        report.conclude();
        let text = report.markdown();
        assert!(text.contains("small: 200 sockets in 1 organisation, 500 events/s"), "{text}");
        assert!(text.contains("| gateway | 4.40 | 1.10 | 3.40 | 0.85 | 50 | 250 | all of 100 |"), "{text}");
        assert!(text.contains("Not measured: nats. apt install nats-server."), "{text}");
        assert!(report.passed());
        report.fanout[0].servers[1].rounds.push(cost(4.4, false));
        assert!(!report.passed());
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
