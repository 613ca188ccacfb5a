//! The baseline as one of the servers: this program, in another process.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bench_support::handshake;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::cost_meter::CostMeter;
use super::process::Process;
use crate::baseline::{Done, Ready};
use crate::clients::Dial;
use crate::plan::PublishPlan;

/// Time limit for the answer, in addition to the plan's duration.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) struct Baseline {
    process: Process,
    plans: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    addr: SocketAddr,
}

impl Baseline {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let mut process = Process::start("baseline", |_| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["baseline", "--control"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            Ok(command)
        })?;
        let plans = process.child.stdin.take().context("standard input is not a pipe")?;
        let output = process.child.stdout.take().context("standard output is not a pipe")?;
        let mut answers = BufReader::new(output).lines();
        let Some(line) = answers.next_line().await? else { return process.start_error() };
        let ready: Ready = serde_json::from_str(&line)?;
        Ok(Self { process, plans, answers, addr: ready.listen })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn dial(&self, group: usize) -> Dial {
        let request = handshake::request(&self.addr.to_string(), &format!("/baseline/{group}"), &[]);
        Dial { request, hello: Vec::new(), ready: None }
    }

    pub(super) fn meter(&mut self) -> &mut CostMeter {
        self.process.meter()
    }

    pub(super) async fn publish(&mut self, plan: &PublishPlan) -> anyhow::Result<f64> {
        let mut line = serde_json::to_vec(plan)?;
        line.push(b'\n');
        self.plans.write_all(&line).await?;
        let limit = plan.due(plan.bursts) + ANSWER_TIMEOUT;
        let answer = timeout(limit, self.answers.next_line())
            .await
            .with_context(|| format!("the baseline did not finish its plan within {limit:?}"))??;
        let done: Done = serde_json::from_str(&answer.context("the baseline ended unexpectedly")?)?;
        ensure!(done.left == 0, "{} sockets left the baseline while it wrote", done.left);
        Ok(done.lag_ms)
    }
}
