//! What is seen while a run goes on: a few lines that are redrawn on a terminal, else a line now and
//! then, on standard error. It only shows.

use std::io::{IsTerminal as _, stderr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::check::Counts;
use crate::clock::now;
use crate::message::SocketCounts;
use crate::publisher::{Publisher, lock};
use crate::run::Scene;

const REDRAW_EVERY: Duration = Duration::from_millis(500);
/// Where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Where lines are drawn.
struct Screen {
    bar: ProgressBar,
    lines: Vec<ProgressBar>,
    // Draws the others.
    _all: MultiProgress,
    is_terminal: bool,
    said: Instant,
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
        Self { bar, lines, _all: all, is_terminal: stderr().is_terminal(), said: Instant::now() }
    }

    fn draw(&mut self, what: &str, done: u64, of: &str, lines: &[String]) {
        if self.is_terminal {
            self.bar.set_message(what.to_owned());
            self.bar.set_prefix(of.to_owned());
            self.bar.set_position(done);
            for (bar, line) in self.lines.iter().zip(lines) {
                bar.set_message(line.clone());
            }
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            eprintln!("{what} {of}; {}", lines.join("; "));
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
        self.lines.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// Shows how the first sockets come.
pub(crate) async fn show_opening(scene: Arc<Scene>, done: CancellationToken) {
    if scene.plan.common.output.quiet {
        return;
    }
    let asked = scene.plan.timeline.open_first as u64;
    let mut screen = Screen::new(asked, 1);
    let mut tick = interval(REDRAW_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = done.cancelled() => break,
        }
        let sockets = lock(&scene.observed).sockets();
        let of = format!("{} of {asked} sockets", sockets.opened);
        screen.draw("connecting", sockets.opened, &of, &[socket_line(&sockets)]);
    }
    screen.clear();
}

/// Shows how publishing goes, and what comes of it.
pub(crate) async fn show(scene: Arc<Scene>, publisher: Arc<Publisher>, done: CancellationToken) {
    if scene.plan.common.output.quiet {
        return;
    }
    let duration = publisher.timeline.duration.as_secs();
    let mut screen = Screen::new(duration, 4);
    let mut tick = interval(REDRAW_EVERY);
    let mut before: Option<(Instant, u64, u64)> = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = done.cancelled() => break,
        }
        let elapsed = Duration::from_nanos(now().saturating_sub(publisher.start)).as_secs();
        let (counts, sockets, latency) = {
            let observed = lock(&scene.observed);
            (observed.counts(), observed.sockets(), observed.latest_latency())
        };
        let (changes, moment) = (publisher.published.changes.load(Relaxed), Instant::now());
        let (changes_per_s, events_per_s) = before.map_or((0.0, 0.0), |(then, changes_then, events_then)| {
            let seconds = moment.duration_since(then).as_secs_f64();
            (
                (changes - changes_then) as f64 / seconds,
                counts.events.saturating_sub(events_then) as f64 / seconds,
            )
        });
        // Holders tell every second or less often: a rate over less would jump.
        if before.is_none_or(|(then, ..)| moment.duration_since(then) >= Duration::from_secs(2)) {
            before = Some((moment, changes, counts.events));
        }
        let what = if elapsed > duration {
            "settling"
        } else {
            publisher.timeline.streams.first().map_or("", |_| scene.plan.scenario)
        };
        let latency = latency
            .and_then(|l| Some(format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", l.p50?, l.p99?, l.max?)));
        let lines = [
            socket_line(&sockets),
            format!(
                "{changes} changes ({changes_per_s:.0}/s), {} events ({events_per_s:.0}/s)",
                counts.events
            ),
            format!("commit to socket: {}", latency.unwrap_or_else(|| "nothing yet".to_owned())),
            fault_line(&counts),
        ];
        screen.draw(
            what,
            elapsed.min(duration),
            &format!("{} of {duration} s", elapsed.min(duration)),
            &lines,
        );
    }
    screen.clear();
}

fn socket_line(sockets: &SocketCounts) -> String {
    let mut line = format!("{} sockets open", sockets.open);
    for (name, value) in [
        ("connecting", sockets.connecting),
        ("refused", sockets.refused),
        ("dropped", sockets.dropped),
        ("away", sockets.stormed.saturating_sub(sockets.returned)),
        ("left and replaced", sockets.left),
        ("tried again", sockets.retries),
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
        ("OF ROLLED-BACK CHANGES", counts.phantoms),
        ("resyncs", counts.resyncs),
        ("on their way", counts.missing()),
    ]
    .into_iter()
    .filter(|(_, value)| *value > 0)
    .map(|(name, value)| format!("{value} {name}"))
    .collect();
    if faults.is_empty() { "nothing missing, nothing wrong".to_owned() } else { faults.join(", ") }
}
