//! Many clients read a filtered snapshot and follow the stream, half of them with GET and half on the socket,
//! while rows change and gateway and database restart. Finally each client has exactly the rows of the table,
//! byte for byte. `stream` shows that nothing is missed between the pages: here, later changes of a row would
//! hide it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;
use warden::app::Gateway;
use warden::rate::Rate;
use warden_testkit::phoenix;

use super::stream::TABLE;
use crate::harness::{TestDb, TestGateway, token};

/// Clients, unless `WARDEN_CROWD` is set. `make snapshots` runs hundreds, which take several times as long.
const CLIENTS: usize = 40;
/// Rows of one page: few, so that every client reads several.
const PAGE: usize = 25;
/// Time in which all clients must have the rows after the last change.
const DEADLINE: Duration = Duration::from_secs(90);
/// Attempts to read one page.
const PAGE_ATTEMPTS: usize = 200;
/// Delay before a client tries again.
const RETRY: Duration = Duration::from_millis(50);

/// Rows by id, as the gateway sent them.
type Rows = BTreeMap<i64, String>;

#[derive(Deserialize)]
struct Key {
    id: i64,
    n: i64,
}

/// A page of GET.
#[derive(Deserialize)]
struct Page {
    rows: Vec<Box<RawValue>>,
    cursor: String,
    next: Option<String>,
}

/// Payload of a page, an event or a reply.
#[derive(Default, Deserialize)]
struct Payload {
    #[serde(default)]
    rows: Vec<Box<RawValue>>,
    data: Option<Box<RawValue>>,
    cursor: Option<String>,
    status: Option<String>,
    response: Option<Value>,
}

/// A client, across its connections.
struct Follower {
    addr: SocketAddr,
    token: String,
    by_socket: bool,
    rows: Rows,
    since: Option<String>,
    /// Whether the present connection has delivered anything.
    has_received: bool,
    /// The rows of the table, when they no longer change.
    expected: watch::Receiver<Option<Rows>>,
}

/// Sends a request on a connection of its own. None if it fails in any way.
async fn get(addr: SocketAddr, token: &str, path: &str) -> Option<Page> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200") { None } else { serde_json::from_str(body).ok() }
}

/// Requests a page again if the gateway or the database is busy or away. Otherwise hundreds of clients would
/// begin again and again with their first page.
async fn get_patiently(addr: SocketAddr, token: &str, path: &str) -> Option<Page> {
    for _ in 0..PAGE_ATTEMPTS {
        if let Some(page) = get(addr, token, path).await {
            return Some(page);
        }
        tokio::time::sleep(RETRY).await;
    }
    None
}

/// All pages of the filtered rows, and the first page's cursor.
async fn read(addr: SocketAddr, token: &str) -> Option<(Rows, String)> {
    let (mut rows, mut first) = (Rows::new(), None);
    let mut path = format!("/v1/items?n=lt.60&order=n.desc&limit={PAGE}");
    loop {
        let page = get_patiently(addr, token, &path).await?;
        first.get_or_insert(page.cursor);
        page.rows.iter().for_each(|row| put(&mut rows, row));
        match page.next {
            Some(next) => path = next,
            None => return Some((rows, first?)),
        }
    }
}

/// Stores a row that the filter selects, and removes any other.
fn put(rows: &mut Rows, row: &RawValue) {
    let Key { id, n } = serde_json::from_str(row.get()).expect("a row");
    match n < 60 {
        true => rows.insert(id, row.get().to_owned()),
        false => rows.remove(&id),
    };
}

impl Follower {
    /// Follows until the rows are those of the table. Returns whether this was a client of the socket alone,
    /// and the number of streams that were interrupted.
    async fn run(mut self) -> (bool, usize) {
        let mut interrupted = 0;
        while self.connect_once().await.is_none() {
            interrupted += usize::from(std::mem::take(&mut self.has_received));
            tokio::time::sleep(RETRY).await;
        }
        (self.by_socket, interrupted)
    }

    /// None if the connection was lost, or the state must be read again.
    async fn connect_once(&mut self) -> Option<()> {
        if self.since.is_none() {
            self.rows.clear();
            if !self.by_socket {
                let (rows, cursor) = read(self.addr, &self.token).await?;
                (self.rows, self.since) = (rows, Some(cursor));
            }
        }
        let payload = match &self.since {
            Some(since) => json!({"since": since}),
            None => json!({"snapshot": {"n": "lt.60", "order": "n.desc", "limit": PAGE}}),
        };
        let mut socket = phoenix::connect(self.addr, &self.token).await.ok()?;
        let join = json!(["1", "1", "items", "phx_join", payload]);
        socket.send(Message::text(join.to_string())).await.ok()?;
        loop {
            let is_complete = self.expected.borrow_and_update().as_ref() == Some(&self.rows);
            if is_complete && self.since.is_some() {
                return Some(());
            }
            tokio::select! {
                changed = self.expected.changed() => changed.ok()?,
                message = socket.next() => match message?.ok()? {
                    Message::Text(text) => self.receive(&text)?,
                    _ => return None,
                },
            }
        }
    }

