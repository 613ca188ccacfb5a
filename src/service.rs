//! Supervision of background services: starts each under a name, cancels them together, waits for their end.
//!
//! A service is a future that runs until it is dropped. It takes no cancellation token: [`Services::stop`]
//! drops it at its next await, so an await must never leave shared state half changed. A service that ends
//! earlier, or panics, is logged with its name and not restarted. [`periodic`] is the loop of every service
//! that repeats one job.
//!
//! This module must not know any service, database or socket. `docs/design/services.md` lists the services.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;

/// The background services of one gateway.
#[derive(Debug)]
pub(crate) struct Services {
    cancel: CancellationToken,
    /// Cancels the services if the gateway is dropped without [`Self::stop`], as when a test fails. A runtime
    /// that waits for its threads would otherwise never end.
    _abandoned: DropGuard,
    tracker: TaskTracker,
}

impl Services {
    pub(crate) fn new() -> Self {
        let cancel = CancellationToken::new();
        Self { _abandoned: cancel.clone().drop_guard(), cancel, tracker: TaskTracker::new() }
    }

    /// Runs a service as a task of the current runtime.
    pub(crate) fn spawn(&self, name: &'static str, service: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(supervise(name, service, self.cancel.clone()));
    }

    /// Runs services together on a thread with a runtime of its own, where no other task delays them.
    ///
    /// # Errors
    /// When the runtime cannot be created.
    pub(crate) fn spawn_on_own_runtime<const N: usize>(
        &self,
        services: [(&'static str, BoxFuture<'static, ()>); N],
    ) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let supervised = services.map(|(name, service)| supervise(name, service, self.cancel.clone()));
        self.tracker.spawn_blocking(move || {
            // Spawned as tasks, because waking the future that a runtime blocks on is a system call, even if
            // the waker runs on the same thread.
            let tasks = supervised.map(|service| runtime.spawn(service));
            runtime.block_on(futures_util::future::join_all(tasks));
        });
        Ok(())
    }

    /// Runs synchronous work on a thread of its own. Cancellation does not reach it: it must end by itself
    /// when its input ends.
    pub(crate) fn spawn_thread(&self, name: &'static str, work: impl FnOnce() + Send + 'static) {
        self.tracker.spawn_blocking(move || {
            if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(work)) {
                report_panic(name, &*panic);
            }
        });
    }

    /// A handle that runs short jobs beside the services. [`Self::stop`] drops them at their next await.
    pub(crate) fn jobs(&self) -> Jobs {
        Jobs { cancel: self.cancel.clone(), tracker: self.tracker.clone() }
    }

    /// Cancels every service and waits until all have ended.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Runs short jobs as tasks of their own, which go on if their caller is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    cancel: CancellationToken,
    tracker: TaskTracker,
}

impl Jobs {
    /// Runs a job. Returns none if it panics, or if the gateway shuts down.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let job = self.cancel.clone().run_until_cancelled_owned(job);
        self.tracker.spawn(job).await.ok().flatten()
    }
}

async fn supervise(name: &'static str, service: impl Future<Output = ()>, cancel: CancellationToken) {
    let service = AssertUnwindSafe(service).catch_unwind();
    match cancel.run_until_cancelled_owned(service).await {
        None => {}
        Some(Ok(())) => tracing::error!(service = name, "background service ended unexpectedly"),
        Some(Err(panic)) => report_panic(name, &*panic),
    }
}

fn report_panic(name: &'static str, panic: &(dyn Any + Send)) {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(service = name, panic = message.unwrap_or("not a string"), "background service panicked");
}

/// How often a periodic job runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Time from one regular run to the next.
    pub(crate) interval: Duration,
    /// First and longest delay before a failed run is repeated.
    pub(crate) retry: (Duration, Duration),
    /// Whether the first run comes immediately, and not one interval later.
    pub(crate) starts_immediately: bool,
}

/// Reason for a run of a periodic job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// The first run of a job that starts immediately.
    Start,
    /// The interval has passed.
    Interval,
    /// Another part of the gateway asked for the run.
    Wake,
}

