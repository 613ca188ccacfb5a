//! Everything that `warden dev` runs: a private PostgreSQL, demo organisations with simulated calls, and
//! a gateway. For development only: the database trusts whoever reaches its socket.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};
use warden_devkit::simulate;
use warden_devkit::token::{TokenClaims, sign};

use crate::app::Gateway;
use crate::auth::VerifierConfig;
use crate::config::{Config, DEFAULT_AUDIENCE, Edge, Limits};
use crate::log::TailerState;
use crate::postgres;

/// The database within the private cluster.
const DATABASE: &str = "warden";

/// Connections that the cluster takes.
const CONNECTIONS_MAX: u32 = 50;

/// Connections of the simulator.
const SIMULATOR_CONNECTIONS: u32 = 4;

/// Demo tokens are valid so long.
const TOKEN_TTL: Duration = Duration::from_hours(24);

/// How long the gateway may take to follow the log.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// Where front-end development servers usually run.
const USUAL_ORIGIN_PORTS: &[u16] = &[3000, 5173, 8080];

/// The demo organisations: fixed, so that ids in an application's configuration stay good.
const DEMO_ORGS: &[(Uuid, &str)] = &[
    (Uuid::from_u128(0xacde_0000_0000_4000_8000_0000_0000_0001), "Acme Dental"),
    (Uuid::from_u128(0xb1e0_0000_0000_4000_8000_0000_0000_0002), "Blue Harbor Realty"),
];

/// Users of each demo organisation.
const DEMO_USERS: usize = 2;

/// What to run.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// Where the cluster keeps its data; none: nowhere, nothing stays.
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL server binaries.
    pub binaries: Binaries,
    /// Simulated changes per second.
    pub rate: f64,
    /// Public listener.
    pub listen: SocketAddr,
    /// Admin listener.
    pub admin_listen: SocketAddr,
    /// Origins that may connect besides the usual local ones.
    pub allowed_origins: Vec<String>,
}

/// A demo organisation, with a token of one of its users.
#[derive(Clone, Debug)]
pub struct DemoOrg {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Of a user of it.
    pub token: String,
}

/// All of it, running.
#[derive(Debug)]
pub struct DevEnvironment {
    /// The demo organisations.
    pub orgs: Vec<DemoOrg>,
    /// As the superuser.
    pub database_url: String,
    /// As the gateway's role.
    pub gateway_database_url: String,
    /// Signs tokens.
    pub jwt_secret: String,
    cluster: Cluster,
    gateway: Gateway,
    simulator: CancellationToken,
    tasks: TaskTracker,
    pool: PgPool,
}

impl DevEnvironment {
    /// Starts everything; tells each step when it is done, with the time it took.
    ///
    /// # Errors
    /// When a step fails; what was started before it is ended again.
    pub async fn start(options: DevOptions, mut done: impl FnMut(&str, Duration)) -> anyhow::Result<Self> {
        let step = Instant::now();
        let version = options.binaries.version();
        let mut cluster = Cluster::start(ClusterOptions {
            data_dir: options.data_dir.clone().map_or(DataDir::Temporary, DataDir::Persistent),
            binaries: options.binaries.clone(),
            settings: Vec::new(),
            max_connections: CONNECTIONS_MAX,
            durable: options.data_dir.is_some(),
        })
        .await?;
        done(&format!("PostgreSQL {version} is up"), step.elapsed());
        match Self::start_on(&mut cluster, &options, done).await {
            Ok(parts) => {
                let (orgs, jwt_secret, gateway, pool) = parts;
                let simulator = CancellationToken::new();
                let tasks = TaskTracker::new();
                let org_ids = orgs.iter().map(|org| org.id).collect();
                let simulation = simulate::run(pool.clone(), org_ids, options.rate, simulator.clone());
                tasks.spawn(async move {
                    if let Err(error) = simulation.await {
                        tracing::error!(error = format!("{error:#}"), "the simulation has ended");
                    }
                });
                Ok(Self {
                    orgs,
                    database_url: cluster.url(DATABASE, SUPERUSER),
                    gateway_database_url: cluster.url(DATABASE, "warden_gateway"),
                    jwt_secret,
                    cluster,
                    gateway,
                    simulator,
                    tasks,
                    pool,
                })
            }
            Err(error) => {
                cluster.close().await?;
                Err(error)
            }
        }
    }

