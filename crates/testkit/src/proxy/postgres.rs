//! A TCP proxy in front of a PostgreSQL server's Unix socket, for tests of broken connections.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Gate, closed, pump};
use crate::eventually;

const SOCKET_FILE: &str = ".s.PGSQL.5432";

/// The query that distinguishes the doorbell's connection from the others.
const LISTEN: &[u8] = b"LISTEN \"warden\"";

/// No connection is to be reset.
const NO_RESET: i64 = i64::MAX;

/// A proxy whose connections a test can cut, reset and stall, and whose port it can close.
#[derive(Debug)]
pub struct PostgresProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    listening: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    socket: Mutex<PathBuf>,
    connections: Mutex<Vec<Connection>>,
    /// Whether new connections are stalled from the start.
    stalls_new: AtomicBool,
    /// Bytes that servers may still send before the connection that sends the last of them is reset.
    reset_after: AtomicI64,
}

#[derive(Debug)]
struct Connection {
    gate: watch::Sender<Gate>,
    listens: Arc<AtomicBool>,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PostgresProxy {
    /// Starts a proxy in front of the server whose socket is in this directory.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(socket_dir: &Path) -> Self {
        let shared = Shared {
            socket: Mutex::new(socket_dir.join(SOCKET_FILE)),
            connections: Mutex::default(),
            stalls_new: AtomicBool::new(false),
            reset_after: AtomicI64::new(NO_RESET),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let addr = listener.local_addr().expect("is bound");
        let mut proxy = Self { addr, shared: Arc::new(shared), listening: CancellationToken::new() };
        proxy.listen(listener);
        proxy
    }

    /// Host and port, as a URL contains them.
    #[must_use]
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    fn listen(&mut self, listener: TcpListener) {
        self.listening = CancellationToken::new();
        let (listening, shared) = (self.listening.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            while let Some(Ok((client, _))) = listening.run_until_cancelled(listener.accept()).await {
                let stalls = shared.stalls_new.load(Ordering::Relaxed);
                let (gate, of_task) = watch::channel(if stalls { Gate::Stalled } else { Gate::Open });
                let listens = Arc::<AtomicBool>::default();
                shared.connections().push(Connection { gate, listens: Arc::clone(&listens) });
                tokio::spawn(carry(client, Arc::clone(&shared), of_task, listens));
            }
        });
    }

    /// Leads new connections to the server whose socket is in this directory.
    pub fn lead_to(&self, socket_dir: &Path) {
        *self.shared.socket.lock().unwrap_or_else(PoisonError::into_inner) = socket_dir.join(SOCKET_FILE);
    }

    /// Closes all connections and the port: new connections are refused.
    pub async fn shut(&mut self) {
        self.listening.cancel();
        self.cut();
        // The task drops its listener when it next runs.
        eventually("the port is closed", async || TcpStream::connect(self.addr).await.is_err()).await;
        // Until then it may have accepted a connection.
        self.cut();
    }

    /// Opens the port again.
    ///
    /// # Panics
    /// If another process took the port meanwhile.
    pub async fn reopen(&mut self) {
        let listener = TcpListener::bind(self.addr).await.expect("the port is still free");
        self.listen(listener);
    }

    /// Closes all connections in order.
    pub fn cut(&self) {
        self.set_all(Gate::Cut, |_| true);
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.set_all(Gate::Reset, |_| true);
    }

    /// Resets the connection on which a server sends the last of this many bytes.
    pub fn reset_after(&self, bytes: i64) {
        self.shared.reset_after.store(bytes, Ordering::Relaxed);
    }

    /// Whether the reset that [`PostgresProxy::reset_after`] ordered has happened.
    #[must_use]
    pub fn has_reset(&self) -> bool {
        self.shared.reset_after.load(Ordering::Relaxed) == NO_RESET
    }

    /// Makes all connections half open for good; with `new_ones_too` also new connections, until
    /// [`PostgresProxy::carry_new`].
    pub fn stall(&self, new_ones_too: bool) {
        self.shared.stalls_new.store(new_ones_too, Ordering::Relaxed);
        self.set_all(Gate::Stalled, |_| true);
    }

    /// Carries new connections again.
    pub fn carry_new(&self) {
        self.shared.stalls_new.store(false, Ordering::Relaxed);
    }

    /// Makes the connections half open that listen to the doorbell; returns their number.
    pub fn stall_listeners(&self) -> usize {
        self.set_all(Gate::Stalled, |connection| connection.listens.load(Ordering::Relaxed))
    }

    /// Connections so far that listened to the doorbell, ended ones included.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.shared.connections().iter().filter(|c| c.listens.load(Ordering::Relaxed)).count()
    }

    fn set_all(&self, to: Gate, selects: impl Fn(&Connection) -> bool) -> usize {
        // Ended connections stay in the list, because a test counts them.
        let connections = self.shared.connections();
        connections.iter().filter(|c| selects(c) && c.gate.send(to).is_ok()).count()
    }
}

async fn carry(
    mut client: TcpStream,
    shared: Arc<Shared>,
    gate: watch::Receiver<Gate>,
    listens: Arc<AtomicBool>,
) {
    let socket = shared.socket.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // If no server listens, the client's connection is dropped, as it would be without a proxy.
    let Ok(mut server) = UnixStream::connect(&socket).await else { return };
    let _ = client.set_nodelay(true);
    let closed = closed(gate.clone());
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let is_reset = tokio::select! {
        () = pump(client_read, server_write, gate.clone(), |bytes| {
            if bytes.windows(LISTEN.len()).any(|window| window == LISTEN) {
                listens.store(true, Ordering::Relaxed);
            }
            true
        }) => false,
        () = pump(server_read, client_write, gate, |bytes| {
            let count = i64::try_from(bytes.len()).expect("a buffer is small");
            let left = shared.reset_after.load(Ordering::Relaxed);
            if left == NO_RESET {
                return true;
            }
            let is_over = left <= count;
            shared.reset_after.store(if is_over { NO_RESET } else { left - count }, Ordering::Relaxed);
            !is_over
        }) => true,
        is_reset = closed => is_reset,
    };
    if is_reset {
        let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
}
