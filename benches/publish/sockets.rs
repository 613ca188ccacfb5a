//! A process that holds the sockets, and counts the events that they have received.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support;

const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Longest time without any event.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Every message about an event contains this, and no other message does.
const MARK: &[u8] = b"\"invoice.paid\"";

/// The process, which ends when this is dropped.
pub(crate) struct SocketProcess {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Events that each socket must have received.
    expected: u64,
}

impl SocketProcess {
    pub(crate) fn start(addr: SocketAddr, org: Uuid) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["hold", &addr.to_string(), &org.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("piped")?;
        let mut process = Self { child, stdout: BufReader::new(stdout), expected: 0 };
        ensure!(process.line()? == "ready", "the process that holds the sockets could not open them");
        Ok(process)
    }

    /// Waits until every socket has received this many more events.
    pub(crate) fn have_received(&mut self, events: u64) -> anyhow::Result<()> {
        self.expected += events;
        let stdin = self.child.stdin.as_mut().context("piped")?;
        writeln!(stdin, "{}", self.expected)?;
        let line = tokio::task::block_in_place(|| self.line())?;
        ensure!(line == "received", "the sockets did not receive all events: {line}");
        Ok(())
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for SocketProcess {
    fn drop(&mut self) {
        // The process ends when its standard input is closed.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Runs the process: joins, and answers each number of events on standard input when all sockets have
/// received as many.
pub(crate) async fn hold(addr: SocketAddr, org: Uuid, sockets: usize) -> anyhow::Result<()> {
    let received: Arc<[AtomicU64]> = (0..sockets).map(|_| AtomicU64::new(0)).collect();
    let mut readers = JoinSet::new();
    for n in 0..sockets {
        let mut stream = support::join(addr, org, "invoices", None).await?.0.into_inner();
        let received = Arc::clone(&received);
        readers.spawn(async move {
            let (mut bytes, mut kept) = (vec![0; 64 * 1024], 0);
            while let Ok(read) = stream.read(&mut bytes[kept..]).await
                && read > 0
            {
                let (count, rest) = count_marks(&bytes[..kept + read]);
                received[n].fetch_add(count, Ordering::Relaxed);
                // A mark may continue in the next bytes.
                let end = kept + read;
                bytes.copy_within(end - rest..end, 0);
                kept = rest;
            }
        });
    }
    println!("ready");
    let lines = std::io::stdin().lines();
    tokio::task::block_in_place(|| {
        for line in lines {
            let expected: u64 = line?.parse()?;
            wait_for(&received, expected);
        }
        anyhow::Ok(())
    })?;
    readers.abort_all();
    Ok(())
}

fn wait_for(received: &[AtomicU64], expected: u64) {
    let lowest = || received.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap_or(0);
    let (mut last, mut since) = (lowest(), std::time::Instant::now());
    while last < expected {
        std::thread::sleep(POLL_INTERVAL);
        let now = lowest();
        if now > last {
            (last, since) = (now, std::time::Instant::now());
        } else if since.elapsed() > SILENCE_MAX {
            println!("a socket received {last} of {expected}");
            return;
        }
    }
    println!("received");
}

/// Number of marks, and of bytes at the end that may begin another one.
fn count_marks(bytes: &[u8]) -> (u64, usize) {
    let (mut count, mut at) = (0, 0);
    while let Some(quote) = find(&bytes[at..]) {
        at += quote;
        if bytes.len() - at < MARK.len() {
            return (count, bytes.len() - at);
        }
        let is_mark = bytes[at..].starts_with(MARK);
        count += u64::from(is_mark);
        at += if is_mark { MARK.len() } else { 2 };
    }
    (count, usize::from(bytes.last() == MARK.first()))
}

/// Position of the next two bytes of a mark.
fn find(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == &MARK[..2])
}
