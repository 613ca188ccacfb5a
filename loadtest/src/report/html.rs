//! The report as one HTML page: the verdict, plots and tables. The page needs no other file, no script and no
//! network, and follows the reader's choice of light or dark.

use std::fmt::{self, Write as _};

use super::model::{IntervalRow, Report};
use super::plot::{Curve, Plot, escape};
use crate::histograms::Percentiles;

const STYLE: &str = include_str!("style.css");

impl Report {
    /// The whole document.
    pub(crate) fn html(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_html(&mut out);
        out
    }

    fn write_html(&self, out: &mut String) -> fmt::Result {
        let title = escape(&format!("warden-loadtest {} {}", self.scenario, self.run));
        write!(
            out,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>{STYLE}</style></head><body>\n"
        )?;
        self.write_head(out)?;
        self.write_cards(out)?;
        let plots: String = self.plots().iter().map(Plot::svg).collect();
        writeln!(out, "<section class=\"plots\">{plots}</section>")?;
        self.write_tables(out)?;
        self.write_footer(out)
    }

    fn write_head(&self, out: &mut String) -> fmt::Result {
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

    fn write_footer(&self, out: &mut String) -> fmt::Result {
        let interrupted = if self.interrupted {
            " The run was interrupted: the figures end at the interruption."
        } else {
            ""
        };
        let debug = if self.debug_build {
            " The load tester was a debug build, which measures mostly itself."
        } else {
            ""
        };
        writeln!(
            out,
            "<footer>{}. Gateways: {}. {} processes of the load tester, {} source addresses. Started {}. \
             warden-loadtest {}.{interrupted}{debug}</footer></body></html>",
            escape(&self.machine),
            escape(&self.gateways.join(", ")),
            self.tester.processes,
            self.source_addresses,
            self.began,
            self.version
        )
    }

    fn write_cards(&self, out: &mut String) -> fmt::Result {
        let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2} ms"));
        let number = |value: Option<f64>, unit: &str| {
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1} {unit}"))
        };
        let cards = [
            ("p50, commit to socket", ms(self.latency_ms.p50), false),
            ("p99, commit to socket", ms(self.latency_ms.p99), false),
            ("p99, schedule to socket", ms(self.schedule_latency_ms.p99), false),
            ("missing", self.missing.to_string(), self.missing > 0),
            ("of another organisation", self.cross_org.to_string(), self.cross_org > 0),
            ("duplicates", self.duplicates.to_string(), self.duplicates > 0),
            ("out of order", self.out_of_order.to_string(), self.out_of_order > 0),
            ("server CPU per delivery", number(self.server.cpu_us_per_delivery, "us"), false),
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
        let curve = |name, value: fn(&IntervalRow) -> Option<f64>| {
            let points = self.series.iter().map(|row| (row.t_s, value(row))).collect();
            Curve { name, points }
        };
        let plot = |title, unit, logarithmic, curves| Plot {
            title,
            unit,
            logarithmic,
            curves,
            markers: &self.markers,
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
            plot("Deliveries", "events per second", false, vec![curve("events", |r| Some(r.events_per_s))]),
            plot("Changes", "changes per second", false, vec![curve("changes", |r| Some(r.changes_per_s))]),
            plot(
                "Sockets",
                "open and connecting",
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

    fn write_tables(&self, out: &mut String) -> fmt::Result {
        write!(out, "<section class=\"tables\">")?;
        self.write_latency_table(out)?;
        self.write_counts_table(out)?;
        self.write_slo_table(out)?;
        if !self.findings.is_empty() {
            writeln!(out, "<div><h2>First findings</h2><ul>")?;
            for finding in &self.findings {
                writeln!(out, "<li>{}</li>", escape(finding))?;
            }
            writeln!(out, "</ul></div>")?;
        }
        writeln!(out, "</section>")
    }

    fn write_latency_table(&self, out: &mut String) -> fmt::Result {
        write!(out, "<table><caption>Milliseconds</caption><tr><th></th><th>count</th>")?;
        for (name, _) in self.latency_ms.named() {
            write!(out, "<th>{name}</th>")?;
        }
        writeln!(out, "</tr>")?;
        let mut rows = vec![
            ("commit to socket".to_owned(), self.latency_ms),
            ("schedule to socket".to_owned(), self.schedule_latency_ms),
            ("commit".to_owned(), self.commit_ms),
            ("schedule lag".to_owned(), self.schedule_lag_ms),
            ("connect".to_owned(), self.connect_ms),
            ("connect and join".to_owned(), self.join_ms),
        ];
        if let Some(storm) = &self.storm {
            rows.push(("reconnected".to_owned(), storm.reconnect_ms));
            rows.push(("caught up".to_owned(), storm.caught_up_ms));
        }
        for phase in self.phases.iter().filter(|_| self.phases.len() > 1) {
            rows.push((format!("commit to socket: {}", phase.name), phase.latency_ms));
            if let Some(first) = phase.first_org_latency_ms {
                rows.push((format!("the flooding organisation: {}", phase.name), first));
            }
        }
        for (name, percentiles) in &rows {
            write_latency_row(out, name, percentiles)?;
        }
        writeln!(out, "</table>")
    }

    fn write_counts_table(&self, out: &mut String) -> fmt::Result {
        write!(out, "<table><caption>Counts</caption>")?;
        let counts = [
            ("sockets opened", self.sockets),
            ("sockets that failed to open", self.sockets_refused),
            ("sockets dropped", self.sockets_dropped),
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
        let usage = [
            ("server cores while publishing", self.server.cores),
            ("server CPU per socket that joined, us", self.server.cpu_us_per_connect),
            ("server memory per socket that joined, KiB", self.server.kib_per_socket),
            ("growth of server memory, MiB per hour", self.server.growth_mib_per_h),
            ("tester CPU per event, us", self.tester.cpu_us_per_event),
        ];
        for (name, value) in usage {
            let value = value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
            writeln!(out, "<tr><td>{name}</td><td>{value}</td></tr>")?;
        }
        writeln!(out, "</table>")
    }

    fn write_slo_table(&self, out: &mut String) -> fmt::Result {
        if self.slo.is_empty() {
            return Ok(());
        }
        write!(out, "<table><caption>Thresholds</caption>")?;
        for result in &self.slo {
            let (class, word) = if result.holds { ("good", "holds") } else { ("bad", "missed") };
            let value = result.value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.3}"));
            let rule = escape(&result.rule);
            writeln!(out, "<tr><td>{rule}</td><td>{value}</td><td class=\"{class}\">{word}</td></tr>")?;
        }
        writeln!(out, "</table>")
    }
}

fn write_latency_row(out: &mut String, name: &str, percentiles: &Percentiles) -> fmt::Result {
    write!(out, "<tr><td>{}</td><td>{}</td>", escape(name), percentiles.count)?;
    for (_, value) in percentiles.named() {
        let value = value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
        write!(out, "<td>{value}</td>")?;
    }
    writeln!(out, "</tr>")
}

#[cfg(test)]
mod tests {
    use super::super::model::Report;

    #[test]
    fn the_page_is_self_contained_and_findings_are_escaped() {
        let findings = vec!["<script>alert(1)</script>".to_owned()];
        let html = Report { findings, ..Report::default() }.html();
        for plot in ["Latency over time", "Deliveries", "Changes", "Sockets", "CPU", "Server memory"] {
            assert!(html.contains(&format!("aria-label=\"{plot}\"")), "{plot}");
        }
        assert!(!html.contains("<script") && !html.contains("http://") && !html.contains("https://"));
    }
}
