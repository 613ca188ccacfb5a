//! The time of 10,000 rows: pages of GET, a join with a snapshot, and `psql` for the same JSON.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPool};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;
use warden_devkit::cluster::{Cluster, SUPERUSER};
use warden_testkit::phoenix;

use crate::callers::read_answer;

const ROWS: usize = 10_000;
const ROUNDS: usize = 21;

/// Occurs once in each row.
const LAST_COLUMN: &str = "\"opened_at\"";

const TABLE: &str = "
    create table tickets (id bigint, org_id uuid not null, status text not null, subject text not null, price numeric,
                          opened_at timestamptz not null default now(), primary key (org_id, id));
    grant select on tickets to authenticated;
    select warden.watch('tickets', 'tickets', 'ticket', visibility => 'organisation')";

/// Prints the table.
pub(crate) async fn measure(
    cluster: &Cluster,
    pool: &PgPool,
    addr: SocketAddr,
    org: Uuid,
) -> anyhow::Result<()> {
    sqlx::raw_sql(TABLE).execute(pool).await?;
    sqlx::query(
        "insert into tickets select n, $1, (array['open', 'closed'])[n % 2 + 1], 'subject of ticket ' || n, n / 4.0
         from generate_series(1, $2::bigint) n",
    )
    .bind(org)
    .bind(i64::try_from(ROWS)?)
    .execute(pool)
    .await?;
    sqlx::raw_sql("vacuum analyze tickets").execute(pool).await?;
    // The expression with which the gateway reads a row's JSON.
    let document: String =
        sqlx::query_scalar("select warden.reading('tickets', null, 1048576) ->> 'document'")
            .fetch_one(pool)
            .await?;
    let columns =
        "jsonb_build_object('id', id, 'org_id', org_id, 'status', status, 'subject', subject, 'price', price,
                                      'opened_at', opened_at)";
    let psql = [
        (
            "`psql`, the gateway's expression",
            format!("select {document} from tickets n where org_id = '{org}' order by id"),
        ),
        (
            "`psql`, `jsonb_build_object`",
            format!("select {columns} from tickets where org_id = '{org}' order by id"),
        ),
        (
            "`psql`, `row_to_json`",
            format!("select row_to_json(n) from tickets n where org_id = '{org}' order by id"),
        ),
    ];
    let token = crate::support::token(org, "authenticated")?;
    let names: Vec<&str> = psql
        .iter()
        .map(|(name, _)| *name)
        .chain(["GET, pages of 1,000 rows", "join with a snapshot"])
        .collect();
    let mut times = vec![Vec::new(); names.len()];
    let mut bytes = vec![0; names.len()];
    for _ in 0..ROUNDS {
        for (n, (_, sql)) in psql.iter().enumerate() {
            let (time, length) = run_psql(cluster, sql).await?;
            times[n].push(time);
            bytes[n] = length;
        }
        for (n, by_socket) in [(psql.len(), false), (psql.len() + 1, true)] {
            let begun = Instant::now();
            bytes[n] = if by_socket { join(addr, &token).await? } else { get(addr, &token).await? };
            times[n].push(begun.elapsed());
        }
    }
    print(&names, &mut times, &bytes);
    Ok(())
}

fn print(names: &[&str], times: &mut [Vec<Duration>], bytes: &[usize]) {
    let medians: Vec<f64> = times.iter_mut().map(|times| crate::median(times).as_secs_f64()).collect();
    println!("| {ROWS} rows | bytes | time, median | compared with the first row | with the third row |");
    println!("|---|---:|---:|---:|---:|");
    for ((name, time), bytes) in names.iter().zip(&medians).zip(bytes) {
        println!(
            "| {name} | {bytes} | {:.1} ms | {:.2} | {:.2} |",
            time * 1e3,
            time / medians[0],
            time / medians[2]
        );
    }
}

/// Runs `psql`, from its start to its end, and reads its output. Returns the time and the number of bytes.
async fn run_psql(cluster: &Cluster, sql: &str) -> anyhow::Result<(Duration, usize)> {
    let options: PgConnectOptions = cluster.url("postgres", SUPERUSER).parse()?;
    let socket = options.get_socket().context("a Unix socket")?;
    let begun = Instant::now();
    let output = Command::new("psql")
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", SUPERUSER, "-d", "postgres", "-c", sql])
        .arg("-h")
        .arg(socket)
        .args(["-p", &options.get_port().to_string()])
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot run psql")?;
    let time = begun.elapsed();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    ensure!(rows == ROWS, "psql printed {rows} rows");
    Ok((time, output.stdout.len()))
}

/// Reads all pages on one connection, without compression. Returns the number of bytes.
async fn get(addr: SocketAddr, token: &str) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let mut path = "/v1/tickets?order=id&limit=1000".to_owned();
    let (mut rows, mut bytes, mut answer) = (0, 0, Vec::new());
    loop {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let (status, body) = read_answer(&mut stream, &mut answer).await?;
        ensure!(status == 200, "{}", String::from_utf8_lossy(&answer));
        bytes += answer.len() - body;
        rows += answer.windows(LAST_COLUMN.len()).filter(|part| *part == LAST_COLUMN.as_bytes()).count();
        // The URL of the next page is near the end of the body.
        let end = answer.windows(8).rposition(|part| part == b"\"next\":\"").map(|at| at + 8);
        let Some(next) = end else {
            ensure!(rows == ROWS, "the pages have {rows} rows");
            return Ok(bytes);
        };
        let length = answer[next..].iter().position(|byte| *byte == b'"').context("a URL")?;
        String::from_utf8(answer[next..next + length].to_vec())?.clone_into(&mut path);
    }
}

/// Connects, joins with a snapshot, and reads to its last page. Returns the number of bytes.
async fn join(addr: SocketAddr, token: &str) -> anyhow::Result<usize> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let opened = phoenix::connect_over(stream, token, None).await;
    let mut socket = opened.map_err(|error| anyhow::anyhow!("the handshake failed: {error:?}"))?;
    let payload = json!({"snapshot": {"order": "id", "limit": 1000}});
    phoenix::push(&mut socket, "1", "tickets", "phx_join", &payload).await?;
    let (mut rows, mut bytes) = (0, 0);
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        bytes += text.len();
        // Only the text is searched, because psql does not parse its rows either.
        rows += text.matches(LAST_COLUMN).count();
        if text.contains("\"last\":true") {
            ensure!(rows == ROWS, "the snapshot has {rows} rows");
            return Ok(bytes);
        }
    }
    anyhow::bail!("the session ended")
}
