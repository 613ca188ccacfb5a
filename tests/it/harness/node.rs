//! Gateways in processes of their own, which a test stops or kills, and starts again in the same place.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use warden_testkit::{GatewayProcess, free_port};

use super::{SECRET, eventually, within};

/// A node, with everything that is needed to start it again.
pub struct Node {
    pub addr: SocketAddr,
    admin: SocketAddr,
    /// Environment variables beside those of every node.
    variables: Vec<(&'static str, String)>,
    log: PathBuf,
    process: GatewayProcess,
}

impl Node {
    /// Starts a node on this database, and waits until it is ready. The name tells its log from others.
    pub async fn start(database_url: &str, name: &str, changes: &[(&'static str, &str)]) -> Self {
        let (addr, admin) = (free_port(), free_port());
        let log = format!("{name}-{}.log", std::process::id());
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(log);
        let mut variables = vec![
            ("DATABASE_URL", database_url.to_owned()),
            ("WARDEN_JWT_SECRET", SECRET.to_owned()),
            ("WARDEN_LISTEN", addr.to_string()),
            ("WARDEN_ADMIN_LISTEN", admin.to_string()),
            ("WARDEN_DRAIN_SECONDS", "1".to_owned()),
        ];
        variables.extend(changes.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let process = serve(&variables, &log).await;
        let node = Self { addr, admin, variables, log, process };
        node.is_ready().await;
        node
    }

    async fn is_ready(&self) {
        eventually("the node is ready", async || status(self.admin, "/readyz").await == Some(200)).await;
    }

    /// Stops the process with SIGTERM, waits for its end, and starts another in its place.
    pub async fn replace(&mut self) {
        self.process.signal(Signal::TERM);
        let status = within("the node stops", self.process.wait()).await;
        assert!(status.success(), "{status}; its log: {}", self.log.display());
        self.start_again().await;
    }

    /// Kills the process with SIGKILL.
    pub async fn kill(&mut self) {
        assert!(self.process.ended().is_none(), "the node ended by itself; its log: {}", self.log.display());
        self.process.signal(Signal::KILL);
        within("the node is gone", self.process.wait()).await;
    }

    /// Starts a process in the place of one that has ended.
    pub async fn start_again(&mut self) {
        self.process = serve(&self.variables, &self.log).await;
        self.is_ready().await;
    }

    /// Removes the log of a node without failures.
    pub fn discard_log(&self) {
        let _ = std::fs::remove_file(&self.log);
    }
}

async fn serve(variables: &[(&str, String)], log: &Path) -> GatewayProcess {
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    GatewayProcess::serve(env!("CARGO_BIN_EXE_warden"), &variables, log).await
}

/// Status of a GET request. None if the connection is refused.
pub async fn status(addr: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}
