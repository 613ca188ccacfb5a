//! What Ctrl-C and SIGTERM ask for: first to stop, then also to hurry, then the process ends.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

#[derive(Clone, Default)]
pub(crate) struct Signals {
    pub(crate) stop: CancellationToken,
    pub(crate) hurry: CancellationToken,
}

impl Signals {
    pub(crate) async fn watch(self) -> anyhow::Result<()> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        for n in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            match n {
                0 => {
                    eprintln!("\nStopping: waiting for what is still on its way (Ctrl-C again: don't wait)");
                    self.stop.cancel();
                }
                1 => {
                    eprintln!("\nNot waiting; removing the organisations (Ctrl-C again: leave them)");
                    self.hurry.cancel();
                }
                // Holders end when their orders do.
                _ => std::process::exit(INTERRUPTED),
            }
        }
        Ok(())
    }
}
