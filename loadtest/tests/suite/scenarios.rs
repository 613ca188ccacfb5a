//! Each scenario for a few seconds: no event is lost, duplicated, reordered or leaked, and the report is
//! complete.

use serde_json::Value;

use crate::fixture::{RunOutput, TempFile, fixture, run};

/// Keys of the report whose value must be 0.
const FAULTS: [&str; 8] = [
    "missing",
    "duplicates",
    "cross_org",
    "out_of_order",
    "unexpected",
    "rolled_back",
    "sockets_refused",
    "sockets_dropped",
];

/// Runs a scenario, checks that it has no fault, and returns its report. On a busy machine changes may be
/// late, but all of them are made.
fn run_without_fault(scenario: &str, more: &str) -> Value {
    let fixed = [scenario, "--json", "--late", "60s"];
    let args: Vec<&str> = fixed.into_iter().chain(more.split_whitespace()).collect();
    let output = run(&args);
    let report = output.json();
    assert_eq!(output.code, Some(0), "{}{report:#}", output.stderr);
    assert_eq!(report["passed"], true, "{report:#}");
    assert_eq!(report["scenario"], scenario);
    for key in FAULTS {
        assert_eq!(report[key], 0, "{key}: {report:#}");
    }
    assert!(number(&report, "/expected") > 0.0, "{report:#}");
    assert_eq!(report["expected"], report["delivered"]);
    assert_eq!(report["changes"], report["changes_due"]);
    assert!(number(&report, "/latency_ms/p99") > 0.0);
    // The time from the schedule to the COMMIT is part of the first, but not of the second.
    assert!(number(&report, "/schedule_latency_ms/max") >= number(&report, "/latency_ms/max"));
    report
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {report:#}"))
}

#[test]
fn the_database_is_reached_over_verified_tls() {
    let tls = &fixture().tls_url;
    run_without_fault("steady", &format!("--database-url {tls} -n 4 -m 2 -r 10 -d 1s"));
    // The server admits nobody by TCP without TLS, so the run above used it.
    let plain = tls.replace("verify-full", "disable");
    let output = run(&["steady", "--database-url", &plain]);
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    assert!(output.stderr.contains("no encryption"), "{}", output.stderr);
}

#[test]
fn steady_over_two_gateways_and_two_processes_loses_nothing() {
    let (a, b) = (&fixture().urls[0], &fixture().urls[1]);
    let options =
        format!("--url {a} --url {b} -n 40 -m 5 --skew zipf --topics calls,org --processes 2 -r 30 -d 3s");
    let report = run_without_fault("steady", &options);
    assert_eq!(report["gateways"].as_array().expect("a list").len(), 2);
    assert_eq!(report["tester"]["processes"], 3, "the main process and two workers");
    // Both gateways run in this process, which is found by their ports.
    assert_eq!(report["server"]["pids"], serde_json::json!([std::process::id()]));
    assert!(number(&report, "/server/resident_mib_max") > 1.0 && number(&report, "/server/threads") > 1.0);
    let series = report["series"].as_array().expect("a list");
    assert!(series.len() >= 3, "{series:?}");
    assert!(series.iter().any(|row| row["sockets"] == 40 && row["p99_ms"].is_number()), "{series:?}");
    // Each change is delivered on both topics.
    let deliveries_per_change: f64 = number(&report, "/delivered") / number(&report, "/changes");
    assert!(deliveries_per_change > 2.0, "{report:#}");
}

#[test]
fn steady_without_changes_only_holds_sockets() {
    let output = run(&"steady --json -n 10 -r 0 -d 1s".split(' ').collect::<Vec<_>>());
    let report = output.json();
    assert_eq!((output.code, &report["sockets"], &report["expected"]), (Some(0), &10.into(), &0.into()));
    assert!(report["latency_ms"]["p99"].is_null());
}

#[test]
fn ramp_reports_latencies_by_step() {
    let report = run_without_fault("ramp", "-n 30 --steps 3 -d 3s -r 40");
    let phases = report["phases"].as_array().expect("a list");
    let names: Vec<&str> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
    assert_eq!(names, ["10 sockets", "20 sockets", "30 sockets"]);
    assert!(phases.iter().all(|phase| number(phase, "/latency_ms/count") > 0.0), "{report:#}");
}

#[test]
fn a_published_burst_is_one_transaction() {
    let options = "--by publish --padding 200 -n 20 -m 2 --burst 25 --every 500ms -d 2s";
    let report = run_without_fault("burst", options);
    assert_eq!((number(&report, "/changes"), number(&report, "/expected")), (100.0, 1000.0));
    assert_eq!(number(&report, "/commit_ms/count"), 4.0, "one transaction per burst");
}

#[test]
fn all_sockets_catch_up_after_a_storm() {
    let (a, b) = (&fixture().urls[0], &fixture().urls[1]);
    let options = format!("--url {a},{b} -n 40 --away 1s -r 40 -d 4s --topics calls,org");
    let report = run_without_fault("storm", &options);
    let storm = &report["storm"];
    for key in ["dropped", "returned", "caught_up"] {
        assert_eq!(storm[key], 40, "{key}: {report:#}");
    }
    assert!(number(storm, "/replayed") > 0.0 && number(storm, "/caught_up_ms/max") > 0.0, "{report:#}");
    assert_eq!(report["resyncs"], 0);
}

#[test]
fn sockets_get_the_changes_that_their_filters_select() {
    let (a, b) = (&fixture().urls[0], &fixture().urls[1]);
    let options = format!("--url {a},{b} -n 40 -m 2 --filters 10 --away 1s -r 60 -d 4s --topics calls,org");
    let report = run_without_fault("storm", &options);
    assert_eq!((&report["filters"], &report["filter_skew"]), (&10.into(), &"zipf:1".into()));
    assert!(number(&report, "/entered") > 0.0 && number(&report, "/left") > 0.0, "{report:#}");
    assert_eq!((&report["storm"]["caught_up"], &report["resyncs"]), (&40.into(), &0.into()), "{report:#}");
    // Each change reaches all 20 sockets of its organisation on `org`, and some of them on `calls`.
    let deliveries_per_change = number(&report, "/expected") / number(&report, "/changes");
    assert!((20.5..30.0).contains(&deliveries_per_change), "{report:#}");
}

#[test]
fn churn_replaces_sockets_without_loss() {
    let report = run_without_fault("churn", "-n 40 --churn-rate 30 -r 40 -d 3s --by publish");
    assert!(number(&report, "/churned") > 10.0, "{report:#}");
    assert!(number(&report, "/join_ms/count") > 50.0, "replacements are timed as well: {report:#}");
}

#[test]
fn noisy_reports_the_other_organisations_separately() {
    let report = run_without_fault("noisy", "-n 40 -m 4 --skew one-large -r 20 --flood 60 -d 3s");
    assert_eq!(report["changes"], 120);
    let phases = report["phases"].as_array().expect("a list");
    let counts = |key: &str| phases.iter().map(|p| number(p, &format!("/{key}/count"))).collect::<Vec<_>>();
    let (others, flooding) = (counts("latency_ms"), counts("first_org_latency_ms"));
    assert!(flooding[1] > 5.0 * flooding[0], "{flooding:?}");
    assert!(others[1] < 2.0 * others[0], "the flood does not reach the others: {others:?}");
}

#[test]
fn soak_prints_a_table_and_writes_a_page() {
    let page = TempFile::new("soak.html");
    let path = page.0.to_str().expect("UTF-8");
    let output = run(&["soak", "-d", "2s", "-n", "10", "--html", path, "--slo", "loss=0,leak=0,p99<10m"]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert_is_table(&output);
    let html = std::fs::read_to_string(&page.0).expect("was written");
    for plot in ["Latency over time", "Deliveries", "Changes", "Sockets", "CPU", "Server memory"] {
        let (_, rest) =
            html.split_once(&format!("aria-label=\"{plot}\"")).unwrap_or_else(|| panic!("{plot}"));
        let (figure, _) = rest.split_once("</figure>").expect("ends");
        assert!(figure.contains(" d=\"M"), "{plot} has a curve: {figure}");
    }
    assert!(html.contains("p99&lt;10m") && html.contains("PASSED"));
    assert!(!html.contains("<script") && !html.contains("http://"), "the page is self-contained");
}

/// Checks that the table contains these lines in this order.
fn assert_is_table(output: &RunOutput) {
    let mut rest = output.stdout.as_str();
    for line in [
        "warden-loadtest soak",
        ": PASSED",
        "sockets                10   of 10 requested",
        "missing                 0",
        "cross-org               0",
        "milliseconds                   p50       p90       p99     p99.9       max",
        "commit to socket  ",
        "schedule to socket  ",
        "connect and join  ",
        "server, process",
        "MiB resident at most",
        "slo loss=0",
        "holds",
    ] {
        let at = rest
            .find(line)
            .unwrap_or_else(|| panic!("{line} is missing or in the wrong place in\n{}", output.stdout));
        rest = &rest[at + line.len()..];
    }
}
