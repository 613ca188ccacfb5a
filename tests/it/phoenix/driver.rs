//! Drives the scripts of `tests/clients` that run in Node. It starts `phoenix.mjs`, sends commands and reads
//! reports, or it starts a recipe and reads what the recipe shows. Only the package implements the protocol.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use warden::app::Gateway;

use crate::harness::within;

/// Packages that the scripts import.
const PACKAGES: &[&str] = &["phoenix", "ws"];

/// A running client, and its reports so far.
pub struct Phoenix {
    // It is killed when it is dropped, and also ends at the end of its standard input.
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    /// Reports that were read while a report of another kind was awaited.
    unseen: VecDeque<Value>,
    /// All lines so far.
    pub transcript: String,
}

impl Phoenix {
    /// Starts the client with a configuration, which is described at the top of `phoenix.mjs`.
    pub async fn start(config: &Value) -> Self {
        Self::start_trusting(config, None).await
    }

    /// Starts the client like [`Phoenix::start`], with additional trusted certificates from a PEM file.
    pub async fn start_trusting(config: &Value, certificates: Option<&Path>) -> Self {
        let mut command = node("phoenix.mjs", config);
        command.envs(certificates.map(|path| ("NODE_EXTRA_CA_CERTS", path)));
        let (mut child, stdout) = start(command);
        let stdin = child.stdin.take().expect("piped");
        let (unseen, transcript) = (VecDeque::new(), String::new());
        let mut phoenix = Self { _child: child, stdin, stdout, unseen, transcript };
        phoenix.next("ready").await;
        phoenix
    }

    /// Connects with a token and joins topics.
    pub async fn connect(gateway: &Gateway, token: &str, topics: &[&str]) -> Self {
        let mut config = config(gateway, token);
        config["topics"] = json!(topics);
        let mut phoenix = Self::start(&config).await;
        phoenix.next("open").await;
        for topic in topics {
            phoenix.expect_reply("join", topic, "ok").await;
        }
        phoenix
    }

    /// Sends a command to the client.
    pub async fn command(&mut self, command: &Value) {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.expect("the client runs");
    }

    /// Awaits the next report of this kind. Reports of other kinds are kept in order.
    pub async fn next(&mut self, on: &str) -> Value {
        if let Some(at) = self.unseen.iter().position(|report| report["on"] == on) {
            return self.unseen.remove(at).expect("found");
        }
        // One deadline for all reports, because a client that keeps reconnecting never stops reporting.
        let (stdout, transcript, unseen) = (&mut self.stdout, &mut self.transcript, &mut self.unseen);
        within(&format!("{on:?} from the client"), async {
            loop {
                let line = stdout.next_line().await.expect("reads");
                let line =
                    line.unwrap_or_else(|| panic!("the client ended before {on:?}: see its standard error"));
                transcript.push_str(&line);
                transcript.push('\n');
                let report: Value = serde_json::from_str(&line).expect("JSON");
                if report["on"] == on {
                    return report;
                }
                unseen.push_back(report);
            }
        })
        .await
    }

    /// Awaits the next event of any channel, which must be this one. Returns its payload.
    pub async fn expect_event(&mut self, topic: &str, name: &str) -> Value {
        let mut report = self.next("event").await;
        assert_eq!((&report["topic"], &report["event"]), (&json!(topic), &json!(name)), "{report}");
        report["payload"].take()
    }

    /// Awaits the next reply, which must be this one. Returns the response.
    pub async fn expect_reply(&mut self, to: &str, topic: &str, status: &str) -> Value {
        let mut report = self.next("reply").await;
        let got = (&report["to"], &report["topic"], &report["status"]);
        assert_eq!(got, (&json!(to), &json!(topic), &json!(status)), "{report}");
        report["response"].take()
    }

    /// Awaits the next close, which must have this code.
    pub async fn expect_close(&mut self, code: u16) {
        let report = self.next("close").await;
        assert_eq!(report["code"], code, "{report}");
    }

    /// Awaits the next frame that matches.
    pub async fn frame(&mut self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        within(what, async {
            loop {
                let frame = self.next("frame").await;
                if matches(&frame) {
                    return frame;
                }
            }
        })
        .await
    }

    /// Number of reports of this kind so far.
    pub fn count(&self, on: &str) -> usize {
        self.transcript.matches(&format!(r#"{{"on":"{on}""#)).count()
    }
}

impl Drop for Phoenix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("reports of the client:\n{}", self.transcript);
        }
    }
}

/// A recipe that runs in Node, and prints everything that it shows: a JSON value on each line.
pub(super) struct Recipe {
    // It is killed when it is dropped, and also ends at the end of its standard input.
    _child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Recipe {
    /// Starts a script of `tests/clients`.
    pub(super) fn start(script: &str, config: &Value) -> Self {
        let (child, stdout) = start(node(script, config));
        Self { _child: child, stdout }
    }

    /// Awaits that it shows this. `check` gets everything that it shows until then.
    pub(super) async fn shows(&mut self, expected: &Value, check: impl Fn(&Value)) {
        within(&format!("{expected} from the recipe"), async {
            loop {
                let line = self.stdout.next_line().await.expect("reads").expect("the client runs");
                let shown: Value = serde_json::from_str(&line).expect("JSON");
                check(&shown);
                if shown == *expected {
                    break;
                }
            }
        })
        .await;
    }
}

/// A command that runs a script of `tests/clients` with this configuration.
pub fn node(script: &str, config: &Value) -> Command {
    let mut command = Command::new("node");
    command.arg(directory().join(script)).arg(config.to_string()).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Starts a script, and returns it with the lines that it prints.
fn start(mut command: Command) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("node cannot be started ({e}): install Node 20 or later (`make setup`)"));
    let stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
    (child, stdout)
}

/// Directory of the client. Panics if its packages are not installed.
pub(super) fn directory() -> PathBuf {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    for package in PACKAGES {
        assert!(
            clients.join("node_modules").join(package).join("package.json").is_file(),
            "the npm package {package:?} is missing: run `npm ci --prefix tests/clients` (`make test` does)"
        );
    }
    clients
}

/// Smallest configuration: connects to this gateway with a token, given as a string.
pub fn config(gateway: &Gateway, token: &str) -> Value {
    json!({"url": format!("ws://{}/socket", gateway.public_addr()), "authToken": token, "connect": true})
}
