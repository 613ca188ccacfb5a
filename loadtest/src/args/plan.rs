//! What a scenario makes of its options: the timeline, and what is refused because it would run but
//! test nothing, or can't run. It starts nothing.

use std::time::Duration;

use anyhow::{bail, ensure};

use super::{ChangeArgs, Command, Common, SocketArgs};
use crate::check::is_reached;
use crate::scenario::{Act, Phase, Stream, Timeline, What};

const DURATION: Duration = Duration::from_secs(10);
const SOAK_DURATION: Duration = Duration::from_secs(3600);
/// Changes in a transaction, where a scenario does not say otherwise.
const PER_COMMIT: usize = 1;

/// A run that can begin.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) scenario: &'static str,
    pub(crate) common: Common,
    pub(crate) timeline: Timeline,
    /// The first organisation is reported apart from the others.
    pub(crate) first_org_apart: bool,
}

impl Plan {
    /// None for what is no scenario.
    pub(crate) fn of(command: Command) -> anyhow::Result<Option<Self>> {
        let plan = match command {
            Command::Steady(common) => Self::plain("steady", common, DURATION),
            Command::Soak(common) => Self::plain("soak", common, SOAK_DURATION),
            Command::Ramp { steps, common } => Self::ramp(steps, common)?,
            Command::Burst { burst, every, common } => Self::burst(burst, every, common)?,
            Command::Storm { share, away, return_rate, common } => {
                Self::storm(What::Storm { share, away, per_second: return_rate }, away, common)?
            }
            Command::Churn { churn_rate, common } => Self::churn(churn_rate, common)?,
            Command::Noisy { flood, common } => Self::noisy(flood, common)?,
            Command::Hold => return Ok(None),
        };
        plan.validate()?;
        Ok(Some(plan))
    }

    fn plain(scenario: &'static str, common: Common, default: Duration) -> Self {
        let duration = common.changes.duration.unwrap_or(default);
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
            acts: Vec::new(),
            duration,
            open_first: common.sockets.sockets,
        };
        Self { scenario, common, timeline, first_org_apart: false }
    }

    fn ramp(steps: usize, common: Common) -> anyhow::Result<Self> {
        let sockets = common.sockets.sockets;
        ensure!(steps > 0 && steps <= sockets.max(1), "--steps must be from 1 to the number of --sockets");
        let mut plan = Self::plain("ramp", common, DURATION);
        let step = plan.timeline.duration / u32::try_from(steps)?;
        plan.timeline.open_first = 1;
        plan.timeline.phases.clear();
        for n in 0..steps {
            let (at, until) = (step * u32::try_from(n)?, sockets * (n + 1) / steps);
            plan.timeline.phases.push(phase(&format!("{until} sockets"), at));
            let per_second = plan.common.sockets.connect_rate;
            plan.timeline.acts.push(Act { at, what: What::Open { until, per_second } });
        }
        Ok(plan)
    }

    fn burst(burst: usize, every: Duration, common: Common) -> anyhow::Result<Self> {
        ensure!(burst > 0, "--burst 0 would publish nothing: ask for at least one change");
        ensure!(!every.is_zero(), "--every must be above 0, e.g. 500ms");
        let mut plan = Self::plain("burst", common, DURATION);
        let stream = &mut plan.timeline.streams[0];
        stream.per_commit = burst;
        stream.rate = burst as f64 / every.as_secs_f64();
        Ok(plan)
    }

    fn storm(what: What, away: Duration, common: Common) -> anyhow::Result<Self> {
        let mut plan = Self::plain("storm", common, DURATION);
        let at = plan.timeline.duration / 4;
        ensure!(
            at + away < plan.timeline.duration,
            "--away {away:?} ends after the test: the sockets drop after a quarter of --duration, so ask for a longer --duration"
        );
        plan.timeline.acts.push(Act { at, what });
        plan.timeline.phases = vec![phase("before", Duration::ZERO), phase("storm and after", at)];
        Ok(plan)
    }

    fn churn(per_second: f64, common: Common) -> anyhow::Result<Self> {
        ensure!(per_second.is_finite() && per_second > 0.0, "--churn-rate must be above 0 sockets a second");
        let mut plan = Self::plain("churn", common, DURATION);
        plan.timeline.acts.push(Act { at: Duration::ZERO, what: What::Churn { per_second } });
        Ok(plan)
    }

    fn noisy(flood: f64, common: Common) -> anyhow::Result<Self> {
        ensure!(flood.is_finite() && flood > 0.0, "--flood must be above 0 changes a second");
        ensure!(
            common.sockets.orgs > 1,
            "--orgs 1 leaves nobody whom the flood could disturb: ask for at least two"
        );
        let mut plan = Self::plain("noisy", common, DURATION);
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
        plan.first_org_apart = true;
        Ok(plan)
    }

    /// Refuses what would run but test nothing, and what can't run.
    fn validate(&self) -> anyhow::Result<()> {
        let Common { gateway, sockets, changes, .. } = &self.common;
        ensure!(
            !gateway.jwt_secret.is_empty(),
            "--jwt-secret is empty: give the gateway's WARDEN_JWT_SECRET"
        );
        validate_sockets(sockets)?;
        validate_changes(changes)?;
        let publishes = self.timeline.rate() > 0.0;
        if publishes && !sockets.topics.iter().any(|topic| is_reached(topic)) {
            bail!(
                "changes reach none of --topics {}: add calls or org, or use --rate 0",
                sockets.topics.join(",")
            );
        }
        ensure!(
            publishes || matches!(self.scenario, "steady" | "soak" | "ramp"),
            "--rate 0 leaves {} nothing to check: ask for at least one change a second",
            self.scenario
        );
        Ok(())
    }
}

