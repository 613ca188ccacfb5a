//! The composition root: everything that makes up one gateway, started and ended together.
//!
//! Tests and `warden dev` call the same [`Gateway::start`] as `warden serve`. There are no globals: several
//! gateways can run in one process.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Verifier;
use crate::config::Config;
use crate::events::{Directory, Doorbell, ReaderState, Recent, Replay, Source};
use crate::http::{self, HttpState};
use crate::hub::{Batch, Fanout, Hub};
use crate::metrics::Metrics;
use crate::{postgres, session};

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    public_addr: SocketAddr,
    admin_addr: SocketAddr,
    reader: watch::Receiver<ReaderState>,
    metrics: Arc<Metrics>,
    hub: Arc<Hub>,
    /// Cancelled first: listeners and sessions end.
    front: CancellationToken,
    /// Cancelled when the front is down: reader and fan-out end.
    back: CancellationToken,
    sessions: TaskTracker,
    listeners: TaskTracker,
    background: TaskTracker,
    drain_timeout: std::time::Duration,
}

impl Gateway {
    /// Binds the listeners and starts every task. The database need not be there yet: `readyz` tells.
    ///
    /// # Errors
    /// When an address can't be bound.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let public = bind(config.listen, "WARDEN_LISTEN").await?;
        let admin = bind(config.admin_listen, "WARDEN_ADMIN_LISTEN").await?;
        let (public_addr, admin_addr) = (public.local_addr()?, admin.local_addr()?);
        let limits = config.limits;

        let pool = postgres::gateway_pool(config.database.clone());
        let metrics = Arc::new(Metrics::default());
        let hub = Arc::new(Hub::new(limits.outbox));
        let directory = Arc::new(Directory::new(pool.clone(), Arc::clone(&metrics)));
        let (state, reader) = watch::channel(ReaderState::Starting);
        let (batches, received) = mpsc::channel(limits.batches_max);
        let (front, back) = (CancellationToken::new(), CancellationToken::new());
        let (sessions, listeners, background) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());

        let recent = Arc::new(Recent::new(limits.recent));
        let (looks, looked) = watch::channel(0);
        let doorbell = Doorbell::new(pool.clone());
        let replay = Replay::new(
            pool,
            Arc::clone(&recent),
            doorbell.ring(),
            looked,
            Arc::clone(&metrics),
            limits.replay,
        );
        let source = Source {
            options: config.database,
            ring: doorbell.ring(),
            hub: Arc::clone(&hub),
            directory: Arc::clone(&directory),
            recent,
            looks,
            batches,
            state,
            metrics: Arc::clone(&metrics),
            limits: limits.reader,
        };
        background.spawn(doorbell.run(back.clone()));
        background.spawn(source.run(back.clone()));
        background.spawn(fan_out(Fanout::new(Arc::clone(&hub)), received, Arc::clone(&metrics)));

        let http_state = HttpState {
            shared: Arc::new(session::Shared {
                hub: Arc::clone(&hub),
                directory,
                replay,
                verifier: Arc::new(Verifier::new(&config.verifier)),
                metrics: Arc::clone(&metrics),
                limits: limits.session,
            }),
            allowed_origins: config.allowed_origins.into(),
            reader: reader.clone(),
            sessions: sessions.clone(),
            shutdown: front.clone(),
        };
        let routes = http::public(http_state.clone());
        listeners.spawn(http::serve(public, routes, limits.serve, front.clone()));
        listeners.spawn(http::serve(admin, http::admin(http_state), limits.serve, front.clone()));
        tracing::info!(listen = %public_addr, admin_listen = %admin_addr, "the gateway is up");
        let drain_timeout = limits.drain_timeout;
        Ok(Self {
            public_addr,
            admin_addr,
            reader,
            metrics,
            hub,
            front,
            back,
            sessions,
            listeners,
            background,
            drain_timeout,
        })
    }

    /// Where the public listener is bound.
    #[must_use]
    pub fn public_addr(&self) -> SocketAddr {
        self.public_addr
    }

    /// Where the admin listener is bound.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Whether the node follows the log.
    #[must_use]
    pub fn reader(&self) -> watch::Receiver<ReaderState> {
        self.reader.clone()
    }

    /// Counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Who listens.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Ends the gateway: no new connections, a Close with 1012 to every session, and when they are
    /// gone (or their time is up) everything else.
    pub async fn stop(self) {
        tracing::info!(sessions = self.hub.session_count(), "shutting down");
        self.front.cancel();
        self.listeners.close();
        self.sessions.close();
        let front = async {
            self.listeners.wait().await;
            self.sessions.wait().await;
        };
        if tokio::time::timeout(self.drain_timeout, front).await.is_err() {
            tracing::warn!(sessions = self.hub.session_count(), "sessions left at the deadline are dropped");
        }
        self.back.cancel();
        self.background.close();
        self.background.wait().await;
        tracing::info!("the gateway is down");
    }
}

async fn bind(addr: SocketAddr, variable: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("cannot listen on {addr}: is something else running there? Set {variable}"))
}

/// Drives the fan-out: a slice, a yield, so that reading, joining and draining go on between.
/// Ends when the reader has.
async fn fan_out(mut fanout: Fanout, mut batches: mpsc::Receiver<Batch>, metrics: Arc<Metrics>) {
    while let Some(batch) = batches.recv().await {
        fanout.push(batch);
        while !fanout.is_idle() {
            fanout.step();
            tokio::task::yield_now().await;
            while let Ok(batch) = batches.try_recv() {
                fanout.push(batch);
            }
        }
        let counts = fanout.take_counts();
        metrics.deliveries.inc_by(counts.deliveries);
        metrics.direct_writes.inc_by(counts.direct_writes);
        metrics.queued_writes.inc_by(counts.queued_writes);
    }
}
