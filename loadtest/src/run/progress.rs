//! Progress during a run, on standard error: lines that are redrawn on a terminal, or else one line every ten
//! seconds.

use std::io::{IsTerminal as _, stderr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::context::RunContext;
use crate::check::Counts;
use crate::clock::now;
use crate::histograms::Percentiles;
use crate::message::SocketCounts;
use crate::publisher::Publisher;
use crate::sync::lock;

const REDRAW_EVERY: Duration = Duration::from_millis(500);
/// Interval of lines if standard error is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Shortest time over which a rate is computed. Workers report once per second, so shorter ones would
/// fluctuate.
const RATE_OVER: Duration = Duration::from_secs(2);
/// Lines below the bar while publishing.
const LINES: usize = 4;

/// A progress bar, and lines below it.
struct Screen {
    bar: ProgressBar,
    lines: Vec<ProgressBar>,
    // Draws the others.
    _all: MultiProgress,
    is_terminal: bool,
    last_line: Instant,
}

impl Screen {
    fn new(length: u64, lines: usize) -> Self {
        let all = MultiProgress::new();
        let style = |template| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        let bar = all.add(ProgressBar::new(length));
        bar.set_style(style("{msg:<10} [{bar:40}] {prefix}").progress_chars("=> "));
        let line = |_| {
            let line = all.add(ProgressBar::new(0));
            line.set_style(style("  {msg}"));
            line
        };
        let lines = (0..lines).map(line).collect();
        Self { bar, lines, _all: all, is_terminal: stderr().is_terminal(), last_line: Instant::now() }
    }

    fn draw(&mut self, step: &str, done: u64, progress: &str, lines: &[String]) {
        if self.is_terminal {
            self.bar.set_message(step.to_owned());
            self.bar.set_prefix(progress.to_owned());
            self.bar.set_position(done);
            for (bar, line) in self.lines.iter().zip(lines) {
                bar.set_message(line.clone());
            }
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{step} {progress}; {}", lines.join("; "));
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
        self.lines.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// Changes and events per second, over a few seconds.
#[derive(Default)]
struct Rates {
    before: Option<(Instant, u64, u64)>,
}

impl Rates {
    fn update(&mut self, changes: u64, events: u64) -> (f64, f64) {
        let now = Instant::now();
        let rates = self.before.map_or((0.0, 0.0), |(then, changes_then, events_then)| {
            let seconds = now.duration_since(then).as_secs_f64();
            let rate = |value: u64, before: u64| value.saturating_sub(before) as f64 / seconds;
            (rate(changes, changes_then), rate(events, events_then))
        });
        if self.before.is_none_or(|(then, ..)| now.duration_since(then) >= RATE_OVER) {
            self.before = Some((now, changes, events));
        }
        rates
    }
}

/// Shows the progress of opening the first sockets.
pub(super) async fn show_opening(context: Arc<RunContext>, finished: CancellationToken) {
    if context.plan.common.output.quiet {
        return;
    }
    let requested = context.plan.timeline.open_first as u64;
    let mut screen = Screen::new(requested, 1);
    let mut tick = interval(REDRAW_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = finished.cancelled() => break,
        }
        let sockets = lock(&context.observations).sockets();
        let progress = format!("{} of {requested} sockets", sockets.opened);
        screen.draw("connecting", sockets.opened, &progress, &[socket_line(&sockets)]);
    }
    screen.clear();
}

/// Shows the progress of publishing, and what has arrived.
pub(super) async fn show(context: Arc<RunContext>, publisher: Arc<Publisher>, finished: CancellationToken) {
    if context.plan.common.output.quiet {
        return;
    }
    let duration = publisher.timeline.duration.as_secs();
    let mut screen = Screen::new(duration, LINES);
    let mut tick = interval(REDRAW_EVERY);
    let mut rates = Rates::default();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = finished.cancelled() => break,
        }
        let elapsed = Duration::from_nanos(now().saturating_sub(publisher.start)).as_secs();
        let (counts, sockets, latency) = {
            let observations = lock(&context.observations);
            (observations.counts(), observations.sockets(), observations.latest_latency())
        };
        let changes = publisher.published.changes.load(Relaxed);
        let (changes_per_s, events_per_s) = rates.update(changes, counts.events);
        let lines: [String; LINES] = [
            socket_line(&sockets),
            format!(
                "{changes} changes ({changes_per_s:.0}/s), {} events ({events_per_s:.0}/s)",
                counts.events
            ),
            latency_line(latency),
            fault_line(&counts),
        ];
        let step = if elapsed > duration { "settling" } else { context.plan.scenario };
        let done = elapsed.min(duration);
        screen.draw(step, done, &format!("{done} of {duration} s"), &lines);
    }
    screen.clear();
}

fn latency_line(latency: Option<Percentiles>) -> String {
    let text = latency
        .and_then(|l| Some(format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", l.p50?, l.p99?, l.max?)));
    format!("commit to socket: {}", text.unwrap_or_else(|| "no event yet".to_owned()))
}

fn socket_line(sockets: &SocketCounts) -> String {
    let mut line = format!("{} sockets open", sockets.open);
    for (name, value) in [
        ("connecting", sockets.connecting),
        ("failed to open", sockets.failed),
        ("dropped", sockets.dropped),
        ("away", sockets.storm_dropped.saturating_sub(sockets.reconnected)),
        ("left and replaced", sockets.left),
        ("retries", sockets.retries),
    ] {
        if value > 0 {
            line.push_str(&format!(", {value} {name}"));
        }
    }
    line
}

fn fault_line(counts: &Counts) -> String {
    let faults: Vec<String> = [
        ("DUPLICATES", counts.duplicates),
        ("CROSS-ORG", counts.cross_org),
        ("OUT OF ORDER", counts.out_of_order),
        ("UNEXPECTED", counts.unexpected),
        ("OF ROLLED-BACK CHANGES", counts.rolled_back),
        ("resyncs", counts.resyncs),
        ("not yet delivered", counts.missing()),
    ]
    .into_iter()
    .filter(|(_, value)| *value > 0)
    .map(|(name, value)| format!("{value} {name}"))
    .collect();
    if faults.is_empty() { "no faults, nothing missing".to_owned() } else { faults.join(", ") }
}
