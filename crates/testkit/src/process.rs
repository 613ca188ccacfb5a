//! `warden serve` in a process that never outlives its test, even if the test is killed.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A shell that watches the gateway. Its standard input is a pipe from the test. At the end of that pipe the
/// test is gone, perhaps killed, and the shell kills the gateway. The shell has a process group of its own,
/// so that Ctrl-C reaches the test alone. It exits with the gateway's status.
const SCRIPT: &str = r#"
log=$1; shift
exec 3<&0
"$@" </dev/null >>"$log" 2>&1 3<&- &
child=$!
(read -r _ <&3; kill -KILL "$child") >/dev/null 2>&1 &
guard=$!
echo "$child"
wait "$child"
status=$?
kill "$guard"
exit "$status"
"#;

/// Ports below the range from which the kernel takes ports of outgoing connections. While a gateway is down,
/// no other process gets its port by chance.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_TRIES: usize = 100;

/// Chooses an address on which a gateway can be started again and again.
///
/// # Panics
/// If no port is free.
#[must_use]
pub fn free_port() -> SocketAddr {
    // The global generator, not the test's seed: two runs with the same seed need different ports.
    for _ in 0..PORT_TRIES {
        let addr = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(PORTS)));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no free port in {PORTS:?}")
}

/// A gateway in a process of its own.
#[derive(Debug)]
pub struct GatewayProcess {
    shell: Child,
    /// Process id of the gateway itself. Only the shell waits for that process.
    pub pid: Pid,
}

impl GatewayProcess {
    /// Starts `warden serve` with these environment variables and no others. Its output is appended to `log`.
    ///
    /// # Panics
    /// If the process or its log cannot be created.
    pub async fn serve(warden: &str, variables: &[(&str, &str)], log: &Path) -> Self {
        Self::run(warden, &["serve"], variables, log).await
    }

    /// Starts another command of the binary in the same way, with these arguments.
    ///
    /// # Panics
    /// If the process or its log cannot be created.
    pub async fn run(warden: &str, args: &[&str], variables: &[(&str, &str)], log: &Path) -> Self {
        File::options().create(true).append(true).open(log).expect("the log can be written");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "guard"]).arg(log).arg(warden).args(args);
        command.env_clear().envs(variables.iter().copied()).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().expect("a shell starts");
        let stdout = BufReader::new(shell.stdout.take().expect("is piped"));
        let line = stdout.lines().next_line().await.expect("reads").expect("prints its process id");
        let pid = line.parse().ok().and_then(Pid::from_raw).expect("a process id");
        Self { shell, pid }
    }

    /// Sends a signal, unless the gateway has ended. The process id cannot belong to another process
    /// meanwhile: the shell waits for the gateway only after its end, and then exits itself.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Status of a gateway that has ended.
    ///
    /// # Panics
    /// If the shell cannot be waited for.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.shell.try_wait().expect("is a child").map(without_shell_offset)
    }

    /// Waits for the end. The pipe stays open meanwhile, because closing it would kill the gateway.
    ///
    /// # Panics
    /// If the shell cannot be waited for.
    pub async fn wait(&mut self) -> ExitStatus {
        let stdin = self.shell.stdin.take();
        let status = without_shell_offset(self.shell.wait().await.expect("is a child"));
        self.shell.stdin = stdin;
        status
    }
}

/// Restores the signal that ended the gateway: a shell exits with 128 plus its number.
fn without_shell_offset(status: ExitStatus) -> ExitStatus {
    match status.code() {
        Some(code) if code > 128 => ExitStatus::from_raw(code - 128),
        _ => status,
    }
}
