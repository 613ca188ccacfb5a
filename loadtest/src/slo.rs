//! Thresholds (`--slo`): parsed from text, and evaluated against the report. A threshold on a value that was
//! not measured is violated.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, anyhow, bail, ensure};

use crate::report::{Report, ThresholdResult};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// In milliseconds.
    Time,
    Count,
    /// In MiB.
    Memory,
    Percent,
}

/// A value of the report that can have a threshold.
struct Metric {
    name: &'static str,
    unit: Unit,
    /// Explanation for `--slo help`; empty if another metric's explanation names this one.
    meaning: &'static str,
    value: fn(&Report) -> Option<f64>,
}

macro_rules! metric {
    ($name:literal, $unit:ident, $meaning:literal, $value:expr) => {
        Metric { name: $name, unit: Unit::$unit, meaning: $meaning, value: $value }
    };
}

static METRICS: &[Metric] = &[
    metric!("p50", Time, "COMMIT to socket; also p90, p99, p99.9, max", |r| r.latency_ms.p50),
    metric!("p90", Time, "", |r| r.latency_ms.p90),
    metric!("p99", Time, "", |r| r.latency_ms.p99),
    metric!("p99.9", Time, "", |r| r.latency_ms.p99_9),
    metric!("max", Time, "", |r| r.latency_ms.max),
    metric!("due.p50", Time, "schedule to socket; also due.p99, due.max", |r| r.schedule_latency_ms.p50),
    metric!("due.p99", Time, "", |r| r.schedule_latency_ms.p99),
    metric!("due.max", Time, "", |r| r.schedule_latency_ms.max),
    metric!("connect.p50", Time, "TCP connection to 101; also connect.p99, connect.max", |r| {
        r.connect_ms.p50
    }),
    metric!("connect.p99", Time, "", |r| r.connect_ms.p99),
    metric!("connect.max", Time, "", |r| r.connect_ms.max),
    metric!("join.p99", Time, "TCP connection to the answer to the last join; also join.max", |r| {
        r.join_ms.p99
    }),
    metric!("join.max", Time, "", |r| r.join_ms.max),
    metric!(
        "caughtup.p99",
        Time,
        "storm: from the due reconnect to the last missed event; also caughtup.max",
        |r| { r.storm.as_ref()?.caught_up_ms.p99 }
    ),
    metric!("caughtup.max", Time, "", |r| r.storm.as_ref()?.caught_up_ms.max),
    metric!("others.p99", Time, "noisy: COMMIT to socket of the other organisations during the flood", |r| {
        r.others_during_flood()?.p99
    }),
    metric!("loss", Count, "events that did not arrive", |r| Some(r.missing as f64)),
    metric!("leak", Count, "events of another organisation", |r| Some(r.cross_org as f64)),
    metric!("duplicates", Count, "events that arrived twice", |r| Some(r.duplicates as f64)),
    metric!("order", Count, "events that arrived after a later event of their entity", |r| {
        Some(r.out_of_order as f64)
    }),
    metric!("unexpected", Count, "events of changes that nobody made", |r| {
        Some((r.unexpected + r.rolled_back) as f64)
    }),
    metric!("resyncs", Count, "resyncs that the gateway sent", |r| Some(r.resyncs as f64)),
    metric!("refused", Count, "sockets that failed to open", |r| Some(r.sockets_refused as f64)),
    metric!("dropped", Count, "sockets that the gateway or the network ended", |r| {
        Some(r.sockets_dropped as f64)
    }),
    metric!("rate", Count, "committed changes per second", |r| Some(r.rate)),
    metric!("deliveries", Count, "delivered events per second", |r| Some(r.deliveries_per_s)),
    metric!("cpu", Time, "server CPU time per delivery, e.g. cpu<12us", |r| {
        r.server.cpu_us_per_delivery.map(|us| us / 1000.0)
    }),
    metric!("cores", Count, "server CPU time in cores while publishing", |r| r.server.cores),
    metric!("memory", Memory, "highest server memory, e.g. memory<500MiB", |r| r.server.resident_mib_max),
    metric!("growth", Memory, "growth of server memory per hour", |r| r.server.growth_mib_per_h),
    metric!("done", Percent, "share of the due changes that were made", |r| {
        (r.changes_due > 0).then(|| r.changes as f64 * 100.0 / r.changes_due as f64)
    }),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

/// Longer signs first, because `<=` begins with `<`.
const COMPARISONS: [(&str, Comparison); 5] = [
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
    ("=", Comparison::Equal),
];

impl Comparison {
    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Less => value < limit,
            Self::LessOrEqual => value <= limit,
            Self::Equal => (value - limit).abs() < f64::EPSILON,
            Self::GreaterOrEqual => value >= limit,
            Self::Greater => value > limit,
        }
    }
}

#[derive(Clone)]
struct Rule {
    text: String,
    metric: &'static Metric,
    comparison: Comparison,
    limit: f64,
}

