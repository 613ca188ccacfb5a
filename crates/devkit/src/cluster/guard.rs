//! The guard: a small shell process that owns a command (`initdb` or `postgres`) and a directory to remove.
//!
//! The guard's standard input is a pipe whose other end only this process holds; close-on-exec keeps it from
//! our other children. However this process ends, kill -9 included, the guard reads end-of-file, shuts the
//! server down and removes the directory. It decides nothing else.

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

/// Longest fast shutdown, in seconds. After it the guard requests an immediate shutdown, which leaves crash
/// recovery to the next start. A string, because `sleep` takes it.
const FAST_SECS: &str = "30";
/// Longest immediate shutdown, in seconds. After it the guard kills the server.
const IMMEDIATE_SECS: &str = "10";
/// Longest wait for the guard's answer. Longer than both shutdowns together: only a killed guard takes
/// longer.
const STOP_DEADLINE: Duration = Duration::from_secs(45);
/// Longest end of a killed server. Its processes have nothing left to do.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of the command's standard output that are kept.
const OUTPUT_BYTES_MAX: usize = 4096;

/// Program of the guard.
///
/// It has three pipes. Requests arrive on 0, and answers leave on 1. Only the command and its children hold
/// 2, as their standard output. End-of-file on 2 therefore means that all of them have ended.
///
/// The guard ignores signals, because an impatient Ctrl-C must not end it before its work is done. The
/// command sets its own handlers. `kill -KILL 0` ends the process group, which by then consists of the timer
/// and the guard. A killed server leaves the header of its shared memory behind; line 7 of postmaster.pid
/// identifies it.
const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM PIPE
disposable=$1 log=$2 fast=$3 immediate=$4
shift 4
"$@" </dev/null >&2 2>>"$log" &
command=$!
exec 2>/dev/null
echo "$command"
read -r request
kill -INT "$command"
(sleep "$fast"; kill -QUIT "$command"; sleep "$immediate"; kill -KILL "$command") >/dev/null &
wait "$command"
echo ended
[ -z "$request" ] || read -r request
if [ -n "$disposable" ] && [ "$request" != keep ]; then
  if [ -f "$disposable/data/postmaster.pid" ]; then
    ipcrm -m "$(sed -n '7s/.* //p' "$disposable/data/postmaster.pid")"
  fi
  rm -rf "$disposable"
fi
kill -KILL 0
"#;

/// A running guard. Dropping it has the same effect as the end of this process.
#[derive(Debug)]
pub(super) struct Guard {
    shell: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// Reaches end-of-file when the command and its children have ended.
    lifetime: ChildStderr,
    output: Vec<u8>,
    pid: Pid,
    /// Whether the guard was asked to stop. A second line would be taken as the next request.
    is_stopping: bool,
    is_stopped: bool,
}

impl Guard {
    /// Starts the command as `account`, with its messages appended to `log`. The guard removes `disposable`
    /// at its end, unless [`Guard::keep`] ends it.
    pub(super) async fn start(
        account: &Account,
        disposable: Option<&Path>,
        log: &Path,
        command: &[OsString],
    ) -> io::Result<Self> {
        let mut shell = account
            .command("sh")
            .args(["-c", SCRIPT, "warden-guard"])
            .arg(disposable.map(Path::as_os_str).unwrap_or_default())
            .arg(log)
            .args([FAST_SECS, IMMEDIATE_SECS])
            .args(command)
            // In a process group of its own. Ctrl-C in the terminal reaches only this process, which then
            // stops the server.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let no_pipe = || io::Error::other("the guard has no pipe");
        let requests = shell.stdin.take().ok_or_else(no_pipe)?;
        let answers = shell.stdout.take().ok_or_else(no_pipe)?;
        let lifetime = shell.stderr.take().ok_or_else(no_pipe)?;
        let mut answers = BufReader::new(answers).lines();
        let pid = answers
            .next_line()
            .await?
            .and_then(|line| Pid::from_raw(line.parse().ok()?))
            .ok_or_else(|| io::Error::other("the guard did not start its command"))?;
        Ok(Self {
            shell,
            requests,
            answers,
            lifetime,
            output: Vec::new(),
            pid,
            is_stopping: false,
            is_stopped: false,
        })
    }

    /// Process id of the command.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits until the command and all its children have ended. Cancel safe.
    pub(super) async fn gone(&mut self) {
        let mut buffer = [0; 512];
        // A read error is handled like end-of-file: nothing more will arrive.
        while let Ok(count @ 1..) = self.lifetime.read(&mut buffer).await {
            let room = OUTPUT_BYTES_MAX.saturating_sub(self.output.len());
            self.output.extend_from_slice(&buffer[..count.min(room)]);
        }
    }

    /// Standard output of the command so far.
    pub(super) fn output(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Requests a fast shutdown and waits for the end. May be called again, also after it was cancelled. The
    /// disposable directory stays until the guard itself ends.
    pub(super) async fn stop(&mut self) -> Result<(), Stuck> {
        if self.is_stopped {
            return Ok(());
        }
        if !self.is_stopping {
            self.is_stopping = true;
            // Fails only if the guard was killed. Then no answer arrives either.
            drop(self.requests.write_all(b"stop\n").await);
        }
        let answered = timeout(STOP_DEADLINE, self.answers.next_line()).await;
        if !matches!(answered, Ok(Ok(Some(_)))) {
            let _ = kill_process(self.pid, Signal::INT);
        }
        let gone = timeout(KILL_DEADLINE, self.gone()).await;
        self.is_stopped = gone.is_ok();
        gone.map_err(|_| Stuck { pid: self.pid() })
    }

    /// Kills the command and its children with SIGKILL, as in a crash, and waits until all have ended.
    pub(super) async fn kill(&mut self) -> Result<(), Stuck> {
        if self.is_stopped {
            return Ok(());
        }
        // SIGSTOP first, so that the command neither starts more children nor reacts to the end of one. No
        // other process can have its id yet, because the guard has not waited for it.
        let _ = kill_process(self.pid, Signal::STOP);
        let children = children_of(self.pid).await;
        let _ = kill_process(self.pid, Signal::KILL);
        for child in children {
            let _ = kill_process(child, Signal::KILL);
        }
        if timeout(KILL_DEADLINE, self.gone()).await.is_err() {
            return Err(Stuck { pid: self.pid() });
        }
        // Lets the guard wait for the command. Until then the next server would consider its id alive.
        self.stop().await
    }

    /// Ends a guard without removing the directory, because another guard owns it now.
    pub(super) async fn keep(mut self) {
        if self.stop().await.is_ok() {
            drop(self.requests.write_all(b"keep\n").await);
            drop(self.shell.wait().await);
        }
    }

    /// Ends the guard, and waits until it has removed the directory.
    pub(super) async fn finish(mut self) -> Result<(), Stuck> {
        self.stop().await?;
        drop(self.requests);
        drop(self.shell.wait().await);
        Ok(())
    }
}

/// Error of a command that did not end.
#[derive(Debug)]
pub(super) struct Stuck {
    pub(super) pid: i32,
}

/// Lists the child processes. Minimal images have no `ps`, so /proc is preferred where it exists.
async fn children_of(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero().get().to_string();
    let mut pairs: Vec<(String, String)> = Vec::new();
    if let Ok(entries) = std::fs::read_dir("/proc") {
        for entry in entries.flatten() {
            // "pid (name) state ppid ...". The name may contain any character.
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
