//! The primary: found among the configured addresses, and the gateway's pool, which follows it.
//!
//! The reader leads. It finds the primary and says which history it follows, and the pool hands out no
//! connection that does not lead to a primary with that history: neither a standby nor a former primary ever
//! answers for another. All addresses are asked at once, so one that swallows packets delays nothing for
//! long; of several primaries the one of the latest timeline is taken. Warden does not fence: see
//! docs/operations.md for what that leaves to others.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::sync::watch;

use super::address::{Address, Addresses};
use super::assume_gateway_role;
use super::session::{Session, begin_shared, begin_shared_once, commit_shared, open};

/// Connections of a gateway's pool: look-ups of what is not in memory.
const POOL_CONNECTIONS_MAX: u32 = 4;

/// Longest wait for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for one address: to connect, and to say what is there.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// Once a primary has answered the other addresses have so long to show one of a later timeline.
const RIVAL_WAIT: Duration = Duration::from_millis(250);

/// A connection of the pool has so long to show that it is alive, when it is taken and when it is given back.
/// Otherwise one that is half open would keep its place in the pool for as long as TCP tries.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// A look-up that waits longer for a lock is ended by the server, where nobody waits for it any more.
const LOCK_TIMEOUT: &str = "4s";

/// No primary was found; tells for each address why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoPrimary(String);

/// A connection to the primary.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: PgConnection,
    pub(crate) session: Session,
    options: PgConnectOptions,
    /// In the order of `DATABASE_URL`.
    address: usize,
    name: String,
    system: String,
    timeline: i64,
}

impl Link {
    /// How it was reached.
    pub(crate) fn options(&self) -> &PgConnectOptions {
        &self.options
    }
}

/// Where the reader is, and so the pool.
#[derive(Clone, Debug)]
pub(crate) struct PrimaryLocation {
    pub(crate) options: PgConnectOptions,
    pub(crate) session: Session,
    /// As `warden.epoch()` tells it.
    epoch: String,
    address: usize,
    system: String,
    timeline: i64,
    /// Connections of before lead elsewhere.
    since: Instant,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Primary {
    addresses: Addresses,
    pool: PgPool,
    place: watch::Sender<Option<PrimaryLocation>>,
}

impl Primary {
    /// The primary among these addresses. Nothing connects before the first [`Primary::connect`].
    #[must_use]
    pub fn new(addresses: Addresses) -> Arc<Self> {
        let place = watch::Sender::new(None);
        let first = addresses.0[0].options.clone();
        let pool = follow_with_pool(place.subscribe()).connect_lazy_with(first);
        Arc::new(Self { addresses, pool, place })
    }

    /// Connections to the primary that the reader follows, as the gateway's role.
    ///
    /// Through a proxy that pools by the transaction a connection that is taken here is within one, which is
    /// committed when it is given back; whoever begins another within it has a savepoint.
    #[must_use]
    pub fn pool(&self) -> PgPool {
        self.pool.clone()
    }

    /// Where the reader is; none before it has connected for the first time.
    pub(crate) fn place(&self) -> watch::Receiver<Option<PrimaryLocation>> {
        self.place.subscribe()
    }

    /// Finds the primary.
    pub(crate) async fn connect(&self) -> Result<Link, NoPrimary> {
        let known = self.place.borrow().clone();
        self.addresses.connect(known.as_ref()).await
    }

    /// From now on the pool leads where this connection does, and to this epoch alone.
    pub(crate) fn follow(&self, link: &Link, epoch: &str) {
        let is_there = self.place.borrow().as_ref().is_some_and(|place| {
            place.address == link.address && place.epoch == epoch && place.session == link.session
        });
        if is_there {
            return;
        }
        if self.addresses.0.len() > 1 {
            tracing::info!(address = link.name, timeline = link.timeline, "this is the primary");
        }
        self.pool.set_connect_options(link.options.clone());
        self.place.send_replace(Some(PrimaryLocation {
            options: link.options.clone(),
            session: link.session,
            epoch: epoch.to_owned(),
            address: link.address,
            system: link.system.clone(),
            timeline: link.timeline,
            since: Instant::now(),
        }));
    }
}

impl Addresses {
    /// Asks all addresses at once, and takes the primary of the latest timeline (of the same cluster as before,
    /// where it is there); of equals the one that is known, else the first in the list. Never one of an
    /// earlier timeline than is known: that one should be off, and what it commits is lost.
    pub(crate) async fn connect(&self, known: Option<&PrimaryLocation>) -> Result<Link, NoPrimary> {
        let mut answers: FuturesUnordered<_> =
            self.0.iter().enumerate().map(|(n, address)| ask(n, address, known)).collect();
        let mut best: Option<Link> = None;
        let mut problems: Vec<(usize, String)> = Vec::new();
        let rank = |link: &Link| {
            let is_known = known.is_some_and(|known| known.address == link.address);
            let is_same = known.is_some_and(|known| known.system == link.system);
            (is_same, link.timeline, is_known, std::cmp::Reverse(link.address))
        };
        let rivals = tokio::time::sleep(ADDRESS_TIMEOUT * 2);
        tokio::pin!(rivals);
        loop {
            let answer = tokio::select! {
                answer = answers.next() => answer,
                () = &mut rivals => None,
            };
            match answer {
                Some(Ok(link)) => {
                    if best.is_none() {
                        rivals.as_mut().reset(tokio::time::Instant::now() + RIVAL_WAIT);
                    }
                    best = match best {
                        Some(best) if rank(&best) >= rank(&link) => Some(best),
                        _ => Some(link),
                    };
                }
                Some(Err(problem)) => problems.push(problem),
                None => break,
            }
        }
        best.ok_or_else(|| {
            problems.sort_unstable();
            let mut text = String::new();
            for (n, problem) in problems {
                let separator = if text.is_empty() { "" } else { "; " };
                // Writing to a String cannot fail.
                let _ = write!(text, "{separator}{}: {problem}", self.0[n].name);
            }
            NoPrimary(text)
        })
    }
}

/// Connects to one address; an error tells why there is no primary.
async fn ask(n: usize, address: &Address, known: Option<&PrimaryLocation>) -> Result<Link, (usize, String)> {
    match tokio::time::timeout(ADDRESS_TIMEOUT, try_ask(n, address)).await {
        Ok(Ok(Some(link))) => match known {
            Some(known) if link.system == known.system && link.timeline < known.timeline => Err((
                n,
                format!(
                    "is a former primary that still runs (timeline {}, where {} is known): shut it down, or, \
                     where it was restored on purpose, restart Warden",
                    link.timeline, known.timeline
                ),
            )),
            _ => Ok(link),
        },
        Ok(Ok(None)) => Err((n, "is a standby, whose snapshots omit what is in progress".to_owned())),
        Ok(Err(error)) => Err((n, describe(&error))),
        Err(_) => Err((n, format!("no answer within {} s", ADDRESS_TIMEOUT.as_secs()))),
    }
}

async fn try_ask(n: usize, address: &Address) -> Result<Option<Link>, sqlx::Error> {
    let opened = open(&address.options).await?;
    let mut connection = opened.connection;
    if opened.session == Session::Shared {
        begin_shared(&mut connection).await?;
    }
    let is_standby =
        sqlx::query_scalar!(r#"select pg_is_in_recovery() as "standby!""#).fetch_one(&mut connection).await?;
    if is_standby {
        connection.close().await?;
        return Ok(None);
    }
    let row = sqlx::query!(
        r#"select (select system_identifier::text from pg_control_system()) as "system!",
                  ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint as "timeline!""#
    )
    .fetch_one(&mut connection)
    .await?;
    if opened.session == Session::Shared {
        commit_shared(&mut connection).await?;
    }
    Ok(Some(Link {
        connection,
        session: opened.session,
        options: opened.options,
        address: n,
        name: address.name.clone(),
        system: row.system,
        timeline: row.timeline,
    }))
}

/// In the words of the server, or of the network.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connection refused".to_owned()
        }
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    }
}

