//! The primary among the configured addresses, and the gateway's pool, which follows it.
//!
//! The tailer leads. It finds the primary and publishes its location. The pool only hands out connections to
//! a primary with the tailer's epoch, so neither a standby nor a former primary ever answers in place of the
//! primary. Warden does not fence former primaries; docs/operations.md lists the consequences.
//!
//! - `discovery` finds the primary.
//! - `pool` checks each connection of the pool.

mod discovery;
mod pool;

use std::sync::Arc;
use std::time::Instant;

use sqlx::postgres::{PgConnection, PgPool};
use tokio::sync::watch;
use warden_connect::Link;

use super::address::Addresses;
use super::backend_mode::{self, BackendMode, commit_pooled};
use super::user;
pub use discovery::NoPrimary;
pub(crate) use discovery::{ADDRESS_TIMEOUT, RIVAL_WAIT, describe, no_answer};
pub(crate) use pool::{
    ACQUIRE_TIMEOUT, CHECK_TIMEOUT, CONNECTIONS_MAX, LOCK_TIMEOUT, PUBLISH_CONNECTIONS_MAX,
    READ_CONNECTIONS_MAX,
};

/// An open connection to the primary.
#[derive(Debug)]
pub(crate) struct PrimaryConnection {
    pub(crate) connection: PgConnection,
    pub(crate) mode: BackendMode,
    link: Link,
    /// Index of the address in `DATABASE_URL`.
    address: usize,
    name: String,
    system: String,
    timeline: i64,
}

impl PrimaryConnection {
    /// Options for further connections to the same server.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }
}

/// Location of the primary that the tailer and the pool follow.
#[derive(Clone, Debug)]
pub(crate) struct PrimaryLocation {
    pub(crate) link: Link,
    pub(crate) mode: BackendMode,
    /// Value of `warden.epoch()`.
    epoch: String,
    address: usize,
    system: String,
    timeline: i64,
    /// When the tailer moved here. Older connections lead to another location.
    since: Instant,
}

/// The primary and the pools that follow it.
#[derive(Debug)]
pub struct Primary {
    addresses: Addresses,
    pool: PgPool,
    publish_pool: PgPool,
    read_pool: PgPool,
    location: watch::Sender<Option<PrimaryLocation>>,
}

impl Primary {
    /// Creates the handle. Nothing connects before the tailer does.
    #[must_use]
    pub fn new(addresses: Addresses) -> Arc<Self> {
        let location = watch::Sender::new(None);
        let pool = |connections_max, begin| {
            let options = pool::options(&location.subscribe(), connections_max, begin);
            options.connect_lazy_with(addresses.0[0].options())
        };
        let publish_pool = pool(PUBLISH_CONNECTIONS_MAX, backend_mode::BEGIN);
        let read_pool = pool(READ_CONNECTIONS_MAX, user::BEGIN);
        let pool = pool(CONNECTIONS_MAX, backend_mode::BEGIN);
        Arc::new(Self { addresses, pool, publish_pool, read_pool, location })
    }

    /// Pool of connections to the primary, as the gateway's role.
    ///
    /// Through a pooler in transaction mode, a connection is inside a transaction while a caller holds it.
    /// The pool commits when the caller returns the connection. A caller's own transaction becomes a
    /// savepoint.
    #[must_use]
    pub fn pool(&self) -> PgPool {
        self.pool.clone()
    }

    /// Pool of the connections that publish for back ends. It is like [`Self::pool`].
    #[must_use]
    pub(crate) fn publish_pool(&self) -> PgPool {
        self.publish_pool.clone()
    }

    /// Commits what a connection of a pool has written, for a caller that must not answer before.
    pub(crate) async fn commit(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let is_pooled = self.location.borrow().as_ref().is_some_and(|at| at.mode == BackendMode::Pooled);
        // A statement on a session of one's own has been committed already.
        if is_pooled { commit_pooled(connection).await } else { Ok(()) }
    }

    /// Pool of the connections that read rows for users. It is like [`Self::pool`], but the transaction of a
    /// pooled session sees one snapshot and changes nothing.
    #[must_use]
    pub(crate) fn read_pool(&self) -> PgPool {
        self.read_pool.clone()
    }

    /// Location of the primary; `None` until the tailer has connected for the first time.
    pub(crate) fn location(&self) -> watch::Receiver<Option<PrimaryLocation>> {
        self.location.subscribe()
    }

    /// Finds the primary and connects to it.
    pub(crate) async fn connect(&self) -> Result<PrimaryConnection, NoPrimary> {
        let known = self.location.borrow().clone();
        self.addresses.connect(known.as_ref()).await
    }

    /// Leads the pools to the server of this connection, and to this epoch alone.
    pub(crate) fn follow(&self, primary: &PrimaryConnection, epoch: &str) {
        let is_unchanged = self.location.borrow().as_ref().is_some_and(|known| {
            known.address == primary.address && known.epoch == epoch && known.mode == primary.mode
        });
        if is_unchanged {
            return;
        }
        if self.addresses.0.len() > 1 {
            tracing::info!(address = primary.name, timeline = primary.timeline, "primary found");
        }
        for pool in [&self.pool, &self.publish_pool, &self.read_pool] {
            pool.set_connect_options(primary.link.lasting().clone());
        }
        self.location.send_replace(Some(PrimaryLocation {
            link: primary.link.clone(),
            mode: primary.mode,
            epoch: epoch.to_owned(),
            address: primary.address,
            system: primary.system.clone(),
            timeline: primary.timeline,
            since: Instant::now(),
        }));
    }
}
