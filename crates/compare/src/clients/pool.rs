//! All sockets of one measurement, spread over processes that hold them.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::protocol::{Answer, Count, Dial, Request};

/// Sockets of one process. With its other files it stays below the usual limit of 20,000.
const SOCKETS_PER_PROCESS_MAX: usize = 19_500;
/// Sockets from one source address, which has some 28,000 ports.
const SOCKETS_PER_ADDRESS: usize = 5_000;
/// Time limit for the handshakes and joins of all sockets of a process.
const OPEN_TIMEOUT: Duration = Duration::from_secs(180);
/// Time limit for other requests. It is long, because the processes run at the lowest priority.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// The clients of one measurement.
pub(crate) struct Clients {
    processes: Vec<SocketProcess>,
}

impl Clients {
    /// Starts the processes, which open no socket yet. `run` differs between the measurements of a
    /// comparison, so that each has source addresses of its own, whose ports are not in TIME_WAIT.
    pub(crate) fn start(
        server: SocketAddr,
        dials: Vec<Dial>,
        concurrency: usize,
        heartbeat: Option<&str>,
        run: usize,
    ) -> anyhow::Result<Self> {
        let mut processes = Vec::new();
        let mut dials = dials.into_iter().peekable();
        while dials.peek().is_some() {
            let dials: Vec<Dial> = dials.by_ref().take(SOCKETS_PER_PROCESS_MAX).collect();
            let sources = source_addresses(run, processes.len(), dials.len().div_ceil(SOCKETS_PER_ADDRESS));
            let heartbeat = heartbeat.map(str::to_owned);
            let open = Request::Open { server, sources, dials, concurrency, heartbeat };
            processes.push(SocketProcess::start(open)?);
        }
        Ok(Self { processes })
    }

    /// Opens every socket, and returns when the last one is open.
    pub(crate) async fn open(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            let open = process.open.take().context("the sockets are already open")?;
            process.request(&open, OPEN_TIMEOUT).await.context("the sockets could not be opened")?;
        }
        Ok(())
    }

    /// Sends a heartbeat on every socket, so that the server does not close idle ones.
    pub(crate) async fn beat(&mut self) -> anyhow::Result<()> {
        self.request_all(&Request::Beat).await.map(drop)
    }

    /// Sets every count to zero.
    pub(crate) async fn reset(&mut self) -> anyhow::Result<()> {
        self.request_all(&Request::Reset).await.map(drop)
    }

    /// Counts what has arrived since the last reset.
    pub(crate) async fn count(&mut self) -> anyhow::Result<Count> {
        self.request_all(&Request::Count).await
    }

    /// Closes the sockets; the processes stay.
    pub(crate) async fn close(&mut self) -> anyhow::Result<()> {
        self.request_all(&Request::Close).await.map(drop)
    }

    async fn request_all(&mut self, request: &Request) -> anyhow::Result<Count> {
        let mut sum: Option<Count> = None;
        for process in &mut self.processes {
            let count = process.request(request, ANSWER_TIMEOUT).await?;
            sum = Some(sum.map_or(count, |sum| sum.merge(count)));
        }
        Ok(sum.unwrap_or_default())
    }
}

/// Addresses of 127.0.0.0/8 that no other measurement of this comparison uses. They repeat after 62,500
/// measurements.
fn source_addresses(run: usize, process: usize, count: usize) -> Vec<Ipv4Addr> {
    // From 1, because other programs use 127.0.x.x.
    let octet = |n: usize| u8::try_from(n % 250).unwrap_or_default() + 1;
    (0..count.max(1))
        .map(|n| Ipv4Addr::new(127, octet(run / 250), octet(run), octet(process * 10 + n)))
        .collect()
}

/// One process that holds sockets. It ends with its standard input, and therefore when this is dropped.
struct SocketProcess {
    child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// The first request; `None` once it was sent.
    open: Option<Request>,
}

impl SocketProcess {
    fn start(open: Request) -> anyhow::Result<Self> {
        let mut child = Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe()?)
            .arg("hold-sockets")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `nice`, which is part of coreutils: install it")?;
        let requests = child.stdin.take().context("standard input is not a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("standard output is not a pipe")?).lines();
        Ok(Self { child, requests, answers, open: Some(open) })
    }

    async fn request(&mut self, request: &Request, limit: Duration) -> anyhow::Result<Count> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let exchange = async {
            self.requests.write_all(&line).await?;
            self.answers.next_line().await
        };
        let answer = timeout(limit, exchange)
            .await
            .with_context(|| format!("a process that holds sockets did not answer within {limit:?}"))??;
        let answer = answer.with_context(|| {
            format!("a process that holds sockets (pid {:?}) ended unexpectedly", self.child.id())
        })?;
        match serde_json::from_str(&answer)? {
            Answer::Count(count) => Ok(count),
            Answer::Failed(reason) => bail!(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_use_different_source_addresses() {
        let all: Vec<_> = (0..600).flat_map(|run| source_addresses(run, run % 3, 4)).collect();
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(Ipv4Addr::is_loopback));
    }
}
