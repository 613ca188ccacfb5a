//! The cost of a whole handshake by the algorithm of the token: CPU time of a gateway's process, from the
//! accepted connection to the end of the session.
//!
//! This process opens sockets one after the other. The gateway is `warden serve` in another process, whose
//! CPU time the kernel counts in nanoseconds. `cargo bench --bench handshake -- --handshakes 2000 --rounds 5`

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use sqlx::postgres::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};
use warden_testkit::keys::{IssuerKey, TestKeyServer};

/// Claim `aud` of the tokens.
const AUDIENCE: &str = "authenticated";
const ISSUER: &str = "https://project.supabase.co/auth/v1";
const SECRET: &str = "the benchmark's secret of 32 bytes";
const NO_LIMIT: &str = "1000000:1000000";
const READY_DEADLINE: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    let (mut handshakes, mut rounds) = (2000_u32, 5_usize);
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--handshakes" => handshakes = value.parse()?,
            "--rounds" => rounds = value.parse()?,
            other => bail!("unknown option {other}: use --handshakes, --rounds"),
        }
    }
    tokio::runtime::Runtime::new()?.block_on(run(handshakes, rounds))
}

async fn run(handshakes: u32, rounds: usize) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        binaries: Binaries::find(None, std::env::var_os("PATH").as_deref())?,
        data_dir: DataDir::Temporary,
        settings: Vec::new(),
        max_connections: 40,
        durable: false,
    })
    .await?;
    let result = measure(&cluster, handshakes, rounds).await;
    cluster.stop().await?;
    result
}

async fn measure(cluster: &Cluster, handshakes: u32, rounds: usize) -> anyhow::Result<()> {
    let url = cluster.url("postgres", SUPERUSER);
    warden::postgres::migrate_platform(&url).await?;
    let pool = PgPool::connect(&url).await?;
    sqlx::raw_sql("alter role warden_gateway login").execute(&pool).await?;
    let org: Uuid = sqlx::query_scalar("insert into organizations (name) values ('bench') returning id")
        .fetch_one(&pool)
        .await?;
    let keys = [IssuerKey::rs256(), IssuerKey::es256(), IssuerKey::eddsa()];
    let server = TestKeyServer::start(&keys.each_ref().map(|key| key.jwk("1"))).await;
    let gateway = Gateway::start(&cluster.url("postgres", "warden_gateway"), &server.url()).await?;

    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = json!({
        "iss": ISSUER,
        "sub": "11111111-1111-4111-8111-111111111111",
        "aud": AUDIENCE,
        "role": "authenticated",
        "iat": now,
        "exp": now + 86_400,
        "app_metadata": {"org_id": org},
    });
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let hs256 = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret)?;
    // Rejected handshakes are not measured: the gateway delays each answer by 0.5 to 1 s, and does other work
    // in that time.
    let mut cases = vec![("HS256", hs256)];
    cases.extend(keys.iter().map(|key| (key.alg(), key.sign("1", &claims))));
    let mut costs = vec![Vec::new(); cases.len()];
    // The first round is a warm-up and does not count. The order rotates, so that no case is always the
    // first.
    for round in 0..=rounds {
        for n in 0..cases.len() {
            let n = (n + round) % cases.len();
            let (_, token) = &cases[n];
            let before = gateway.cpu()?;
            for _ in 0..handshakes {
                handshake(gateway.addr, token).await?;
            }
            gateway.wait_until_idle().await?;
            let cost = (gateway.cpu()? - before).as_secs_f64() * 1e6 / f64::from(handshakes);
            if round > 0 {
                costs[n].push(cost);
            }
        }
    }
    println!(
        "{handshakes} handshakes per round, {rounds} rounds; microseconds of the gateway's CPU time per handshake\n"
    );
    println!("| token | median | lowest | highest |\n|---|---:|---:|---:|");
    for ((name, _), costs) in cases.iter().zip(&mut costs) {
        costs.sort_by(f64::total_cmp);
        let (lowest, highest) = (costs[0], costs[costs.len() - 1]);
        println!("| {name} | {:.0} | {lowest:.0} | {highest:.0} |", costs[costs.len() / 2]);
    }
    pool.close().await;
    Ok(())
}

async fn handshake(addr: SocketAddr, token: &str) -> anyhow::Result<()> {
    let request = format!(
        "GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut head).await? > 0, "the gateway cut the connection during the handshake");
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 101 "), "the gateway rejected the handshake: {head}");
    Ok(())
}

/// A gateway in a process of its own. It ends when this is dropped.
struct Gateway {
    child: Child,
    addr: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    async fn start(database_url: &str, keys_url: &str) -> anyhow::Result<Self> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let (addr, admin) = (free()?, free()?);
        let child = Command::new(env!("CARGO_BIN_EXE_warden"))
            .arg("serve")
            .env("DATABASE_URL", database_url)
            .env("WARDEN_JWT_SECRET", SECRET)
            .env("WARDEN_JWT_ISSUER", ISSUER)
            .env("WARDEN_JWKS_URLS", keys_url)
            .env("WARDEN_ARRIVALS_PER_ADDRESS", NO_LIMIT)
            .env("WARDEN_HANDSHAKES_PER_ADDRESS", NO_LIMIT)
            .env("WARDEN_HANDSHAKES", NO_LIMIT)
            .env("WARDEN_LISTEN", addr.to_string())
            .env("WARDEN_ADMIN_LISTEN", admin.to_string())
            .env("WARDEN_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()?;
        let gateway = Self { child, addr, admin };
        let ready = async {
            while !get(gateway.admin, "/readyz").await.is_ok_and(|answer| answer.ends_with("\r\n\r\nok\n")) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(READY_DEADLINE, ready)
            .await
            .with_context(|| format!("the gateway was not ready within {READY_DEADLINE:?}"))?;
        Ok(gateway)
    }

    /// Waits until the sessions of closed connections have ended.
    async fn wait_until_idle(&self) -> anyhow::Result<()> {
        while !get(self.admin, "/metrics").await?.contains("\nwarden_sessions 0\n") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// CPU time of all its threads.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // These fail if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn get(addr: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
