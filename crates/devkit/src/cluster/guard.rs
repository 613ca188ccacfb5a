//! The guard: a small shell that owns a command (`initdb`, `postgres`) and the directory to throw
//! away with it. Its standard input is a pipe held by this process and by nobody else (close-on-exec
//! keeps it from our other children), so that however this process ends, kill -9 included, the guard
//! reads end-of-file, shuts the server down and cleans up. It decides nothing else.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::account::Account;

/// How long a fast shutdown may take before the guard asks for an immediate one, which leaves crash
/// recovery to the next start; and then until it kills, in seconds (for `sleep`).
const FAST_SECS: &str = "30";
const IMMEDIATE_SECS: &str = "10";
/// Longer than both together: the guard has always answered by then, unless it was killed.
const STOP_DEADLINE: Duration = Duration::from_secs(45);
/// For a killed server's processes to be gone: they have nothing left to do.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How much is kept of what the command writes to its standard output.
const OUTPUT_BYTES_MAX: usize = 4096;

/// Three pipes: orders come in on 0; answers go out on 1; 2 is held open by the command and its
/// children alone, as their standard output, so that its end tells that all of them are gone.
///
/// Signals are ignored because an impatient Ctrl-C must not end the guard before its work is done;
/// the command sets its own. `kill -KILL 0` ends the group, which by then is the timer and the guard.
/// A server that was killed leaves the header of its shared memory behind, named by line 7 of
/// postmaster.pid.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM PIPE
scrap=$1 log=$2 fast=$3 immediate=$4
shift 4
"$@" </dev/null >&2 2>>"$log" &
command=$!
exec 2>/dev/null
echo "$command"
read -r order
kill -INT "$command"
(sleep "$fast"; kill -QUIT "$command"; sleep "$immediate"; kill -KILL "$command") >/dev/null &
wait "$command"
echo ended
[ -z "$order" ] || read -r order
if [ -n "$scrap" ] && [ "$order" != keep ]; then
  if [ -f "$scrap/data/postmaster.pid" ]; then
    ipcrm -m "$(sed -n '7s/.* //p' "$scrap/data/postmaster.pid")"
  fi
  rm -rf "$scrap"
fi
kill -KILL 0
"#;

/// A running guard. Dropped, it does all that it does at the death of this process.
#[derive(Debug)]
pub(super) struct Guard {
    shell: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    life: ChildStderr,
    output: Vec<u8>,
    pid: Pid,
    /// The order to stop is given once: the guard takes another line as the next order.
    ordered: bool,
    stopped: bool,
}

impl Guard {
    /// Starts the command as `account`, its messages going to the end of `log`. `scrap` is removed
    /// when the guard ends, unless [`Guard::keep`] ends it.
    pub(super) async fn start(
        account: &Account,
        scrap: Option<&Path>,
        log: &Path,
        command: &[OsString],
    ) -> io::Result<Self> {
        let mut shell = account
            .command("sh")
            .args(["-c", SCRIPT, "warden-guard"])
            .arg(scrap.map(Path::as_os_str).unwrap_or_default())
            .arg(log)
            .args([FAST_SECS, IMMEDIATE_SECS])
            .args(command)
            // A group of its own: Ctrl-C in the terminal is for us, and we stop the server in turn.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let gone = || io::Error::other("the guard has no pipe");
        let orders = shell.stdin.take().ok_or_else(gone)?;
        let answers = shell.stdout.take().ok_or_else(gone)?;
        let life = shell.stderr.take().ok_or_else(gone)?;
        let mut answers = BufReader::new(answers).lines();
        let pid = answers
            .next_line()
            .await?
            .and_then(|line| Pid::from_raw(line.parse().ok()?))
            .ok_or_else(|| io::Error::other("the guard did not start its command"))?;
        Ok(Self { shell, orders, answers, life, output: Vec::new(), pid, ordered: false, stopped: false })
    }

    /// The process id of the command.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Resolves when the command and all its children are gone. Cancel safe.
    pub(super) async fn gone(&mut self) {
        let mut buffer = [0; 512];
        // An error of a pipe cannot be mended, and means the same: nothing more will come.
        while let Ok(count @ 1..) = self.life.read(&mut buffer).await {
            let room = OUTPUT_BYTES_MAX.saturating_sub(self.output.len());
            self.output.extend_from_slice(&buffer[..count.min(room)]);
        }
    }

    /// What the command wrote to its standard output.
    pub(super) fn output(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Asks for a fast shutdown and waits for the end; may be called again, also after it was
    /// cancelled. The directory stays until the guard ends.
    pub(super) async fn stop(&mut self) -> Result<(), Stuck> {
        if self.stopped {
            return Ok(());
        }
        if !self.ordered {
            self.ordered = true;
            // Fails where the guard itself was killed, and then there will be no answer either.
            drop(self.orders.write_all(b"stop\n").await);
        }
        let answered = timeout(STOP_DEADLINE, self.answers.next_line()).await;
        if !matches!(answered, Ok(Ok(Some(_)))) {
            let _ = kill_process(self.pid, Signal::INT);
        }
        let gone = timeout(KILL_DEADLINE, self.gone()).await;
        self.stopped = gone.is_ok();
        gone.map_err(|_| Stuck { pid: self.pid() })
    }

    /// SIGKILL to the command and its children, as in a crash; waits until all are gone.
    pub(super) async fn kill(&mut self) -> Result<(), Stuck> {
        if self.stopped {
            return Ok(());
        }
        // Stopped first, so that it neither starts more children nor takes leave of those it has.
        // The id cannot be another's meanwhile: the guard has not waited for it yet.
        let _ = kill_process(self.pid, Signal::STOP);
        let children = children_of(self.pid).await;
        let _ = kill_process(self.pid, Signal::KILL);
        for child in children {
            let _ = kill_process(child, Signal::KILL);
        }
        if timeout(KILL_DEADLINE, self.gone()).await.is_err() {
            return Err(Stuck { pid: self.pid() });
        }
        // Only now the guard buries it; until then its id would look alive to the next server.
        self.stop().await
    }

    /// Ends a guard whose command has ended, without removing anything: another guard took over.
    pub(super) async fn keep(mut self) {
        if self.stop().await.is_ok() {
            drop(self.orders.write_all(b"keep\n").await);
            drop(self.shell.wait().await);
        }
    }

    /// Ends the guard, and waits until all is removed.
    pub(super) async fn finish(mut self) -> Result<(), Stuck> {
        self.stop().await?;
        drop(self.orders);
        drop(self.shell.wait().await);
        Ok(())
    }
}

/// The command did not end.
#[derive(Debug)]
pub(super) struct Stuck {
    pub(super) pid: i32,
}

/// The child processes: from /proc, which minimal images have while they lack `ps`, else from `ps`.
async fn children_of(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero().get().to_string();
    let mut pairs: Vec<(String, String)> = Vec::new();
    if let Ok(entries) = std::fs::read_dir("/proc") {
        for entry in entries.flatten() {
            // "pid (name) state ppid ...", where the name may contain anything.
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
                continue;
            };
            let ppid = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
            if let (Ok(pid), Some(ppid)) = (entry.file_name().into_string(), ppid) {
                pairs.push((pid, ppid.to_owned()));
            }
        }
    } else if let Ok(output) =
        tokio::process::Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().await
    {
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            pairs.extend(words.next().zip(words.next()));
        }
    }
    pairs
        .into_iter()
        .filter(|(_, ppid)| *ppid == parent)
        .filter_map(|(pid, _)| Pid::from_raw(pid.parse().ok()?))
        .collect()
}
