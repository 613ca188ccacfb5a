//! The floor as one of the servers: this very program, in another process.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::process::{Meter, Process};
use super::{Published, upgrade};
use crate::compare::clients::Dial;
use crate::floor::{Done, Plan, Ready};

/// Beyond the length of a plan.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) struct Floor {
    process: Process,
    plans: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    addr: SocketAddr,
}

impl Floor {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let mut process = Process::start("floor", |_| {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["floor", "--control"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            Ok(command)
        })?;
        let plans = process.child.stdin.take().context("piped")?;
        let mut answers = BufReader::new(process.child.stdout.take().context("piped")?).lines();
        let Some(line) = answers.next_line().await? else { return process.failed() };
        let ready: Ready = serde_json::from_str(&line)?;
        Ok(Self { process, plans, answers, addr: ready.listen })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn dial(&self, group: usize) -> Dial {
        Dial { request: upgrade(self.addr, &format!("/floor/{group}"), ""), hello: Vec::new(), ready: None }
    }

    pub(super) fn meter(&mut self) -> &mut Meter {
        self.process.meter()
    }

    pub(super) async fn publish(&mut self, plan: &Plan) -> anyhow::Result<Published> {
        let mut line = serde_json::to_vec(plan)?;
        line.push(b'\n');
        self.plans.write_all(&line).await?;
        let limit = plan.due(plan.bursts) + ANSWER_TIMEOUT;
        let answer =
            timeout(limit, self.answers.next_line()).await.context("the floor does not answer")??;
        let done: Done = serde_json::from_str(&answer.context("the floor ended")?)?;
        ensure!(done.left == 0, "{} sockets left the floor while it wrote", done.left);
        Ok(Published { lag_ms: done.lag_ms })
    }
}
