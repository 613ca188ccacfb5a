//! The report as one page: the verdict, plots, tables. The page needs no other file, no script and no
//! network, and follows the reader's choice of light or dark.

use std::fmt::Write as _;

use super::plot::{Curve, Moment, Plot, escape};
use super::{Report, Row};
use crate::meters::Percentiles;

const STYLE: &str = include_str!("style.css");

impl Report {
    /// A whole HTML document.
    pub(crate) fn html(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_html(&mut out);
        out
    }

    fn write_html(&self, out: &mut String) -> std::fmt::Result {
        let title = escape(&format!("warden-loadtest {} {}", self.scenario, self.run));
        write!(
            out,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>{STYLE}</style></head><body>\n"
        )?;
        self.write_head(out)?;
        self.write_cards(out)?;
        writeln!(
            out,
            "<section class=\"plots\">{}</section>",
            self.plots().iter().map(Plot::svg).collect::<String>()
        )?;
        self.write_tables(out)?;
        let interrupted =
            if self.interrupted { " The run was interrupted: this is what happened until then." } else { "" };
        let debug = if self.debug_build {
            " The tester was a debug build: its times are mostly its own."
        } else {
            ""
        };
        writeln!(
            out,
            "<footer>{}. Gateways {}. {} tester processes, {} source addresses. Began {}. \
             warden-loadtest {}.{interrupted}{debug}</footer></body></html>",
            escape(&self.machine),
            escape(&self.gateways.join(", ")),
            self.tester.processes,
            self.source_addresses,
            self.began,
            self.version
        )
    }

    fn write_head(&self, out: &mut String) -> std::fmt::Result {
        let class = if self.verdict() == "PASSED" { "good" } else { "bad" };
        writeln!(
            out,
            "<header><h1>{} <span class=\"verdict {class}\">{}</span></h1><p>{} sockets over {} organisations ({}), \
             {} changes in {:.0} s, {} deliveries</p></header>",
            escape(self.scenario),
            self.verdict(),
            self.sockets,
            self.orgs,
            escape(&self.skew),
            self.changes,
            self.duration_s,
            self.delivered
        )
    }

