//! The composition root: everything that makes up one gateway, started and ended together.
//!
//! Tests and `warden dev` call the same [`Gateway::start`] as `warden serve`. There are no globals: several
//! gateways can run in one process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::auth::Verifier;
use crate::config::{Config, DrainLimits};
use crate::control::{Directory, Reconciler, Revocations};
use crate::http::{self, Admission, HttpState, Listening, Proxies, Tls};
use crate::hub::{Hub, fanout};
use crate::log::{Doorbell, TailerState};
use crate::metrics::Metrics;
use crate::replay::{RecentEvents, Replay};
use crate::retention::Retention;
use crate::tailer::{Dispatcher, LogTailer};
use crate::wire::CloseCode;
use crate::{postgres, session};

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    public_addr: SocketAddr,
    admin_addr: SocketAddr,
    reader: watch::Receiver<TailerState>,
    metrics: Arc<Metrics>,
    hub: Arc<Hub>,
    /// Cancelled first: readiness turns, and nobody new is let in.
    draining: CancellationToken,
    /// Cancelled when the sessions were closed: those that are left end at once, and the admin listener.
    front: CancellationToken,
    /// Cancelled when the front is down: reader and fan-out end.
    back: CancellationToken,
    /// Where nobody stops the gateway, as when a test fails: the threads end all the same, and a runtime that waits for
    /// them does.
    _abandoned: DropGuard,
    sessions: TaskTracker,
    listeners: TaskTracker,
    background: TaskTracker,
    drain: DrainLimits,
    drain_timeout: Duration,
}

impl Gateway {
    /// Binds the listeners and starts every task. The database need not be there yet: `readyz` tells.
    ///
    /// # Errors
    /// When an address can't be bound, the certificate can't be used, or the system's certificates are needed and can't
    /// be read.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let public = bind(config.listen, "WARDEN_LISTEN").await?;
        let admin = bind(config.admin_listen, "WARDEN_ADMIN_LISTEN").await?;
        let (public_addr, admin_addr) = (public.local_addr()?, admin.local_addr()?);
        let limits = config.limits;

