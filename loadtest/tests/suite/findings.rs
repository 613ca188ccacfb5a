//! Streams of events that are not as they should be: whoever watches over the gateway must notice.
//! The gateway is a good one; what is wrong is put into its log, or it is one that forgets.

use serde_json::Value;

use crate::fixture::{Said, command, count, eventually, fixture, run, run_with, sql};

/// Runs the tester with this many organisations (a number of their own, by which they are found), and
/// this SQL once it publishes; `$org` is one of them.
fn disturbed(orgs: usize, statement: &str) -> (Option<i32>, Value) {
    let number = orgs.to_string();
    let args = ["steady", "--json", "-n", &number, "-m", &number, "-r", "40", "-d", "4s"];
    let child = command(&args).spawn().expect("starts");
    let of_run =
        format!("(select id from organizations where split_part(name, ' ', 2) = {})", run_with(orgs));
    eventually("it publishes", || {
        count(&format!("select count(*) from calls where org_id in {of_run}")) > 20
    });
    let disturbance = statement.replace("$orgs", &of_run);
    assert!(sql(&disturbance) > 0, "{disturbance}");
    let said = Said::of(&child.wait_with_output().expect("ends"));
    (said.code, said.json())
}

#[test]
fn an_event_that_comes_again_is_a_duplicate() {
    let again = "select warden.publish(org_id, 'calls', event, data) from warden.events
                 where org_id in $orgs and event = 'call.created' limit 1";
    let (code, report) = disturbed(11, again);
    assert_eq!(
        (code, &report["duplicates"], &report["passed"]),
        (Some(1), &1.into(), &false.into()),
        "{report:#}"
    );
    assert!(report["faults"][0].as_str().expect("words").starts_with("duplicate"), "{report:#}");
    assert_eq!(report["missing"], 0);
}

#[test]
fn an_event_of_another_organisation_is_a_leak() {
    let leak = "select warden.publish(mine.id, 'calls', e.event, e.data)
                from warden.events e, (select id from organizations where id in $orgs) mine
                where e.org_id in $orgs and e.org_id <> mine.id and e.event = 'call.created' limit 1";
    let (code, report) = disturbed(12, leak);
    assert_eq!(
        (code, &report["cross_org"], &report["passed"]),
        (Some(1), &1.into(), &false.into()),
        "{report:#}"
    );
    assert!(report["faults"][0].as_str().expect("words").contains("CROSS-ORG"), "{report:#}");
}

#[test]
fn a_change_that_nobody_made_is_unexpected() {
    let changed = "update calls set from_number = 'somebody else' where id =
                   (select id from calls where org_id in $orgs limit 1)";
    let (code, report) = disturbed(13, changed);
    // It carries the marks of the change before it, of which it says something else, or the same again.
    let wrong =
        report["unexpected"].as_u64().expect("a number") + report["duplicates"].as_u64().expect("a number");
    assert!(code == Some(1) && wrong > 0, "{report:#}");
}

#[test]
fn what_a_gateway_can_not_give_back_after_a_storm_is_missing() {
    let url = &fixture().forgetful_url;
    let said = run(&[
        "storm", "--json", "--url", url, "-n", "10", "-r", "40", "--away", "1s", "-d", "4s", "--settle", "1s",
    ]);
    let report = said.json();
    assert_eq!(said.code, Some(1), "{report:#}");
    assert!(report["missing"].as_u64() > Some(0) && report["resyncs"].as_u64() > Some(0), "{report:#}");
    assert!(report["storm"]["caught_up"].as_u64() < Some(10), "{report:#}");
}

#[test]
fn a_threshold_that_does_not_hold_has_an_exit_code_of_its_own() {
    let said = run(&["steady", "-n", "5", "-d", "1s", "--slo", "p99<1us,loss=0"]);
    assert_eq!(said.code, Some(3), "{}{}", said.out, said.err);
    assert!(said.out.contains("SLO MISSED") && said.out.contains("slo p99<1us"), "{}", said.out);
}