    fn write_cards(&self, out: &mut String) -> std::fmt::Result {
        let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2} ms"));
        let number = |value: Option<f64>, unit: &str| {
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1} {unit}"))
        };
        let cards = [
            ("p50, commit to socket", ms(self.latency_ms.p50), false),
            ("p99, commit to socket", ms(self.latency_ms.p99), false),
            ("p99, schedule to socket", ms(self.schedule_latency_ms.p99), false),
            ("missing", self.missing.to_string(), self.missing > 0),
            ("at another organisation", self.cross_org.to_string(), self.cross_org > 0),
            ("duplicates", self.duplicates.to_string(), self.duplicates > 0),
            ("out of order", self.out_of_order.to_string(), self.out_of_order > 0),
            ("server CPU for each delivery", number(self.server.cpu_us_per_delivery, "us"), false),
            ("server memory at most", number(self.server.resident_mib_max, "MiB"), false),
        ];
        write!(out, "<section class=\"cards\">")?;
        for (name, value, is_bad) in cards {
            let class = if is_bad { " class=\"bad\"" } else { "" };
            write!(out, "<div{class}><b>{value}</b><span>{name}</span></div>")?;
        }
        writeln!(out, "</section>")
    }

    fn plots(&self) -> Vec<Plot<'_>> {
        let curve = |name, value: fn(&Row) -> Option<f64>| {
            let points = self.series.iter().map(|row| (row.t_s, value(row))).collect();
            Curve { name, points }
        };
        let plot = |title, unit, logarithmic, curves| Plot {
            title,
            unit,
            logarithmic,
            curves,
            moments: self.moments(),
        };
        vec![
            plot(
                "Latency over time",
                "ms, commit to socket, logarithmic",
                true,
                vec![
                    curve("p50", |row| row.p50_ms),
                    curve("p90", |row| row.p90_ms),
                    curve("p99", |row| row.p99_ms),
                    curve("max", |row| row.max_ms),
                ],
            ),
            plot("Deliveries", "events a second", false, vec![curve("events", |row| Some(row.events_per_s))]),
            plot("Changes", "changes a second", false, vec![curve("changes", |row| Some(row.changes_per_s))]),
            plot(
                "Sockets",
                "open, and on their way",
                false,
                vec![
                    curve("open", |row| Some(row.sockets as f64)),
                    curve("connecting", |row| Some(row.connecting as f64)),
                ],
            ),
            plot(
                "CPU",
                "cores",
                false,
                vec![curve("server", |row| row.server_cores), curve("tester", |row| row.tester_cores)],
            ),
            plot("Server memory", "MiB resident", false, vec![curve("server", |row| row.server_mib)]),
        ]
    }

    fn moments(&self) -> &[Moment] {
        &self.moments
    }

    fn write_tables(&self, out: &mut String) -> std::fmt::Result {
        write!(
            out,
            "<section class=\"tables\"><table><caption>Milliseconds</caption><tr><th></th><th>count</th>"
        )?;
        for (name, _) in self.latency_ms.named() {
            write!(out, "<th>{name}</th>")?;
        }
        writeln!(out, "</tr>")?;
        let mut times = vec![
            ("commit to socket".to_owned(), self.latency_ms),
            ("schedule to socket".to_owned(), self.schedule_latency_ms),
            ("commit".to_owned(), self.commit_ms),
            ("schedule lag".to_owned(), self.schedule_lag_ms),
            ("connect".to_owned(), self.connect_ms),
            ("connect and join".to_owned(), self.join_ms),
        ];
        if let Some(storm) = &self.storm {
            times.push(("back after the storm".to_owned(), storm.back_ms));
            times.push(("caught up".to_owned(), storm.caught_up_ms));
        }
        for phase in self.phases.iter().filter(|_| self.phases.len() > 1) {
            times.push((format!("commit to socket: {}", phase.name), phase.latency_ms));
            if let Some(first) = phase.first_org_latency_ms {
                times.push((format!("of the organisation that floods: {}", phase.name), first));
            }
        }
        for (name, percentiles) in &times {
            write_row(out, name, percentiles)?;
        }
        writeln!(out, "</table>")?;
        self.write_counts_table(out)?;
        self.write_slo_table(out)?;
        if !self.faults.is_empty() {
            writeln!(out, "<div><h2>The first that was wrong</h2><ul>")?;
            for fault in &self.faults {
                writeln!(out, "<li>{}</li>", escape(fault))?;
            }
            writeln!(out, "</ul></div>")?;
        }
        writeln!(out, "</section>")
    }

    fn write_counts_table(&self, out: &mut String) -> std::fmt::Result {
        write!(out, "<table><caption>Counts</caption>")?;
        let resources = [
            ("server cores while publishing", self.server.cores),
            ("server CPU for each socket that joined, us", self.server.cpu_us_per_connect),
            ("server memory for each socket that joined, KiB", self.server.kib_per_socket),
            ("server memory, growth, MiB an hour", self.server.growth_mib_per_h),
            ("tester CPU for each event, us", self.tester.cpu_us_per_event),
        ];
        let counts = [
            ("sockets opened", self.sockets),
            ("refused", self.sockets_refused),
            ("dropped", self.sockets_dropped),
            ("changes due", self.changes_due),
            ("changes made", self.changes),
            ("deliveries expected", self.expected),
            ("delivered", self.delivered),
            ("unexpected", self.unexpected),
            ("of rolled-back changes", self.rolled_back),
            ("resyncs", self.resyncs),
        ];
        for (name, value) in counts {
            writeln!(out, "<tr><td>{name}</td><td>{value}</td></tr>")?;
        }
        for (name, value) in resources {
            let value = value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
            writeln!(out, "<tr><td>{name}</td><td>{value}</td></tr>")?;
        }
        writeln!(out, "</table>")
    }

    fn write_slo_table(&self, out: &mut String) -> std::fmt::Result {
        if self.slo.is_empty() {
            return Ok(());
        }
        write!(out, "<table><caption>Thresholds</caption>")?;
        for held in &self.slo {
            let (class, word) = if held.holds { ("good", "holds") } else { ("bad", "missed") };
            let value = held.value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.3}"));
            writeln!(
                out,
                "<tr><td>{}</td><td>{value}</td><td class=\"{class}\">{word}</td></tr>",
                escape(&held.rule)
            )?;
        }
        writeln!(out, "</table>")
    }
}

fn write_row(out: &mut String, name: &str, percentiles: &Percentiles) -> std::fmt::Result {
    write!(out, "<tr><td>{}</td><td>{}</td>", escape(name), percentiles.count)?;
    for (_, value) in percentiles.named() {
        let value = value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        write!(out, "<td>{value}</td>")?;
    }
    writeln!(out, "</tr>")
}

#[cfg(test)]
mod tests {
    use super::super::Report;

    #[test]
    fn the_page_needs_nothing_else_and_no_finding_breaks_it() {
        let report = Report { faults: vec!["<script>alert(1)</script>".to_owned()], ..Report::default() };
        let html = report.html();
        for plot in ["Latency over time", "Deliveries", "Changes", "Sockets", "CPU", "Server memory"] {
            assert!(html.contains(&format!("aria-label=\"{plot}\"")), "{plot}");
        }
        assert!(!html.contains("<script") && !html.contains("http://") && !html.contains("https://"));
    }
}
