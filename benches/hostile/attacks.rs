//! The attacks. Each runs until its process's standard input is closed, and at most for a minute.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use socket2::SockRef;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinSet;
use uuid::Uuid;
use warden_testkit::phoenix::{self, Received, Socket};

use crate::tokens::token;
use crate::{floods, joins};

/// Names of the attacks.
pub(crate) const ATTACKS: [&str; 14] = [
    "forged cursors",
    "blocked replays",
    "replays from memory",
    "log lines",
    "revocations",
    "notifications",
    "live events",
    "handshakes",
    "snapshots",
    "publishes",
    "filtered reads",
    "snapshots, publishes and reads",
    "filters",
    "marks",
];

/// Blocks of loopback addresses of strangers and of members.
const STRANGERS: u8 = 2;
pub(crate) const MEMBERS: u8 = 3;
const ADDRESSES: usize = 64;
const ATTACK_MAX: Duration = Duration::from_mins(1);
const START_MAX: Duration = Duration::from_secs(50);
/// Key of the doorbell's lock.
const DOORBELL_LOCK: &str = "select pg_advisory_lock(1463898692)";

/// Messages, statements or handshakes that the attack has sent.
static SENT: AtomicU64 = AtomicU64::new(0);
/// Sockets, connections or strangers that have sent their first one.
static BEGUN: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn count_sent(is_first: bool) {
    SENT.fetch_add(1, Ordering::Relaxed);
    BEGUN.fetch_add(usize::from(is_first), Ordering::Relaxed);
}

/// The gateway, its database, and the attackers' organisation.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    pub(crate) url: String,
    pub(crate) org: Uuid,
}

pub(crate) type Tasks = JoinSet<anyhow::Result<()>>;

/// Begins an attack, reports `ready` when all its parts have begun, and continues until standard input is
/// closed. Then it reports the number of messages that it has sent since.
pub(crate) async fn run(name: &str, target: Target) -> anyhow::Result<()> {
    let mut tasks = Tasks::new();
    let sockets = begin(name, &target, &mut tasks).await?;
    let parts = tasks.len();
    let begun = async {
        while BEGUN.load(Ordering::Relaxed) < parts {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(START_MAX, begun).await;
    in_time.with_context(|| format!("{} of {parts} parts have begun", BEGUN.load(Ordering::Relaxed)))?;
    let before = SENT.load(Ordering::Relaxed);
    println!("ready");
    let ended = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)
    });
    let _ = tokio::time::timeout(ATTACK_MAX, ended).await;
    println!("{}", SENT.load(Ordering::Relaxed) - before);
    tasks.abort_all();
    drop(sockets);
    if name == "revocations" {
        let delete = sqlx::query("delete from warden.revocations where org_id = $1").bind(target.org);
        delete.execute(&mut PgConnection::connect(&target.url).await?).await?;
    }
    // The thread that reads standard input would keep the runtime from ending.
    std::process::exit(0);
}

/// Begins an attack. Returns sockets that must stay open.
async fn begin(name: &str, target: &Target, tasks: &mut Tasks) -> anyhow::Result<Vec<Socket>> {
    match name {
        "forged cursors" => {
            let cursor = format!("_A{}", "Ab3_".repeat(7_500));
            push_from(target, 40, Duration::from_millis(200), tasks, move |n| join_or_leave(n, &cursor));
        }
        "replays from memory" => {
            let cursor = old_cursor(target, 20, 100).await?;
            push_from(target, 300, Duration::from_millis(50), tasks, move |n| join_or_leave(n, &cursor));
        }
        "log lines" => push_from(target, 40, Duration::from_millis(50), tasks, |n| match n % 2 {
            0 => ("calls".into(), "access_token", json!({"access_token": "invalid"})),
            _ => join_or_leave(n, "invalid"),
        }),
        "blocked replays" => return blocked_replays(target).await,
        "revocations" => revocations(target, tasks).await?,
        "notifications" => notifications(target, tasks).await?,
        "live events" => return live_events(target, tasks).await,
        "handshakes" => handshakes(target, tasks),
        other if floods::begin(other, target, tasks).await? => {}
        other if joins::begin(other, target, tasks).await? => {}
        other => bail!("unknown attack {other}"),
    }
    Ok(Vec::new())
}

