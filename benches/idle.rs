//! The cost of an idle session: resident memory, and the gateway's CPU time to accept it.
//!
//! Another process opens sockets that join two topics, and closes them. In between this process, which
//! contains the gateway, measures itself. `cargo bench --bench idle -- --sockets 15000 --rounds 3`

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use uuid::Uuid;
use warden::app::Gateway;
use warden_devkit::cluster::{Cluster, SUPERUSER};
use warden_testkit::phoenix::{self, Received};

/// The second topic of each socket.
const SECOND_TOPIC: &str = "recordings";
/// Handshakes in progress at the same time.
const OPENING_MAX: usize = 32;
/// Time limit for the gateway to notice that sockets were closed.
const GONE_DEADLINE: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [command, addr, org, sockets] = &args[..]
        && command == "hold"
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(hold(addr.parse()?, org.parse()?, sockets.parse()?));
    }
    let (mut sockets, mut rounds) = (15_000, 3);
    for pair in args.chunks(2) {
        let [name, value] = pair else { bail!("{} needs a value", pair[0]) };
        match name.as_str() {
            "--sockets" => sockets = value.parse()?,
            "--rounds" => rounds = value.parse()?,
            other => bail!("unknown option {other}: use --sockets, --rounds"),
        }
    }
    tokio::runtime::Runtime::new()?.block_on(run(sockets, rounds))
}

async fn run(sockets: u64, rounds: usize) -> anyhow::Result<()> {
    let mut cluster = support::cluster().await?;
    let result = measure(&cluster, sockets, rounds).await;
    cluster.stop().await?;
    result
}

async fn measure(cluster: &Cluster, sockets: u64, rounds: usize) -> anyhow::Result<()> {
    let url = cluster.url("postgres", SUPERUSER);
    let pool = support::migrated(&url).await?;
    let orgs = support::create_orgs(&pool, 1).await?;
    let gateway = support::gateway(cluster, |_| ()).await?;
    // The first sessions load code and fill pools that all later ones share.
    measure_sockets(&gateway, orgs[0], 100).await?;
    println!(
        "| round | KiB before | KiB per socket | KiB after they left | us of CPU per connect and two joins |"
    );
    println!("|---|---|---|---|---|");
    for round in 1..=rounds {
        let before = resident_kib()?;
        let Cost { per_socket_kib, connect_us } = measure_sockets(&gateway, orgs[0], sockets).await?;
        println!("| {round} | {before} | {per_socket_kib:.2} | {} | {connect_us:.1} |", resident_kib()?);
    }
    gateway.stop().await;
    Ok(())
}

/// The cost of a socket.
struct Cost {
    per_socket_kib: f64,
    connect_us: f64,
}

/// Opens sockets, measures this process, and closes them.
async fn measure_sockets(gateway: &Gateway, org: Uuid, sockets: u64) -> anyhow::Result<Cost> {
    let (before, cpu) = (resident_kib()?, cpu()?);
    let mut process = SocketProcess::start(gateway.public_addr(), org, sockets)?;
    let connect = self::cpu()? - cpu;
    // Joins may still be in progress.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = resident_kib()?.saturating_sub(before);
    process.end()?;
    tokio::time::timeout(GONE_DEADLINE, async {
        while gateway.metrics().sessions.get() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .with_context(|| format!("sessions stayed open for {GONE_DEADLINE:?}"))?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(Cost {
        per_socket_kib: grown as f64 / sockets as f64,
        connect_us: connect.as_secs_f64() * 1e6 / sockets as f64,
    })
}

/// Resident memory of this process.
fn resident_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("/proc/self/status has no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

/// CPU time of this process, user and system, including exited threads.
fn cpu() -> anyhow::Result<Duration> {
    Ok(rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).try_into()?)
}

/// The process that holds the sockets.
struct SocketProcess {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl SocketProcess {
    fn start(addr: SocketAddr, org: Uuid, sockets: u64) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["hold", &addr.to_string(), &org.to_string(), &sockets.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("standard output is not a pipe")?);
        let mut process = Self { child, stdout };
        let mut line = String::new();
        process.stdout.read_line(&mut line)?;
        anyhow::ensure!(line.trim() == "ready", "the process that holds the sockets could not open them");
        Ok(process)
    }

    fn end(&mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        self.child.wait()?;
        Ok(())
    }
}

/// Runs as the process that holds the sockets: opens them, prints `ready`, and waits for the end of its
/// input.
async fn hold(addr: SocketAddr, org: Uuid, sockets: usize) -> anyhow::Result<()> {
    let open = || async move {
        let (mut socket, _) = support::join(addr, org, "calls", None).await?;
        phoenix::send_join(&mut socket, "2", SECOND_TOPIC, None).await?;
        match phoenix::receive(&mut socket).await {
            Received::Message(reply) if reply.is_ok_reply() => {}
            other => bail!("the join of {SECOND_TOPIC} failed: {other:?}"),
        }
        anyhow::Ok(socket.into_inner())
    };
    let opened = futures_util::stream::iter(0..sockets).map(|_| open()).buffer_unordered(OPENING_MAX);
    let opened: Vec<_> = opened.collect().await;
    let streams = opened.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    println!("ready");
    std::io::stdout().flush()?;
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    ended.await??;
    drop(streams);
    Ok(())
}
