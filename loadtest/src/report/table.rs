//! The report as a table for the terminal.

use std::fmt::{self, Write as _};

use super::model::Report;
use crate::histograms::Percentiles;

impl Report {
    /// The whole table.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_table(&mut text);
        text
    }

    fn write_table(&self, out: &mut String) -> fmt::Result {
        let interrupted =
            if self.interrupted { " (interrupted; the figures end at the interruption)" } else { "" };
        writeln!(out, "warden-loadtest {} {}: {}{interrupted}\n", self.scenario, self.run, self.verdict())?;
        self.write_counts(out)?;
        self.write_latencies(out)?;
        self.write_storm_and_churn(out)?;
        self.write_usage(out)?;
        if !self.slo.is_empty() {
            writeln!(out)?;
        }
        for result in &self.slo {
            let verdict = if result.holds { "holds" } else { "MISSED" };
            let value = result.value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.3}"));
            writeln!(out, "  slo {:<24}{verdict:>8}   {value}", result.rule)?;
        }
        if !self.findings.is_empty() {
            writeln!(out, "\nFirst findings:")?;
        }
        for finding in &self.findings {
            writeln!(out, "  {finding}")?;
        }
        if self.debug_build {
            writeln!(
                out,
                "\nThis is a debug build of the load tester, which measures mostly itself: build it with --release."
            )?;
        }
        Ok(())
    }

    fn write_counts(&self, out: &mut String) -> fmt::Result {
        let retried = match self.sockets_retried {
            0 => String::new(),
            count => format!(", {count} retries"),
        };
        writeln!(
            out,
            "  sockets        {:>10}   of {} requested; {} failed to open, {} dropped{retried}",
            self.sockets, self.sockets_asked, self.sockets_refused, self.sockets_dropped
        )?;
        let (skew, topics) = (&self.skew, self.topics.join(","));
        writeln!(out, "  organisations  {:>10}   {skew}; topics {topics}", self.orgs)?;
        if let Some(skew) = &self.filter_skew {
            let (filters, entered, left) = (self.filters, self.entered, self.left);
            writeln!(
                out,
                "  filters        {filters:>10}   {skew}; rows entered {entered} times, left {left} times"
            )?;
        }
        writeln!(
            out,
            "  changes        {:>10}   of {} due; {} failed, {} with unknown outcome",
            self.changes, self.changes_due, self.changes_failed, self.changes_unknown
        )?;
        for (name, value) in [
            ("expected", self.expected),
            ("delivered", self.delivered),
            ("missing", self.missing),
            ("duplicates", self.duplicates),
            ("cross-org", self.cross_org),
            ("out of order", self.out_of_order),
        ] {
            writeln!(out, "  {name:<15}{value:>10}")?;
        }
        writeln!(
            out,
            "  unexpected     {:>10}   and {} of rolled-back changes",
            self.unexpected, self.rolled_back
        )?;
        writeln!(out, "  resyncs        {:>10}", self.resyncs)?;
        writeln!(out, "  changes/s      {:>10.1}   of {:.1} requested", self.rate, self.rate_asked)?;
        writeln!(out, "  deliveries/s   {:>10.0}", self.deliveries_per_s)?;
        writeln!(out, "  connects/s     {:>10.0}\n", self.connects_per_s)
    }

    fn write_latencies(&self, out: &mut String) -> fmt::Result {
        writeln!(
            out,
            "  {:<24}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "milliseconds", "p50", "p90", "p99", "p99.9", "max"
        )?;
        let mut line = |name: &str, times: &Percentiles| writeln!(out, "  {name:<24}{times}");
        line("commit to socket", &self.latency_ms)?;
        line("schedule to socket", &self.schedule_latency_ms)?;
        line("commit", &self.commit_ms)?;
        line("schedule lag", &self.schedule_lag_ms)?;
        line("connect", &self.connect_ms)?;
        line("connect and join", &self.join_ms)?;
        if let Some(storm) = &self.storm {
            line("reconnected", &storm.reconnect_ms)?;
            line("caught up", &storm.caught_up_ms)?;
        }
        if self.phases.len() < 2 {
            return Ok(());
        }
        let separate = self.phases.iter().any(|phase| phase.first_org_latency_ms.is_some());
        let orgs = if separate { ": the other organisations, and the flooding one" } else { "" };
        writeln!(out, "\n  commit to socket, by phase{orgs}")?;
        for phase in &self.phases {
            writeln!(out, "  {:<24}{}", phase.name, phase.latency_ms)?;
            if let Some(first) = &phase.first_org_latency_ms {
                writeln!(out, "  {:<24}{first}", format!("  (flooding: {})", phase.name))?;
            }
        }
        Ok(())
    }

    fn write_storm_and_churn(&self, out: &mut String) -> fmt::Result {
        if let Some(storm) = &self.storm {
            writeln!(
                out,
                "\n  storm          {:>10}   dropped; {} reconnected, {} caught up, {} events replayed",
                storm.dropped, storm.reconnected, storm.caught_up, storm.replayed
            )?;
        }
        if let Some(left) = self.churned {
            writeln!(out, "\n  churn          {left:>10}   sockets left and were replaced")?;
        }
        Ok(())
    }

    fn write_usage(&self, out: &mut String) -> fmt::Result {
        let (server, tester) = (&self.server, &self.tester);
        if server.pids.is_empty() {
            writeln!(
                out,
                "\n  server                  -   not measured: its process is on another machine or belongs to another \
                 user. See --server-pid"
            )?;
        } else {
            let pids: Vec<String> = server.pids.iter().map(u32::to_string).collect();
            writeln!(out, "\n  server, process {}", pids.join(", "))?;
            line(out, server.cores, 2, "cores while publishing")?;
            line(out, server.cpu_us_per_delivery, 2, "us of CPU per delivery, including reading the log")?;
            line(out, server.cpu_us_per_connect, 1, "us of CPU per socket that joined")?;
            line(out, server.kib_per_socket, 2, "KiB of memory per socket that joined")?;
            line(out, server.resident_mib_max, 1, "MiB resident at most")?;
            line(out, server.resident_mib_end, 1, "MiB resident at the end of publishing")?;
            line(out, server.growth_mib_per_h, 2, "MiB per hour of growth, after the first quarter")?;
        }
        writeln!(out, "  tester, {} processes", tester.processes)?;
        line(out, tester.cores, 2, "cores while publishing")?;
        line(out, tester.cpu_us_per_event, 2, "us of CPU per event")?;
        line(out, tester.resident_mib_max, 1, "MiB resident at most")
    }
}

fn line(out: &mut String, value: Option<f64>, digits: usize, what: &str) -> fmt::Result {
    match value {
        Some(value) => writeln!(out, "  {value:>25.digits$}   {what}"),
        None => writeln!(out, "  {:>25}   {what}", "-"),
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (_, value) in self.named() {
            match value {
                Some(milliseconds) => write!(f, "{milliseconds:>10.2}")?,
                None => write!(f, "{:>10}", "-")?,
            }
        }
        Ok(())
    }
}
