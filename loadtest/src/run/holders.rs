//! The processes that hold the sockets: started, told what happens, and listened to. They end with
//! this process, however it ends, for their orders then end.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use bench_support::process::raise_open_files;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::check::{Outcome, Sent};
use crate::message::{Order, Seat, Task, Word};
use crate::scenario::What;

/// Open files of a holder beside its sockets.
const OPEN_FILES_SPARE: u64 = 64;
/// One thread holds so many without being a bottleneck of its own at common rates.
const SOCKETS_PER_PROCESS: usize = 16_000;

/// How many processes hold the sockets, with the limit of open files raised as far as this user may.
pub(crate) fn processes(sockets: usize, asked: Option<usize>) -> anyhow::Result<usize> {
    let room = usize::try_from(raise_open_files().saturating_sub(OPEN_FILES_SPARE))?;
    let each = room.min(SOCKETS_PER_PROCESS);
    if each == 0 {
        bail!("a process may open only {room} files beside its own: raise `ulimit -n`");
    }
    let needed = sockets.div_ceil(each);
    match asked {
        None => Ok(needed.max(1)),
        Some(asked) if sockets.div_ceil(asked) <= room => Ok(asked.min(sockets)),
        Some(asked) => bail!(
            "{sockets} sockets in {asked} processes are {} each, but a process may open {room} files more: raise it (ulimit -n, LimitNOFILE), or ask for --processes {needed}",
            sockets.div_ceil(asked)
        ),
    }
}

/// Where changes are announced, to those who have sockets of their organisation.
#[derive(Clone)]
pub(crate) struct Journal(Arc<Vec<Ear>>);

struct Ear {
    input: Mutex<ChildStdin>,
    /// Whether it has sockets of an organisation.
    has: Vec<bool>,
    sockets: usize,
}

impl Journal {
    /// Returns when every holder's orders hold these changes: then their COMMIT may be sent.
    pub(crate) async fn sent(&self, changes: &[Sent]) -> anyhow::Result<()> {
        let Some(first) = changes.first() else { return Ok(()) };
        let mut lines = Vec::new();
        for change in changes {
            append(&mut lines, &Order::Sent(*change))?;
        }
        self.tell(first.org, &lines).await
    }

    pub(crate) async fn ended(&self, org: usize, n: usize, outcome: Outcome) -> anyhow::Result<()> {
        let mut line = Vec::new();
        append(&mut line, &Order::Ended { org, n, outcome })?;
        self.tell(org, &line).await
    }

    async fn tell(&self, org: usize, lines: &[u8]) -> anyhow::Result<()> {
        for ear in self.0.iter().filter(|ear| ear.has[org]) {
            ear.input
                .lock()
                .await
                .write_all(lines)
                .await
                .context("a process that holds sockets has ended")?;
        }
        Ok(())
    }

    /// Divides something that happens to the sockets among the holders.
    pub(crate) async fn act(&self, what: What) -> anyhow::Result<()> {
        let all: usize = self.0.iter().map(|ear| ear.sockets).sum();
        let mut before = 0;
        for ear in self.0.iter() {
            let until = match what {
                // Rounded down over the running sum, so that the parts add up.
                What::Open { until, .. } => until * (before + ear.sockets) / all - until * before / all,
                What::Storm { .. } | What::Churn { .. } => 0,
            };
            before += ear.sockets;
            self.order(ear, &what.order(ear.sockets as f64 / all as f64, until)).await?;
        }
        Ok(())
    }

    pub(crate) async fn order_first(&self, order: &Order) -> anyhow::Result<()> {
        let first = self.0.first().context("there is no holder")?;
        self.order(first, order).await
    }

    pub(crate) async fn order_all(&self, order: &Order) -> anyhow::Result<()> {
        for ear in self.0.iter() {
            self.order(ear, order).await?;
        }
        Ok(())
    }

    async fn order(&self, ear: &Ear, order: &Order) -> anyhow::Result<()> {
        let mut line = Vec::new();
        append(&mut line, order)?;
        ear.input.lock().await.write_all(&line).await.context("a process that holds sockets has ended")
    }
}

fn append(lines: &mut Vec<u8>, what: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *lines, what)?;
    lines.push(b'\n');
    Ok(())
}

/// A process that holds sockets.
pub(crate) struct Holder {
    child: Child,
    words: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The next word, or none after the last. An error where it ended before that.
    pub(crate) async fn word(&mut self) -> anyhow::Result<Word> {
        match self.words.next_line().await? {
            Some(line) => serde_json::from_str(&line).context("a holder's word can't be read"),
            None => {
                let status = self.child.wait().await?;
                Err(anyhow!(
                    "a process that holds sockets ended early ({status}): what it held was not checked"
                ))
            }
        }
    }

    pub(crate) async fn wait(mut self) {
        // It has said its last word.
        let _ = self.child.wait().await;
    }
}

/// Starts a holder for each share of the seats.
pub(crate) async fn start(
    shares: Vec<Vec<Seat>>,
    task: impl Fn(Vec<Seat>) -> Task,
) -> anyhow::Result<(Vec<Holder>, Journal)> {
    let program = std::env::current_exe().context("cannot find this program, to start it again")?;
    let (mut holders, mut ears) = (Vec::new(), Vec::new());
    for seats in shares {
        // A group of its own: Ctrl-C at the terminal is this process's to handle.
        let mut child = Command::new(&program)
            .arg("hold")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a process that holds sockets")?;
        let (mut input, output) =
            (child.stdin.take().context("has no input")?, child.stdout.take().context("has no output")?);
        let task = task(seats);
        let mut line = Vec::new();
        append(&mut line, &task)?;
        input.write_all(&line).await.context("a process that holds sockets did not start")?;
        let mut has = vec![false; task.orgs.len()];
        for seat in &task.seats {
            has[seat.org] = true;
        }
        ears.push(Ear { input: Mutex::new(input), has, sockets: task.seats.len() });
        holders.push(Holder { child, words: BufReader::new(output).lines() });
    }
    Ok((holders, Journal(Arc::new(ears))))
}
