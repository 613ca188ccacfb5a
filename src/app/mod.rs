//! The composition root: builds one gateway from its configuration, starts it, and stops it.
//!
//! `warden serve`, `warden dev` and the tests all call [`Gateway::start`]. There are no globals, so several
//! gateways can run in one process. This module wires parts together and must not contain any rule of its
//! own.

mod database;
mod drain;
mod fanout;
mod front;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::audit_trail::LogShares;
use crate::auth::Verifier;
use crate::config::{Config, DrainLimits};
use crate::hub::Hub;
use crate::log::TailerState;
use crate::metrics::Metrics;
use crate::service::Services;
use crate::session;
use database::{DatabaseSide, Upstream};
use front::{Front, FrontConfig, Listeners};

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    front: Front,
    services: Services,
    tailer: watch::Receiver<TailerState>,
    metrics: Arc<Metrics>,
    hub: Arc<Hub>,
    drain: DrainLimits,
    drain_timeout: Duration,
}

impl Gateway {
    /// Binds the listeners and starts every service. The database may still be unreachable: `readyz` shows
    /// that.
    ///
    /// # Errors
    /// When an address cannot be bound, the certificate cannot be used, or the system's root certificates are
    /// needed and cannot be read.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let listeners = Listeners::bind(&config).await?;
        let limits = config.limits;
        let metrics = Arc::new(Metrics::default());
        for (name, value) in limits.by_metric_label() {
            metrics.set_limit(name, value);
        }
        let hub = Arc::new(Hub::new(limits.outbox));
        let verifier =
            Arc::new(Verifier::new(&config.verifier, limits.keys, limits.token_bytes_max, &metrics)?);

        let services = Services::new();
        let fanout = fanout::start(&services, &hub, &metrics, limits.fanout);
        let questions = fanout.questions();
        services.spawn("questions", questions.clone().run());
        let upstream = Upstream { hub: Arc::clone(&hub), fanout, metrics: Arc::clone(&metrics) };
        let database = DatabaseSide::start(config.database, upstream, &limits, &services)?;
        for fetcher in verifier.key_fetchers() {
            services.spawn("key_fetcher", fetcher);
        }
        let tailer = database.tailer.clone();
        let shared = Arc::new(session::SessionContext {
            hub: Arc::clone(&hub),
            questions,
            directory: Arc::clone(&database.directory),
            revocations: Arc::clone(&database.revocations),
            cursor_keys: Arc::clone(&database.cursor_keys),
            replay: Arc::clone(&database.replay),
            reader: Arc::clone(&database.reader),
            verifier,
            topic_policy: session::TopicPolicy::new(config.topics_need_claim),
            log_shares: LogShares::default(),
            org_rates: session::OrgRates::default(),
            metrics: Arc::clone(&metrics),
            limits: limits.session,
        });
        let front_config =
            FrontConfig { allowed_origins: config.allowed_origins, edge: config.edge, limits: &limits };
        let front = Front::start(listeners, front_config, &shared, &database, &services);
        tracing::info!(listen = %front.public_addr, admin_listen = %front.admin_addr, "the gateway is up");
        Ok(Self {
            front,
            services,
            tailer,
            metrics,
            hub,
            drain: limits.drain,
            drain_timeout: limits.drain_timeout,
        })
    }

    /// Address of the public listener.
    #[must_use]
    pub fn public_addr(&self) -> SocketAddr {
        self.front.public_addr
    }

    /// Address of the admin listener.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.front.admin_addr
    }

    /// State of the log tailer: whether the node follows the log.
    #[must_use]
    pub fn reader(&self) -> watch::Receiver<TailerState> {
        self.tailer.clone()
    }

    /// Counters and gauges of this gateway.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Subscriptions and outboxes of the open sessions.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Shuts the gateway down: `readyz` fails, no new session is accepted, and open sessions are closed over
    /// the drain window. The services end when the sessions have ended, or at the drain timeout.
    pub async fn stop(self) {
        tracing::info!(sessions = self.hub.session_count(), "shutting down");
        self.front.stop_accepting();
        let front = async {
            drain::close_over_window(&self.hub, self.drain).await;
            self.front.end_sessions(&self.hub);
            self.front.wait().await;
        };
        if tokio::time::timeout(self.drain_timeout, front).await.is_err() {
            tracing::warn!(
                sessions = self.hub.session_count(),
                "shutdown deadline reached: remaining sessions are dropped"
            );
        }
        self.front.end_sessions(&self.hub);
        self.services.stop().await;
        tracing::info!("the gateway is down");
    }
}
