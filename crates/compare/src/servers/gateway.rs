//! The gateway as one of the servers: a `warden dev --ephemeral` with a private PostgreSQL, or one that is
//! already running. Events are published with SQL, as applications do.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use bench_support::database::{Database, Organisations};
use bench_support::endpoint::Endpoint;
use bench_support::token::{TokenSettings, TokenSigner};
use bench_support::{handshake, phoenix, process};
use serde::Deserialize;
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::cost_meter::CostMeter;
use super::process::Process;
use crate::clients::Dial;
use crate::plan::PublishPlan;

/// Connections that publish in round-robin order, so that one slow commit does not delay the schedule.
const PUBLISHERS: usize = 4;
/// Time limit for initdb, migrations and the start of the gateway, on a slow machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const TOKEN_LIFETIME: Duration = Duration::from_secs(6 * 3600);
/// Topics that sockets join. Events are published on the first.
const TOPICS: [&str; 2] = ["calls", "recordings"];
/// Publishes a burst in one statement, and thus in one transaction.
const PUBLISH: &str = "
    select count(warden.publish($1, 'calls', 'call.updated', jsonb_build_object('x', $2::text)))
    from generate_series(1, $3)";

/// Which gateway to measure.
#[derive(Clone, Debug)]
pub(crate) enum GatewaySource {
    /// A program to start for each measurement.
    Program(PathBuf),
    /// A gateway that is already running.
    Running { url: String, database_url: String, jwt_secret: String, pid: Option<u32> },
}

/// The line that `warden dev --json` prints.
#[derive(Deserialize)]
struct ReadyLine {
    url: String,
    database_url: String,
    jwt_secret: String,
}

/// The measured process.
enum Measured {
    Started(Box<Process>),
    Running(CostMeter),
}

pub(crate) struct Gateway {
    measured: Measured,
    endpoint: Endpoint,
    signer: TokenSigner,
    connections: Vec<PgConnection>,
    /// One for each group, and a last one without sockets.
    orgs: Organisations,
}

impl Gateway {
    pub(super) async fn start(source: &GatewaySource, groups: usize) -> anyhow::Result<Self> {
        let (measured, endpoint, database_url, secret) = match source {
            GatewaySource::Program(path) => {
                let (process, ready) = start_dev(path).await?;
                let endpoint = Endpoint::resolve(&ready.url).await?;
                (Measured::Started(Box::new(process)), endpoint, ready.database_url, ready.jwt_secret)
            }
            GatewaySource::Running { url, database_url, jwt_secret, pid } => {
                let endpoint = Endpoint::resolve(url).await?;
                let meter = running_meter(endpoint.address, *pid)?;
                (Measured::Running(meter), endpoint, database_url.clone(), jwt_secret.clone())
            }
        };
        let database = Database::parse(&database_url, "warden-compare")?;
        let mut connections = Vec::new();
        for _ in 0..PUBLISHERS {
            connections.push(database.connect().await?);
        }
        let run = format!("{:08x}", fastrand::u32(..));
        let orgs = Organisations::create(&database, &run, groups + 1).await?;
        let signer = TokenSigner::new(TokenSettings {
            secret,
            audience: "authenticated".to_owned(),
            issuer: None,
            lifetime_seconds: TOKEN_LIFETIME.as_secs(),
        });
        Ok(Self { measured, endpoint, signer, connections, orgs })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// Each socket belongs to a user of its own.
    pub(super) fn dial(&self, group: usize, topics: usize) -> anyhow::Result<Dial> {
        let authorization = format!("Authorization: Bearer {}", self.signer.token(self.orgs.ids[group])?);
        let topics = &TOPICS[..topics];
        let Endpoint { authority, path, .. } = &self.endpoint;
        Ok(Dial {
            request: handshake::request(authority, path, &[&authorization]),
            hello: topics
                .iter()
                .enumerate()
                .map(|(n, topic)| phoenix::join(n + 1, topic, None, None))
                .collect(),
            ready: Some((r#""status":"ok""#.to_owned(), topics.len())),
        })
    }

    pub(super) fn meter(&mut self) -> &mut CostMeter {
        match &mut self.measured {
            Measured::Started(process) => process.meter(),
            Measured::Running(meter) => meter,
        }
    }

    pub(super) async fn publish(&mut self, plan: &PublishPlan) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut publishers = JoinSet::new();
        for (first, mut connection) in self.connections.drain(..).enumerate() {
            let (plan, orgs) = (*plan, self.orgs.ids.clone());
            publishers.spawn(async move {
                let lag = publish_share(&mut connection, &plan, &orgs, first, began).await?;
                anyhow::Ok((connection, lag))
            });
        }
        let mut lag_ms = 0.0_f64;
        while let Some(done) = publishers.join_next().await {
            let (connection, lag) = done??;
            self.connections.push(connection);
            lag_ms = lag_ms.max(lag.as_secs_f64() * 1e3);
        }
        Ok(lag_ms)
    }

    /// Removes the organisations from a gateway that keeps running. A started gateway ends with its database.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for connection in self.connections.drain(..) {
            // If this fails, PostgreSQL notices the broken connection.
            let _ = connection.close().await;
        }
        match self.measured {
            Measured::Started(_) => Ok(()),
            Measured::Running(_) => self.orgs.remove().await,
        }
    }
}

/// Publishes every fourth burst, and returns the delay of the last one behind its schedule.
async fn publish_share(
    connection: &mut PgConnection,
    plan: &PublishPlan,
    orgs: &[Uuid],
    first: usize,
    began: Instant,
) -> anyhow::Result<Duration> {
    let body = plan.body();
    let without_sockets = orgs.len() - 1;
    let mut lag = Duration::ZERO;
    for n in (first as u64..plan.bursts).step_by(PUBLISHERS) {
        let due = plan.due(n);
        sleep(due.saturating_sub(began.elapsed())).await;
        lag = began.elapsed().saturating_sub(due);
        sqlx::query(PUBLISH)
            .bind(orgs[plan.group(n).unwrap_or(without_sockets)])
            .bind(&body)
            .bind(i32::try_from(plan.burst)?)
            .execute(&mut *connection)
            .await
            .map_err(|error| anyhow!("cannot publish: {error}. Grant the role EXECUTE on warden.publish"))?;
    }
    Ok(lag)
}

async fn start_dev(warden: &Path) -> anyhow::Result<(Process, ReadyLine)> {
    let mut process = Process::start("gateway", |_| {
        let mut command = Command::new(warden);
        command
            .args(["dev", "--ephemeral", "--rate", "0", "--json", "--listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0", "--log", "warden=warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(command)
    })
    .with_context(|| format!("cannot run {}: see --warden", warden.display()))?;
    let output = process.child.stdout.take().context("standard output is not a pipe")?;
    let line = timeout(START_TIMEOUT, BufReader::new(output).lines().next_line())
        .await
        .with_context(|| format!("warden dev did not become ready within {START_TIMEOUT:?}"))??;
    let Some(line) = line else { return process.start_error() };
    let ready = serde_json::from_str(&line).context("cannot parse the line of warden dev --json")?;
    // The child processes belong to PostgreSQL.
    process.exclude_children();
    Ok((process, ready))
}

fn running_meter(addr: SocketAddr, pid: Option<u32>) -> anyhow::Result<CostMeter> {
    let pid = pid.or_else(|| process::listening_pid(addr));
    let pid = pid.with_context(|| format!("found no process that listens on {addr}: pass --pid"))?;
    Ok(CostMeter::new(pid, false))
}
