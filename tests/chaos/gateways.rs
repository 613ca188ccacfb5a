//! The gateways: the real binary, on ports that stay theirs, killed and started again.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// Signs the tokens.
pub(crate) const SECRET: &str = "a secret for chaos of more than 32 bytes";
/// Below the range from which the kernel takes ports of outgoing connections: while a gateway is down,
/// nobody else may come by its port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// So many times a port is tried.
const PORT_TRIES: usize = 100;
/// Longest end after SIGTERM: the drain's window and rest, and a busy machine.
const TERM_DEADLINE: Duration = Duration::from_secs(40);

/// One gateway.
pub(crate) struct Gateway {
    addr: SocketAddr,
    admin: SocketAddr,
    database_url: String,
    log: PathBuf,
    child: Child,
}

fn free_port(random: &mut fastrand::Rng) -> SocketAddr {
    for _ in 0..PORT_TRIES {
        let addr = SocketAddr::from(([127, 0, 0, 1], random.u16(PORTS)));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no free port in {PORTS:?}")
}

impl Gateway {
    pub(crate) fn start(database_url: &str, log: PathBuf) -> Self {
        // Not of the seed: a run beside this one with the same seed must find others.
        let mut random = fastrand::Rng::new();
        let (addr, admin) = (free_port(&mut random), free_port(&mut random));
        let _ = std::fs::remove_file(&log);
        let child = spawn(addr, admin, database_url, &log);
        Self { addr, admin, database_url: database_url.to_owned(), log, child }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.addr, self.admin, &self.database_url, &self.log);
    }

    /// It ended without having been told to.
    pub(crate) fn has_ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().expect("is a child")?;
        Some(format!(
            "the gateway on {} ended by itself: {status}; its log: {}",
            self.addr,
            self.log.display()
        ))
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("is killed");
    }

    /// SIGTERM, and the end. The error says what was wrong about it.
    pub(crate) async fn terminate(&mut self) -> Result<(), String> {
        if let Some(ended) = self.has_ended() {
            return Err(ended);
        }
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(id.expect("it runs"), Signal::TERM).expect("is signalled");
        match tokio::time::timeout(TERM_DEADLINE, self.child.wait()).await {
            Ok(status) => {
                let status = status.expect("is a child");
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

fn spawn(addr: SocketAddr, admin: SocketAddr, database_url: &str, log: &PathBuf) -> Child {
    let log = File::options().create(true).append(true).open(log).expect("the log can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_warden"));
    command.arg("serve").env_clear().envs([
        ("DATABASE_URL", database_url),
        ("WARDEN_JWT_SECRET", SECRET),
        ("WARDEN_LISTEN", &addr.to_string()),
        ("WARDEN_ADMIN_LISTEN", &admin.to_string()),
        ("WARDEN_DRAIN_SECONDS", "1"),
    ]);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("clones")).stderr(log).kill_on_drop(true);
    command.spawn().expect("the gateway starts")
}
