//! The comparison and its baseline as an operator runs them, with sizes of a second or two. The tests do not
//! judge figures. They check that every event arrives, that the report is complete, and that no process or
//! file remains.

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

const COMPARE: &str = env!("CARGO_BIN_EXE_warden-compare");
const DEADLINE: Duration = Duration::from_secs(120);

/// A temporary folder. Its name is in the environment of every process that a comparison starts.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("wct-{name}-{}", std::process::id()));
        fs::create_dir(&dir).expect("creates a temporary folder");
        Self(dir)
    }

    fn compare(&self, args: &[&str]) -> Command {
        let warden = Path::new(COMPARE).with_file_name("warden");
        assert!(warden.exists(), "{} is missing: cargo build --bin warden", warden.display());
        let mut command = Command::new(COMPARE);
        command.args(args).args(["--servers", "gateway", "--rounds", "1"]);
        command.env("TMPDIR", &self.0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Processes with this folder in their environment, without zombies.
    fn processes(&self) -> Vec<String> {
        let wanted = format!("TMPDIR={}", self.0.display()).into_bytes();
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
            let environ = fs::read(process.path().join("environ")).unwrap_or_default();
            if environ.split(|byte| *byte == 0).any(|variable| variable == wanted) {
                found.push(fs::read_to_string(process.path().join("cmdline")).unwrap_or_default());
            }
        }
        found
    }

    /// Checks that neither a process nor a file remains.
    fn assert_nothing_remains(&self) {
        let deadline = Instant::now() + DEADLINE;
        // PostgreSQL's last process may still be about to end.
        while !self.processes().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.processes(), Vec::<String>::new());
        let files: Vec<_> =
            fs::read_dir(&self.0).expect("reads the folder").flatten().map(|file| file.path()).collect();
        assert_eq!(files, Vec::<PathBuf>::new());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Process ids and command lines of all processes that a process has started, directly or indirectly.
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

/// A process that is killed if its test fails.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn baseline_and_gateway_are_compared_without_loss() {
    let scratch = Scratch::new("form");
    let sizes = "--json --duration 500ms --large-sockets 20 --burst-sockets 5 --burst-events 20 --idle-sockets 30 \
                 --connects 30 --growth-sockets 10 --growth-orgs 3 --growth-org-sockets 10 --growth-rate 500 \
                 large burst idle connect growth";
    let output = scratch.compare(&sizes.split_whitespace().collect::<Vec<_>>()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    assert_eq!(output.status.code(), Some(0), "{stderr}\n{report:#}");
    let empty = Value::Array(Vec::new());
    assert_eq!((&report["failures"], &report["missing"]), (&empty, &empty));
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0, "{report:#}");
    assert!(report["command"].as_str().unwrap().contains("warden-compare"), "{report:#}");

    let fanout = report["fanout"].as_array().unwrap();
    let names: Vec<_> = fanout.iter().map(|table| table["workload"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["large", "burst", "growth", "growth"]);
    for table in fanout {
        assert_fanout_table(table);
    }
    for row in report["idle"][0]["servers"].as_array().unwrap() {
        assert!(row["rounds"][0]["full_mib"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["rounds"][0]["sockets"], 30, "{row}");
    }
    for row in report["connect"][0]["servers"].as_array().unwrap() {
        assert!(row["medians"]["connect_us"].as_f64().unwrap() > 0.0, "{row}");
    }
    scratch.assert_nothing_remains();
}

fn assert_fanout_table(table: &Value) {
    let servers = table["servers"].as_array().expect("a list");
    let kinds: Vec<_> = servers.iter().map(|row| row["server"].as_str().expect("a name")).collect();
    assert_eq!(kinds, ["baseline", "gateway"]);
    for row in servers {
        let round = &row["rounds"][0];
        assert!(round["expected"].as_u64().expect("a count") > 0, "{row}");
        assert_eq!(round["delivered"], round["expected"], "{row}");
        assert_eq!(round["complete"], true, "{row}");
        let medians = &row["medians"];
        for figure in ["delivery_us", "delivery_to_baseline", "bytes"] {
            assert!(medians[figure].as_f64().expect("a figure") > 0.0, "{figure}: {row}");
        }
        assert_eq!(medians["intake_us"].is_null(), row["server"] == "baseline", "{row}");
        // The length of the gateway's envelope varies with its cursor.
        assert!((medians["bytes"].as_f64().expect("a figure") - 250.0).abs() < 40.0, "{row}");
    }
}

#[test]
fn an_interrupted_comparison_leaves_no_process_and_no_file() {
    let scratch = Scratch::new("end");
    let mut command = scratch.compare(&["burst", "--duration", "2s", "--json"]);
    let mut running = KillOnDrop(command.spawn().unwrap());
    // While the gateway is measured most processes exist: the gateway, its database and the clients.
    let deadline = Instant::now() + DEADLINE;
    let mut family = Vec::new();
    let contains = |family: &[(u32, String)], name: &str| family.iter().any(|(_, line)| line.contains(name));
    while !(contains(&family, "postgres") && contains(&family, "hold-sockets")) {
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
    scratch.assert_nothing_remains();
    // PostgreSQL's processes have an empty environment, so they are found by their ids.
    let remains = |(pid, line): &&(u32, String)| !line.is_empty() && command_line(*pid) == *line;
    while let Some((pid, line)) = family.iter().find(remains) {
        assert!(Instant::now() < deadline, "process {pid} remains: {line}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn the_baseline_delivers_every_event_to_any_websocket_client() {
    const SOCKETS: usize = 3;
    let args = "baseline --sockets 3 --rate 100 --duration 200ms --bytes 300";
    let mut command = Command::new(COMPARE);
    command.args(args.split(' ')).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut baseline = KillOnDrop(command.spawn().unwrap());
    let mut lines = BufReader::new(baseline.0.stdout.take().unwrap()).lines();
    let ready: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let addr: SocketAddr = ready["listen"].as_str().unwrap().parse().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(connect_async(format!("ws://{addr}/anything")).await.unwrap().0);
    }
    for mut socket in sockets {
        let mut events = 0;
        // The baseline ends when everything is written, and its connections end with it.
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            // The frame's header has 4 bytes.
            assert_eq!(text.len() + 4, 300);
            events += 1;
        }
        assert_eq!(events, 20);
    }
    let done: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&done["writes"], &done["left"]), (&Value::from(20 * SOCKETS), &Value::from(0)));
    assert!(baseline.0.wait().unwrap().success());
}

#[test]
fn invalid_options_are_rejected_with_a_reason() {
    for (args, reason) in [
        ("--rounds 0", "--rounds 0 would measure nothing"),
        ("growth --growth-orgs 20 --growth-org-sockets 10", "20 organisations need at least 20 sockets"),
        ("--warden /nowhere/warden large --large-sockets 1", "see --warden"),
        ("large baseline", "baseline"),
    ] {
        let mut command = Command::new(COMPARE);
        command.args(args.split(' ')).args(["--servers", "gateway"]).args(["--duration", "100ms"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(reason), "{args}: {stderr}");
    }
}
