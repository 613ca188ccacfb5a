//! A TCP proxy before a PostgreSQL server's socket: its connections are cut, reset and stalled, and nobody
//! listens where it is shut. What the server is told is looked through for one word, so that a test can
//! tell connections apart.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Bytes carried in one go.
const BUFFER_BYTES: usize = 16 * 1024;

const SOCKET_FILE: &str = ".s.PGSQL.5432";

/// How a doorbell's connection is known.
const LISTENS: &[u8] = b"LISTEN \"warden\"";

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// Half open: nothing comes through, and nobody is told.
    Stalled,
    /// Ended in order.
    Cut,
    /// Ended with an RST.
    Reset,
}

/// See the module's documentation.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    listening: CancellationToken,
}

struct Shared {
    server: Mutex<PathBuf>,
    carried: Mutex<Vec<Carried>>,
    /// New connections are stalled from the start.
    stalls_new: AtomicBool,
    /// When so many bytes have come from the server, that connection is reset.
    reset_after: AtomicI64,
}

struct Carried {
    gate: watch::Sender<Gate>,
    said_listen: Arc<AtomicBool>,
}

impl Proxy {
    /// Before the server whose socket is in this directory.
    pub async fn start(socket_dir: &Path) -> Self {
        let shared = Shared {
            server: Mutex::new(socket_dir.join(SOCKET_FILE)),
            carried: Mutex::default(),
            stalls_new: AtomicBool::new(false),
            reset_after: AtomicI64::new(i64::MAX),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let addr = listener.local_addr().expect("is bound");
        let mut proxy = Self { addr, shared: Arc::new(shared), listening: CancellationToken::new() };
        proxy.listen(listener);
        proxy
    }

    /// Before the server of this URL.
    pub async fn before(url: &str) -> Self {
        let options: PgConnectOptions = url.parse().expect("a URL");
        Self::start(options.get_socket().expect("a socket")).await
    }

    /// `127.0.0.1` and the port, as in a URL.
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
                let carried = Carried { gate, said_listen: Arc::default() };
                let said_listen = Arc::clone(&carried.said_listen);
                shared.carried.lock().unwrap_or_else(PoisonError::into_inner).push(carried);
                tokio::spawn(carry(client, Arc::clone(&shared), of_task, said_listen));
            }
        });
    }

    /// New connections go to the server whose socket is in this directory.
    pub fn lead_to(&self, socket_dir: &Path) {
        *self.shared.server.lock().unwrap_or_else(PoisonError::into_inner) = socket_dir.join(SOCKET_FILE);
    }

    /// Ends all connections; new ones are refused.
    pub async fn shut(&mut self) {
        self.listening.cancel();
        self.cut();
        // The task drops its listener when it next runs.
        super::eventually("nobody listens", async || TcpStream::connect(self.addr).await.is_err()).await;
    }

    /// Listens again where it did.
    pub async fn reopen(&mut self) {
        let listener = TcpListener::bind(self.addr).await.expect("the port is free still");
        self.listen(listener);
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.set_all(Gate::Cut, |_| true);
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.set_all(Gate::Reset, |_| true);
    }

    /// Resets the connection on which the server sends the byte after so many more.
    pub fn reset_after(&self, bytes: i64) {
        self.shared.reset_after.store(bytes, Ordering::Relaxed);
    }

    /// Whether that has happened.
    pub fn has_reset(&self) -> bool {
        self.shared.reset_after.load(Ordering::Relaxed) == i64::MAX
    }

    /// Makes all connections half open, for good; and new ones, until told otherwise.
    pub fn stall(&self, new_ones_too: bool) {
        self.shared.stalls_new.store(new_ones_too, Ordering::Relaxed);
        self.set_all(Gate::Stalled, |_| true);
    }

    /// New connections are carried again.
    pub fn carry_new(&self) {
        self.shared.stalls_new.store(false, Ordering::Relaxed);
    }

    /// Makes the connections half open that listen to the doorbell; how many these are.
    pub fn stall_listeners(&self) -> usize {
        self.set_all(Gate::Stalled, |carried| carried.said_listen.load(Ordering::Relaxed))
    }

    /// Connections so far, whatever became of them, that listened to the doorbell.
    pub fn listeners(&self) -> usize {
        let carried = self.shared.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.iter().filter(|carried| carried.said_listen.load(Ordering::Relaxed)).count()
    }

    fn set_all(&self, to: Gate, which: impl Fn(&Carried) -> bool) -> usize {
        let carried = self.shared.carried.lock().unwrap_or_else(PoisonError::into_inner);
        // Kept in the list when they have ended: a test counts them.
        carried.iter().filter(|carried| which(carried) && carried.gate.send(to).is_ok()).count()
    }
}

async fn carry(
    mut client: TcpStream,
    shared: Arc<Shared>,
    gate: watch::Receiver<Gate>,
    said_listen: Arc<AtomicBool>,
) {
    let server = shared.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
    // Where nobody listens the client is dropped, as it would be without a proxy.
    let Ok(mut server) = UnixStream::connect(&server).await else { return };
    let _ = client.set_nodelay(true);
    let mut ends = gate.clone();
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let is_reset = tokio::select! {
        () = pump(client_read, server_write, gate.clone(), |bytes| {
            if bytes.windows(LISTENS.len()).any(|word| word == LISTENS) {
                said_listen.store(true, Ordering::Relaxed);
            }
            true
        }) => false,
        () = pump(server_read, client_write, gate, |bytes| {
            let count = i64::try_from(bytes.len()).expect("a buffer is small");
            let left = shared.reset_after.load(Ordering::Relaxed);
            if left == i64::MAX {
                return true;
            }
            let is_over = left <= count;
            shared.reset_after.store(if is_over { i64::MAX } else { left - count }, Ordering::Relaxed);
            !is_over
        }) => true,
        ended = ends.wait_for(|gate| matches!(gate, Gate::Cut | Gate::Reset)) => {
            ended.is_ok_and(|gate| *gate == Gate::Reset)
        }
    };
    if is_reset {
        let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
}

/// Carries until an end, or until `look` says no.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut gate: watch::Receiver<Gate>,
    look: impl Fn(&[u8]) -> bool,
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
                Ok(n) => if !look(&buffer[..n]) || to.write_all(&buffer[..n]).await.is_err() { return },
            },
        }
    }
}
