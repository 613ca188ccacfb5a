//! The real binary as a process that ends when the test does, however that ends. Shared by `tests/it`,
//! `tests/chaos` and `tests/hostile`.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A shell stands beside the binary, its standard input a pipe from the test. The pipe's end means that the
/// test is gone, killed perhaps, and then the binary is killed. In a process group of its own, so that
/// Ctrl-C reaches the test alone. It ends as the binary did.
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

/// Below the range from which the kernel takes ports of outgoing connections: while a gateway is down,
/// nobody else may come by its port.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// So many times a port is tried.
const PORT_TRIES: usize = 100;
/// An address that a gateway can be started on again and again.
pub(crate) fn free_port() -> SocketAddr {
    // Not of a test's seed: a run beside it with the same seed must find others.
    for _ in 0..PORT_TRIES {
        let addr = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(PORTS)));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no free port in {PORTS:?}")
}

/// A process under guard.
pub(crate) struct Guarded {
    shell: Child,
    /// Of the binary itself; only the guard waits for it.
    pub(crate) pid: Pid,
}

impl Guarded {
    /// Starts `warden serve` with these variables and no others; what it says is appended to `log`.
    pub(crate) async fn serve(variables: &[(&str, &str)], log: &Path) -> Self {
        File::options().create(true).append(true).open(log).expect("the log can be written");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "guard"]).arg(log).args([env!("CARGO_BIN_EXE_warden"), "serve"]);
        command.env_clear().envs(variables.iter().copied()).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().expect("a shell starts");
        let stdout = BufReader::new(shell.stdout.take().expect("is piped"));
        let line = stdout.lines().next_line().await.expect("reads").expect("says its process id");
        let pid = line.parse().ok().and_then(Pid::from_raw).expect("a process id");
        Self { shell, pid }
    }

    /// Until it is waited for the id is nobody else's: the shell waits only when it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.shell.try_wait().expect("is a child").map(by_signal)
    }

    /// Until it has ended. Its standard input stays open meanwhile: closed, it would be killed.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let stdin = self.shell.stdin.take();
        let status = by_signal(self.shell.wait().await.expect("is a child"));
        self.shell.stdin = stdin;
        status
    }
}

/// A shell tells a signal as 128 and its number.
fn by_signal(status: ExitStatus) -> ExitStatus {
    match status.code() {
        Some(code) if code > 128 => ExitStatus::from_raw(code - 128),
        _ => status,
    }
}
