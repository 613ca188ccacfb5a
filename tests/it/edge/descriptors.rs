//! A gateway that runs out of file descriptors. Open sessions are unaffected; new connections wait in the
//! kernel's queue and are served when descriptors are free again. Linux only: the test sets another process's
//! limit and counts its descriptors in /proc.

use std::net::SocketAddr;
use std::path::Path;

use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::status;
use crate::harness::{Client, SECRET, TestDb, eventually, token, within};
use warden_testkit::{GatewayProcess, free_port};

/// Free descriptors when the limit is lowered.
const FREE: usize = 4;
/// Connections that arrive after that.
const CROWD: usize = 16;
/// Failed accepts that the test waits for before it draws a conclusion.
const VAIN_TRIES: u64 = 3;

/// A connection to the admin listener, opened before the descriptors ran out.
struct Admin(TcpStream);

impl Admin {
    async fn accept_errors(&mut self) -> u64 {
        let name = "\nwarden_accept_errors_total ";
        self.0.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("writes");
        let mut answer = String::new();
        within("metrics", async {
            while !answer.ends_with("# EOF\n") {
                let mut bytes = vec![0; 64 * 1024];
                let n = self.0.read(&mut bytes).await.expect("reads");
                assert_ne!(n, 0, "the admin listener ended the connection");
                answer.push_str(std::str::from_utf8(&bytes[..n]).expect("text"));
            }
        })
        .await;
        let at = answer.find(name).expect("the metric") + name.len();
        answer[at..].lines().next().expect("a line").trim().parse().expect("a number")
    }
}

async fn serve(db: &TestDb, log: &Path) -> (GatewayProcess, SocketAddr, SocketAddr) {
    let (addr, admin) = (free_port(), free_port());
    let variables = [
        ("DATABASE_URL", db.gateway_url()),
        ("WARDEN_JWT_SECRET", SECRET),
        ("WARDEN_LISTEN", &addr.to_string()),
        ("WARDEN_ADMIN_LISTEN", &admin.to_string()),
        ("WARDEN_DRAIN_SECONDS", "0"),
        // The waiting connections must not time out during the test.
        ("WARDEN_HANDSHAKE_SECONDS", "600"),
    ];
    let process = GatewayProcess::serve(env!("CARGO_BIN_EXE_warden"), &variables, log).await;
    eventually("the node is ready", async || status(admin, "/readyz").await == Some(200)).await;
    (process, addr, admin)
}

#[tokio::test]
async fn without_file_descriptors_sessions_continue_and_new_connections_wait() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("descriptors-{}.log", std::process::id()));
    let (mut process, addr, admin) = serve(&db, &log).await;
    let jwt = token(org, &json!({}));
    let mut open = [Client::connect(addr, &jwt).await, Client::connect(addr, &jwt).await];
    for client in &mut open {
        client.join("calls").await;
    }
    let mut admin = Admin(TcpStream::connect(admin).await.expect("connects"));
    assert_eq!(admin.accept_errors().await, 0);

    let low = Rlimit { current: Some(first_beyond(&process)), maximum: hard(&process) };
    let former = prlimit(Some(process.pid), Resource::Nofile, low).expect("sets the limit");
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(TcpStream::connect(addr).await.expect("connects: the kernel has a queue"));
    }
    eventually("accepts fail", async || admin.accept_errors().await >= VAIN_TRIES).await;
    let newcomer = tokio::spawn(async move { Client::connect(addr, &jwt).await });

    // Open sessions still receive events and replies.
    let tries = admin.accept_errors().await;
    for n in 0..3 {
        let call = db.insert_call(org).await.to_string();
        for client in &mut open {
            assert_eq!(client.expect_only("calls", "call.created").await.row_id(), call, "{n}");
            assert_eq!(client.push("phoenix", "heartbeat", json!({})).await.status, "ok");
        }
    }
    eventually("the gateway retries", async || admin.accept_errors().await >= tries + VAIN_TRIES).await;
    assert!(!newcomer.is_finished(), "there was no descriptor for it");
    assert!(process.ended().is_none());

    // The waiting connections close; the limit stays low.
    drop(crowd);
    let mut newcomer = within("the newcomer is let in", newcomer).await.expect("connects");
    newcomer.join("calls").await;
    let call = db.insert_call(org).await.to_string();
    for client in open.iter_mut().chain([&mut newcomer]) {
        assert_eq!(client.expect_only("calls", "call.created").await.row_id(), call);
    }
    let said = std::fs::read_to_string(&log).expect("reads");
    assert_eq!(said.matches("accepting a connection failed").count(), 1, "{said}");
    assert!(said.contains("ulimit -n") && !said.contains("panicked"), "{said}");

    prlimit(Some(process.pid), Resource::Nofile, former).expect("gives back");
    drop((open, newcomer, admin));
    process.signal(Signal::TERM);
    assert!(within("its end", process.wait()).await.success());
    let _ = std::fs::remove_file(&log);
}

/// Descriptor limit that leaves [`FREE`] descriptors. Inherited descriptors may have high numbers.
fn first_beyond(process: &GatewayProcess) -> u64 {
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid.as_raw_nonzero())).expect("reads");
    let number = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let open: std::collections::HashSet<u64> = open.filter_map(number).collect();
    (0..).filter(|n| !open.contains(n)).nth(FREE).expect("there is always another number")
}

/// The hard limit, which stays unchanged.
fn hard(process: &GatewayProcess) -> Option<u64> {
    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", process.pid.as_raw_nonzero())).expect("reads");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit");
    line.split_whitespace().nth(4).expect("a hard limit").parse().ok()
}
