//! Everything that talks to the database: the primary and the pool that follows it, the log tailer and its
//! doorbell, replay, retention, the check of the watches, and the control state.

use std::sync::Arc;

use futures_util::FutureExt as _;
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Limits;
use crate::control::{CursorKeys, Directory, FilteredTables, Reconciler, Revocations};
use crate::hub::{FanoutSender, Hub};
use crate::log::{Doorbell, TailerState};
use crate::metrics::Metrics;
use crate::postgres::{Addresses, Primary};
use crate::publish::Publisher;
use crate::reading::{Reader, ReaderPools};
use crate::replay::{RecentEvents, Replay};
use crate::retention::Retention;
use crate::service::Services;
use crate::tailer::{Dispatcher, LogTailer};
use crate::watch_check::WatchCheck;

/// Receivers of the log's events.
pub(super) struct Upstream {
    pub(super) hub: Arc<Hub>,
    pub(super) fanout: FanoutSender,
    pub(super) metrics: Arc<Metrics>,
}

/// Handles to the services that use the database.
pub(super) struct DatabaseSide {
    pub(super) directory: Arc<Directory>,
    pub(super) revocations: Arc<Revocations>,
    pub(super) cursor_keys: Arc<CursorKeys>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) reader: Arc<Reader>,
    pub(super) replay: Arc<Replay>,
    pub(super) tailer: watch::Receiver<TailerState>,
    pub(super) retention_late: watch::Receiver<Option<Instant>>,
    pub(super) unfit_watches: watch::Receiver<Vec<String>>,
    pub(super) doorbell_flooded: watch::Receiver<Option<Instant>>,
}

impl DatabaseSide {
    /// Starts the services. None of them waits here for a connection.
    pub(super) fn start(
        addresses: Addresses,
        upstream: Upstream,
        limits: &Limits,
        services: &Services,
    ) -> std::io::Result<Self> {
        let primary = Primary::new(addresses);
        let pool = primary.pool();
        let metrics = Arc::clone(&upstream.metrics);
        let control = Control::start(&pool, &upstream, limits, services);

        let (ring, jobs) = (control.cursor_keys.ring(), services.jobs());
        let publisher = Publisher::new(Arc::clone(&primary), Arc::clone(&ring), jobs.clone(), limits.publish);
        let pools = ReaderPools { rows: primary.read_pool(), descriptions: pool.clone() };
        let checks = Arc::clone(upstream.hub.table_checks());
        let reader = Reader::new(pools, checks, ring, jobs, limits.reading, Arc::clone(&metrics));
        let recent = Arc::new(RecentEvents::new(limits.recent));
        let doorbell = Doorbell::new(Arc::clone(&primary), limits.doorbell);
        let signal = doorbell.signal();
        let dispatcher = Dispatcher {
            hub: upstream.hub,
            fanout: upstream.fanout,
            directory: Arc::clone(&control.directory),
            revocations: Arc::clone(&control.revocations),
            cursor_keys: Arc::clone(&control.cursor_keys),
            filtered_tables: control.filtered_tables,
            reconciler: control.reconciler,
            recent: Arc::clone(&recent),
            metrics: Arc::clone(&metrics),
        };
        let tailer = LogTailer::new(primary, Arc::clone(&signal), dispatcher, limits.tailer);
        let (state, progress) = (tailer.state(), tailer.progress());
        let doorbell_flooded = tailer.flooded_since();
        // On one runtime of their own: from the notification to the socket of a small organisation no other
        // thread has to be woken, and no session's task runs before the tailer's.
        services
            .spawn_on_own_runtime([("doorbell", doorbell.run().boxed()), ("tailer", tailer.run().boxed())])?;

        let replay = Replay::new(pool.clone(), recent, signal, progress, Arc::clone(&metrics), limits.replay);
        let replay = Arc::new(replay);
        for _ in 0..limits.replay.concurrent_reads_max {
            services.spawn("replay", Arc::clone(&replay).run());
        }
        let watch_check = WatchCheck::new(pool.clone(), Arc::clone(&metrics), limits.watch_check);
        let unfit_watches = watch_check.unfit();
        services.spawn("watch_check", watch_check.run(state.clone()));
        let retention = Retention::new(pool, metrics, limits.retention);
        let retention_late = retention.late_since();
        services.spawn("retention", retention.run(state.clone()));
        Ok(Self {
            directory: control.directory,
            revocations: control.revocations,
            cursor_keys: control.cursor_keys,
            publisher: Arc::new(publisher),
            reader: Arc::new(reader),
            replay,
            tailer: state,
            retention_late,
            unfit_watches,
            doorbell_flooded,
        })
    }
}

/// In-memory control state, which the tailer keeps current.
struct Control {
    directory: Arc<Directory>,
    revocations: Arc<Revocations>,
    cursor_keys: Arc<CursorKeys>,
    filtered_tables: Arc<FilteredTables>,
    reconciler: Arc<Reconciler>,
}

impl Control {
    fn start(pool: &PgPool, upstream: &Upstream, limits: &Limits, services: &Services) -> Self {
        let Upstream { hub, metrics, .. } = upstream;
        let directory = Directory::new(pool.clone(), limits.look_up_timeout, Arc::clone(metrics));
        let directory = Arc::new(directory);
        let revocations =
            Revocations::new(pool.clone(), Arc::clone(hub), Arc::clone(metrics), limits.revocations);
        let revocations = Arc::new(revocations);
        let reconciler = Reconciler::new(
            pool.clone(),
            Arc::clone(hub),
            Arc::clone(&directory),
            Arc::clone(metrics),
            limits.reconciler,
        );
        let reconciler = Arc::new(reconciler);
        let cursor_keys = Arc::new(CursorKeys::new(pool.clone(), limits.cursor_keys));
        services.spawn("cursor_keys", Arc::clone(&cursor_keys).run());
        services.spawn("revocations", Arc::clone(&revocations).run());
        services.spawn("reconciler", Arc::clone(&reconciler).run());
        let filtered_tables = FilteredTables::new(pool.clone(), Arc::clone(hub), limits.look_up_timeout);
        let filtered_tables = Arc::new(filtered_tables);
        // Changes of rights reach filters when they reach the check of the watches.
        let interval = limits.watch_check.interval;
        services.spawn("filtered_tables", Arc::clone(&filtered_tables).run(interval));
        Self { directory, revocations, cursor_keys, filtered_tables, reconciler }
    }
}