pub(crate) async fn member(target: &Target, n: usize) -> anyhow::Result<Socket> {
    let stream = phoenix::stream_from(target.addr, MEMBERS, u8::try_from(n % ADDRESSES)? + 1).await?;
    let opened = phoenix::connect_over(stream, &token(target.org), None).await;
    opened.map_err(|error| anyhow::anyhow!("a member cannot connect: {error:?}"))
}

/// Topic, event and payload.
pub(crate) type Message = (Cow<'static, str>, &'static str, Value);

fn join_or_leave(n: u64, cursor: &str) -> Message {
    if n.is_multiple_of(2) {
        ("calls".into(), "phx_join", json!({"since": cursor}))
    } else {
        ("calls".into(), "phx_leave", json!({}))
    }
}

/// Opens sockets that push a message at each interval, and reconnect if they are closed.
pub(crate) fn push_from(
    target: &Target,
    sockets: usize,
    interval: Duration,
    tasks: &mut Tasks,
    message: impl Fn(u64) -> Message + Clone + Send + 'static,
) {
    for n in 0..sockets {
        let (target, message) = (target.clone(), message.clone());
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            let mut is_first = true;
            loop {
                ticks.tick().await;
                let Ok(mut socket) = member(&target, n).await else { continue };
                let mut pushed = 0;
                loop {
                    tokio::select! {
                        received = phoenix::receive(&mut socket) => {
                            if !matches!(received, Received::Message(_)) {
                                break;
                            }
                        }
                        _ = ticks.tick() => {
                            let (topic, event, payload) = message(pushed);
                            if phoenix::push(&mut socket, "1", &topic, event, &payload).await.is_err() {
                                break;
                            }
                            pushed += 1;
                            count_sent(std::mem::take(&mut is_first));
                        }
                    }
                }
            }
        });
    }
}

/// A cursor from before events that are published now.
async fn old_cursor(target: &Target, events: i32, bytes: i32) -> anyhow::Result<String> {
    let mut socket = member(target, 0).await?;
    phoenix::send_join(&mut socket, "1", "calls", None).await?;
    let Received::Message(reply) = phoenix::receive(&mut socket).await else { bail!("no reply to the join") };
    let cursor = reply.cursor().context("the reply has no cursor")?.to_owned();
    sqlx::query(
        "select warden.publish($1, 'calls', 'fill', jsonb_build_object('x', repeat('x', $3)))
         from generate_series(1, $2)",
    )
    .bind(target.org)
    .bind(events)
    .bind(bytes)
    .execute(&mut PgConnection::connect(&target.url).await?)
    .await?;
    Ok(cursor)
}

