//! A tunnel from a local socket to one server. sqlx connects to the local end, and the tunnel encrypts.
//!
//! sqlx has TLS of its own, but trusts the public authorities beside those of `sslrootcert`, does not
//! implement `sslmode=allow`, never falls back from TLS to plain text, and does not tell what it negotiated.
//! It accepts no stream from outside. docs/design/database-connections.md has the details.
//!
//! Only this process can use a tunnel, because the tunnel may present a client certificate.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::failure::Failure;
use crate::negotiation::{Encryption, NO_TLS, Negotiated, Target, negotiate, offers_no_tls};

/// Longest time from a connection of sqlx to the server's first message.
pub const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time in which the end of a session is passed on to the server.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Largest startup packet, as in PostgreSQL.
const STARTUP_BYTES_MAX: usize = 10_000;

/// Bytes in transit, for each direction of each connection.
pub const BUFFER_BYTES: usize = 32 * 1024;

/// Pause after the system refused a socket.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Port in the name of the local socket, as sqlx composes it.
const PORT: u16 = 5432;

/// The local end of a tunnel, and the task that serves it.
pub(crate) struct Tunnel {
    dir: String,
    listener: StdListener,
    state: Arc<State>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// State that the connections of a tunnel share.
struct State {
    target: Target,
    /// Encryption of the last connection.
    logged: Mutex<Option<Encryption>>,
}

impl Tunnel {
    /// Reserves the local end. Connections wait there until the tunnel is started.
    pub(crate) fn new(target: Target) -> io::Result<Self> {
        let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(16).collect();
        let (dir, listener) = listen(&format!("warden-{random}"))?;
        listener.set_nonblocking(true)?;
        let state = Arc::new(State { target, logged: Mutex::new(None) });
        Ok(Self { dir, listener, state, task: Mutex::new(None) })
    }

    /// Directory of the local socket, as sqlx expects it.
    pub(crate) fn dir(&self) -> &str {
        &self.dir
    }

    #[expect(clippy::unused_self, reason = "the port belongs to the tunnel's address")]
    pub(crate) fn port(&self) -> u16 {
        PORT
    }

    /// Whether the server offers no TLS, and none is required. The result is logged as a connection's is.
    pub(crate) async fn is_superfluous(&self) -> bool {
        let asked = timeout(NEGOTIATION_TIMEOUT, offers_no_tls(&self.state.target)).await;
        let is_superfluous = asked.unwrap_or(false);
        if is_superfluous {
            self.state.log(&Encryption::Plain(NO_TLS));
        }
        is_superfluous
    }

    /// Serves connections on the present runtime, unless a task already does.
    pub(crate) fn start(&self) -> io::Result<()> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let listener = UnixListener::from_std(self.listener.try_clone()?)?;
            *task = Some(tokio::spawn(serve(listener, Arc::clone(&self.state))));
        }
        Ok(())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        #[cfg(not(target_os = "linux"))]
        // A leftover socket does no harm: nobody listens there.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Listens in Linux's abstract namespace, which needs no writable directory.
#[cfg(target_os = "linux")]
fn listen(name: &str) -> io::Result<(String, StdListener)> {
    use std::os::linux::net::SocketAddrExt as _;
    let path = format!("{name}/.s.PGSQL.{PORT}");
    let address = std::os::unix::net::SocketAddr::from_abstract_name(path)?;
    Ok((format!("\0{name}"), StdListener::bind_addr(&address)?))
}

/// Listens in a directory that only this user may enter.
#[cfg(not(target_os = "linux"))]
fn listen(name: &str) -> io::Result<(String, StdListener)> {
    use std::os::unix::fs::DirBuilderExt as _;
    let dir = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    let listener = StdListener::bind(dir.join(format!(".s.PGSQL.{PORT}")))?;
    Ok((dir.display().to_string(), listener))
}

async fn serve(listener: UnixListener, state: Arc<State>) {
    loop {
        match listener.accept().await {
            // This task belongs to the connection: it ends when sqlx closes its end.
            Ok((local, _)) if is_own(&local) => drop(tokio::spawn(relay(local, Arc::clone(&state)))),
            Ok(_) => tracing::warn!(
                address = state.target.name,
                "another process connected to the tunnel: rejected"
            ),
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
}

/// Whether the peer is this process, or has the same user on a system that does not tell its process.
fn is_own(local: &UnixStream) -> bool {
    local.peer_cred().is_ok_and(|peer| match peer.pid() {
        Some(pid) => u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()),
        None => peer.uid() == rustix::process::geteuid().as_raw(),
    })
}

/// Waits until sqlx gives the connection up. It sends nothing before the server's first message.
async fn closed(local: &UnixStream) {
    while local.readable().await.is_ok() {
        match local.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

/// Connects one connection of sqlx with the server. An error here is one of the connection itself, which sqlx
/// reports.
async fn relay(mut local: UnixStream, state: Arc<State>) {
    let Ok(startup) = read_startup(&mut local).await else { return };
    let negotiated = tokio::select! {
        negotiated = timeout(NEGOTIATION_TIMEOUT, negotiate(&state.target, &startup)) => negotiated,
        () = closed(&local) => return,
    };
    let result = match negotiated {
        Ok(Ok(negotiated)) => {
            state.log(&negotiated.encryption);
            exchange(local, negotiated).await
        }
        Ok(Err(failure)) => local.write_all(&failure.to_message()).await,
        Err(_) => {
            let failure =
                Failure::unreachable(format!("no answer within {} s", NEGOTIATION_TIMEOUT.as_secs()));
            local.write_all(&failure.to_message()).await
        }
    };
    if let Err(error) = result {
        tracing::debug!(address = state.target.name, %error, "database connection ended");
    }
}

/// Reads sqlx's first message: its length, then the rest.
async fn read_startup(local: &mut UnixStream) -> io::Result<Vec<u8>> {
    let length = local.read_u32().await?;
    let rest = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
    let rest = rest.filter(|rest| *rest <= STARTUP_BYTES_MAX).ok_or(io::ErrorKind::InvalidData)?;
    let mut startup = length.to_be_bytes().to_vec();
    startup.resize(4 + rest, 0);
    local.read_exact(&mut startup[4..]).await?;
    Ok(startup)
}

/// Copies both directions until one of them ends. The other direction is then no longer needed: a client
/// that closes awaits no response, and a server that closes reads no further request.
async fn exchange(mut local: UnixStream, negotiated: Negotiated) -> io::Result<()> {
    local.write_all(&negotiated.first).await?;
    let (mut from_local, mut to_local) = local.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(negotiated.stream);
    let (result, server_ended) = tokio::select! {
        result = copy(&mut from_server, &mut to_local) => (result, true),
        result = copy(&mut from_local, &mut to_server) => (result, false),
    };
    // A server that vanished does not answer.
    let _ = timeout(CLOSE_TIMEOUT, to_server.shutdown()).await;
    if server_ended && to_local.shutdown().await.is_ok() {
        // The client may send a request before it reads why the server has closed. If this end were closed
        // too, that request would fail with a broken pipe, which hides the reason.
        let _ = tokio::io::copy(&mut from_local, &mut tokio::io::sink()).await;
    }
    result
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n]).await?,
        }
        to.flush().await?;
    }
}

impl State {
    /// Logs what was negotiated, once until it changes.
    fn log(&self, encryption: &Encryption) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.as_ref() != Some(encryption) {
            tracing::info!(address = self.target.name, %encryption, "database connection negotiated");
            *logged = Some(encryption.clone());
        }
    }
}
