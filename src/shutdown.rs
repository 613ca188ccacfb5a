//! Signals that end the process.

use tokio::signal::unix::{SignalKind, signal};

/// A future that resolves on Ctrl-C or SIGTERM. A second signal then ends the process immediately.
///
/// # Errors
/// When the signal handlers cannot be installed.
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
            eprintln!("second signal: exiting immediately");
            std::process::exit(130);
        });
    })
}
