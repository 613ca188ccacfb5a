//! Code that benchmarks share: a private PostgreSQL, a gateway in the same process, and sockets that join.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlx::postgres::PgPool;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use uuid::Uuid;
use warden::app::Gateway;
use warden::auth::VerifierConfig;
use warden::config::{Config, DEFAULT_AUDIENCE, Edge, Limits};
use warden::log::TailerState;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir};
use warden_devkit::token::{TokenClaims, sign};
use warden_testkit::phoenix::{self, Received, Socket};

/// The allocator of the gateway's own process.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SECRET: &str = "the benches' secret, which has 32 bytes";

/// Size of a socket's read buffer. It is small, because a benchmark holds thousands of sockets in its own
/// process.
const READ_BUFFER_BYTES: usize = 4096;

/// Starts a private PostgreSQL in a temporary folder, without fsync.
pub(crate) async fn cluster() -> anyhow::Result<Cluster> {
    let options = ClusterOptions {
        binaries: Binaries::find(None, std::env::var_os("PATH").as_deref())?,
        data_dir: DataDir::Temporary,
        settings: Vec::new(),
        max_connections: 40,
        durable: false,
    };
    Ok(Cluster::start(options).await?)
}

/// Applies the migrations, and returns a pool of connections.
pub(crate) async fn migrated(url: &str) -> anyhow::Result<PgPool> {
    warden::postgres::migrate_platform(url).await?;
    let pool = PgPool::connect(url).await?;
    sqlx::raw_sql("alter role warden_gateway login").execute(&pool).await?;
    Ok(pool)
}

/// Creates organisations, and returns their ids.
pub(crate) async fn create_orgs(pool: &PgPool, count: usize) -> anyhow::Result<Vec<Uuid>> {
    let insert = "insert into organizations (name) select 'bench' from generate_series(1, $1) returning id";
    Ok(sqlx::query_scalar(insert).bind(i32::try_from(count)?).fetch_all(pool).await?)
}

/// Starts a gateway with the limits for one machine, which may be changed, and waits until its tailer follows
/// the log.
pub(crate) async fn gateway(cluster: &Cluster, change: impl FnOnce(&mut Limits)) -> anyhow::Result<Gateway> {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut limits = Limits::for_one_machine();
    // Sockets of a benchmark send no heartbeats.
    limits.session.idle_timeout = Duration::from_hours(1);
    change(&mut limits);
    let gateway = Gateway::start(Config {
        database: warden::postgres::options(&cluster.url("postgres", "warden_gateway"))?,
        verifier: VerifierConfig::hs256(SECRET, DEFAULT_AUDIENCE, None),
        topics_need_claim: Vec::new(),
        listen: any_port,
        admin_listen: any_port,
        allowed_origins: Vec::new(),
        edge: Edge::default(),
        limits,
    })
    .await?;
    gateway.reader().wait_for(|state| *state == TailerState::Following).await?;
    Ok(gateway)
}

/// A token of this organisation.
pub(crate) fn token(org: Uuid, role: &str) -> anyhow::Result<String> {
    let claims = TokenClaims {
        org,
        sub: "bench",
        role,
        ttl: Duration::from_hours(1),
        audience: DEFAULT_AUDIENCE,
        issuer: None,
        topics: None,
        filters: None,
    };
    sign(&claims, SECRET)
}

/// Connects and joins a topic. Returns the socket, and the cursor of the reply.
pub(crate) async fn join(
    addr: SocketAddr,
    org: Uuid,
    topic: &str,
    since: Option<&str>,
) -> anyhow::Result<(Socket, String)> {
    let stream = TcpStream::connect(addr).await?;
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
    let opened = phoenix::connect_over(stream, &token(org, "authenticated")?, Some(config)).await;
    let mut socket = opened.map_err(|error| anyhow::anyhow!("the handshake failed: {error:?}"))?;
    phoenix::send_join(&mut socket, "1", topic, since).await?;
    match phoenix::receive(&mut socket).await {
        Received::Message(reply) if reply.is_ok_reply() => {
            let cursor = reply.cursor().context("the reply has no cursor")?.to_owned();
            Ok((socket, cursor))
        }
        other => bail!("the join failed: {other:?}"),
    }
}