/// Four sockets that do not read hold the memory of their organisation's replays, and others join a hundred
/// topics each with old cursors.
async fn blocked_replays(target: &Target) -> anyhow::Result<Vec<Socket>> {
    let cursor = old_cursor(target, 500, 60_000).await?;
    let mut sockets = Vec::new();
    for n in 0..206 {
        let mut socket = member(target, n).await?;
        if n < 4 {
            SockRef::from(socket.get_ref()).set_recv_buffer_size(4096)?;
            phoenix::send_join(&mut socket, "1", "calls", Some(&cursor)).await?;
        } else {
            for id in 0..100 {
                let topic = format!("call:{}", Uuid::from_u128(id));
                phoenix::send_join(&mut socket, &id.to_string(), &topic, Some(&cursor)).await?;
            }
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

/// The back ends of an organisation have as many revocations with long names as they may have, and each
/// further one makes the node load all of them.
async fn revocations(target: &Target, tasks: &mut Tasks) -> anyhow::Result<()> {
    let mut connection = connect(target).await?;
    let fill = "insert into warden.revocations (session_id, org_id, revoked_at, expires_at)
                select n || repeat('x', 240), $1, now(), now() + interval '10 years'
                from generate_series(1, 9900) n";
    sqlx::query(fill).bind(target.org).execute(&mut connection).await?;
    let org = target.org;
    tasks.spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let mut is_first = true;
        loop {
            ticks.tick().await;
            // Repeating an entry always succeeds.
            let revoke =
                "select id from warden.revoke_within($1, 'backend', session_id => '1' || repeat('x', 240))";
            sqlx::query(revoke).bind(org).execute(&mut connection).await?;
            count_sent(std::mem::take(&mut is_first));
        }
    });
    Ok(())
}

/// A connection whose server process runs at low priority, as the rest of the attack does.
async fn connect(target: &Target) -> anyhow::Result<PgConnection> {
    let mut connection = PgConnection::connect(&target.url).await?;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await?;
    let renice =
        Command::new("renice").args(["-n", "19", "-p", &pid.to_string()]).stdout(Stdio::null()).status();
    let status = renice.await.context("cannot run renice")?;
    ensure!(status.success(), "cannot lower the priority of the server process {pid}");
    // Each server process has a session of its own (setsid). Where Linux groups processes by session, their
    // nice values only rank them within the group, and this file has the group's (sched(7), autogroup).
    let group = format!("/proc/{pid}/autogroup");
    if std::fs::exists(&group)? {
        std::fs::write(&group, "19").context("cannot lower the priority of a server process's group")?;
    }
    Ok(connection)
}

/// Back ends publish without a pause to 50 members who read and 4 who do not.
async fn live_events(target: &Target, tasks: &mut Tasks) -> anyhow::Result<Vec<Socket>> {
    let mut blocked = Vec::new();
    for n in 0..54 {
        let mut socket = member(target, n).await?;
        phoenix::send_join(&mut socket, "1", "calls", None).await?;
        if n < 4 {
            SockRef::from(socket.get_ref()).set_recv_buffer_size(4096)?;
            blocked.push(socket);
        } else {
            tasks.spawn(async move {
                let mut is_first = true;
                while let Received::Message(_) = phoenix::receive(&mut socket).await {
                    BEGUN.fetch_add(usize::from(std::mem::take(&mut is_first)), Ordering::Relaxed);
                }
                std::future::pending().await
            });
        }
    }
    for _ in 0..4 {
        let mut backend = connect(target).await?;
        let org = target.org;
        tasks.spawn(async move {
            let mut is_first = true;
            loop {
                let publish =
                    "select warden.publish($1, 'calls', 'flood', jsonb_build_object('x', repeat('x', 1000)))";
                sqlx::query(publish).bind(org).execute(&mut backend).await?;
                count_sent(std::mem::take(&mut is_first));
            }
        });
    }
    Ok(blocked)
}

/// Roles without rights hold the doorbell's lock and notify.
async fn notifications(target: &Target, tasks: &mut Tasks) -> anyhow::Result<()> {
    for n in 0..4 {
        let mut stranger = connect(target).await?;
        stranger.execute("set role anon").await?;
        if n == 0 {
            stranger.execute(DOORBELL_LOCK).await?;
        }
        tasks.spawn(async move {
            let mut is_first = true;
            loop {
                stranger.execute("select pg_notify('warden', 'silenced'), pg_notify('warden', '')").await?;
                count_sent(std::mem::take(&mut is_first));
            }
        });
    }
    Ok(())
}

/// Strangers send forged tokens, and others leave long requests unfinished.
fn handshakes(target: &Target, tasks: &mut Tasks) {
    for n in 0..ADDRESSES {
        let (addr, address) = (target.addr, u8::try_from(n).unwrap_or_default() + 1);
        let forged = token(target.org).replace('.', ".A");
        tasks.spawn(async move {
            let mut is_first = true;
            loop {
                let Ok(stream) = phoenix::stream_from(addr, STRANGERS, address).await else { continue };
                // Does not wait for the answer, which is delayed.
                let handshake = phoenix::connect_over(stream, &forged, None);
                let _ = tokio::time::timeout(Duration::from_millis(20), handshake).await;
                count_sent(std::mem::take(&mut is_first));
            }
        });
        tasks.spawn(async move {
            let mut open = Vec::new();
            for _ in 0..20 {
                let mut stream = phoenix::stream_from(addr, STRANGERS, address).await?;
                let head = format!("GET {} HTTP/1.1\r\nx: {}", phoenix::PATH, "x".repeat(30_000));
                stream.write_all(head.as_bytes()).await?;
                count_sent(open.is_empty());
                open.push(stream);
            }
            std::future::pending().await
        });
    }
}