/// Repeats a job for ever: at every interval, and whenever `wake` is notified.
///
/// A failed run is repeated with backoff until it succeeds. Several notifications during a run cause one more
/// run. The job reports its own errors.
pub(crate) async fn periodic<Run, E>(schedule: Schedule, wake: &Notify, mut job: impl FnMut(Trigger) -> Run)
where
    Run: Future<Output = Result<(), E>>,
{
    let mut backoff = Backoff::new(schedule.retry.0, schedule.retry.1);
    let mut ticks = tokio::time::interval(schedule.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick of a Tokio interval completes immediately.
    ticks.tick().await;
    let mut start = schedule.starts_immediately.then_some(Trigger::Start);
    loop {
        let trigger = match start.take() {
            Some(trigger) => trigger,
            None => tokio::select! {
                _ = ticks.tick() => Trigger::Interval,
                () = wake.notified() => Trigger::Wake,
            },
        };
        while job(trigger).await.is_err() {
            tokio::time::sleep(backoff.next()).await;
        }
        backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;
    use crate::sync::lock;

    const SCHEDULE: Schedule = Schedule {
        interval: Duration::from_secs(30),
        retry: (Duration::from_secs(1), Duration::from_secs(4)),
        starts_immediately: true,
    };

    /// Runs of a job, each with its trigger and the seconds since the start.
    #[derive(Default)]
    struct Runs(Mutex<Vec<(Trigger, u64)>>);

    impl Runs {
        fn push(&self, trigger: Trigger, started: Instant) {
            lock(&self.0).push((trigger, started.elapsed().as_secs()));
        }

        fn take(&self) -> Vec<(Trigger, u64)> {
            std::mem::take(&mut lock(&self.0))
        }
    }

    async fn run_for(seconds: u64, work: impl Future<Output = ()>) {
        let ended = tokio::time::timeout(Duration::from_secs(seconds), work).await;
        assert!(ended.is_err(), "a periodic job never ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_runs_at_the_start_at_each_interval_and_when_woken() {
        let (runs, wake, started) = (Runs::default(), Notify::new(), Instant::now());
        let job = |trigger| {
            runs.push(trigger, started);
            async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok::<_, ()>(())
            }
        };
        let wake_thrice = async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            wake.notify_one();
            tokio::time::sleep(Duration::from_secs(1)).await;
            // During the run that the first notification caused: together they cause one more.
            wake.notify_one();
            wake.notify_one();
        };
        run_for(70, async {
            tokio::join!(periodic(SCHEDULE, &wake, job), wake_thrice);
        })
        .await;
        let expected = [
            (Trigger::Start, 0),
            (Trigger::Interval, 30),
            (Trigger::Wake, 40),
            (Trigger::Wake, 42),
            (Trigger::Interval, 60),
        ];
        assert_eq!(runs.take(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_run_is_repeated_with_backoff_and_the_same_trigger() {
        let (runs, started) = (Runs::default(), Instant::now());
        let schedule = Schedule { starts_immediately: false, ..SCHEDULE };
        let job = |trigger| {
            runs.push(trigger, started);
            let has_failed = lock(&runs.0).len() <= 4;
            async move { if has_failed { Err(()) } else { Ok(()) } }
        };
        run_for(59, periodic(schedule, &Notify::new(), job)).await;
        let runs = runs.take();
        assert_eq!(runs[0], (Trigger::Interval, 30));
        assert!(runs.iter().all(|(trigger, _)| *trigger == Trigger::Interval), "{runs:?}");
        // Steps of 1, 2, 4 and 4 seconds, of which jitter takes at most half.
        assert_eq!(runs.len(), 5, "{runs:?}");
        assert!((35..=41).contains(&runs[4].1), "{runs:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_run_delays_the_next_one_and_causes_no_burst() {
        let (runs, started) = (Runs::default(), Instant::now());
        let job = |trigger| {
            runs.push(trigger, started);
            let is_first = trigger == Trigger::Start;
            async move {
                if is_first {
                    tokio::time::sleep(Duration::from_secs(100)).await;
                }
                Ok::<_, ()>(())
            }
        };
        run_for(150, periodic(SCHEDULE, &Notify::new(), job)).await;
        let expected = [(Trigger::Start, 0), (Trigger::Interval, 100), (Trigger::Interval, 130)];
        assert_eq!(runs.take(), expected);
    }

    #[tokio::test]
    async fn stop_drops_every_service_and_waits_for_threads() {
        struct Dropped(Arc<Mutex<Vec<&'static str>>>, &'static str);
        impl Drop for Dropped {
            fn drop(&mut self) {
                lock(&self.0).push(self.1);
            }
        }
        let ended = Arc::default();
        let (services, (input, end_of_input)) = (Services::new(), std::sync::mpsc::channel::<()>());
        let forever = |name| {
            let dropped = Dropped(Arc::clone(&ended), name);
            async move {
                let _dropped = dropped;
                std::future::pending::<()>().await;
            }
        };
        services.spawn("task", async move {
            let _input = input;
            std::future::pending::<()>().await;
        });
        services
            .spawn_on_own_runtime([("a", forever("a").boxed()), ("b", forever("b").boxed())])
            .expect("starts");
        let thread = Dropped(Arc::clone(&ended), "thread");
        services.spawn_thread("thread", move || {
            let _ = end_of_input.recv();
            drop(thread);
        });
        services.stop().await;
        let mut ended = std::mem::take(&mut *lock(&ended));
        ended.sort_unstable();
        assert_eq!(ended, ["a", "b", "thread"]);
    }

    #[tokio::test]
    async fn a_panic_ends_neither_the_other_services_nor_the_stop() {
        let services = Services::new();
        let (alive, mut is_alive) = tokio::sync::mpsc::channel(1);
        services.spawn("panics", async { panic!("on purpose") });
        services.spawn_thread("panics too", || panic!("on purpose"));
        services.spawn("ends", async {});
        services.spawn("lives", async move {
            tokio::task::yield_now().await;
            let _ = alive.send(()).await;
            std::future::pending::<()>().await;
        });
        assert_eq!(is_alive.recv().await, Some(()));
        services.stop().await;
    }

    #[tokio::test]
    async fn a_job_goes_on_without_its_caller_until_the_services_stop() {
        let services = Services::new();
        let jobs = services.jobs();
        assert_eq!(jobs.run(async { 7 }).await, Some(7));
        let (send, receive) = tokio::sync::oneshot::channel();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let job = jobs.run(async move {
            let _ = begun.await;
            let _ = send.send(());
        });
        // The caller leaves before the job has done anything.
        let _ = futures_util::poll!(Box::pin(job));
        let _ = begin.send(());
        receive.await.expect("the job ends");
        let waiting = jobs.run(std::future::pending::<()>());
        let (stopped, ()) = tokio::join!(waiting, services.stop());
        assert_eq!(stopped, None);
    }
}