        let primary = postgres::Primary::new(config.database);
        let pool = primary.pool();
        let metrics = Arc::new(Metrics::default());
        for (name, value) in limits.named() {
            metrics.set_limit(name, value);
        }
        let admission = |proxies| Arc::new(Admission::new(limits.admission, proxies, Arc::clone(&metrics)));
        let (admission, admin_admission) = (admission(config.edge.proxies), admission(Proxies::default()));
        let tls = config.edge.tls.map(Tls::load).transpose()?.map(Arc::new);
        let hub = Arc::new(Hub::new(limits.outbox));
        let directory = Arc::new(Directory::new(pool.clone(), limits.look_up_timeout, Arc::clone(&metrics)));
        let revocations = Arc::new(Revocations::new(
            pool.clone(),
            Arc::clone(&hub),
            Arc::clone(&metrics),
            limits.revocations,
        ));
        let sweep = Arc::new(Reconciler::new(
            pool.clone(),
            Arc::clone(&hub),
            Arc::clone(&directory),
            Arc::clone(&metrics),
            limits.reconciler,
        ));
        let draining = CancellationToken::new();
        let (front, back) = (CancellationToken::new(), CancellationToken::new());
        let (sessions, listeners, background) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());

        let verifier = Arc::new(Verifier::new(&config.verifier, limits.keys, &metrics)?);
        let retention = Retention::new(pool.clone(), Arc::clone(&metrics), limits.retention);
        let retention_late = retention.late_since();
        let recent = Arc::new(RecentEvents::new(limits.recent));
        let doorbell = Doorbell::new(Arc::clone(&primary), limits.doorbell);
        let (feed, fanout) = fanout(Arc::clone(&hub), limits.fanout, Arc::clone(&metrics));
        let dispatcher = Dispatcher {
            hub: Arc::clone(&hub),
            fanout: feed,
            directory: Arc::clone(&directory),
            revocations: Arc::clone(&revocations),
            reconciler: Arc::clone(&sweep),
            recent: Arc::clone(&recent),
            metrics: Arc::clone(&metrics),
        };
        let tailer = LogTailer::new(primary, doorbell.signal(), dispatcher, limits.tailer);
        let reader = tailer.state();
        let replay = Arc::new(Replay::new(
            pool,
            recent,
            doorbell.signal(),
            tailer.progress(),
            Arc::clone(&metrics),
            limits.replay,
        ));
        for _ in 0..limits.replay.concurrent_reads_max {
            let (replay, cancel) = (Arc::clone(&replay), back.clone());
            background.spawn(async move { replay.run(cancel).await });
        }
        for _ in 0..helper_count() {
            background.spawn_blocking(fanout.helper());
        }
        // On a thread of its own: it never awaits, and on the runtime's it would wait for its turn behind the tasks of
        // thousands of sessions that have something to drain.
        background.spawn_blocking(move || fanout.run());
        background.spawn(Arc::clone(&verifier).run(back.clone()));
        background.spawn(Arc::clone(&revocations).run(back.clone()));
        background.spawn(sweep.run(back.clone()));
        background.spawn_blocking(follow_log(doorbell, tailer, back.clone())?);
        background.spawn(retention.run(reader.clone(), back.clone()));

        let http_state = HttpState {
            shared: Arc::new(session::SessionContext {
                hub: Arc::clone(&hub),
                directory,
                revocations,
                replay,
                verifier,
                topic_policy: session::TopicPolicy::new(config.topics_need_claim),
                metrics: Arc::clone(&metrics),
                limits: limits.session,
            }),
            allowed_origins: config.allowed_origins.into(),
            auth_cookie: config.edge.auth_cookie,
            admission: Arc::clone(&admission),
            handshake_timeout: limits.serve.header_timeout,
            reader: reader.clone(),
            retention_late,
            sessions: sessions.clone(),
            draining: draining.clone(),
            shutdown: front.clone(),
        };
        let routes = http::public(http_state.clone());
        if let Some(tls) = &tls {
            background.spawn(Arc::clone(tls).reload(limits.tls_reload_interval, back.clone()));
        }
        let listening = Listening { admission, tls, limits: limits.serve, metrics: Arc::clone(&metrics) };
        let admin_listening = Listening { admission: admin_admission, tls: None, ..listening.clone() };
        listeners.spawn(http::serve(public, routes, listening, draining.clone()));
        listeners.spawn(http::serve(admin, http::admin(http_state), admin_listening, front.clone()));
        tracing::info!(listen = %public_addr, admin_listen = %admin_addr, "the gateway is up");
        let (drain, drain_timeout) = (limits.drain, limits.drain_timeout);
        Ok(Self {
            public_addr,
            admin_addr,
            reader,
            metrics,
            hub,
            draining,
            front,
            _abandoned: back.clone().drop_guard(),
            back,
            sessions,
            listeners,
            background,
            drain,
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
    pub fn reader(&self) -> watch::Receiver<TailerState> {
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

    /// Ends the gateway: readiness turns, nobody new is let in, and sessions get a Close with 1012 one after
    /// the other, behind what was queued for them. When they are gone, or their time is up, everything
    /// else ends.
    pub async fn stop(self) {
        tracing::info!(sessions = self.hub.session_count(), "shutting down");
        self.draining.cancel();
        self.listeners.close();
        let front = async {
            self.close_sessions().await;
            self.end_front();
            self.sessions.close();
            self.sessions.wait().await;
            self.listeners.wait().await;
        };
        if tokio::time::timeout(self.drain_timeout, front).await.is_err() {
            tracing::warn!(sessions = self.hub.session_count(), "sessions left at the deadline are dropped");
        }
        self.end_front();
        self.back.cancel();
        self.background.close();
        self.background.wait().await;
        tracing::info!("the gateway is down");
    }

    /// Ends whoever came in during the last moment, and the admin listener. A session that begins later sees that
    /// the token is cancelled.
    fn end_front(&self) {
        self.front.cancel();
        for outbox in self.hub.outboxes() {
            outbox.close(CloseCode::RESTART);
        }
    }

    /// Evenly over the window, in random order: neighbours came together and would come back together.
    async fn close_sessions(&self) {
        let mut outboxes = self.hub.outboxes();
        fastrand::shuffle(&mut outboxes);
        let Ok(count) = u32::try_from(outboxes.len()) else { return };
        let quickest = Duration::from_secs(1) * count / self.drain.sessions_per_second_min.max(1);
        let window = self.drain.window.min(quickest);
        let started = Instant::now();
        for (n, outbox) in (0_u32..).zip(outboxes) {
            let due = started + window * n / count.max(1);
            // A timer has a grain of a millisecond: those that are due within it go together.
            if due > Instant::now() + DRAIN_TICK {
                tokio::time::sleep_until(due).await;
            }
            outbox.close(CloseCode::RESTART);
        }
    }
}

/// Sessions that are due within it are closed together.
const DRAIN_TICK: Duration = Duration::from_millis(5);

async fn bind(addr: SocketAddr, variable: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("cannot listen on {addr}: is something else running there? Set {variable}"))
}

/// What follows the log, on a thread of its own with a runtime of its own: from a ring to the sockets of a small
/// organisation no other thread has to wake up, and no task of a session stands before it.
fn follow_log(
    doorbell: Doorbell,
    tailer: LogTailer,
    cancel: CancellationToken,
) -> std::io::Result<impl FnOnce() + Send + 'static> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(move || {
        // As tasks: what wakes the future that a runtime blocks on goes by way of the kernel, also on the same thread.
        let doorbell = runtime.spawn(doorbell.run(cancel.clone()));
        let tailer = runtime.spawn(tailer.run(cancel));
        if let Err(error) = runtime.block_on(async { tokio::try_join!(doorbell, tailer) }) {
            tracing::error!(%error, "what follows the log has failed");
        }
    })
}

/// Threads that help with large sends, where there are cores for them beside those of fan-out and of everything else. On
/// two cores a helper brought no delivery more, and made small organisations wait (`benches/fairness.rs`: p99 of 9.5 ms
/// instead of 2.5).
fn helper_count() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores.saturating_sub(2) / 2).min(FANOUT_HELPERS_MAX)
}

/// Beyond it the kernel's own locks are what limits.
const FANOUT_HELPERS_MAX: usize = 3;
