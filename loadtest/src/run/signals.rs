//! Ctrl-C and SIGTERM: the first stops publishing, the second stops waiting, and the third ends the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of an interrupted process by the convention of shells.
const INTERRUPTED: i32 = 130;

/// The requests of the user.
#[derive(Clone, Default)]
pub(super) struct Signals {
    /// Stop publishing.
    pub(super) stop: CancellationToken,
    /// Stop waiting for missing events.
    pub(super) hurry: CancellationToken,
}

impl Signals {
    /// Handles signals until the process ends.
    pub(super) async fn watch(self) -> anyhow::Result<()> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        for n in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            match n {
                0 => {
                    eprintln!("\nStopped publishing; waiting for missing events (Ctrl-C again: do not wait)");
                    self.stop.cancel();
                }
                1 => {
                    eprintln!("\nNot waiting; removing the organisations (Ctrl-C again: leave them)");
                    self.hurry.cancel();
                }
                // The workers end with their standard input.
                _ => std::process::exit(INTERRUPTED),
            }
        }
        Ok(())
    }
}
