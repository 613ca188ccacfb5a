//! The plan of a run: the timeline that a scenario describes with its options. Options that cannot work or
//! would test nothing are rejected here, before anything is started.

use std::time::Duration;

use anyhow::{bail, ensure};

use super::options::{ChangeArgs, CliCommand, Common, PublishBy, SocketArgs};
use crate::check::is_reached;
use crate::filters::FILTERED_TOPIC;
use crate::scenario::{Phase, ScheduledAction, SocketAction, Stream, Timeline};

const DURATION: Duration = Duration::from_secs(10);
const SOAK_DURATION: Duration = Duration::from_secs(3600);
/// Changes per transaction, except in bursts.
const PER_COMMIT: usize = 1;
/// A gateway's limit of different filters of an organisation.
const FILTERS_MAX: usize = 20_000;

/// A run that can be started.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) scenario: &'static str,
    pub(crate) common: Common,
    pub(crate) timeline: Timeline,
    /// Whether the first organisation is reported separately from the others.
    pub(crate) separate_first_org: bool,
}

impl Plan {
    /// Builds the plan of a scenario. `None` for the hidden command that starts a worker.
    pub(crate) fn from_command(command: CliCommand) -> anyhow::Result<Option<Self>> {
        let plan = match command {
            CliCommand::Steady(common) => Self::steady("steady", common, DURATION),
            CliCommand::Soak(common) => Self::steady("soak", common, SOAK_DURATION),
            CliCommand::Ramp { steps, common } => Self::ramp(steps, common)?,
            CliCommand::Burst { burst, every, common } => Self::burst(burst, every, common)?,
            CliCommand::Storm { share, away, return_rate, common } => {
                let action = SocketAction::Storm { share, away, per_second: return_rate };
                Self::storm(action, away, common)?
            }
            CliCommand::Churn { churn_rate, common } => Self::churn(churn_rate, common)?,
            CliCommand::Noisy { flood, common } => Self::noisy(flood, common)?,
            CliCommand::Worker => return Ok(None),
        };
        plan.validate()?;
        Ok(Some(plan))
    }

    /// One stream over the whole duration. The other scenarios modify it.
    fn steady(scenario: &'static str, common: Common, default_duration: Duration) -> Self {
        let duration = common.changes.duration.unwrap_or(default_duration);
        let stream = Stream {
            from: Duration::ZERO,
            until: duration,
            rate: common.changes.rate,
            per_commit: PER_COMMIT,
            first_org_only: false,
            writers: common.changes.writers,
        };
        let timeline = Timeline {
            streams: vec![stream],
            phases: vec![phase("all", Duration::ZERO)],
            actions: Vec::new(),
            duration,
            open_first: common.sockets.sockets,
        };
        Self { scenario, common, timeline, separate_first_org: false }
    }

    fn ramp(steps: usize, common: Common) -> anyhow::Result<Self> {
        let sockets = common.sockets.sockets;
        ensure!(
            steps > 0 && steps <= sockets.max(1),
            "--steps {steps} must be between 1 and the number of --sockets ({sockets})"
        );
        let mut plan = Self::steady("ramp", common, DURATION);
        let step = plan.timeline.duration / u32::try_from(steps)?;
        plan.timeline.open_first = 1;
        plan.timeline.phases.clear();
        for n in 0..steps {
            let (at, until) = (step * u32::try_from(n)?, sockets * (n + 1) / steps);
            plan.timeline.phases.push(phase(&format!("{until} sockets"), at));
            let per_second = plan.common.sockets.connect_rate;
            let action = SocketAction::Open { until, per_second };
            plan.timeline.actions.push(ScheduledAction { at, action });
        }
        Ok(plan)
    }

    fn burst(burst: usize, every: Duration, common: Common) -> anyhow::Result<Self> {
        ensure!(burst > 0, "--burst 0 would publish nothing: use at least 1");
        ensure!(!every.is_zero(), "--every must be above 0: use e.g. 500ms");
        let mut plan = Self::steady("burst", common, DURATION);
        let stream = &mut plan.timeline.streams[0];
        stream.per_commit = burst;
        stream.rate = burst as f64 / every.as_secs_f64();
        Ok(plan)
    }

