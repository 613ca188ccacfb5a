//! `warden dev`: one command, nothing running beforehand, nothing left behind.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Client, within};

struct Dev {
    child: Child,
    ready: Value,
}

impl Dev {
    /// Runs the command until it says that it is ready.
    async fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_warden"))
            .args(["dev", "--json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let stdout = child.stdout.take().expect("piped");
        let line = tokio::task::spawn_blocking(move || BufReader::new(stdout).lines().next());
        let line = within("warden dev is ready", line).await.expect("reads").expect("a line").expect("text");
        Self { child, ready: serde_json::from_str(&line).expect("JSON") }
    }

    fn text(&self, field: &str) -> &str {
        self.ready[field].as_str().unwrap_or_else(|| panic!("{field} in {}", self.ready))
    }

    /// The folder of the private PostgreSQL's socket.
    fn socket_dir(&self) -> PathBuf {
        let (_, host) = self.text("database_url").split_once("host=").expect("a socket");
        host.split('&').next().expect("a path").into()
    }

    /// Ends it; what it said on standard error.
    async fn interrupt(mut self) -> String {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).expect("signals");
        let ended = tokio::task::spawn_blocking(move || {
            let (mut said, mut stderr) = (String::new(), self.child.stderr.take().expect("piped"));
            stderr.read_to_string(&mut said).map(|_| said).and_then(|said| Ok((self.child.wait()?, said)))
        });
        let (status, said) = within("warden dev ends", ended).await.expect("waits").expect("ends");
        assert!(status.success(), "{said}");
        said
    }
}

/// The environment of `warden dev` is in the process that starts it, so a test that reads its token
/// goes through a socket as anybody would.
async fn client_of(dev: &Dev, org: usize) -> Client {
    let addr = dev.text("http_url").strip_prefix("http://").expect("http").parse().expect("an address");
    Client::connect(addr, dev.ready["orgs"][org]["token"].as_str().expect("a token")).await
}

#[tokio::test]
async fn simulated_calls_of_each_org_reach_it_and_nothing_is_left() {
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
    // Its own lines alone, as README shows them: no trail of who came between them.
    let said = dev.interrupt().await;
    assert!(said.contains("done: the gateway follows the event log"), "{said}");
    assert!(!said.contains("INFO") && !said.contains("upgrade accepted"), "{said}");
    // The server removes its socket's folder as the last thing that it does.
    assert!(!socket_dir.exists(), "{} is left", socket_dir.display());
}

#[tokio::test]
async fn data_and_tokens_outlive_a_restart_unless_ephemeral() {
    let dir = std::env::temp_dir().join(format!("warden-dev-test-{}", std::process::id()));
    let args = ["--rate", "0", "--data-dir", dir.to_str().expect("UTF-8")];
    let dev = Dev::start(&args).await;
    let (secret, org) = (dev.text("jwt_secret").to_owned(), dev.ready["orgs"][0]["id"].clone());
    let pool = sqlx::PgPool::connect(dev.text("database_url")).await.expect("connects");
    let insert = "insert into calls (org_id, from_number) values ($1::text::uuid, 'kept')";
    sqlx::query(insert).bind(org.as_str()).execute(&pool).await.expect("inserts");
    pool.close().await;
    dev.interrupt().await;

    let dev = Dev::start(&args).await;
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
fn refuses_to_listen_for_others() {
    let output = Command::new(env!("CARGO_BIN_EXE_warden"))
        .args(["dev", "--ephemeral", "--listen", "0.0.0.0:0"])
        .output()
        .expect("runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("loopback"));
}
