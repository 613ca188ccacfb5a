//! The gateways: the real binary, on ports that stay theirs, killed and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use warden_testkit::{GatewayProcess, free_port};

/// Signs the tokens.
pub(crate) const SECRET: &str = "a secret for chaos of more than 32 bytes";
/// Longest end after SIGTERM: the drain's window and rest, and a busy machine.
const TERM_DEADLINE: Duration = Duration::from_secs(40);

/// One gateway.
pub(crate) struct Gateway {
    addr: SocketAddr,
    admin: SocketAddr,
    database_url: String,
    log: PathBuf,
    process: GatewayProcess,
}

impl Gateway {
    pub(crate) async fn start(database_url: &str, log: PathBuf) -> Self {
        let (addr, admin) = (free_port(), free_port());
        let _ = std::fs::remove_file(&log);
        let process = spawn(addr, admin, database_url, &log).await;
        Self { addr, admin, database_url: database_url.to_owned(), log, process }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(self.addr, self.admin, &self.database_url, &self.log).await;
    }

    /// It ended without having been told to.
    pub(crate) fn has_ended(&mut self) -> Option<String> {
        let status = self.process.ended()?;
        Some(format!(
            "the gateway on {} ended by itself: {status}; its log: {}",
            self.addr,
            self.log.display()
        ))
    }

    pub(crate) async fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait().await;
    }

    /// SIGTERM, and the end. The error says what was wrong about it.
    pub(crate) async fn terminate(&mut self) -> Result<(), String> {
        if let Some(ended) = self.has_ended() {
            return Err(ended);
        }
        self.process.signal(Signal::TERM);
        match tokio::time::timeout(TERM_DEADLINE, self.process.wait()).await {
            Ok(status) => {
                // Before its handler is there the signal itself ends it.
                if status.success() || std::os::unix::process::ExitStatusExt::signal(&status).is_some() {
                    Ok(())
                } else {
                    Err(format!("after SIGTERM: {status}; log: {}", self.log.display()))
                }
            }
            Err(_) => {
                self.kill().await;
                Err(format!("SIGTERM did not end it within {TERM_DEADLINE:?}; log: {}", self.log.display()))
            }
        }
    }

    /// Nothing was wrong: nobody will read its log.
    pub(crate) fn discard_log(&self) {
        let _ = std::fs::remove_file(&self.log);
    }

    /// What its log says of panics.
    pub(crate) fn panics(&self) -> Option<String> {
        let log = String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
        let line = log.lines().find(|line| line.contains("panicked"))?;
        Some(format!("{line} (in {})", self.log.display()))
    }
}

async fn spawn(addr: SocketAddr, admin: SocketAddr, database_url: &str, log: &Path) -> GatewayProcess {
    let variables = [
        ("DATABASE_URL", database_url),
        ("WARDEN_JWT_SECRET", SECRET),
        ("WARDEN_LISTEN", &addr.to_string()),
        ("WARDEN_ADMIN_LISTEN", &admin.to_string()),
        ("WARDEN_DRAIN_SECONDS", "1"),
        // All clients come from one address, and where two of three nodes are down, all at once, again and again.
        ("WARDEN_HANDSHAKES_PER_ADDRESS", "2000:10000"),
        ("WARDEN_ARRIVALS_PER_ADDRESS", "2000:10000"),
    ];
    GatewayProcess::serve(env!("CARGO_BIN_EXE_warden"), &variables, log).await
}
