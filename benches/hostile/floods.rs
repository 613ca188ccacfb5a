//! Floods of one organisation: requests to publish, reads with filters that no index serves, and joins with
//! snapshots. Each comes without a pause, from many users, and ignores every limit.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use warden_testkit::phoenix::{self, Received};

use crate::attacks::{MEMBERS, Target, Tasks, count_sent, member};
use crate::tokens::{claims, header, hs256, token};

/// Connections of one flood.
const CONNECTIONS: usize = 32;
const ADDRESSES: usize = 64;
/// Rows of the organisation, which snapshots and filters read.
const ROWS: i64 = 10_000;
const RECONNECT_DELAY: Duration = Duration::from_millis(50);

/// Begins the flood with this name. Returns whether there is one.
pub(crate) async fn begin(name: &str, target: &Target, tasks: &mut Tasks) -> anyhow::Result<bool> {
    match name {
        "snapshots" => snapshots(target, tasks).await?,
        "publishes" => publishes(target, tasks),
        "filtered reads" => filtered_reads(target, tasks).await?,
        "snapshots, publishes and reads" => {
            snapshots(target, tasks).await?;
            publishes(target, tasks);
            filtered_reads(target, tasks).await?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Creates the rows, unless an earlier round has done so.
async fn fill(target: &Target) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&target.url).await?;
    let insert = "insert into calls (org_id, metadata)
                  select $1, jsonb_build_object('note', repeat('x', 300), 'n', n)
                  from generate_series((select count(*) from calls where org_id = $1) + 1, $2) n";
    sqlx::query(insert).bind(target.org).bind(ROWS).execute(&mut connection).await?;
    Ok(())
}

/// Sockets that join with a snapshot of all rows, read it, leave, and join again.
async fn snapshots(target: &Target, tasks: &mut Tasks) -> anyhow::Result<()> {
    fill(target).await?;
    for n in 0..CONNECTIONS {
        let target = target.clone();
        tasks.spawn(async move {
            let mut is_first = true;
            loop {
                if let Ok(mut socket) = member(&target, n).await {
                    let join = json!({"snapshot": {"limit": 1000}});
                    while phoenix::push(&mut socket, "1", "calls", "phx_join", &join).await.is_ok() {
                        count_sent(std::mem::take(&mut is_first));
                        if !read_snapshot(&mut socket).await {
                            break;
                        }
                        let left = phoenix::push(&mut socket, "1", "calls", "phx_leave", &json!({})).await;
                        if left.is_err() {
                            break;
                        }
                    }
                }
                tokio::time::sleep(RECONNECT_DELAY).await;
            }
        });
    }
    Ok(())
}

/// Reads to the last page, or to an error. Returns whether the session goes on.
async fn read_snapshot(socket: &mut phoenix::Socket) -> bool {
    loop {
        let Received::Message(message) = phoenix::receive(socket).await else { return false };
        let is_error = message.event == "phx_reply" && message.payload["status"] == "error";
        if is_error || message.payload["last"] == true || message.event == "warden.resync" {
            return true;
        }
    }
}

/// Back ends that publish batches.
fn publishes(target: &Target, tasks: &mut Tasks) {
    let mut claims = claims(target.org);
    claims["role"] = json!("service_role");
    let token = hs256(&header(), &claims);
    let event = json!({"topic": "calls", "event": "flood", "data": {"x": "x".repeat(500)}});
    let body = serde_json::Value::Array(vec![event; 10]).to_string();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for n in 0..CONNECTIONS {
        repeat(target, n, request.clone(), tasks);
    }
}

/// Users that filter by columns without an index, and ask for the total.
async fn filtered_reads(target: &Target, tasks: &mut Tasks) -> anyhow::Result<()> {
    fill(target).await?;
    for n in 0..CONNECTIONS {
        // The rate of one user is lower than that of the organisation.
        let token = token(target.org);
        let request = format!(
            "GET /v1/calls?status=not.eq.completed&or=(from_number.like.*1*,from_number.is.null)&order=ended_at.desc,\
             started_at&limit=1000 HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\
             Prefer: count=exact\r\nAccept-Encoding: gzip\r\n\r\n"
        );
        repeat(target, n, request, tasks);
    }
    Ok(())
}

/// Sends a request again and again on one connection, and reconnects if it ends.
fn repeat(target: &Target, n: usize, request: String, tasks: &mut Tasks) {
    let addr = target.addr;
    tasks.spawn(async move {
        let address = u8::try_from(n % ADDRESSES)? + 1;
        let (mut is_first, mut answer) = (true, Vec::new());
        loop {
            if let Ok(mut stream) = phoenix::stream_from(addr, MEMBERS, address).await {
                while exchange(&mut stream, &request, &mut answer).await.is_ok() {
                    count_sent(std::mem::take(&mut is_first));
                }
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    });
}

/// Sends a request, and reads its answer, whatever that is.
async fn exchange(stream: &mut TcpStream, request: &str, answer: &mut Vec<u8>) -> anyhow::Result<()> {
    stream.write_all(request.as_bytes()).await?;
    answer.clear();
    let body = loop {
        ensure!(stream.read_buf(answer).await? > 0, "the connection ended");
        if let Some(at) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = std::str::from_utf8(&answer[..body])?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("a length")?.trim().parse()?;
    while answer.len() < body + length {
        ensure!(stream.read_buf(answer).await? > 0, "the connection ended");
    }
    Ok(())
}
