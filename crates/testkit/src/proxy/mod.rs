//! TCP proxies that cut, reset and stall connections on demand.

mod postgres;
mod tcp;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;

pub use postgres::PostgresProxy;
pub use tcp::TcpProxy;

/// Bytes that a proxy reads at a time.
const BUFFER_BYTES: usize = 16 * 1024;

/// State of a proxied connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Bytes pass.
    Open,
    /// Half open: the connection stays, but carries nothing, as when a host or a cable is gone. Neither side
    /// gets an error.
    Stalled,
    /// Closed with a FIN.
    Cut,
    /// Closed with an RST.
    Reset,
}

/// Copies bytes from one side to the other while the gate is open. Ends at the end of either side, or as soon
/// as `inspect` returns false.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut gate: watch::Receiver<Gate>,
    inspect: impl Fn(&[u8]) -> bool,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if gate.wait_for(|gate| *gate == Gate::Open).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            changed = gate.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(n) => if !inspect(&buffer[..n]) || to.write_all(&buffer[..n]).await.is_err() { return },
            },
        }
    }
}

/// Waits until the connection is to be closed; returns whether with an RST.
async fn closed(mut gate: watch::Receiver<Gate>) -> bool {
    let closed = gate.wait_for(|gate| matches!(gate, Gate::Cut | Gate::Reset)).await;
    closed.is_ok_and(|gate| *gate == Gate::Reset)
}