fn phase(name: &str, from: Duration) -> Phase {
    Phase { name: name.to_owned(), from }
}

fn validate_sockets(sockets: &SocketArgs) -> anyhow::Result<()> {
    ensure!(sockets.sockets > 0, "--sockets 0 would test nothing: ask for at least one");
    ensure!(sockets.orgs > 0, "--orgs 0 leaves the sockets nowhere to belong: ask for at least one");
    ensure!(sockets.processes != Some(0), "--processes 0 could hold no socket: ask for at least one");
    ensure!(
        sockets.connect_rate.is_finite() && sockets.connect_rate > 0.0,
        "--connect-rate must be above 0 handshakes a second"
    );
    for (n, topic) in sockets.topics.iter().enumerate() {
        ensure!(!topic.is_empty(), "--topics holds an empty name: write e.g. calls,org");
        ensure!(
            !sockets.topics[..n].contains(topic),
            "--topics names {topic} twice: a socket joins a topic once"
        );
    }
    Ok(())
}

fn validate_changes(changes: &ChangeArgs) -> anyhow::Result<()> {
    const PADDING_MAX: usize = 60_000;
    ensure!(changes.writers > 0, "--writers 0 could publish nothing: ask for at least one");
    ensure!(
        changes.rate.is_finite() && changes.rate >= 0.0,
        "--rate must be a number of changes a second, or 0 to publish nothing"
    );
    ensure!(changes.duration != Some(Duration::ZERO), "--duration 0 would test nothing: ask for e.g. 10s");
    ensure!(changes.padding <= PADDING_MAX, "--padding is at most {PADDING_MAX}: an event holds 64 KiB");
    ensure!(
        changes.padding == 0 || changes.by == super::By::Publish,
        "--padding needs --by publish: rows of calls are as they are"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Cli;
    use super::*;

    fn plan(more: &[&str]) -> anyhow::Result<Plan> {
        let scenario = more.first().filter(|first| !first.starts_with('-'));
        let base =
            ["warden-loadtest", scenario.unwrap_or(&"steady"), "--database-url", "x", "--jwt-secret", "y"];
        let more = &more[usize::from(scenario.is_some())..];
        Ok(Plan::of(Cli::try_parse_from(base.iter().chain(more))?.command)?.expect("a scenario"))
    }

    #[test]
    fn what_tests_nothing_is_refused() {
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
            let error = error.unwrap_or_else(|| panic!("{more} is taken"));
            assert!(error.to_string().contains("--"), "{more}: {error}");
        }
    }

    #[test]
    fn each_scenario_is_its_own_timeline() {
        let ramp = plan(&["ramp", "-n", "100", "--steps", "4", "-d", "8s"]).unwrap().timeline;
        assert_eq!(ramp.phases.iter().map(|p| p.name.as_str()).collect::<Vec<_>>()[1], "50 sockets");
        let opened = |act: &Act| if let What::Open { until, .. } = act.what { until } else { 0 };
        assert_eq!(ramp.acts.iter().map(opened).collect::<Vec<_>>(), [25, 50, 75, 100]);

        let burst = plan(&["burst", "--burst", "20", "--every", "500ms"]).unwrap().timeline;
        assert_eq!(
            (burst.streams[0].per_commit, burst.streams[0].due(1)),
            (20, Some(Duration::from_millis(500)))
        );

        let noisy = plan(&["noisy", "-d", "9s"]).unwrap();
        assert!(noisy.first_org_apart && noisy.timeline.streams[1].first_org_only);
        assert_eq!(noisy.timeline.streams[1].due(0), Some(Duration::from_secs(3)));

        assert_eq!(plan(&["soak"]).unwrap().timeline.duration, SOAK_DURATION);
    }
}