/// The thresholds of a run.
#[derive(Clone)]
pub(crate) struct Slo(Vec<Rule>);

impl fmt::Debug for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|rule| &rule.text)).finish()
    }
}

impl Slo {
    /// Evaluates every threshold.
    pub(crate) fn evaluate(&self, report: &Report) -> Vec<ThresholdResult> {
        let evaluate = |rule: &Rule| {
            let value = (rule.metric.value)(report);
            let holds = value.is_some_and(|value| rule.comparison.holds(value, rule.limit));
            ThresholdResult { rule: rule.text.clone(), value, holds }
        };
        self.0.iter().map(evaluate).collect()
    }
}

impl FromStr for Slo {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text.trim() == "help" {
            bail!("thresholds can be set on:\n{}\nwrite e.g. --slo 'p99<50ms,loss=0,leak=0'", list_metrics());
        }
        let rules: Vec<Rule> = text
            .split(',')
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .map(parse_rule)
            .collect::<Result<_, _>>()?;
        ensure!(!rules.is_empty(), "it contains no threshold: write e.g. 'p99<50ms,loss=0,leak=0'");
        Ok(Self(rules))
    }
}

fn list_metrics() -> String {
    let explained = METRICS.iter().filter(|metric| !metric.meaning.is_empty());
    explained.map(|metric| format!("  {:<12} {}\n", metric.name, metric.meaning)).collect()
}

fn parse_rule(text: &str) -> anyhow::Result<Rule> {
    let found = COMPARISONS.iter().find_map(|(sign, comparison)| Some((text.split_once(sign)?, *comparison)));
    let ((name, limit), comparison) = found.ok_or_else(|| {
        anyhow!("'{text}' has no comparison: write a name, one of < <= = >= >, and a limit, e.g. p99<50ms")
    })?;
    let (name, limit) = (name.trim(), limit.trim());
    let metric = METRICS
        .iter()
        .find(|metric| metric.name == name)
        .ok_or_else(|| anyhow!("unknown metric '{name}'. Use one of:\n{}", list_metrics()))?;
    let limit = metric.unit.parse(limit).with_context(|| format!("in '{text}'"))?;
    Ok(Rule { text: text.to_owned(), metric, comparison, limit })
}

impl Unit {
    fn parse(self, text: &str) -> anyhow::Result<f64> {
        let unit_at = text.find(|c: char| c.is_alphabetic() || c == '%').unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let (scales, example): (&[(&str, f64)], _) = match self {
            Self::Time => {
                (&[("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)], "50ms, 300us or 2s")
            }
            Self::Memory => (&[("KiB", 1.0 / 1024.0), ("MiB", 1.0), ("GiB", 1024.0)], "500MiB"),
            Self::Count => (&[("", 1.0)], "0"),
            Self::Percent => (&[("%", 1.0)], "99%"),
        };
        let number: f64 = number
            .trim()
            .parse()
            .ok()
            .with_context(|| format!("'{text}' is not a limit: write e.g. {example}"))?;
        let scale = scales.iter().find(|(name, _)| *name == unit);
        let (_, scale) = scale.with_context(|| format!("'{text}' has a wrong unit: write e.g. {example}"))?;
        ensure!(number.is_finite() && number >= 0.0, "'{text}' is not a limit: write e.g. {example}");
        Ok(number * scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_on_an_unmeasured_value_does_not_hold() {
        let mut report = Report::default();
        report.latency_ms.p99 = Some(12.0);
        report.missing = 1;
        report.server.cpu_us_per_delivery = Some(8.0);
        let slo: Slo =
            "p99<50ms, p99<=12ms,loss=0,leak=0,cpu<7.9us,cpu<9us,p50<1s,memory<1GiB".parse().unwrap();
        let holds: Vec<bool> = slo.evaluate(&report).iter().map(|result| result.holds).collect();
        // p50 and memory were not measured.
        assert_eq!(holds, [true, true, false, true, false, true, false, false]);
    }

    #[test]
    fn limits_have_the_unit_of_their_metric() {
        for (text, limit) in [
            ("p99<300us", 0.3),
            ("p99<2s", 2000.0),
            ("memory<1.5GiB", 1536.0),
            ("loss<=3", 3.0),
            ("done>=99%", 99.0),
        ] {
            assert!((parse_rule(text).unwrap().limit - limit).abs() < 1e-9, "{text}");
        }
    }

    #[test]
    fn an_invalid_threshold_is_rejected_with_an_example() {
        for (text, expected) in [
            ("", "p99<50ms,loss=0"),
            ("p99", "p99<50ms"),
            ("p98<50ms", "p99.9"),
            ("p99<50", "50ms"),
            ("p99<fast", "50ms"),
            ("loss<5ms", "write e.g. 0"),
            ("loss=-1", "is not a limit"),
            ("help", "duplicates"),
        ] {
            let error = format!("{:#}", text.parse::<Slo>().unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