fn follow_with_pool(place: watch::Receiver<Option<PrimaryLocation>>) -> PgPoolOptions {
    let (of_new, of_idle, of_used) = (place.clone(), place.clone(), place);
    let has_said = Arc::new(AtomicBool::new(false));
    PgPoolOptions::new()
        .max_connections(POOL_CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // What is asked below tells as much.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let (place, has_said) = (of_new.borrow().clone(), Arc::clone(&has_said));
            Box::pin(async move {
                let admitted = admit_new(connection, place).await;
                match &admitted {
                    Ok(()) => has_said.store(false, Ordering::Relaxed),
                    // It is tried again and again while somebody waits. sqlx reports each as an error, which
                    // `telemetry` leaves out.
                    Err(error) if !has_said.swap(true, Ordering::Relaxed) => tracing::warn!(
                        %error,
                        "look-ups and replays have no connection: the server at the address that the reader \
                         followed last refuses, or is not what it was; they wait until the reader has found the \
                         primary"
                    ),
                    Err(_) => {}
                }
                admitted
            })
        })
        .before_acquire(move |connection, meta| {
            let place = of_idle.borrow().clone();
            Box::pin(async move {
                match place {
                    // One of a shared session serves once.
                    Some(place) if place.session == Session::Own && meta.age < place.since.elapsed() => {
                        // One that has died while it was idle is nothing to report.
                        Ok(admits(connection, &place).await.unwrap_or(false))
                    }
                    _ => Ok(false),
                }
            })
        })
        .after_release(move |connection, _| {
            let is_shared = of_used.borrow().as_ref().is_some_and(|place| place.session == Session::Shared);
            Box::pin(bounded(async move {
                if is_shared {
                    commit_shared(connection).await?;
                } else {
                    connection.ping().await?;
                }
                Ok(!is_shared)
            }))
        })
}

/// Prepares a new connection, if it may be used.
async fn admit_new(connection: &mut PgConnection, place: Option<PrimaryLocation>) -> Result<(), sqlx::Error> {
    let Some(place) = place else { return Err(elsewhere()) };
    if place.session == Session::Own {
        assume_gateway_role(connection, false).await?;
        set_lock_timeout(connection, false).await?;
    }
    if admits(connection, &place).await? { Ok(()) } else { Err(elsewhere()) }
}

/// Whether the connection leads to a primary of the history that the reader follows. A shared session is
/// this connection's from here on.
async fn admits(connection: &mut PgConnection, place: &PrimaryLocation) -> Result<bool, sqlx::Error> {
    bounded(async {
        if place.session == Session::Shared {
            begin_shared_once(connection).await?;
            assume_gateway_role(connection, true).await?;
            set_lock_timeout(connection, true).await?;
        }
        let epoch = sqlx::query_scalar!("select case when not pg_is_in_recovery() then warden.epoch() end")
            .fetch_one(connection)
            .await?;
        Ok(epoch.as_ref() == Some(&place.epoch))
    })
    .await
}

async fn set_lock_timeout(connection: &mut PgConnection, is_local: bool) -> Result<(), sqlx::Error> {
    sqlx::query!("select set_config('lock_timeout', $1, $2)", LOCK_TIMEOUT, is_local)
        .fetch_one(connection)
        .await
        .map(|_| ())
}

async fn bounded<T>(check: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(CHECK_TIMEOUT, check).await {
        Ok(result) => result,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

fn elsewhere() -> sqlx::Error {
    sqlx::Error::Configuration("this server is not the primary that the reader follows".into())
}
