//! The client side of a comparison, the same for every server: processes of their own at the lowest priority, so
//! that the server under measurement is not held up by the measuring, and what is said to them.

mod connection;
mod hold;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

pub(crate) use hold::run as hold;

/// One process holds so many sockets; with what else is open it stays below the usual 20,000 descriptors.
const SOCKETS_PER_PROCESS_MAX: usize = 19_500;
/// So many sockets come from one source address, which has some 28,000 ports.
const SOCKETS_PER_ADDRESS: usize = 5_000;
/// Of handshake and joins of all sockets of a process.
const OPEN_TIMEOUT: Duration = Duration::from_secs(180);
/// At the lowest priority a process on a busy machine takes its time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How one socket is opened. The process that holds it knows no server, only this.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Dial {
    /// The whole head of the upgrade's request.
    pub(crate) request: String,
    /// Text messages to send after the 101.
    pub(crate) hello: Vec<String>,
    /// The socket counts as open when this text came so often after the 101.
    pub(crate) ready: Option<(String, usize)>,
}

/// What is asked of a process that holds sockets.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Opens sockets, so many at a time, and answers when all are open.
    Open {
        server: SocketAddr,
        /// Source addresses, taken in turn.
        sources: Vec<Ipv4Addr>,
        dials: Vec<Dial>,
        at_once: usize,
        /// A message that keeps a connection from being idle.
        heartbeat: Option<String>,
    },
    /// Sends the heartbeat on every socket.
    Beat,
    /// Sets every count to zero.
    Reset,
    /// Counts.
    Count,
    /// Closes every socket.
    Close,
}

/// What sockets have seen since the last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// Sockets that are open.
    pub(crate) open: usize,
    /// Events, over all sockets.
    pub(crate) events: u64,
    /// Bytes, over all sockets.
    pub(crate) bytes: u64,
    /// Events at the socket that has the fewest; 0 where no socket is open.
    pub(crate) least: u64,
    /// Events at the socket that has the most.
    pub(crate) most: u64,
}

impl Count {
    fn and(self, other: Self) -> Self {
        Self {
            open: self.open + other.open,
            events: self.events + other.events,
            bytes: self.bytes + other.bytes,
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Count(Count),
    Failed(String),
}

/// All sockets of one measurement.
pub(crate) struct Clients {
    processes: Vec<Holder>,
}

impl Clients {
    /// Starts the processes, which open nothing yet. `run` differs between the measurements of one comparison, so
    /// that each comes from addresses of its own, whose ports are not in TIME_WAIT.
    pub(crate) fn start(
        server: SocketAddr,
        dials: Vec<Dial>,
        at_once: usize,
        heartbeat: Option<&str>,
        run: usize,
    ) -> anyhow::Result<Self> {
        let mut processes = Vec::new();
        let mut dials = dials.into_iter().peekable();
        while dials.peek().is_some() {
            let dials: Vec<Dial> = dials.by_ref().take(SOCKETS_PER_PROCESS_MAX).collect();
            let sources = sources(run, processes.len(), dials.len().div_ceil(SOCKETS_PER_ADDRESS));
            let heartbeat = heartbeat.map(str::to_owned);
            let open = Request::Open { server, sources, dials, at_once, heartbeat };
            processes.push(Holder::start(open)?);
        }
        Ok(Self { processes })
    }

    /// Opens every socket, and returns when the last one is open.
    pub(crate) async fn open(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            let open = process.open.take().context("opened before")?;
            process.ask(&open, OPEN_TIMEOUT).await.context("the sockets could not be opened")?;
        }
        Ok(())
    }

    /// Keeps the server from finding the sockets idle during what follows.
    pub(crate) async fn beat(&mut self) -> anyhow::Result<()> {
        self.ask(&Request::Beat).await.map(drop)
    }

    pub(crate) async fn reset(&mut self) -> anyhow::Result<()> {
        self.ask(&Request::Reset).await.map(drop)
    }

    pub(crate) async fn count(&mut self) -> anyhow::Result<Count> {
        self.ask(&Request::Count).await
    }

    /// Closes the sockets; the processes stay.
    pub(crate) async fn close(&mut self) -> anyhow::Result<()> {
        self.ask(&Request::Close).await.map(drop)
    }

    async fn ask(&mut self, request: &Request) -> anyhow::Result<Count> {
        let mut sum: Option<Count> = None;
        for process in &mut self.processes {
            let count = process.ask(request, ANSWER_TIMEOUT).await?;
            sum = Some(sum.map_or(count, |sum| sum.and(count)));
        }
        Ok(sum.unwrap_or_default())
    }
}

/// Addresses of 127.0.0.0/8 that no other measurement of this comparison uses.
fn sources(run: usize, process: usize, addresses: usize) -> Vec<Ipv4Addr> {
    // 127.0.x.x is left to others. Where they run out they begin anew.
    let octet = |n: usize| u8::try_from(n % 250).unwrap_or_default() + 1;
    (0..addresses.max(1))
        .map(|n| Ipv4Addr::new(127, octet(run / 250), octet(run), octet(process * 10 + n)))
        .collect()
}

/// One process that holds sockets. It ends when this is dropped: its standard input ends then.
struct Holder {
    child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    open: Option<Request>,
}

impl Holder {
    fn start(open: Request) -> anyhow::Result<Self> {
        let mut child = Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe()?)
            .arg("compare-clients")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `nice`, which is part of coreutils")?;
        let requests = child.stdin.take().context("piped")?;
        let answers = BufReader::new(child.stdout.take().context("piped")?).lines();
        Ok(Self { child, requests, answers, open: Some(open) })
    }

    async fn ask(&mut self, request: &Request, limit: Duration) -> anyhow::Result<Count> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let asked = async {
            self.requests.write_all(&line).await?;
            self.answers.next_line().await
        };
        let answer = timeout(limit, asked).await.with_context(|| format!("no answer within {limit:?}"))??;
        let answer =
            answer.with_context(|| format!("process {:?} that holds sockets ended", self.child.id()))?;
        match serde_json::from_str(&answer)? {
            Answer::Count(count) => Ok(count),
            Answer::Failed(why) => bail!("{why}"),
        }
    }
}

/// Masks a client's text message with zeroes, which masks nothing and costs nothing.
fn masked_text(payload: &str) -> anyhow::Result<Vec<u8>> {
    let mut frame = vec![0x81];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length)?),
        length => {
            ensure!(length <= usize::from(u16::MAX), "a message of {length} bytes");
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(length)?.to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload.as_bytes());
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_as_clients_must() {
        assert_eq!(masked_text("Hi").unwrap(), [0x81, 0x82, 0, 0, 0, 0, b'H', b'i']);
        assert_eq!(masked_text(&"x".repeat(300)).unwrap()[..8], [0x81, 0xfe, 1, 44, 0, 0, 0, 0]);
        assert!(masked_text(&"x".repeat(70_000)).is_err());
    }

    #[test]
    fn measurements_come_from_different_addresses() {
        let all: Vec<_> = (0..600).flat_map(|run| sources(run, run % 3, 4)).collect();
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(Ipv4Addr::is_loopback));
    }

    #[test]
    fn counts_add_up() {
        let one = Count { open: 1, events: 10, bytes: 100, least: 10, most: 10 };
        let two = Count { open: 2, events: 17, bytes: 170, least: 8, most: 9 };
        assert_eq!(one.and(two), Count { open: 3, events: 27, bytes: 270, least: 8, most: 10 });
    }
}
