//! The signals that end a process.

use tokio::signal::unix::{SignalKind, signal};

/// Resolves on Ctrl-C or SIGTERM. A second one ends the process at once: who asks twice is in a hurry.
///
/// # Errors
/// When the handlers can't be installed.
pub fn requested() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        let either = async |interrupt: &mut tokio::signal::unix::Signal,
                            terminate: &mut tokio::signal::unix::Signal| {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        either(&mut interrupt, &mut terminate).await;
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate).await;
            eprintln!("ending at once");
            std::process::exit(130);
        });
    })
}
