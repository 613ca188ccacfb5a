//! However a run ends, nothing is left and something useful is said.

use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::{Said, TempFile, command, count, eventually, run, run_with};

/// A tester that publishes for a minute, over this many organisations: a number of its own, by which
/// they are found.
struct Running {
    child: Child,
    orgs: usize,
    holders: Vec<i32>,
}

impl Running {
    fn start(orgs: usize) -> Self {
        let number = orgs.to_string();
        let args =
            ["storm", "--json", "-n", "20", "-m", &number, "--processes", "2", "-r", "40", "-d", "60s"];
        let child = command(&args).spawn().expect("starts");
        let mut running = Self { child, orgs, holders: Vec::new() };
        eventually("it publishes", || running.calls() > 5);
        let children = format!("/proc/{0}/task/{0}/children", running.child.id());
        let children = std::fs::read_to_string(children).expect("reads");
        running.holders = children.split_whitespace().map(|pid| pid.parse().expect("a number")).collect();
        assert_eq!(running.holders.len(), 2);
        running
    }

    fn calls(&self) -> i64 {
        count(&format!(
            "select count(*) from calls where org_id in (select id from organizations where split_part(name, ' ', 2) in {})",
            run_with(self.orgs)
        ))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signals");
    }

    fn wait(self) -> (Said, Vec<i32>) {
        (Said::of(&self.child.wait_with_output().expect("ends")), self.holders)
    }
}

fn is_gone(pid: i32) -> bool {
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !command_line.ends_with(b"hold\0")
}

#[test]
fn an_interrupted_run_reports_and_leaves_nothing() {
    let running = Running::start(17);
    running.signal(Signal::INT);
    let (said, holders) = running.wait();
    let report = said.json();
    assert_eq!(said.code, Some(0), "what happened until then was good: {}{report:#}", said.err);
    assert_eq!((&report["interrupted"], &report["missing"]), (&true.into(), &0.into()));
    assert!(report["delivered"].as_u64() > Some(0), "{report:#}");
    let run = report["run"].as_str().expect("a name");
    assert_eq!(count(&format!("select count(*) from organizations where name like 'loadtest {run} %'")), 0);
    assert!(holders.into_iter().all(is_gone));
}

#[test]
fn holders_end_with_a_tester_that_is_killed() {
    let running = Running::start(18);
    running.signal(Signal::KILL);
    let (_, holders) = running.wait();
    eventually("the holders are gone", || holders.iter().all(|pid| is_gone(*pid)));
}

#[test]
fn a_tester_that_can_not_begin_says_why_and_what_to_do() {
    // Not a port that was free a moment ago: the tests beside this one take those.
    let nobody = "ws://127.0.0.1:1/socket";
    for (args, expected) in [
        (vec!["steady", "--jwt-secret", "hush hush hush hush hush hush hush"], "--jwt-secret"),
        (vec!["steady", "--jwt-audience", "others"], "--jwt-audience"),
        (vec!["steady", "--url", nobody], "Is the gateway running there? See --url"),
        (vec!["steady", "--url", "ws://127.0.0.1:1/socket?token=hush"], "never into a URL"),
        (vec!["steady", "--topics", "nonsense", "-r", "0"], "See --topics"),
        (vec!["steady", "--database-url", "postgres://me:hush@127.0.0.1:1/app"], "check --database-url"),
        (vec!["steady", "--database-url", "mysql://me:hush@here"], "no PostgreSQL URL"),
        (vec!["steady", "--slo", "p98<5ms"], "there is no 'p98'"),
        (vec!["steady", "--skew", "even"], "zipf:1.2"),
        (vec!["steady", "--server-pid", "4194999"], "no such process"),
        (vec!["steady", "--html", "/nowhere/report.html"], "cannot write /nowhere/report.html"),
        (vec!["steady", "--bind", "192.0.2.1"], "check --bind"),
        (vec!["storm", "--away", "1h"], "longer --duration"),
        (vec!["hold"], "not by hand"),
        (vec!["steadily"], "similar subcommand"),
        (vec![], "Usage: warden-loadtest"),
    ] {
        let said = run(&args);
        assert_eq!(said.code, Some(2), "{args:?}: {}{}", said.out, said.err);
        assert!(said.err.contains(expected), "{args:?}: {}", said.err);
        assert!(said.out.is_empty(), "{args:?}: {}", said.out);
    }
}

#[test]
fn nothing_is_left_of_a_run_that_could_not_begin() {
    let page = TempFile::new("refused.html");
    let path = page.0.to_str().expect("UTF-8");
    let args = ["steady", "-m", "19", "--jwt-audience", "others", "--html", path];
    assert_eq!(run(&args).code, Some(2));
    let left = "select count(*) from (select from organizations where name like 'loadtest %'
                group by split_part(name, ' ', 2) having count(*) = 19) as t";
    assert_eq!(count(left), 0);
}
