//! The comparison and its floor, as an operator runs them, with sizes of a second or two. No figure is judged: what
//! must hold is that everything arrives, that the report has its form, and that nothing stays behind.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

const LOADTEST: &str = env!("CARGO_BIN_EXE_warden-loadtest");
const DEADLINE: Duration = Duration::from_secs(120);

/// A folder for temporary files, by which what was started can be told from all else on the machine.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("wct-{name}-{}", std::process::id()));
        fs::create_dir(&dir).expect("a folder for temporary files");
        Self(dir)
    }

    fn compare(&self, args: &[&str]) -> Command {
        let warden = Path::new(LOADTEST).with_file_name("warden");
        assert!(warden.exists(), "{} is missing: cargo build --bin warden", warden.display());
        let mut command = Command::new(LOADTEST);
        command.arg("compare").args(args).args(["--servers", "gateway", "--rounds", "1"]);
        command.env("TMPDIR", &self.0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Processes that were started with this folder, but for those that are gone and not yet waited for.
    fn processes(&self) -> Vec<String> {
        let wanted = format!("TMPDIR={}", self.0.display()).into_bytes();
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").expect("/proc").flatten() {
            let environ = fs::read(process.path().join("environ")).unwrap_or_default();
            if environ.split(|byte| *byte == 0).any(|variable| variable == wanted) {
                found.push(fs::read_to_string(process.path().join("cmdline")).unwrap_or_default());
            }
        }
        found
    }

    /// Nothing may stay: neither a process nor a file.
    fn assert_nothing_stays(&self) {
        let deadline = Instant::now() + DEADLINE;
        // PostgreSQL's last process may still be on its way out.
        while !self.processes().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.processes(), Vec::<String>::new());
        let files: Vec<_> =
            fs::read_dir(&self.0).expect("the folder").flatten().map(|file| file.path()).collect();
        assert_eq!(files, Vec::<PathBuf>::new());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Processes that a process started, and those that these did, with their command lines.
fn descendants(pid: u32) -> Vec<(u32, String)> {
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_ascii_whitespace().filter_map(|child| child.parse().ok()) {
            all.push((child, command_line(child)));
            all.extend(descendants(child));
        }
    }
    all
}

fn command_line(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// Kills what a failed test leaves.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn floor_and_gateway_are_compared_without_loss() {
    let scratch = Scratch::new("form");
    let sizes = "--json --duration 500ms --large-sockets 20 --burst-sockets 5 --burst-events 20 --idle-sockets 30 \
                 --connects 30 --growth-sockets 10 --growth-orgs 3 --growth-org-sockets 10 --growth-rate 500 \
                 large burst idle connect growth";
    let output = scratch.compare(&sizes.split_whitespace().collect::<Vec<_>>()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(output.status.code(), Some(0), "{said}\n{report:#}");
    assert_eq!(
        (&report["failures"], &report["missing"]),
        (&Value::Array(Vec::new()), &Value::Array(Vec::new()))
    );
    assert!(
        report["machine"]["cores"].as_u64().unwrap() > 0
            && report["command"].as_str().unwrap().contains("compare")
    );

    let fanout = report["fanout"].as_array().unwrap();
    let names: Vec<_> = fanout.iter().map(|table| table["workload"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["large", "burst", "growth", "growth"]);
    for table in fanout {
        let servers = table["servers"].as_array().unwrap();
        let kinds: Vec<_> = servers.iter().map(|row| row["server"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["floor", "gateway"]);
        for row in servers {
            let round = &row["rounds"][0];
            let expected = round["expected"].as_u64().unwrap();
            assert!(
                expected > 0 && round["delivered"] == round["expected"] && round["complete"] == true,
                "{row}"
            );
            let medians = &row["medians"];
            for figure in ["delivery_us", "delivery_to_floor", "bytes"] {
                assert!(medians[figure].as_f64().unwrap() > 0.0, "{figure}: {row}");
            }
            assert_eq!(medians["intake_us"].is_null(), row["server"] == "floor", "{row}");
            // The gateway's envelope varies with its cursor; a length that was not sought would be far off.
            assert!((medians["bytes"].as_f64().unwrap() - 250.0).abs() < 40.0, "{row}");
        }
    }
    for row in report["idle"][0]["servers"].as_array().unwrap() {
        assert!(
            row["rounds"][0]["full_mib"].as_f64().unwrap() > 0.0 && row["rounds"][0]["sockets"] == 30,
            "{row}"
        );
    }
    for row in report["connect"][0]["servers"].as_array().unwrap() {
        assert!(row["medians"]["connect_us"].as_f64().unwrap() > 0.0, "{row}");
    }
    scratch.assert_nothing_stays();
}

#[test]
fn a_comparison_that_is_ended_leaves_nothing_behind() {
    let scratch = Scratch::new("end");
    let mut command = scratch.compare(&["burst", "--duration", "2s", "--json"]);
    let mut running = Running(command.spawn().unwrap());
    // In the middle of the gateway's turn, when there is most to end: its database and its clients.
    let deadline = Instant::now() + DEADLINE;
    let mut family = Vec::new();
    let runs = |family: &[(u32, String)], name: &str| family.iter().any(|(_, line)| line.contains(name));
    while !(runs(&family, "postgres") && runs(&family, "compare-clients")) {
        family = descendants(running.0.id());
        assert!(
            Instant::now() < deadline && running.0.try_wait().unwrap().is_none(),
            "no clients were started"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(running.0.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let mut text = String::new();
    running.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(1));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["interrupted"], true);
    scratch.assert_nothing_stays();
    // PostgreSQL is given no environment.
    let stays = |(pid, line): &&(u32, String)| !line.is_empty() && command_line(*pid) == *line;
    while let Some((pid, line)) = family.iter().find(stays) {
        assert!(Instant::now() < deadline, "{pid} stays: {line}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn the_floor_delivers_everything_to_any_client() {
    const SOCKETS: usize = 3;
    let args = "floor --sockets 3 --rate 100 --duration 200ms --bytes 300";
    let mut command = Command::new(LOADTEST);
    command.args(args.split(' ')).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut floor = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(floor.0.stdout.take().unwrap()).lines();
    let ready: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let addr: SocketAddr = ready["listen"].as_str().unwrap().parse().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(connect_async(format!("ws://{addr}/anything")).await.unwrap().0);
    }
    for mut socket in sockets {
        let mut events = 0;
        // The floor ends when everything is written, and the connection with it.
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            // With the header of the frame.
            assert_eq!(text.len() + 4, 300);
            events += 1;
        }
        assert_eq!(events, 20);
    }
    let done: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&done["writes"], &done["left"]), (&Value::from(20 * SOCKETS), &Value::from(0)));
    assert!(floor.0.wait().unwrap().success());
}

#[test]
fn what_can_not_be_measured_is_refused_in_words() {
    for (args, reason) in [
        ("--rounds 0", "--rounds 0 would measure nothing"),
        ("growth --growth-orgs 20 --growth-org-sockets 10", "20 organisations need as many sockets at least"),
        ("--warden /nowhere/warden large --large-sockets 1", "see --warden"),
    ] {
        let mut command = Command::new(LOADTEST);
        command
            .arg("compare")
            .args(args.split(' '))
            .args(["--servers", "gateway"])
            .args(["--duration", "100ms"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{args}: {said}");
    }
}