    async fn start_on(
        cluster: &mut Cluster,
        options: &DevOptions,
        mut done: impl FnMut(&str, Duration),
    ) -> anyhow::Result<(Vec<DemoOrg>, String, Gateway, PgPool)> {
        let step = Instant::now();
        create_database(&cluster.url("postgres", SUPERUSER)).await?;
        let migrated = postgres::migrate_platform(&cluster.url(DATABASE, SUPERUSER)).await?;
        done(
            &format!(
                "the schema is up to date ({} of {} migrations applied now)",
                migrated.applied.len(),
                migrated.total
            ),
            step.elapsed(),
        );
        let step = Instant::now();
        let pool = PgPoolOptions::new()
            .max_connections(SIMULATOR_CONNECTIONS)
            .connect(&cluster.url(DATABASE, SUPERUSER))
            .await?;
        let jwt_secret = secret(options.data_dir.as_deref())?;
        let orgs = create_demo_orgs(&pool, &jwt_secret).await?;
        done(&format!("{} demo organisations with {DEMO_USERS} users each", orgs.len()), step.elapsed());

        let step = Instant::now();
        let gateway = Gateway::start(Config {
            database: postgres::options(&cluster.url(DATABASE, "warden_gateway"))?,
            verifier: VerifierConfig::hs256(jwt_secret.clone(), DEFAULT_AUDIENCE, None),
            topics_need_claim: Vec::new(),
            listen: options.listen,
            admin_listen: options.admin_listen,
            allowed_origins: origins(options),
            edge: Edge::default(),
            limits: Limits::for_one_machine(),
        })
        .await?;
        let mut reader = gateway.reader();
        let following = reader.wait_for(|state| *state == TailerState::Following);
        tokio::time::timeout(READY_DEADLINE, following)
            .await
            .context("the gateway does not follow the event log; the lines above may tell why")??;
        done("the gateway follows the event log", step.elapsed());
        Ok((orgs, jwt_secret, gateway, pool))
    }

    /// The gateway.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Ends everything, in the order in which it depends on one another.
    ///
    /// # Errors
    /// When PostgreSQL does not end.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.simulator.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.pool.close().await;
        self.gateway.stop().await;
        self.cluster.close().await?;
        Ok(())
    }
}

async fn create_database(admin_url: &str) -> anyhow::Result<()> {
    let mut admin = PgConnection::connect(admin_url).await?;
    let is_there: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(DATABASE)
        .fetch_one(&mut admin)
        .await?;
    if !is_there {
        admin.execute(AssertSqlSafe(format!("create database {DATABASE}"))).await?;
    }
    Ok(admin.close().await?)
}

async fn create_demo_orgs(pool: &PgPool, jwt_secret: &str) -> anyhow::Result<Vec<DemoOrg>> {
    // The gateway logs in as its own role, as it should in production.
    pool.execute("alter role warden_gateway login").await?;
    let mut orgs = Vec::new();
    for (id, name) in DEMO_ORGS {
        sqlx::query!(
            "insert into organizations (id, name) values ($1, $2) on conflict (id) do nothing",
            id,
            name
        )
        .execute(pool)
        .await?;
        let mut users = sqlx::query_scalar!(
            "select user_id from organization_members where org_id = $1 order by created_at, user_id",
            id
        )
        .fetch_all(pool)
        .await?;
        while users.len() < DEMO_USERS {
            let user = Uuid::new_v4();
            sqlx::query!("insert into organization_members (org_id, user_id) values ($1, $2)", id, user)
                .execute(pool)
                .await?;
            users.push(user);
        }
        let claims = TokenClaims {
            org: *id,
            sub: &users[0].to_string(),
            role: "authenticated",
            ttl: TOKEN_TTL,
            audience: DEFAULT_AUDIENCE,
            issuer: None,
            topics: None,
        };
        orgs.push(DemoOrg { id: *id, name: (*name).to_owned(), token: sign(&claims, jwt_secret)? });
    }
    Ok(orgs)
}

/// The secret of this data directory, so that tokens stay good over a restart; without one a new one.
fn secret(data_dir: Option<&Path>) -> anyhow::Result<String> {
    let fresh = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let Some(dir) = data_dir else { return Ok(fresh()) };
    let path = dir.join("jwt_secret");
    match fs::read_to_string(&path) {
        Ok(secret) => Ok(secret.trim().to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let secret = fresh();
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            std::io::Write::write_all(&mut file, secret.as_bytes())?;
            Ok(secret)
        }
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn origins(options: &DevOptions) -> Vec<String> {
    let ports = USUAL_ORIGIN_PORTS.iter().copied().chain([options.listen.port()]);
    ports
        .flat_map(|port| [format!("http://localhost:{port}"), format!("http://127.0.0.1:{port}")])
        .chain(options.allowed_origins.iter().cloned())
        .collect()
}
