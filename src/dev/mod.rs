//! The environment of `warden dev`: a private PostgreSQL, demo organisations with simulated calls, and a
//! gateway.
//!
//! It is for development only. The database trusts every process that can reach its socket.

mod demo;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};
use warden_devkit::simulate;

use crate::app::Gateway;
use crate::auth::VerifierConfig;
use crate::config::{Config, DEFAULT_AUDIENCE, Edge, Limits};
use crate::log::TailerState;
use crate::postgres;

pub use demo::DemoOrg;

/// Name of the database in the private cluster.
const DATABASE: &str = "warden";

/// Role of the gateway, as in production.
const GATEWAY_ROLE: &str = "warden_gateway";

/// Connections that the cluster accepts.
const CONNECTIONS_MAX: u32 = 50;

/// Connections of the simulation.
const SIMULATION_CONNECTIONS_MAX: u32 = 4;

/// Longest wait until the gateway follows the log.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Ports of common front-end development servers. Their pages may connect.
const FRONT_END_PORTS: &[u16] = &[3000, 5173, 8080];

/// Options of the environment.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// Directory of the cluster; `None` for a temporary one.
    pub data_dir: Option<PathBuf>,
    /// Binaries of the PostgreSQL server.
    pub binaries: Binaries,
    /// Simulated changes per second.
    pub rate: f64,
    /// Address of the public listener.
    pub listen: SocketAddr,
    /// Address of the admin listener.
    pub admin_listen: SocketAddr,
    /// Origins that may connect, besides the local ones.
    pub allowed_origins: Vec<String>,
}

/// A running environment.
#[derive(Debug)]
pub struct DevEnvironment {
    /// Demo organisations.
    pub orgs: Vec<DemoOrg>,
    /// Database URL of the superuser.
    pub database_url: String,
    /// Database URL of the gateway's role.
    pub gateway_database_url: String,
    /// Secret that signs tokens.
    pub jwt_secret: String,
    cluster: Cluster,
    gateway: Gateway,
    simulation: CancellationToken,
    tasks: TaskTracker,
    pool: PgPool,
}

/// Everything that runs on the cluster.
struct Services {
    orgs: Vec<DemoOrg>,
    jwt_secret: String,
    gateway: Gateway,
    pool: PgPool,
}

impl DevEnvironment {
    /// Starts everything. Calls `done` after each step, with a description and the time that it took.
    ///
    /// # Errors
    /// If a step fails. The cluster is then stopped again.
    pub async fn start(options: DevOptions, mut done: impl FnMut(&str, Duration)) -> anyhow::Result<Self> {
        let step = Instant::now();
        let version = options.binaries.version();
        let cluster = Cluster::start(ClusterOptions {
            data_dir: options.data_dir.clone().map_or(DataDir::Temporary, DataDir::Persistent),
            binaries: options.binaries.clone(),
            settings: Vec::new(),
            max_connections: CONNECTIONS_MAX,
            durable: options.data_dir.is_some(),
        })
        .await?;
        done(&format!("started PostgreSQL {version}"), step.elapsed());
        let services = match Services::start(&cluster, &options, done).await {
            Ok(services) => services,
            Err(error) => {
                cluster.close().await?;
                return Err(error);
            }
        };
        let Services { orgs, jwt_secret, gateway, pool } = services;
        let simulation = CancellationToken::new();
        let tasks = TaskTracker::new();
        let org_ids = orgs.iter().map(|org| org.id).collect();
        let run = simulate::run(pool.clone(), org_ids, options.rate, simulation.clone());
        tasks.spawn(async move {
            if let Err(error) = run.await {
                tracing::error!(error = format!("{error:#}"), "simulation failed");
            }
        });
        Ok(Self {
            orgs,
            database_url: cluster.url(DATABASE, SUPERUSER),
            gateway_database_url: cluster.url(DATABASE, GATEWAY_ROLE),
            jwt_secret,
            cluster,
            gateway,
            simulation,
            tasks,
            pool,
        })
    }

    /// Gateway of the environment.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Stops everything: first the simulation, then the gateway, then PostgreSQL.
    ///
    /// # Errors
    /// If PostgreSQL does not stop.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.simulation.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.pool.close().await;
        self.gateway.stop().await;
        self.cluster.close().await?;
        Ok(())
    }
}

impl Services {
    async fn start(
        cluster: &Cluster,
        options: &DevOptions,
        mut done: impl FnMut(&str, Duration),
    ) -> anyhow::Result<Self> {
        let jwt_secret = demo::jwt_secret(cluster)?;
        let step = Instant::now();
        create_database(&cluster.url("postgres", SUPERUSER)).await?;
        let database_url = cluster.url(DATABASE, SUPERUSER);
        let migrated = postgres::migrate_platform(&database_url).await?;
        let (applied, total) = (migrated.applied.len(), migrated.total);
        done(&format!("migrated the schema ({applied} of {total} migrations were new)"), step.elapsed());

        let step = Instant::now();
        let pool =
            PgPoolOptions::new().max_connections(SIMULATION_CONNECTIONS_MAX).connect(&database_url).await?;
        // The gateway logs in as its own role, as it should in production.
        pool.execute("alter role warden_gateway login").await?;
        let orgs = demo::create_orgs(&pool, &jwt_secret).await?;
        done(
            &format!("created {} demo organisations with {} users each", orgs.len(), demo::USERS_PER_ORG),
            step.elapsed(),
        );

        let step = Instant::now();
        let gateway = Gateway::start(Config {
            database: postgres::options(&cluster.url(DATABASE, GATEWAY_ROLE))?,
            verifier: VerifierConfig::hs256(jwt_secret.clone(), DEFAULT_AUDIENCE, None),
            topics_need_claim: Vec::new(),
            listen: options.listen,
            admin_listen: options.admin_listen,
            allowed_origins: origins(options),
            edge: Edge::default(),
            limits: Limits::for_one_machine(),
        })
        .await?;
        let mut state = gateway.reader();
        let following = state.wait_for(|state| *state == TailerState::Following);
        tokio::time::timeout(READY_TIMEOUT, following).await.with_context(|| {
            let seconds = READY_TIMEOUT.as_secs();
            format!("the gateway did not read the event log within {seconds} s: see the log lines above")
        })??;
        done("started the gateway", step.elapsed());
        Ok(Self { orgs, jwt_secret, gateway, pool })
    }
}

async fn create_database(admin_url: &str) -> anyhow::Result<()> {
    let mut admin = PgConnection::connect(admin_url).await?;
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(DATABASE)
        .fetch_one(&mut admin)
        .await?;
    if !exists {
        admin.execute(AssertSqlSafe(format!("create database {DATABASE}"))).await?;
    }
    Ok(admin.close().await?)
}

/// Origins that may connect: pages of this machine, and those that the user allowed.
fn origins(options: &DevOptions) -> Vec<String> {
    let ports = FRONT_END_PORTS.iter().copied().chain([options.listen.port()]);
    ports
        .flat_map(|port| [format!("http://localhost:{port}"), format!("http://127.0.0.1:{port}")])
        .chain(options.allowed_origins.iter().cloned())
        .collect()
}
