//! Runs of the binary against a managed database, as its operator runs them.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::ManagedDb;

/// Deadline of one run, generous enough for a busy machine.
const RUN_DEADLINE: Duration = Duration::from_secs(180);

/// Arguments, exit code and output of a finished run.
#[derive(Debug)]
pub struct Run {
    arguments: Vec<String>,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Asserts the exit code.
    #[track_caller]
    pub fn must(self, code: i32) -> Self {
        let Self { arguments, stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "warden {}\n{stdout}\n{stderr}", arguments.join(" "));
        self
    }
}

impl ManagedDb {
    /// Runs `warden` with these arguments as the operator.
    pub async fn warden(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warden"));
        command.args(arguments).env_clear().env("DATABASE_URL", self.operator_url());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = tokio::time::timeout(RUN_DEADLINE, command.output())
            .await
            .expect("within the deadline")
            .expect("runs");
        Run {
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }
}
