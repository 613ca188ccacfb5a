//! Faulty event streams, which the load tester must detect. The gateway is correct: the tests put the fault
//! into its log, or use a gateway that keeps too little.

use serde_json::Value;

use crate::fixture::{RunOutput, command, count, eventually, fixture, run, run_with, sql};

/// Runs the load tester with this many organisations, and executes a statement while it publishes. The number
/// is different in each test and identifies the run. `$orgs` in the statement selects its organisations.
fn disturbed(orgs: usize, statement: &str) -> (Option<i32>, Value) {
    let number = orgs.to_string();
    let args = ["steady", "--json", "-n", &number, "-m", &number, "-r", "40", "-d", "4s"];
    let child = command(&args).spawn().expect("starts");
    let of_run =
        format!("(select id from organizations where split_part(name, ' ', 2) = {})", run_with(orgs));
    eventually("changes are published", || {
        count(&format!("select count(*) from calls where org_id in {of_run}")) > 20
    });
    let statement = statement.replace("$orgs", &of_run);
    assert!(sql(&statement) > 0, "{statement}");
    let output = RunOutput::of(&child.wait_with_output().expect("ends"));
    (output.code, output.json())
}

#[test]
fn a_repeated_event_is_a_duplicate() {
    let repeat = "select warden.publish(org_id, 'calls', event, data) from warden.events
                  where org_id in $orgs and event = 'call.created' limit 1";
    let (code, report) = disturbed(11, repeat);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!((&report["duplicates"], &report["passed"]), (&1.into(), &false.into()), "{report:#}");
    assert!(report["faults"][0].as_str().expect("words").starts_with("duplicate"), "{report:#}");
    assert_eq!(report["missing"], 0);
}

#[test]
fn an_event_of_another_organisation_is_a_leak() {
    let leak = "select warden.publish(mine.id, 'calls', e.event, e.data)
                from warden.events e, (select id from organizations where id in $orgs) mine
                where e.org_id in $orgs and e.org_id <> mine.id and e.event = 'call.created' limit 1";
    let (code, report) = disturbed(12, leak);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!((&report["cross_org"], &report["passed"]), (&1.into(), &false.into()), "{report:#}");
    assert!(report["faults"][0].as_str().expect("words").contains("CROSS-ORG"), "{report:#}");
}

#[test]
fn a_change_that_the_tester_did_not_make_is_detected() {
    let change = "update calls set from_number = 'somebody else' where id =
                  (select id from calls where org_id in $orgs limit 1)";
    let (code, report) = disturbed(13, change);
    // The event carries the marks of the call's previous change, so it is unexpected, or a duplicate of that
    // change.
    let wrong =
        report["unexpected"].as_u64().expect("a number") + report["duplicates"].as_u64().expect("a number");
    assert!(code == Some(1) && wrong > 0, "{report:#}");
}

#[test]
fn events_not_replayed_after_a_storm_are_reported_as_missing() {
    let url = &fixture().forgetful_url;
    let output = run(&[
        "storm", "--json", "--url", url, "-n", "10", "-r", "40", "--away", "1s", "-d", "4s", "--settle", "1s",
    ]);
    let report = output.json();
    assert_eq!(output.code, Some(1), "{report:#}");
    assert!(report["missing"].as_u64() > Some(0) && report["resyncs"].as_u64() > Some(0), "{report:#}");
    assert!(report["storm"]["caught_up"].as_u64() < Some(10), "{report:#}");
}

#[test]
fn a_missed_threshold_has_its_own_exit_code() {
    let output = run(&["steady", "-n", "5", "-d", "1s", "--slo", "p99<1us,loss=0"]);
    assert_eq!(output.code, Some(3), "{}{}", output.stdout, output.stderr);
    assert!(
        output.stdout.contains("SLO MISSED") && output.stdout.contains("slo p99<1us"),
        "{}",
        output.stdout
    );
}