    fn storm(action: SocketAction, away: Duration, common: Common) -> anyhow::Result<Self> {
        let mut plan = Self::steady("storm", common, DURATION);
        let at = plan.timeline.duration / 4;
        ensure!(
            at + away < plan.timeline.duration,
            "the sockets drop after a quarter of --duration, so with --away {away:?} they would reconnect after its \
             end: use a longer --duration or a shorter --away"
        );
        plan.timeline.actions.push(ScheduledAction { at, action });
        plan.timeline.phases = vec![phase("before", Duration::ZERO), phase("storm and after", at)];
        Ok(plan)
    }

    fn churn(per_second: f64, common: Common) -> anyhow::Result<Self> {
        ensure!(
            per_second.is_finite() && per_second > 0.0,
            "--churn-rate {per_second} must be above 0 sockets per second"
        );
        let mut plan = Self::steady("churn", common, DURATION);
        let action = SocketAction::Churn { per_second };
        plan.timeline.actions.push(ScheduledAction { at: Duration::ZERO, action });
        Ok(plan)
    }

    fn noisy(flood: f64, common: Common) -> anyhow::Result<Self> {
        ensure!(flood.is_finite() && flood > 0.0, "--flood {flood} must be above 0 changes per second");
        ensure!(common.sockets.orgs > 1, "--orgs 1 leaves no other organisation to observe: use at least 2");
        let mut plan = Self::steady("noisy", common, DURATION);
        let third = plan.timeline.duration / 3;
        let writers = plan.timeline.streams[0].writers;
        plan.timeline.streams.push(Stream {
            from: third,
            until: third * 2,
            rate: flood,
            per_commit: PER_COMMIT,
            first_org_only: true,
            writers,
        });
        plan.timeline.phases =
            vec![phase("before", Duration::ZERO), phase("during", third), phase("after", third * 2)];
        plan.separate_first_org = true;
        Ok(plan)
    }

    fn validate(&self) -> anyhow::Result<()> {
        let Common { gateway, sockets, changes, .. } = &self.common;
        ensure!(
            !gateway.jwt_secret.is_empty(),
            "--jwt-secret is empty: use the value of the gateway's WARDEN_JWT_SECRET"
        );
        validate_sockets(sockets)?;
        validate_changes(changes)?;
        ensure!(
            sockets.filters == 0 || changes.by == PublishBy::Calls,
            "--filters has no effect on published events: use --by calls, because a filter selects rows"
        );
        let publishes = self.timeline.rate() > 0.0;
        if publishes && !sockets.topics.iter().any(|topic| is_reached(topic)) {
            bail!(
                "changes do not reach --topics {}: add calls or org, or use --rate 0",
                sockets.topics.join(",")
            );
        }
        ensure!(
            publishes || matches!(self.scenario, "steady" | "soak" | "ramp"),
            "with --rate 0 the scenario {} has nothing to check: use a rate above 0",
            self.scenario
        );
        Ok(())
    }
}

fn phase(name: &str, from: Duration) -> Phase {
    Phase { name: name.to_owned(), from }
}

fn validate_sockets(sockets: &SocketArgs) -> anyhow::Result<()> {
    ensure!(sockets.sockets > 0, "--sockets 0 would test nothing: use at least 1");
    ensure!(sockets.orgs > 0, "--orgs 0 leaves the sockets without an organisation: use at least 1");
    ensure!(sockets.processes != Some(0), "--processes 0 could hold no socket: use at least 1");
    ensure!(
        sockets.connect_rate.is_finite() && sockets.connect_rate > 0.0,
        "--connect-rate {} must be above 0 handshakes per second",
        sockets.connect_rate
    );
    ensure!(
        sockets.filters == 0 || sockets.topics.iter().any(|topic| topic == FILTERED_TOPIC),
        "--filters needs a join of calls: add it to --topics {}",
        sockets.topics.join(",")
    );
    ensure!(
        sockets.filters <= FILTERS_MAX,
        "--filters {} is too large: a gateway accepts {FILTERS_MAX} different ones of an organisation",
        sockets.filters
    );
    for (n, topic) in sockets.topics.iter().enumerate() {
        ensure!(!topic.is_empty(), "--topics contains an empty name: write e.g. calls,org");
        ensure!(
            !sockets.topics[..n].contains(topic),
            "--topics contains {topic} twice, but a socket can join a topic once only"
        );
    }
    Ok(())
}

