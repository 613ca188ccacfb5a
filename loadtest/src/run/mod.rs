//! One run from beginning to end: organisations, sockets, changes, the wait for what is missing, and
//! the removal of the organisations, whatever happened between. It measures and judges nothing.

mod holders;
mod observed;
mod signals;
mod summary;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bench_support::database::{Database, Organisations};
use bench_support::endpoint::Endpoint;
use bench_support::token::TokenSettings;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use self::holders::Journal;
pub(crate) use self::observed::{Observed, Sample};
use self::signals::Signals;
use crate::args::{By, Common, Plan};
use crate::clock::{Nanos, nanos, now, until};
use crate::message::{Order, Task, Word};
use crate::process::Meter;
use crate::publisher::{Calls, Entities, Events, OpenCalls, Publish, Publisher, lock};
use crate::report::{Report, live};
use crate::spread;

/// Intervals of the report: short, but not more than the report can hold.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVALS: u32 = 600;
/// How long the first socket may take.
const FIRST_TIMEOUT: Duration = Duration::from_secs(20);
/// Tokens outlive the run by this.
const TOKEN_SPARE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(20);
/// For holders, after the last moment at which they wait for events.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(30);

/// What a run is about, for all who take part.
pub(crate) struct Scene {
    pub(crate) plan: Plan,
    pub(crate) run: String,
    pub(crate) gateways: Vec<Endpoint>,
    pub(crate) source_addresses: usize,
    pub(crate) processes: usize,
    pub(crate) began: String,
    pub(crate) observed: Mutex<Observed>,
}

/// Moments of a run, with what was used until then.
pub(crate) struct Marks {
    pub(crate) begin: Sample,
    /// All sockets that open first are open.
    pub(crate) open: Sample,
    /// The schedule's end, or the interruption.
    pub(crate) published: Sample,
    pub(crate) settled: Sample,
}

/// Runs the test. An error means that it could not be begun; what it found is in the report.
pub(crate) async fn run(plan: Plan) -> anyhow::Result<Report> {
    let mut gateways = Vec::new();
    for url in &plan.common.gateway.url {
        gateways.push(Endpoint::resolve(url).await?);
    }
    let database = Database::parse(&plan.common.changes.database_url, "warden-loadtest")?;
    let processes = holders::processes(plan.common.sockets.sockets, plan.common.sockets.processes)?;
    let signals = Signals::default();
    let mut watcher = JoinSet::new();
    watcher.spawn(signals.clone().watch());
    let run = format!("{:08x}", fastrand::u32(..));
    let orgs = Organisations::create(&database, &run, plan.common.sockets.orgs).await?;
    let result = test(plan, run, gateways, processes, &database, &orgs, &signals).await;
    if let Err(error) = orgs.remove().await {
        eprintln!("warden-loadtest: {error:#}");
    }
    result
}

/// Everything for which the organisations must exist.
async fn test(
    plan: Plan,
    run: String,
    gateways: Vec<Endpoint>,
    processes: usize,
    database: &Database,
    orgs: &Organisations,
    signals: &Signals,
) -> anyhow::Result<Report> {
    match plan.common.changes.by {
        By::Calls => {
            let open = Arc::new(OpenCalls::new(orgs.ids.len()));
            Calls::connect(database, &open).await?.rehearse(orgs.ids[0]).await?;
            let (scene, holders, journal) = set_scene(plan, run, gateways, processes, orgs).await?;
            let connect = async || Calls::connect(database, &open).await;
            perform(scene, holders, journal, database, orgs, signals, connect).await
        }
        By::Publish => {
            let entities = Arc::new(Entities::new(orgs.ids.len()));
            let padding = plan.common.changes.padding;
            Events::connect(database, &entities, padding).await?.rehearse(orgs.ids[0]).await?;
            // What was rehearsed is no event of an entity.
            let entities = Arc::new(Entities::new(orgs.ids.len()));
            let (scene, holders, journal) = set_scene(plan, run, gateways, processes, orgs).await?;
            let connect = async || Events::connect(database, &entities, padding).await;
            perform(scene, holders, journal, database, orgs, signals, connect).await
        }
    }
}