    fn receive(&mut self, text: &str) -> Option<()> {
        let (_, _, _, event, payload): (Value, Value, String, String, Payload) =
            serde_json::from_str(text).expect("a message");
        if event == "warden.resync" || payload.response.is_some_and(|reply| reply["resync"] == true) {
            self.since = None;
            return None;
        }
        if payload.status.is_some_and(|status| status == "error") {
            return None;
        }
        self.has_received = true;
        payload.rows.iter().for_each(|row| put(&mut self.rows, row));
        if let Some(row) = payload.data {
            match event.as_str() {
                "item.deleted" => {
                    let Key { id, .. } = serde_json::from_str(row.get()).expect("a row");
                    self.rows.remove(&id);
                }
                _ => put(&mut self.rows, &row),
            }
        }
        self.since = payload.cursor.or(self.since.take());
        Some(())
    }
}

/// Changes rows, and returns the number of successful steps. A step that fails while the database is down is
/// left out.
async fn write(db: &TestDb, org: Uuid, steps: std::ops::Range<i32>) -> usize {
    let mut done = 0;
    for step in steps {
        let sql = format!(
            "insert into items values ({step}, '{org}', {step} % 50) on conflict do nothing;
             update items set n = (n + 7) % 80 where id % 11 = {step} % 11;
             delete from items where id = {step} - 120"
        );
        done += usize::from(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&db.pool).await.is_ok());
    }
    done
}

/// The filtered rows, as PostgreSQL itself converts them. The gateway has no part in this.
async fn rows_of(db: &TestDb, org: Uuid) -> Rows {
    let rows =
        sqlx::query_as("select id::bigint, to_jsonb(i)::text from items i where org_id = $1 and n < 60");
    let rows: Vec<(i64, String)> = rows.bind(org).fetch_all(&db.pool).await.expect("reads");
    rows.into_iter().collect()
}

async fn gateway(db: &TestDb, addr: Option<SocketAddr>) -> Gateway {
    TestGateway::gateway(db, |config| {
        config.listen = addr.unwrap_or(config.listen);
        let unlimited = Rate::new(100_000, 100_000);
        let admission = &mut config.limits.admission;
        (admission.reads_per_user, admission.reads_per_org) = (unlimited, unlimited);
        (admission.handshakes_per_address, admission.handshakes) = (unlimited, unlimited);
        admission.user_sessions_max = admission.sessions_max;
        config.limits.drain.window = Duration::ZERO;
    })
    .await
}

#[tokio::test]
async fn a_crowd_ends_with_the_rows_across_restarts() {
    let clients = std::env::var("WARDEN_CROWD").map_or(CLIENTS, |count| count.parse().expect("a number"));
    let (mut cluster, db) = TestDb::create_alone().await;
    let org = db.create_org().await;
    db.run(TABLE).await;
    assert_eq!(write(&db, org, 0..200).await, 200);
    let first = gateway(&db, None).await;
    let addr = first.public_addr();
    let (publish, expected) = watch::channel(None);
    let token = token(org, &json!({}));
    let followers: Vec<_> = (0..clients)
        .map(|n| {
            let (token, expected) = (token.clone(), expected.clone());
            let by_socket = n % 2 == 0;
            let (rows, since, has_received) = (Rows::new(), None, false);
            tokio::spawn(Follower { addr, token, by_socket, rows, since, has_received, expected }.run())
        })
        .collect();
    assert_eq!(write(&db, org, 200..260).await, 60);
    // Some clients still read pages then, and others follow the stream.
    let started = tokio::time::Instant::now();
    while first.hub().session_count() < clients * 3 / 4 {
        assert!(started.elapsed() < DEADLINE, "the clients do not connect");
        tokio::time::sleep(RETRY).await;
    }
    let (second, done) = tokio::join!(
        async {
            first.stop().await;
            gateway(&db, Some(addr)).await
        },
        write(&db, org, 260..320)
    );
    assert_eq!(done, 60);
    let (restarted, _) = tokio::join!(
        async {
            cluster.kill9().await?;
            cluster.start_again().await
        },
        write(&db, org, 320..380)
    );
    restarted.expect("the database starts again");
    assert!(write(&db, org, 380..440).await > 50, "the writers do not recover");
    let table = rows_of(&db, org).await;
    assert!(table.len() > 20, "{}", table.len());
    publish.send_replace(Some(table));
    let ended = tokio::time::timeout(DEADLINE, futures_util::future::join_all(followers)).await;
    let ended = ended.expect("a client does not have the rows of the table");
    let ended: Vec<(bool, usize)> = ended.into_iter().map(|follower| follower.expect("ends")).collect();
    for kind in [true, false] {
        let interrupted: usize = ended.iter().filter(|(by, _)| *by == kind).map(|(_, count)| count).sum();
        assert!(interrupted > 0, "no stream was interrupted, by socket: {kind}");
    }
    second.stop().await;
}
