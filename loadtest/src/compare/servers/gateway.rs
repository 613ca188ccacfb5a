//! The gateway as one of the servers: a `warden dev --ephemeral` of its own with a private PostgreSQL, or one that
//! runs already. Events are published by SQL, as applications do.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::process::{Meter, Process};
use super::{Published, upgrade};
use crate::compare::args::CompareArgs;
use crate::compare::clients::Dial;
use crate::floor::Plan;
use crate::message::Signing;
use crate::process;
use crate::publisher::{Database, Organisations};
use crate::wire::{self, Signer};

/// Connections that publish, in turn, so that one slow commit does not hold up the schedule.
const PUBLISHERS: usize = 4;
/// initdb, migrations and the gateway itself, on a slow machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const TOKEN_LIFETIME: Duration = Duration::from_secs(6 * 3600);
/// What sockets join; the first one is what events are published on.
const TOPICS: [&str; 2] = ["calls", "recordings"];
/// As many events as there are in a burst, in one statement, and so in one transaction.
const PUBLISH: &str = "
    select count(warden.publish($1, 'calls', 'call.updated', jsonb_build_object('x', $2::text)))
    from generate_series(1, $3)";

/// Which gateway.
#[derive(Clone, Debug)]
pub(crate) enum GatewaySource {
    /// Started for each measurement.
    Binary(PathBuf),
    /// One that runs.
    Running { url: String, database_url: String, jwt_secret: String, pid: Option<u32> },
}

/// The line of `warden dev --json`.
#[derive(Deserialize)]
struct ReadyLine {
    url: String,
    database_url: String,
    jwt_secret: String,
}

pub(crate) struct Gateway {
    /// Where it was started for this.
    process: Option<Process>,
    meter: Option<Meter>,
    addr: SocketAddr,
    path: String,
    signer: Signer,
    connections: Vec<PgConnection>,
    /// One for each group, and one where nobody listens.
    orgs: Organisations,
}

impl Gateway {
    pub(super) async fn start(args: &CompareArgs, groups: usize) -> anyhow::Result<Self> {
        let (process, ready, pid) = match args.gateway()? {
            GatewaySource::Binary(path) => {
                let (process, ready) = start_dev(&path).await?;
                (Some(process), ready, None)
            }
            GatewaySource::Running { url, database_url, jwt_secret, pid } => {
                (None, ReadyLine { url, database_url, jwt_secret }, pid)
            }
        };
        let (addr, path) = split(&ready.url)?;
        let meter = if process.is_some() { None } else { Some(running_meter(addr, pid)?) };
        let database = Database::parse(&ready.database_url)?;
        let mut connections = Vec::new();
        for _ in 0..PUBLISHERS {
            connections.push(database.connect().await?);
        }
        let run = format!("{:08x}", fastrand::u32(..));
        let orgs = Organisations::create(&database, &run, groups + 1).await?;
        let signer = Signer::new(Signing {
            secret: ready.jwt_secret,
            audience: "authenticated".to_owned(),
            issuer: None,
            lifetime_seconds: TOKEN_LIFETIME.as_secs(),
        });
        Ok(Self { process, meter, addr, path, signer, connections, orgs })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Each socket is a user of its own.
    pub(super) fn dial(&self, group: usize, topics: usize) -> anyhow::Result<Dial> {
        let authorization = format!("Authorization: Bearer {}\r\n", self.signer.token(self.orgs.ids[group])?);
        let topics = &TOPICS[..topics];
        Ok(Dial {
            request: upgrade(self.addr, &self.path, &authorization),
            hello: topics.iter().enumerate().map(|(n, topic)| wire::join(n + 1, topic, None)).collect(),
            ready: Some((r#""status":"ok""#.to_owned(), topics.len())),
        })
    }

    pub(super) fn meter(&mut self) -> &mut Meter {
        match (&mut self.process, &mut self.meter) {
            (Some(process), _) => process.meter(),
            (None, Some(meter)) => meter,
            (None, None) => unreachable!("a gateway is started here, or has been found"),
        }
    }

    pub(super) async fn publish(&mut self, plan: &Plan) -> anyhow::Result<Published> {
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
        Ok(Published { lag_ms })
    }

    /// Removes the organisations of a gateway that stays, and ends one that was started here.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for connection in self.connections.drain(..) {
            // The server ends it otherwise.
            let _ = connection.close().await;
        }
        if self.process.is_none() {
            self.orgs.remove().await;
        }
        Ok(())
    }
}

/// Every fourth burst; returns by how much the last one was late.
async fn publish_share(
    connection: &mut PgConnection,
    plan: &Plan,
    orgs: &[Uuid],
    first: usize,
    began: Instant,
) -> anyhow::Result<Duration> {
    let body = plan.body();
    let nobody = orgs.len() - 1;
    let mut lag = Duration::ZERO;
    for n in (first as u64..plan.bursts).step_by(PUBLISHERS) {
        let due = plan.due(n);
        sleep(due.saturating_sub(began.elapsed())).await;
        lag = began.elapsed().saturating_sub(due);
        sqlx::query(PUBLISH)
            .bind(orgs[plan.group(n).unwrap_or(nobody)])
            .bind(&body)
            .bind(i32::try_from(plan.burst)?)
            .execute(&mut *connection)
            .await
            .map_err(|error| anyhow!("cannot publish: {error}. The role needs EXECUTE on warden.publish"))?;
    }
    Ok(lag)
}

async fn start_dev(warden: &std::path::Path) -> anyhow::Result<(Process, ReadyLine)> {
    let mut process = Process::start("gateway", |_| {
        let mut command = Command::new(warden);
        command
            .args(["dev", "--ephemeral", "--rate", "0", "--json", "--listen", "127.0.0.1:0"])
            .args(["--admin-listen", "127.0.0.1:0", "--log", "warden=warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(command)
    })
    .with_context(|| format!("{} is not to be run: see --warden", warden.display()))?;
    let mut lines = BufReader::new(process.child.stdout.take().context("piped")?).lines();
    let line = timeout(START_TIMEOUT, lines.next_line()).await.context("warden dev does not get ready")??;
    let Some(line) = line else { return process.failed() };
    let ready = serde_json::from_str(&line).context("the line of warden dev --json")?;
    // Its PostgreSQL.
    process.alone();
    Ok((process, ready))
}

fn running_meter(addr: SocketAddr, pid: Option<u32>) -> anyhow::Result<Meter> {
    let pid = pid.or_else(|| process::Meter::listening_on(addr).map(|meter| meter.pid()));
    let pid = pid.with_context(|| format!("no process seen that listens on {addr}: name it with --pid"))?;
    Ok(Meter::new(pid, false))
}

/// Address and path of the endpoint.
fn split(url: &str) -> anyhow::Result<(SocketAddr, String)> {
    let rest = url.strip_prefix("ws://").with_context(|| format!("{url} must begin with ws://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, "socket"));
    let addr = host.to_socket_addrs().ok().and_then(|mut all| all.find(SocketAddr::is_ipv4));
    let addr = addr.with_context(|| format!("{host} is no host with a port and an IPv4 address"))?;
    Ok((addr, format!("/{}/websocket?vsn=2.0.0", path.trim_end_matches('/'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_address_and_path() {
        let (addr, path) = split("ws://127.0.0.1:4000/socket").unwrap();
        assert_eq!(
            (addr.to_string().as_str(), path.as_str()),
            ("127.0.0.1:4000", "/socket/websocket?vsn=2.0.0")
        );
        assert!(split("wss://127.0.0.1:4000/socket").is_err() && split("ws://nowhere/socket").is_err());
    }
}
