//! The running workers. A task per worker receives its reports and adds them to the observations.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::command_sender::CommandSender;
use super::worker_process::WorkerProcess;
use crate::clock::{Nanos, until};
use crate::message::{Command, WorkerReport};
use crate::observations::Observations;
use crate::scenario::SocketAction;
use crate::sync::lock;

/// Time limit for the first socket.
const FIRST_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for the workers to end, after the last moment at which they wait for events.
const RESULTS_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// The workers of a run.
pub(crate) struct WorkerPool {
    commands: CommandSender,
    observations: Arc<Mutex<Observations>>,
    /// Tasks that receive reports. Each returns the findings of its worker.
    receivers: JoinSet<anyhow::Result<Vec<String>>>,
    /// The result of the first socket: the error with which it failed, or none.
    first_socket: oneshot::Receiver<Option<String>>,
}

impl WorkerPool {
    pub(crate) fn new(
        workers: Vec<WorkerProcess>,
        commands: CommandSender,
        observations: Arc<Mutex<Observations>>,
    ) -> Self {
        let (sender, first_socket) = oneshot::channel();
        let (mut receivers, mut sender) = (JoinSet::new(), Some(sender));
        for (n, worker) in workers.into_iter().enumerate() {
            // The first socket belongs to the first worker.
            receivers.spawn(receive_reports(Arc::clone(&observations), n, worker, sender.take()));
        }
        Self { commands, observations, receivers, first_socket }
    }

    /// Opens one socket alone. If it fails, all others would fail as well.
    pub(crate) async fn open_first_socket(
        &mut self,
        per_second: f64,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        self.commands.send_to_first(&Command::Open { until: 1, per_second }).await?;
        tokio::select! {
            first = timeout(FIRST_TIMEOUT, &mut self.first_socket) => match first {
                Ok(Ok(None)) => Ok(()),
                Ok(Ok(Some(error))) => bail!(error),
                Ok(Err(_)) => bail!("the first worker process ended before it opened a socket"),
                Err(_) => {
                    bail!("the first socket did not open within {FIRST_TIMEOUT:?}: check that the gateway is ready")
                }
            },
            () = stop.cancelled() => Ok(()),
        }
    }

    /// Opens sockets until this many were opened or have failed.
    pub(crate) async fn open_sockets(
        &mut self,
        until: usize,
        per_second: f64,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        if until > 1 {
            self.commands.perform(SocketAction::Open { until, per_second }).await?;
        }
        let observations = Arc::clone(&self.observations);
        self.run_until_worker_ends(async {
            let mut sampled = Instant::now();
            loop {
                if sampled.elapsed() >= SAMPLE_EVERY {
                    sampled = Instant::now();
                    lock(&observations).sample(0);
                }
                let sockets = lock(&observations).sockets();
                if sockets.opened + sockets.failed >= until as u64 || stop.is_cancelled() {
                    return Ok(());
                }
                sleep(POLL).await;
            }
        })
        .await
    }

    /// Awaits a future. An error if a worker ends first.
    pub(crate) async fn run_until_worker_ends(
        &mut self,
        future: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        tokio::select! {
            result = future => result,
            ended = self.receivers.join_next() => match ended {
                Some(Ok(Err(error))) => Err(error),
                _ => bail!("a worker process ended unexpectedly, so its sockets could not be checked"),
            },
        }
    }

    /// Waits until all workers have ended, and returns their findings.
    pub(crate) async fn collect_results(
        &mut self,
        deadline: Nanos,
        hurry: &CancellationToken,
    ) -> anyhow::Result<Vec<String>> {
        let mut findings = Vec::new();
        let limit = until(deadline) + RESULTS_TIMEOUT;
        if hurry.is_cancelled() {
            self.commands.send_to_all(&Command::Hurry).await?;
        }
        let mut hurried = hurry.is_cancelled();
        let all = async {
            loop {
                tokio::select! {
                    ended = self.receivers.join_next() => match ended {
                        None => return Ok(findings),
                        Some(result) => findings.extend(result.context("a task that receives reports failed")??),
                    },
                    () = hurry.cancelled(), if !hurried => {
                        hurried = true;
                        self.commands.send_to_all(&Command::Hurry).await?;
                    }
                }
            }
        };
        timeout(limit, all)
            .await
            .with_context(|| format!("the worker processes did not end within {limit:?}"))?
    }
}

async fn receive_reports(
    observations: Arc<Mutex<Observations>>,
    n: usize,
    mut worker: WorkerProcess,
    mut first_socket: Option<oneshot::Sender<Option<String>>>,
) -> anyhow::Result<Vec<String>> {
    loop {
        match worker.receive().await? {
            WorkerReport::FirstSocket(error) => {
                if let Some(sender) = first_socket.take() {
                    // This fails if the run was interrupted before.
                    let _ = sender.send(error);
                }
            }
            WorkerReport::Progress(progress) => lock(&observations).add(n, &progress),
            WorkerReport::Done { findings } => {
                worker.wait().await;
                return Ok(findings);
            }
        }
    }
}
