//! The gateways: the real binary, killed and restarted on the same ports.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use warden_testkit::{GatewayProcess, free_port};

/// Signs the tokens.
pub(crate) const SECRET: &str = "a secret for chaos of more than 32 bytes";
/// Longest shutdown after SIGTERM: the drain, on a busy machine.
const TERM_DEADLINE: Duration = Duration::from_secs(40);

/// A gateway that can be restarted.
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

    /// Describes the end of a gateway that was not stopped by the test.
    pub(crate) fn unexpected_end(&mut self) -> Option<String> {
        let status = self.process.ended()?;
        Some(format!(
            "the gateway on {} ended by itself: {status}; see its log: {}",
            self.addr,
            self.log.display()
        ))
    }

    pub(crate) async fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait().await;
    }

    /// Sends SIGTERM and waits for the end. The error describes a wrong end.
    pub(crate) async fn terminate(&mut self) -> Result<(), String> {
        if let Some(ended) = self.unexpected_end() {
            return Err(ended);
        }
        self.process.signal(Signal::TERM);
        match tokio::time::timeout(TERM_DEADLINE, self.process.wait()).await {
            Ok(status) => {
                // Before the gateway has installed its handler, the signal itself ends the process.
                if status.success() || std::os::unix::process::ExitStatusExt::signal(&status).is_some() {
                    Ok(())
                } else {
                    Err(format!(
                        "after SIGTERM the gateway ended with {status}; see its log: {}",
                        self.log.display()
                    ))
                }
            }
            Err(_) => {
                self.kill().await;
                Err(format!(
                    "SIGTERM did not end the gateway within {TERM_DEADLINE:?}; see its log: {}",
                    self.log.display()
                ))
            }
        }
    }

    /// Removes the log of a gateway without failures.
    pub(crate) fn discard_log(&self) {
        let _ = std::fs::remove_file(&self.log);
    }

    /// First line of the log about a panic.
    pub(crate) fn panic_line(&self) -> Option<String> {
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
        // All clients have the same address. While two of three nodes are down, they reconnect at the same
        // time.
        ("WARDEN_HANDSHAKES_PER_ADDRESS", "2000:10000"),
        ("WARDEN_ARRIVALS_PER_ADDRESS", "2000:10000"),
    ];
    GatewayProcess::serve(env!("CARGO_BIN_EXE_warden"), &variables, log).await
}
