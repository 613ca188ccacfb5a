//! Flag of the memory budget.

use anyhow::ensure;
use clap::Args;

use super::Limits;
use super::limits::memory::{BUDGET_DEFAULT, BUDGET_MIN};

const MIB: usize = 1024 * 1024;
/// A tebibyte, in MiB.
const MEBIBYTES_MAX: i64 = 1024 * 1024;

#[derive(Args, Clone)]
#[command(next_help_heading = "Memory")]
pub(super) struct MemoryArgs {
    /// Mebibytes above sessions: queues of fan-out, outboxes, filters of joins, replays, pages of rows,
    /// recent events, cursors, log pages, requests that publish, handshakes, revocations, organisations,
    /// addresses
    #[arg(long, env = "WARDEN_MEMORY_MIB", value_name = "MIB", default_value_t = (BUDGET_DEFAULT / MIB) as u32,
          value_parser = clap::value_parser!(u32).range((BUDGET_MIN / MIB) as i64..=MEBIBYTES_MAX))]
    memory_mib: u32,
}

impl MemoryArgs {
    /// Divides the budget. The size of a request's head must be known already.
    pub(super) fn apply(&self, limits: &mut Limits) -> anyhow::Result<()> {
        limits.share_memory(usize::try_from(self.memory_mib)? * MIB);
        Ok(())
    }
}

/// Checks that explicit limits fit into the budget.
pub(super) fn check(limits: &Limits) -> anyhow::Result<()> {
    let needed = limits.memory_for_pending();
    ensure!(
        needed <= limits.memory_bytes_max,
        "WARDEN_PENDING_MAX is {}, and each of these connections takes up to {} KiB, which is too much for \
         WARDEN_MEMORY_MIB ({}): lower WARDEN_PENDING_MAX or WARDEN_HEAD_BYTES, or raise WARDEN_MEMORY_MIB to {}",
        limits.admission.pending_max,
        limits.pending_bytes().div_ceil(1024),
        limits.memory_bytes_max / MIB,
        needed.div_ceil(MIB),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::config::{Config, ServeArgs};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn config(flags: &[&str]) -> Result<Config, String> {
        let required = [
            "warden",
            "--database-url",
            "postgres://localhost/app",
            "--jwt-secret",
            "a secret of 32 bytes and more...",
        ];
        let line = Line::try_parse_from([&required, flags].concat()).map_err(|error| error.to_string())?;
        line.serve.into_config().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_budget_is_divided_and_explicit_limits_must_fit() {
        let larger = config(&["--memory-mib", "880"]).expect("is valid").limits;
        assert_eq!((larger.memory_bytes_max, larger.replay.memory_bytes_max), (880 * MIB, 160 * MIB));
        let long_heads = config(&["--token-bytes", "65536"]).expect("is valid").limits;
        assert!(long_heads.memory_for_pending() <= long_heads.memory_bytes_max);

        let error = config(&["--pending-max", "4000"]).err().expect("too many");
        assert!(
            error.contains("WARDEN_PENDING_MAX is 4000") && error.contains("WARDEN_MEMORY_MIB to 1043"),
            "{error}"
        );
        config(&["--pending-max", "4000", "--memory-mib", "1043"]).expect("is enough");
        for beyond in ["319", "1048577", "0"] {
            assert!(config(&["--memory-mib", beyond]).is_err(), "{beyond}");
        }
    }

    #[test]
    fn help_names_the_budget_and_what_it_covers() {
        let help =
            Line::command().render_long_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        for word in [
            "WARDEN_MEMORY_MIB",
            "[default: 512]",
            "above sessions",
            "outboxes",
            "filters of joins",
            "handshakes",
        ] {
            assert!(help.contains(word), "{word}");
        }
    }
}
