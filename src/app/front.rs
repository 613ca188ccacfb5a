//! The side that clients see: listeners, TLS, admission, routes, and the tasks of the sessions.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::database::DatabaseSide;
use super::drain;
use crate::config::{Config, Edge, Limits};
use crate::http::{
    self, AdminHosts, Admission, Gatekeeper, Health, Listening, MetricsPage, Proxies, Publishing, Rows,
    Sessions, Tls,
};
use crate::hub::Hub;
use crate::service::Services;
use crate::session;

/// Listeners that are bound and do not accept yet, with the certificate of the public one.
pub(super) struct Listeners {
    public: TcpListener,
    admin: TcpListener,
    public_addr: SocketAddr,
    admin_addr: SocketAddr,
    tls: Option<Arc<Tls>>,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Self> {
        let public = bind(config.listen, "WARDEN_LISTEN").await?;
        let admin = bind(config.admin_listen, "WARDEN_ADMIN_LISTEN").await?;
        let (public_addr, admin_addr) = (public.local_addr()?, admin.local_addr()?);
        let tls = config.edge.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
        Ok(Self { public, admin, public_addr, admin_addr, tls })
    }
}

async fn bind(addr: SocketAddr, variable: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("cannot listen on {addr}: is something else running there? Set {variable}"))
}

/// Configuration of the front.
pub(super) struct FrontConfig<'a> {
    pub(super) allowed_origins: Vec<String>,
    pub(super) edge: Edge,
    pub(super) limits: &'a Limits,
}

/// The running front.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) public_addr: SocketAddr,
    pub(super) admin_addr: SocketAddr,
    /// Cancelled first: `readyz` fails, and the public listener closes.
    draining: CancellationToken,
    /// Cancelled after the drain: the remaining sessions end at once, and the admin listener closes.
    shutdown: CancellationToken,
    sessions: TaskTracker,
    listeners: TaskTracker,
}

impl Front {
    /// Starts accepting on both listeners.
    pub(super) fn start(
        listeners: Listeners,
        config: FrontConfig<'_>,
        shared: &Arc<session::SessionContext>,
        database: &DatabaseSide,
        services: &Services,
    ) -> Self {
        let FrontConfig { allowed_origins, edge, limits } = config;
        let metrics = &shared.metrics;
        let front = Self {
            public_addr: listeners.public_addr,
            admin_addr: listeners.admin_addr,
            draining: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            sessions: TaskTracker::new(),
            listeners: TaskTracker::new(),
        };
        if let Some(tls) = &listeners.tls {
            services.spawn("certificate", Arc::clone(tls).keep_current(limits.tls_reload_interval));
        }
        let admission = |proxies| Arc::new(Admission::new(limits.admission, proxies, Arc::clone(metrics)));
        let (admission, admin_admission) = (admission(edge.proxies), admission(Proxies::default()));
        let gatekeeper = Gatekeeper {
            admission: Arc::clone(&admission),
            verifier: Arc::clone(&shared.verifier),
            revocations: Arc::clone(&shared.revocations),
            directory: Arc::clone(&shared.directory),
            hub: Arc::clone(&shared.hub),
            metrics: Arc::clone(metrics),
            allowed_origins: allowed_origins.into(),
            auth_cookie: edge.auth_cookie,
            timeout: limits.serve.header_timeout,
            draining: front.draining.clone(),
        };
        let (public_routes, admin_routes) = front.routes(gatekeeper, edge.admin_hosts, shared, database);
        let listening =
            Listening { admission, tls: listeners.tls, limits: limits.serve, metrics: Arc::clone(metrics) };
        let admin_listening = Listening { admission: admin_admission, tls: None, ..listening.clone() };
        let public = http::serve(listeners.public, public_routes, listening, front.draining.clone());
        let admin = http::serve(listeners.admin, admin_routes, admin_listening, front.shutdown.clone());
        front.listeners.spawn(public);
        front.listeners.spawn(admin);
        front
    }

    /// Routes of the public and of the admin listener.
    fn routes(
        &self,
        gatekeeper: Gatekeeper,
        admin_hosts: AdminHosts,
        shared: &Arc<session::SessionContext>,
        database: &DatabaseSide,
    ) -> (Router, Router) {
        let health = Health {
            tailer: database.tailer.clone(),
            retention_late: database.retention_late.clone(),
            unfit_watches: database.unfit_watches.clone(),
            doorbell_flooded: database.doorbell_flooded.clone(),
            verifier: Arc::clone(&shared.verifier),
            draining: self.draining.clone(),
        };
        let metrics_page = MetricsPage {
            metrics: Arc::clone(&shared.metrics),
            admission: Arc::clone(&gatekeeper.admission),
            tailer: database.tailer.clone(),
        };
        let sessions = Sessions {
            shared: Arc::clone(shared),
            tasks: self.sessions.clone(),
            shutdown: self.shutdown.clone(),
        };
        let gatekeeper = Arc::new(gatekeeper);
        let publishing =
            Publishing { gatekeeper: Arc::clone(&gatekeeper), publisher: Arc::clone(&database.publisher) };
        let rows = Rows { gatekeeper, sessions: Arc::clone(shared), reader: Arc::clone(&database.reader) };
        let public = http::public(publishing, rows, sessions, health.clone());
        (public, http::admin(health, metrics_page, admin_hosts))
    }

    /// Closes the public listener and fails `readyz`. Open sessions go on.
    pub(super) fn stop_accepting(&self) {
        self.draining.cancel();
        self.listeners.close();
    }

    /// Closes the admin listener and every open session. A session that begins later finds `shutdown`
    /// cancelled.
    pub(super) fn end_sessions(&self, hub: &Hub) {
        self.shutdown.cancel();
        drain::close_all(hub);
    }

    /// Waits until every session and both listeners have ended.
    pub(super) async fn wait(&self) {
        self.sessions.close();
        self.sessions.wait().await;
        self.listeners.wait().await;
    }
}
