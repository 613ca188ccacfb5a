//! A worker process. It ends when the main process ends, because that closes its standard input.

use std::process::Stdio;

use anyhow::{Context as _, anyhow, bail};
use bench_support::process::raise_open_files;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Mutex;

use super::command_sender::{CommandSender, WorkerInput, append_line};
use crate::message::{SocketSpec, WorkerReport, WorkerTask};

/// Open files of a worker in addition to its sockets.
const OTHER_FILES: u64 = 64;
/// Sockets that one thread can serve at common rates without being the bottleneck.
const SOCKETS_PER_PROCESS: usize = 16_000;

/// The number of worker processes for this many sockets. It raises the limit of open files as far as this
/// user may.
pub(crate) fn process_count(sockets: usize, requested: Option<usize>) -> anyhow::Result<usize> {
    let files = usize::try_from(raise_open_files().saturating_sub(OTHER_FILES))?;
    let per_process = files.min(SOCKETS_PER_PROCESS);
    if per_process == 0 {
        bail!("the limit of open files leaves no file for sockets: raise it (`ulimit -n`, or LimitNOFILE)");
    }
    let needed = sockets.div_ceil(per_process);
    match requested {
        None => Ok(needed.max(1)),
        Some(requested) if sockets.div_ceil(requested) <= files => Ok(requested.min(sockets)),
        Some(requested) => bail!(
            "{sockets} sockets in {requested} processes are {} per process, but the limit of open files allows {files}: \
             raise it (`ulimit -n`, or LimitNOFILE), or use --processes {needed}",
            sockets.div_ceil(requested)
        ),
    }
}

/// A worker process and its reports.
pub(crate) struct WorkerProcess {
    child: Child,
    reports: Lines<BufReader<ChildStdout>>,
}

impl WorkerProcess {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Receives the next report. Fails if the process ended before it sent its last report.
    pub(super) async fn receive(&mut self) -> anyhow::Result<WorkerReport> {
        match self.reports.next_line().await? {
            Some(line) => serde_json::from_str(&line).context("cannot parse a worker's report"),
            None => {
                let status = self.child.wait().await?;
                Err(anyhow!(
                    "a worker process ended unexpectedly ({status}), so its sockets could not be checked"
                ))
            }
        }
    }

    /// Waits for the end of the process, after its last report.
    pub(super) async fn wait(mut self) {
        let _ = self.child.wait().await;
    }
}

/// Starts one worker for each share of the sockets.
pub(crate) async fn start(
    shares: Vec<Vec<SocketSpec>>,
    task: impl Fn(Vec<SocketSpec>) -> WorkerTask,
) -> anyhow::Result<(Vec<WorkerProcess>, CommandSender)> {
    let program = std::env::current_exe().context("cannot find the path of this program to start workers")?;
    let (mut workers, mut inputs) = (Vec::new(), Vec::new());
    for sockets in shares {
        // A process group of its own: Ctrl-C at the terminal reaches only the main process.
        let mut child = Command::new(&program)
            .arg("worker")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a worker process")?;
        let mut stdin = child.stdin.take().context("a worker's standard input is not a pipe")?;
        let stdout = child.stdout.take().context("a worker's standard output is not a pipe")?;
        let task = task(sockets);
        let mut line = Vec::new();
        append_line(&mut line, &task)?;
        stdin.write_all(&line).await.context("a worker process did not start")?;
        let mut has_org = vec![false; task.orgs.len()];
        for spec in &task.sockets {
            has_org[spec.org] = true;
        }
        inputs.push(WorkerInput { stdin: Mutex::new(stdin), has_org, sockets: task.sockets.len() });
        workers.push(WorkerProcess { child, reports: BufReader::new(stdout).lines() });
    }
    Ok((workers, CommandSender::new(inputs)))
}
