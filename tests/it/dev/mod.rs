//! `warden dev`: it needs no running server, and leaves nothing behind.

mod planted;

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

use crate::harness::{Client, within};

struct Dev {
    child: Child,
    ready: Value,
}

impl Dev {
    /// Starts the command, and waits for its line of JSON.
    async fn start(args: &[&str]) -> Self {
        Self::spawn(command(args)).await
    }

    async fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let stdout = child.stdout.take().expect("piped");
        let line = tokio::task::spawn_blocking(move || BufReader::new(stdout).lines().next());
        let line = within("warden dev is ready", line).await.expect("reads").expect("a line").expect("text");
        Self { child, ready: serde_json::from_str(&line).expect("JSON") }
    }

    fn text(&self, field: &str) -> &str {
        self.ready[field].as_str().unwrap_or_else(|| panic!("{field} in {}", self.ready))
    }

    /// Directory of the private PostgreSQL's socket.
    fn socket_dir(&self) -> PathBuf {
        let (_, host) = self.text("database_url").split_once("host=").expect("a socket");
        host.split('&').next().expect("a path").into()
    }

    /// Sends SIGINT and waits. Returns the standard error.
    async fn interrupt(mut self) -> String {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).expect("signals");
        let ended = tokio::task::spawn_blocking(move || {
            let (mut errors, mut stderr) = (String::new(), self.child.stderr.take().expect("piped"));
            stderr
                .read_to_string(&mut errors)
                .map(|_| errors)
                .and_then(|errors| Ok((self.child.wait()?, errors)))
        });
        let (status, errors) = within("warden dev ends", ended).await.expect("waits").expect("ends");
        assert!(status.success(), "{errors}");
        errors
    }
}

/// The command, with listeners on free ports.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warden"));
    command.args(["dev", "--json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).args(args);
    command
}

/// Connects with the token of a demo organisation.
async fn client_of(dev: &Dev, org: usize) -> Client {
    let addr = dev.text("http_url").strip_prefix("http://").expect("http").parse().expect("an address");
    Client::connect(addr, dev.ready["orgs"][org]["token"].as_str().expect("a token")).await
}

#[tokio::test]
async fn each_org_receives_its_simulated_calls_and_nothing_remains() {
    let dev = Dev::start(&["--ephemeral", "--rate", "40"]).await;
    for n in 0..2 {
        let mut client = client_of(&dev, n).await;
        client.join("calls").await;
        let id = dev.ready["orgs"][n]["id"].clone();
        for _ in 0..5 {
            assert_eq!(client.next_event().await.data("org_id"), &id);
        }
    }
    let socket_dir = dev.socket_dir();
    assert!(socket_dir.exists());
    // Only the lines that the README shows: no log lines of the audit trail among them.
    let errors = dev.interrupt().await;
    assert!(errors.contains("started the gateway ("), "{errors}");
    assert!(!errors.contains("INFO") && !errors.contains("upgrade accepted"), "{errors}");
    // The guard removes the directory of the socket last.
    assert!(!socket_dir.exists(), "{} remains", socket_dir.display());
}

#[tokio::test]
async fn data_and_tokens_survive_a_restart() {
    let dir = std::env::temp_dir().join(format!("warden-dev-test-{}", std::process::id()));
    let args = ["--rate", "0", "--data-dir", dir.to_str().expect("UTF-8")];
    let dev = Dev::start(&args).await;
    let (secret, org) = (dev.text("jwt_secret").to_owned(), dev.ready["orgs"][0]["id"].clone());
    let pool = sqlx::PgPool::connect(dev.text("database_url")).await.expect("connects");
    let insert = "insert into calls (org_id, from_number) values ($1::text::uuid, 'kept')";
    sqlx::query(insert).bind(org.as_str()).execute(&pool).await.expect("inserts");
    pool.close().await;
    let account = std::fs::metadata(dir.join("data")).expect("reads").uid();
    planted::assert_private(&dir, geteuid().as_raw(), account);
    dev.interrupt().await;

    // As an earlier version left it.
    for (name, mode) in [("", 0o755), ("server.log", 0o644)] {
        std::fs::set_permissions(dir.join(name), Permissions::from_mode(mode)).expect("changes the mode");
    }
    let dev = Dev::start(&args).await;
    planted::assert_private(&dir, geteuid().as_raw(), account);
    assert_eq!(dev.text("jwt_secret"), secret);
    let pool = sqlx::PgPool::connect(dev.text("database_url")).await.expect("connects");
    let kept: i64 = sqlx::query_scalar("select count(*) from calls where from_number = 'kept'")
        .fetch_one(&pool)
        .await
        .expect("counts");
    assert_eq!(kept, 1);
    pool.close().await;
    dev.interrupt().await;
    std::fs::remove_dir_all(&dir).expect("removes");
}

#[test]
fn listening_on_other_than_loopback_addresses_is_rejected() {
    let output = Command::new(env!("CARGO_BIN_EXE_warden"))
        .args(["dev", "--ephemeral", "--listen", "0.0.0.0:0"])
        .output()
        .expect("runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("loopback"));
}
