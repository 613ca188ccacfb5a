//! Sends commands to the workers. A change is announced only to the workers that have sockets of its
//! organisation.

use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;
use tokio::sync::Mutex;

use crate::check::{Change, Outcome};
use crate::message::Command;
use crate::scenario::SocketAction;

/// Error of a write to a worker's standard input.
const WORKER_GONE: &str = "a worker process has ended unexpectedly";

/// The inputs of all workers.
#[derive(Clone)]
pub(crate) struct CommandSender(Arc<Vec<WorkerInput>>);

/// The input of one worker.
pub(super) struct WorkerInput {
    pub(super) stdin: Mutex<ChildStdin>,
    /// Whether the worker has sockets of an organisation.
    pub(super) has_org: Vec<bool>,
    pub(super) sockets: usize,
}

impl CommandSender {
    pub(super) fn new(inputs: Vec<WorkerInput>) -> Self {
        Self(Arc::new(inputs))
    }

    /// Announces changes of one organisation. When this returns, their COMMIT may be sent: every worker can
    /// read the announcement before it can read an event.
    pub(crate) async fn announce(&self, changes: &[Change]) -> anyhow::Result<()> {
        let Some(first) = changes.first() else { return Ok(()) };
        let mut lines = Vec::new();
        for change in changes {
            append_line(&mut lines, &Command::Announce(*change))?;
        }
        self.send_to_org(first.org, &lines).await
    }

    /// Sends how the transaction of a change ended.
    pub(crate) async fn set_outcome(
        &self,
        org: usize,
        number: usize,
        outcome: Outcome,
    ) -> anyhow::Result<()> {
        let mut line = Vec::new();
        append_line(&mut line, &Command::SetOutcome { org, number, outcome })?;
        self.send_to_org(org, &line).await
    }

    async fn send_to_org(&self, org: usize, lines: &[u8]) -> anyhow::Result<()> {
        for worker in self.0.iter().filter(|worker| worker.has_org[org]) {
            worker.stdin.lock().await.write_all(lines).await.context(WORKER_GONE)?;
        }
        Ok(())
    }

    /// Divides an action on the sockets among the workers.
    pub(crate) async fn perform(&self, action: SocketAction) -> anyhow::Result<()> {
        let all: usize = self.0.iter().map(|worker| worker.sockets).sum();
        let mut before = 0;
        for worker in self.0.iter() {
            let until = match action {
                // The running sum is rounded down, so that the parts add up.
                SocketAction::Open { until, .. } => {
                    until * (before + worker.sockets) / all - until * before / all
                }
                SocketAction::Storm { .. } | SocketAction::Churn { .. } => 0,
            };
            before += worker.sockets;
            let share = worker.sockets as f64 / all as f64;
            send(worker, &action.command(share, until)).await?;
        }
        Ok(())
    }

    /// Sends a command to the first worker.
    pub(crate) async fn send_to_first(&self, command: &Command) -> anyhow::Result<()> {
        send(self.0.first().context("no worker was started")?, command).await
    }

    /// Sends a command to every worker.
    pub(crate) async fn send_to_all(&self, command: &Command) -> anyhow::Result<()> {
        for worker in self.0.iter() {
            send(worker, command).await?;
        }
        Ok(())
    }
}

async fn send(worker: &WorkerInput, command: &Command) -> anyhow::Result<()> {
    let mut line = Vec::new();
    append_line(&mut line, command)?;
    worker.stdin.lock().await.write_all(&line).await.context(WORKER_GONE)
}

/// Appends a message as one line of JSON.
pub(super) fn append_line(lines: &mut Vec<u8>, message: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *lines, message)?;
    lines.push(b'\n');
    Ok(())
}