async fn set_scene(
    plan: Plan,
    run: String,
    gateways: Vec<Endpoint>,
    processes: usize,
    orgs: &Organisations,
) -> anyhow::Result<(Arc<Scene>, Vec<holders::Holder>, Journal)> {
    let Common { gateway, sockets, changes, .. } = &plan.common;
    let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
    let from = spread::addresses(&addresses, sockets.sockets, &sockets.bind);
    let seats = spread::seats(&sockets.skew.sizes(sockets.sockets, sockets.orgs), gateways.len(), &from);
    let ramp = Duration::from_secs_f64(sockets.sockets as f64 / sockets.connect_rate);
    let signing = TokenSettings {
        secret: gateway.jwt_secret.clone(),
        audience: gateway.jwt_audience.clone(),
        issuer: gateway.jwt_issuer.clone(),
        lifetime_seconds: (ramp + plan.timeline.duration + changes.settle + TOKEN_SPARE).as_secs(),
    };
    let interval = (plan.timeline.duration / INTERVALS).max(INTERVAL_MIN);
    let epoch = now();
    let task = |seats| Task {
        run: run.clone(),
        orgs: orgs.ids.clone(),
        gateways: gateways.clone(),
        topics: sockets.topics.clone(),
        seats,
        signing: signing.clone(),
        epoch,
        interval: nanos(interval),
        first_org_apart: plan.first_org_apart,
    };
    let (holders, journal) = holders::start(spread::shares(&seats, processes), task).await?;
    let server = servers(&plan.common.gateway.server_pid, &addresses)?;
    let own = holders.iter().filter_map(holders::Holder::pid).chain([std::process::id()]);
    let tester = own.filter_map(Meter::of_pid).collect();
    let observed = Mutex::new(Observed::new(epoch, interval, holders.len(), server, tester));
    let began = OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?;
    let source_addresses = from.len();
    let scene = Scene { plan, run, gateways, source_addresses, processes, began, observed };
    Ok((Arc::new(scene), holders, journal))
}

/// The processes to measure: those that are named, else those that listen.
fn servers(pids: &[u32], addresses: &[std::net::SocketAddr]) -> anyhow::Result<Vec<Meter>> {
    let named = |pid: &u32| {
        Meter::of_pid(*pid).with_context(|| format!("--server-pid {pid}: there is no such process here"))
    };
    if !pids.is_empty() {
        return pids.iter().map(named).collect();
    }
    let mut found: Vec<Meter> = Vec::new();
    for meter in addresses.iter().filter_map(|address| Meter::listening_on(*address)) {
        // Several addresses may be one process's.
        if found.iter().all(|known| known.pid() != meter.pid()) {
            found.push(meter);
        }
    }
    Ok(found)
}

async fn perform<P: Publish + 'static>(
    scene: Arc<Scene>,
    holders: Vec<holders::Holder>,
    journal: Journal,
    database: &Database,
    orgs: &Organisations,
    signals: &Signals,
    connect: impl AsyncFn() -> anyhow::Result<P>,
) -> anyhow::Result<Report> {
    let mut writers = Vec::new();
    for stream in &scene.plan.timeline.streams {
        let mut of_stream = Vec::new();
        for _ in 0..stream.writers {
            of_stream.push(connect().await?);
        }
        writers.push(of_stream);
    }
    let mut stage = Stage::open(Arc::clone(&scene), holders, journal.clone());
    let begin = stage.sample(0);
    stage.open_first(signals).await?;
    let open = stage.sample(0);

    let timeline = scene.plan.timeline.clone();
    let publisher =
        Arc::new(Publisher::new(scene.run.clone(), orgs.ids.clone(), journal.clone(), timeline, now()));
    let showing = CancellationToken::new();
    let mut helpers = JoinSet::new();
    helpers.spawn(live::show(Arc::clone(&scene), Arc::clone(&publisher), showing.clone()));
    helpers.spawn(sample_usage(Arc::clone(&scene), Arc::clone(&publisher), showing.clone()));
    helpers.spawn(play(Arc::clone(&publisher), signals.stop.clone()));
    let end = showing.drop_guard();
    stage.watch(publisher.publish(writers, &signals.stop)).await?;

    let changes = || publisher.published.changes.load(Relaxed);
    let published = stage.sample(changes());
    let deadline = now() + nanos(scene.plan.common.changes.settle);
    journal.order_all(&Order::Settle { deadline }).await?;
    let unknown = publisher.resolve_unknown(database, deadline, &signals.hurry).await;
    let faults = stage.last_words(deadline, signals).await?;
    let settled = stage.sample(changes());
    drop(end);
    while helpers.join_next().await.is_some() {}
    let marks = Marks { begin, open, published, settled };
    Ok(summary::report(&scene, &publisher, &marks, unknown, faults, signals.stop.is_cancelled()))
}

/// The acts of the timeline, each at its moment.
async fn play(publisher: Arc<Publisher>, stop: CancellationToken) {
    for act in &publisher.timeline.acts {
        tokio::select! {
            () = sleep(until(publisher.start + nanos(act.at))) => {}
            () = stop.cancelled() => return,
        }
        if publisher.journal.act(act.what).await.is_err() {
            return; // a holder is gone, which ends the run elsewhere
        }
    }
}

