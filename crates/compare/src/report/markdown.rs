//! The report as Markdown tables.

use std::fmt::Write as _;

use super::median::median;
use super::model::{Report, Table};
use crate::measure::{ConnectCost, FanoutCost, IdleCost};
use crate::workload::Fanout;

impl Report {
    /// The whole report.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let commit = self.commit.as_deref().unwrap_or("unknown");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}; commit {commit}\n`{}`\n", self.conditions, self.command);
        let _ = writeln!(
            text,
            "Medians of {} rounds, events of {} bytes; CPU time of the server's process per delivery.",
            self.rounds, self.bytes
        );
        if self.conditions.is_busy() {
            text += "\nTHE MACHINE WAS BUSY before the comparison: on a busy machine events share writes, so the figures \
                     and ratios are not valid. Stop other work and repeat it.\n";
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
            text += "\nInterrupted: the figures are those of the finished rounds.\n";
        }
        text
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn fanout_table(text: &mut String, table: &Table<Fanout, FanoutCost>) {
    let _ = writeln!(text, "\n{}\n", table.workload.title());
    text.push_str(
        "| server | us per delivery | x baseline | without intake: us | x baseline | intake: us per event | bytes | deliveries |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in &table.servers {
        let medians = &row.medians;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.server.name(),
            cell(medians.delivery_us, 2),
            cell(medians.delivery_to_baseline, 2),
            cell(medians.without_intake_us, 2),
            cell(medians.without_intake_to_baseline, 2),
            cell(medians.intake_us, 0),
            cell(medians.bytes, 0),
            deliveries(&row.rounds)
        );
    }
}

fn deliveries(rounds: &[Option<FanoutCost>]) -> String {
    let rounds: Vec<_> = rounds.iter().flatten().collect();
    let (expected, delivered): (u64, u64) =
        rounds.iter().fold((0, 0), |sum, cost| (sum.0 + cost.expected, sum.1 + cost.delivered));
    let invalid = rounds.iter().filter(|cost| !cost.complete).count();
    match invalid {
        0 => format!("all of {expected}"),
        invalid => {
            format!("LOSS: {delivered} of {expected}; {invalid} of {} rounds are not valid", rounds.len())
        }
    }
}

fn idle_table(text: &mut String, table: &Table<(), IdleCost>) {
    let sockets = table.servers.iter().flat_map(|row| &row.rounds).flatten().map(|cost| cost.sockets).next();
    let _ = writeln!(text, "\nidle: {} sockets, each joined to two topics\n", sockets.unwrap_or_default());
    text.push_str(
        "| server | KiB per socket | MiB at the start | with all sockets | after they left | ratio to the start |\n\
         |---|---:|---:|---:|---:|---:|\n",
    );
    for row in &table.servers {
        let figure = |figure: fn(&IdleCost) -> f64| cell(median(row.rounds.iter().flatten().map(figure)), 1);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            row.server.name(),
            cell(row.medians.socket_kib, 2),
            figure(|cost| cost.start_mib),
            figure(|cost| cost.full_mib),
            figure(|cost| cost.left_mib),
            cell(row.medians.left_to_start, 2)
        );
    }
}

fn connect_table(text: &mut String, table: &Table<(), ConnectCost>) {
    let connects =
        table.servers.iter().flat_map(|row| &row.rounds).flatten().map(|cost| cost.connects).next();
    let _ = writeln!(
        text,
        "\nconnect: {} upgrades, each with a join. The gateway verifies a token (HS256); the other servers do not \
         authenticate\n",
        connects.unwrap_or_default()
    );
    text.push_str("| server | us per upgrade and join |\n|---|---:|\n");
    for row in &table.servers {
        let _ = writeln!(text, "| {} | {} |", row.server.name(), cell(row.medians.connect_us, 1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Medians, Row};
    use super::*;
    use crate::servers::ServerKind;

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
    fn a_round_with_a_loss_is_marked() {
        let rounds = [cost(4.4, true), cost(99.0, false), cost(6.6, true)];
        assert_eq!(deliveries(&rounds), "LOSS: 299 of 300; 1 of 3 rounds are not valid");
    }

    #[test]
    fn the_tables_contain_every_server() {
        let fanout =
            Fanout { name: "small".to_owned(), sockets: 200, groups: 1, burst: 1, bursts_per_second: 500.0 };
        let row = |server, us| Row { server, medians: Medians::default(), rounds: vec![cost(us, true)] };
        let servers = vec![row(ServerKind::Baseline, 4.0), row(ServerKind::Gateway, 4.4)];
        let mut report = Report { fanout: vec![Table { workload: fanout, servers }], ..Report::default() };
        report.missing.push((ServerKind::Nats, "Install it"));
        report.compute_medians();
        let text = report.markdown();
        assert!(text.contains("small: 200 sockets in 1 organisation, 500 events/s"), "{text}");
        assert!(text.contains("| gateway | 4.40 | 1.10 | 3.40 | 0.85 | 50 | 250 | all of 100 |"), "{text}");
        assert!(text.contains("Not measured: nats. Install it."), "{text}");
        assert!(report.passed());
        report.fanout[0].servers[1].rounds.push(cost(4.4, false));
        assert!(!report.passed());
    }
}
