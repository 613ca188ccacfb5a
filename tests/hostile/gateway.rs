//! The gateway under attack: the real binary, observed through the kernel and its own metrics.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use warden_testkit::{GatewayProcess, free_port};

/// Secret that signs the tokens.
pub(crate) const SECRET: &str = "a secret for hostile tests of more than 32 bytes";
/// Deadline for following the log after the start, and for the exit after SIGTERM.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Resources that the gateway's process uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) rss_bytes: u64,
    pub(crate) descriptors: u64,
    pub(crate) sessions: u64,
    pub(crate) pending: u64,
}

pub(crate) struct Gateway {
    pub(crate) addr: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
    process: GatewayProcess,
}

impl Gateway {
    pub(crate) async fn start(database_url: &str, settings: &[(&str, &str)]) -> Self {
        let (addr, admin) = (free_port(), free_port());
        let log = std::env::temp_dir().join(format!("warden-hostile-{}.log", admin.port()));
        let _ = std::fs::remove_file(&log);
        let (listen, admin_listen) = (addr.to_string(), admin.to_string());
        let mut variables = vec![
            ("DATABASE_URL", database_url),
            ("WARDEN_JWT_SECRET", SECRET),
            ("WARDEN_LISTEN", &listen),
            ("WARDEN_ADMIN_LISTEN", &admin_listen),
            ("WARDEN_ALLOWED_ORIGINS", "https://app.example"),
            ("WARDEN_DRAIN_SECONDS", "1"),
        ];
        variables.extend(settings);
        let process = GatewayProcess::serve(env!("CARGO_BIN_EXE_warden"), &variables, &log).await;
        let mut gateway = Self { addr, admin, log, process };
        let start = tokio::time::Instant::now();
        while !gateway.get("/readyz").await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            assert!(
                gateway.process.ended().is_none(),
                "the gateway exited; its log: {}",
                gateway.log.display()
            );
            assert!(
                start.elapsed() < DEADLINE,
                "the gateway is not ready; its log: {}",
                gateway.log.display()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        gateway
    }

    async fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Sum of a metric over its labels.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.expect("the admin listener always responds");
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let value = if rest.starts_with(['{', ' ']) { rest.rsplit(' ').next()? } else { return None };
            value.trim().parse::<u64>().ok()
        };
        text.lines().filter_map(value).sum()
    }

    /// Exceeded limits, each with its count.
    pub(crate) async fn limits_reached(&self) -> Vec<String> {
        let text = self.get("/metrics").await.expect("the admin listener always responds");
        let limit = |line: &str| {
            let (name, count) =
                line.strip_prefix("warden_limits_reached_total{limit=\"")?.split_once("\"} ")?;
            Some(format!("{name} {count}"))
        };
        text.lines().filter_map(limit).collect()
    }

    pub(crate) async fn usage(&self) -> Usage {
        let proc = format!("/proc/{}", self.process.pid.as_raw_nonzero());
        let status = std::fs::read_to_string(format!("{proc}/status")).expect("the gateway runs, on Linux");
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("has a size");
        let kib: u64 = rss.trim().trim_end_matches(" kB").parse().expect("a number");
        Usage {
            rss_bytes: kib * 1024,
            descriptors: std::fs::read_dir(format!("{proc}/fd")).expect("reads").count() as u64,
            sessions: self.metric("warden_sessions").await,
            pending: self.metric("warden_connections_pending").await,
        }
    }

    /// Sends SIGTERM and asserts a clean exit, without a panic, an error or a token in the log.
    pub(crate) async fn end(mut self) {
        let log = self.log.display().to_string();
        assert!(self.process.ended().is_none(), "the gateway exited under attack; its log: {log}");
        self.process.signal(Signal::TERM);
        let status = tokio::time::timeout(DEADLINE, self.process.wait()).await.expect("exits after SIGTERM");
        assert!(status.success(), "{status}; its log: {log}");
        let text = String::from_utf8_lossy(&std::fs::read(&self.log).expect("reads")).into_owned();
        for (what, word) in [("a panic", "panicked"), ("an error", " ERROR "), ("a token", "eyJ")] {
            let line = text.lines().find(|line| line.contains(word));
            assert!(line.is_none(), "{what} in its log ({log}): {line:?}");
        }
        let _ = std::fs::remove_file(&self.log);
    }
}
