//! A handle on `tests/clients/phoenix.mjs`: starts it, tells it what to do, reads what it reports. It knows
//! nothing of the protocol; that is the package's part.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use warden::app::Gateway;

use crate::harness::within;

/// Packages that `phoenix.mjs` imports.
const PACKAGES: &[&str] = &["phoenix", "ws"];

/// The driver and what it has told so far.
pub struct Phoenix {
    // Killed when dropped; and it ends by itself with its stdin.
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    /// Reports that were read while looking for one of another kind.
    unseen: VecDeque<Value>,
    /// Every line so far, as it came.
    pub transcript: String,
}

impl Phoenix {
    /// Starts the driver with this configuration; see its head for what can be said.
    pub async fn start(config: &Value) -> Self {
        Self::start_trusting(config, None).await
    }

    /// The same, trusting the certificates of a PEM file besides those of the system.
    pub async fn start_trusting(config: &Value, certificates: Option<&Path>) -> Self {
        let mut child = Command::new("node")
            .envs(certificates.map(|path| ("NODE_EXTRA_CA_CERTS", path)))
            .arg(installed().join("phoenix.mjs"))
            .arg(config.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| {
                panic!("node can't be started ({e}): install Node 20 or later (`make setup`)")
            });
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (unseen, transcript) = (VecDeque::new(), String::new());
        let mut phoenix = Self { _child: child, stdin, stdout, unseen, transcript };
        phoenix.next("ready").await;
        phoenix
    }

    /// Connects with a token, given as a string, and joins topics.
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

    /// Gives the driver a command.
    pub async fn tell(&mut self, command: &Value) {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.expect("the driver runs");
    }

    /// The next report of this kind. Those of other kinds are kept, in their order.
    pub async fn next(&mut self, on: &str) -> Value {
        if let Some(at) = self.unseen.iter().position(|report| report["on"] == on) {
            return self.unseen.remove(at).expect("found");
        }
        // As a whole: a client that tries again and again reports without end.
        let (stdout, transcript, unseen) = (&mut self.stdout, &mut self.transcript, &mut self.unseen);
        within(&format!("{on:?} from the client"), async {
            loop {
                let line = stdout.next_line().await.expect("reads");
                let line = line.unwrap_or_else(|| panic!("the driver ended before {on:?}: see its stderr"));
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

    /// The next thing that a channel is handed must be this event. Returns its payload.
    pub async fn expect_event(&mut self, topic: &str, name: &str) -> Value {
        let mut report = self.next("event").await;
        assert_eq!((&report["topic"], &report["event"]), (&json!(topic), &json!(name)), "{report}");
        report["payload"].take()
    }

    /// The next reply must be this one. Returns the response.
    pub async fn expect_reply(&mut self, to: &str, topic: &str, status: &str) -> Value {
        let mut report = self.next("reply").await;
        let got = (&report["to"], &report["topic"], &report["status"]);
        assert_eq!(got, (&json!(to), &json!(topic), &json!(status)), "{report}");
        report["response"].take()
    }

    /// The next close must have this code.
    pub async fn expect_close(&mut self, code: u16) {
        let report = self.next("close").await;
        assert_eq!(report["code"], code, "{report}");
    }

    /// The next frame that fits.
    pub async fn frame(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        within(what, async {
            loop {
                let frame = self.next("frame").await;
                if fits(&frame) {
                    return frame;
                }
            }
        })
        .await
    }

    /// How many reports of this kind came so far.
    pub fn count(&self, on: &str) -> usize {
        self.transcript.matches(&format!(r#"{{"on":"{on}""#)).count()
    }
}

impl Drop for Phoenix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the client reported:\n{}", self.transcript);
        }
    }
}

/// Where the driver lies, with its packages.
fn installed() -> PathBuf {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    for package in PACKAGES {
        assert!(
            clients.join("node_modules").join(package).join("package.json").is_file(),
            "the npm package {package:?} is missing: run `npm ci --prefix tests/clients` (`make test` does)"
        );
    }
    clients
}

/// The least that a client is told: connect to this gateway with this token, given as a string.
pub fn config(gateway: &Gateway, token: &str) -> Value {
    json!({"url": format!("ws://{}/socket", gateway.public_addr()), "authToken": token, "connect": true})
}
