//! Callers that publish without a pause, each on a connection of its own.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Events of one batch, by SQL and through HTTP.
pub(crate) const BATCH: usize = 100;

/// How events are published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    SqlSingle,
    SqlBulk,
    HttpSingle,
    HttpBatch,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::SqlSingle, Kind::SqlBulk, Kind::HttpSingle, Kind::HttpBatch];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SqlSingle => "SQL, `warden.publish`",
            Self::SqlBulk => "SQL, `warden.publish_all` with 100 events",
            Self::HttpSingle => "HTTP, one event",
            Self::HttpBatch => "HTTP, batches of 100 events",
        }
    }

    fn batch(self) -> usize {
        match self {
            Self::SqlSingle | Self::HttpSingle => 1,
            Self::SqlBulk | Self::HttpBatch => BATCH,
        }
    }
}

/// Addresses and tokens with which callers connect.
pub(crate) struct Callers {
    addr: SocketAddr,
    url: String,
    org: Uuid,
    token: String,
}

impl Callers {
    pub(crate) fn new(addr: SocketAddr, url: &str, org: Uuid) -> anyhow::Result<Self> {
        Ok(Self { addr, url: url.to_owned(), org, token: crate::support::token(org, "service_role")? })
    }

    /// Opens the connections of callers.
    pub(crate) async fn connect(&self, kind: Kind, count: usize) -> anyhow::Result<Vec<Caller>> {
        let mut callers = Vec::new();
        for _ in 0..count {
            callers.push(match kind {
                Kind::SqlSingle | Kind::SqlBulk => {
                    let connection = PgConnection::connect(&self.url).await?;
                    Caller::Sql { connection, org: self.org, is_bulk: kind == Kind::SqlBulk }
                }
                Kind::HttpSingle | Kind::HttpBatch => {
                    let body = match kind.batch() {
                        1 => event(),
                        count => Value::Array(vec![event(); count]),
                    }
                    .to_string();
                    let request = format!(
                        "POST /v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\
                         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                        self.token,
                        body.len()
                    );
                    let stream = TcpStream::connect(self.addr).await?;
                    stream.set_nodelay(true)?;
                    Caller::Http { stream, request, batch: kind.batch() }
                }
            });
        }
        Ok(callers)
    }
}

/// An open connection.
pub(crate) enum Caller {
    Sql { connection: PgConnection, org: Uuid, is_bulk: bool },
    Http { stream: TcpStream, request: String, batch: usize },
}

fn data() -> Value {
    json!({"id": "5f0f5a3e-0000-4000-8000-000000000000", "number": 1234, "total": "99.90", "note": "x".repeat(100)})
}

fn event() -> Value {
    json!({"topic": "invoices", "event": "invoice.paid", "data": data()})
}

/// Publishes with all callers until this time. Returns the number of events.
pub(crate) async fn publish(callers: Vec<Caller>, end: Instant) -> anyhow::Result<u64> {
    let mut tasks = JoinSet::new();
    for caller in callers {
        tasks.spawn(caller.run(end));
    }
    let mut events = 0;
    while let Some(published) = tasks.join_next().await {
        events += published??;
    }
    Ok(events)
}

impl Caller {
    async fn run(self, end: Instant) -> anyhow::Result<u64> {
        let mut events = 0;
        match self {
            Self::Sql { mut connection, org, is_bulk: false } => {
                let data = data();
                while Instant::now() < end {
                    sqlx::query("select warden.publish($1, 'invoices', 'invoice.paid', $2)")
                        .bind(org)
                        .bind(&data)
                        .execute(&mut connection)
                        .await?;
                    events += 1;
                }
                connection.close().await?;
            }
            Self::Sql { mut connection, org, is_bulk: true } => {
                let batch = Value::Array(vec![event(); BATCH]);
                while Instant::now() < end {
                    let published: Vec<(i32, i64)> =
                        sqlx::query_as("select index, id from warden.publish_all($1, $2)")
                            .bind(org)
                            .bind(&batch)
                            .fetch_all(&mut connection)
                            .await?;
                    events += published.len() as u64;
                }
                connection.close().await?;
            }
            Self::Http { mut stream, request, batch } => {
                let mut answer = Vec::new();
                while Instant::now() < end {
                    stream.write_all(request.as_bytes()).await?;
                    let (status, _) = read_answer(&mut stream, &mut answer).await?;
                    ensure!(status == 202, "{}", String::from_utf8_lossy(&answer));
                    events += batch as u64;
                }
            }
        }
        Ok(events)
    }
}

/// Reads an answer with a length. Returns its status, and where its body begins.
pub(crate) async fn read_answer(
    stream: &mut TcpStream,
    answer: &mut Vec<u8>,
) -> anyhow::Result<(u16, usize)> {
    answer.clear();
    let body = loop {
        ensure!(stream.read_buf(answer).await? > 0, "the gateway closed the connection");
        if let Some(at) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = std::str::from_utf8(&answer[..body])?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("a length")?.trim().parse()?;
    while answer.len() < body + length {
        ensure!(stream.read_buf(answer).await? > 0, "the gateway closed the connection");
    }
    Ok((status, body))
}