fn validate_changes(changes: &ChangeArgs) -> anyhow::Result<()> {
    const PADDING_MAX: usize = 60_000;
    ensure!(changes.writers > 0, "--writers 0 could publish nothing: use at least 1");
    ensure!(
        changes.rate.is_finite() && changes.rate >= 0.0,
        "--rate {} must be a number of changes per second, or 0 to publish nothing",
        changes.rate
    );
    ensure!(changes.duration != Some(Duration::ZERO), "--duration 0 would test nothing: use e.g. 10s");
    ensure!(
        changes.padding <= PADDING_MAX,
        "--padding {} is too large: use at most {PADDING_MAX}, because an event has at most 64 KiB",
        changes.padding
    );
    ensure!(
        changes.padding == 0 || changes.by == PublishBy::Publish,
        "--padding has no effect on rows of calls: add --by publish"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::options::Cli;
    use super::*;

    fn plan(more: &[&str]) -> anyhow::Result<Plan> {
        let scenario = more.first().filter(|first| !first.starts_with('-'));
        let base =
            ["warden-loadtest", scenario.unwrap_or(&"steady"), "--database-url", "x", "--jwt-secret", "y"];
        let more = &more[usize::from(scenario.is_some())..];
        let command = Cli::try_parse_from(base.iter().chain(more))?.command;
        Ok(Plan::from_command(command)?.expect("a scenario"))
    }

    #[test]
    fn options_that_would_test_nothing_are_rejected() {
        plan(&[]).unwrap();
        plan(&["--topics", "recordings", "--rate", "0"]).unwrap();
        for more in [
            "--sockets 0",
            "--orgs 0",
            "--writers 0",
            "--connect-rate 0",
            "--rate nan",
            "--duration 0",
            "--processes 0",
            "--topics recordings",
            "--topics calls,calls",
            "--topics calls,",
            "--padding 5",
            "--filters 5 --by publish",
            "--filters 5 --topics org",
            "--filters 20001",
            "--by publish --padding 70000",
            "ramp --steps 0",
            "burst --burst 0",
            "burst --every 0",
            "storm --away 9s",
            "storm --rate 0",
            "churn --churn-rate 0",
            "noisy --flood 0",
            "noisy --orgs 1",
        ] {
            let error = plan(&more.split(' ').collect::<Vec<_>>()).err();
            let error = error.unwrap_or_else(|| panic!("{more} is accepted"));
            assert!(error.to_string().contains("--"), "{more}: {error}");
        }
    }

    #[test]
    fn each_scenario_has_its_own_timeline() {
        let ramp = plan(&["ramp", "-n", "100", "--steps", "4", "-d", "8s"]).unwrap().timeline;
        assert_eq!(ramp.phases.iter().map(|p| p.name.as_str()).collect::<Vec<_>>()[1], "50 sockets");
        let opened = |scheduled: &ScheduledAction| match scheduled.action {
            SocketAction::Open { until, .. } => until,
            _ => 0,
        };
        assert_eq!(ramp.actions.iter().map(opened).collect::<Vec<_>>(), [25, 50, 75, 100]);

        let burst = plan(&["burst", "--burst", "20", "--every", "500ms"]).unwrap().timeline;
        assert_eq!(burst.streams[0].per_commit, 20);
        assert_eq!(burst.streams[0].due(1), Some(Duration::from_millis(500)));

        let noisy = plan(&["noisy", "-d", "9s"]).unwrap();
        assert!(noisy.separate_first_org && noisy.timeline.streams[1].first_org_only);
        assert_eq!(noisy.timeline.streams[1].due(0), Some(Duration::from_secs(3)));

        assert_eq!(plan(&["soak"]).unwrap().timeline.duration, SOAK_DURATION);
    }
}
