//! Runs that are interrupted, killed or misused leave nothing behind, and their output names the next step.

use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::{RunOutput, TempFile, command, count, eventually, run, run_with};

/// A load tester that publishes for a minute. The number of organisations is different in each test and
/// identifies the run.
struct Running {
    child: Child,
    orgs: usize,
    workers: Vec<i32>,
}

impl Running {
    fn start(orgs: usize) -> Self {
        let number = orgs.to_string();
        let args =
            ["storm", "--json", "-n", "20", "-m", &number, "--processes", "2", "-r", "40", "-d", "60s"];
        let child = command(&args).spawn().expect("starts");
        let mut running = Self { child, orgs, workers: Vec::new() };
        eventually("changes are published", || running.calls() > 5);
        let children = format!("/proc/{0}/task/{0}/children", running.child.id());
        let children = std::fs::read_to_string(children).expect("reads");
        running.workers = children.split_whitespace().map(|pid| pid.parse().expect("a number")).collect();
        assert_eq!(running.workers.len(), 2);
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

    fn wait(self) -> (RunOutput, Vec<i32>) {
        (RunOutput::of(&self.child.wait_with_output().expect("ends")), self.workers)
    }
}

fn worker_has_ended(pid: i32) -> bool {
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !command_line.ends_with(b"worker\0")
}

#[test]
fn an_interrupted_run_reports_and_leaves_nothing() {
    let running = Running::start(17);
    running.signal(Signal::INT);
    let (output, workers) = running.wait();
    let report = output.json();
    assert_eq!(output.code, Some(0), "no fault until the interruption: {}{report:#}", output.stderr);
    assert_eq!((&report["interrupted"], &report["missing"]), (&true.into(), &0.into()));
    assert!(report["delivered"].as_u64() > Some(0), "{report:#}");
    let run = report["run"].as_str().expect("an id");
    assert_eq!(count(&format!("select count(*) from organizations where name like 'loadtest {run} %'")), 0);
    assert!(workers.into_iter().all(worker_has_ended));
}

#[test]
fn workers_end_with_a_killed_main_process() {
    let running = Running::start(18);
    running.signal(Signal::KILL);
    let (_, workers) = running.wait();
    eventually("the workers have ended", || workers.iter().all(|pid| worker_has_ended(*pid)));
}

#[test]
fn an_unusable_run_names_the_cause_and_the_option_to_change() {
    // Not a port that was free a moment ago, because concurrent tests may use it by now.
    let closed = "ws://127.0.0.1:1/socket";
    for (args, expected) in [
        (vec!["steady", "--jwt-secret", "hush hush hush hush hush hush hush"], "--jwt-secret"),
        (vec!["steady", "--jwt-audience", "others"], "--jwt-audience"),
        (vec!["steady", "--url", closed], "Does a gateway listen there? See --url"),
        (vec!["steady", "--url", "ws://127.0.0.1:1/socket?token=hush"], "never in a URL"),
        (vec!["steady", "--topics", "nonsense", "-r", "0"], "See --topics"),
        (vec!["steady", "--database-url", "postgres://me:hush@127.0.0.1:1/app"], "check --database-url"),
        (vec!["steady", "--database-url", "mysql://me:hush@here"], "not a PostgreSQL URL"),
        (vec!["steady", "--slo", "p98<5ms"], "unknown metric 'p98'"),
        (vec!["steady", "--skew", "even"], "zipf:1.2"),
        (vec!["steady", "--server-pid", "4194999"], "no such process"),
        (vec!["steady", "--html", "/nowhere/report.html"], "cannot write /nowhere/report.html"),
        (vec!["steady", "--bind", "192.0.2.1"], "check --bind"),
        (vec!["storm", "--away", "1h"], "longer --duration"),
        (vec!["worker"], "not by hand"),
        (vec!["steadily"], "similar subcommand"),
        (vec![], "Usage: warden-loadtest"),
    ] {
        let output = run(&args);
        assert_eq!(output.code, Some(2), "{args:?}: {}{}", output.stdout, output.stderr);
        assert!(output.stderr.contains(expected), "{args:?}: {}", output.stderr);
        assert!(output.stdout.is_empty(), "{args:?}: {}", output.stdout);
    }
}

#[test]
fn an_unusable_run_leaves_no_organisation() {
    let page = TempFile::new("unusable.html");
    let path = page.0.to_str().expect("UTF-8");
    let args = ["steady", "-m", "19", "--jwt-audience", "others", "--html", path];
    assert_eq!(run(&args).code, Some(2));
    let remaining = "select count(*) from (select from organizations where name like 'loadtest %'
                     group by split_part(name, ' ', 2) having count(*) = 19) as t";
    assert_eq!(count(remaining), 0);
}