async fn sample_usage(scene: Arc<Scene>, publisher: Arc<Publisher>, done: CancellationToken) {
    let every = (publisher.timeline.duration / INTERVALS).max(INTERVAL_MIN);
    loop {
        tokio::select! {
            () = sleep(every) => {}
            () = done.cancelled() => return,
        }
        lock(&scene.observed).sample(publisher.published.changes.load(Relaxed));
    }
}

/// The holders while they run: their words are heard by tasks of their own.
struct Stage {
    scene: Arc<Scene>,
    journal: Journal,
    listeners: JoinSet<anyhow::Result<Vec<String>>>,
    first: tokio::sync::oneshot::Receiver<Option<String>>,
}

impl Stage {
    fn open(scene: Arc<Scene>, holders: Vec<holders::Holder>, journal: Journal) -> Self {
        let (tell, first) = tokio::sync::oneshot::channel();
        let (mut listeners, mut tell) = (JoinSet::new(), Some(tell));
        for (n, holder) in holders.into_iter().enumerate() {
            listeners.spawn(listen(Arc::clone(&scene), n, holder, tell.take()));
        }
        Self { scene, journal, listeners, first }
    }

    fn sample(&self, changes: u64) -> Sample {
        lock(&self.scene.observed).sample(changes)
    }

    /// Opens the sockets with which the test begins, the first alone: if that one fails, nothing else
    /// would do better.
    async fn open_first(&mut self, signals: &Signals) -> anyhow::Result<()> {
        let (until, per_second) =
            (self.scene.plan.timeline.open_first, self.scene.plan.common.sockets.connect_rate);
        self.journal.order_first(&Order::Open { until: 1, per_second }).await?;
        tokio::select! {
            first = timeout(FIRST_TIMEOUT, &mut self.first) => match first {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(error))) => bail!(error),
                Ok(Err(_)) => bail!("a process that holds sockets ended before it opened one"),
                Err(_) => bail!("the first socket did not open within {FIRST_TIMEOUT:?}: is the gateway ready?"),
            },
            () = signals.stop.cancelled() => return Ok(()),
        }
        if until > 1 {
            self.journal.act(crate::scenario::What::Open { until, per_second }).await?;
        }
        let scene = Arc::clone(&self.scene);
        let all_open = async {
            let mut sampled = tokio::time::Instant::now();
            loop {
                if sampled.elapsed() >= INTERVAL_MIN {
                    sampled = tokio::time::Instant::now();
                    lock(&scene.observed).sample(0);
                }
                let sockets = lock(&scene.observed).sockets();
                if sockets.opened + sockets.refused >= until as u64 || signals.stop.is_cancelled() {
                    return Ok(());
                }
                sleep(POLL).await;
            }
        };
        let opening = CancellationToken::new();
        let shown = tokio::spawn(live::show_opening(Arc::clone(&self.scene), opening.clone()));
        let guard = opening.drop_guard();
        let result = self.watch(all_open).await;
        drop(guard);
        let _ = shown.await;
        result
    }

    /// Awaits something, unless a holder ends before.
    async fn watch(&mut self, something: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        tokio::select! {
            result = something => result,
            ended = self.listeners.join_next() => match ended {
                Some(Ok(Err(error))) => Err(error),
                _ => bail!("a process that holds sockets ended early: what it held was not checked"),
            },
        }
    }

    /// Awaits the end of all holders; gives what they found, in words.
    async fn last_words(&mut self, deadline: Nanos, signals: &Signals) -> anyhow::Result<Vec<String>> {
        let mut faults = Vec::new();
        let last = until(deadline) + LAST_WORDS_TIMEOUT;
        let mut hurried = signals.hurry.is_cancelled();
        let all = async {
            loop {
                tokio::select! {
                    ended = self.listeners.join_next() => match ended {
                        None => return Ok(faults),
                        Some(words) => faults.extend(words.context("a listener failed")??),
                    },
                    () = signals.hurry.cancelled(), if !hurried => {
                        hurried = true;
                        self.journal.order_all(&Order::Hurry).await?;
                    }
                }
            }
        };
        if signals.hurry.is_cancelled() {
            self.journal.order_all(&Order::Hurry).await?;
        }
        timeout(last, all).await.context("the processes that hold sockets do not end")?
    }
}

async fn listen(
    scene: Arc<Scene>,
    n: usize,
    mut holder: holders::Holder,
    mut first: Option<tokio::sync::oneshot::Sender<Option<String>>>,
) -> anyhow::Result<Vec<String>> {
    loop {
        match holder.word().await? {
            Word::First(error) => {
                if let Some(first) = first.take() {
                    // Where nobody waits any more, the run has been interrupted.
                    let _ = first.send(error);
                }
            }
            Word::Progress(progress) => lock(&scene.observed).progress(n, &progress),
            Word::Done { faults } => {
                holder.wait().await;
                return Ok(faults);
            }
        }
    }
}
