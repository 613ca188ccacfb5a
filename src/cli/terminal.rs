//! Questions to the operator on the terminal.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};

use crate::shutdown;

/// The operator pressed Ctrl-C, or the process got SIGTERM, at a question.
#[derive(Debug, thiserror::Error)]
#[error("stopped at the question: it counts as not confirmed")]
pub(super) struct Stopped;

/// Asks for `yes`. Any other answer, or the end of the input, is an error.
///
/// # Errors
/// Also if standard input is not a terminal, or with [`Stopped`].
pub(super) async fn confirm(what: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("standard input is not a terminal: pass --yes to confirm");
    }
    if answer(&format!("{what} Continue? Type yes: ")).await?.trim() != "yes" {
        bail!("not confirmed: nothing was changed");
    }
    Ok(())
}

/// Prints a question, and reads one line. The end of the input is an empty answer.
///
/// # Errors
/// If the terminal cannot be read, or with [`Stopped`].
pub(super) async fn answer(question: &str) -> anyhow::Result<String> {
    let stopped = shutdown::requested()?;
    eprint!("{question}");
    std::io::stderr().flush()?;
    let (send, receive) = tokio::sync::oneshot::channel();
    // A read cannot be cancelled. The runtime would wait for it at its end, but not for this thread.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line).map(|_| line);
        // No receiver is left after Ctrl-C.
        let _ = send.send(read);
    });
    tokio::select! {
        () = stopped => Err(Stopped.into()),
        line = receive => line.context("the terminal was not read")?.context("cannot read the terminal"),
    }
}
