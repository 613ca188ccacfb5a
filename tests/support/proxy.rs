//! A plain TCP proxy before one gateway or several, in turn; its connections can be cut and stalled one by
//! one. It must not look into what it carries. Shared by `tests/it` and `tests/chaos`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes carried in one go.
const BUFFER_BYTES: usize = 16 * 1024;

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// It stays open and carries nothing, as when a host or a cable is gone: neither side is told.
    Stalled,
    Cut,
}

/// See the module's documentation.
#[derive(Clone)]
pub(crate) struct Proxy {
    addr: SocketAddr,
    gates: Arc<Mutex<Vec<watch::Sender<Gate>>>>,
}

impl Proxy {
    /// Listens; serves until the runtime ends. Connections go to the targets in turn; where nobody listens
    /// the next one is tried, as a balancer does.
    pub(crate) async fn start(targets: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let addr = listener.local_addr().expect("is bound");
        let gates = Arc::new(Mutex::new(Vec::new()));
        let proxy = Self { addr, gates };
        let of_task = proxy.clone();
        tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((client, _)) = listener.accept().await {
                let (send, gate) = watch::channel(Gate::Open);
                let mut gates = of_task.gates.lock().expect("nobody panics with it");
                gates.retain(|gate| gate.receiver_count() > 0);
                gates.push(send);
                drop(gates);
                let mut targets = targets.clone();
                targets.rotate_left(turn);
                turn = (turn + 1) % targets.len();
                tokio::spawn(carry(client, targets, gate));
            }
        });
        proxy
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The connections that are there.
    pub(crate) fn gates(&self) -> Vec<watch::Sender<Gate>> {
        let gates = self.gates.lock().expect("nobody panics with it");
        gates.iter().filter(|gate| gate.receiver_count() > 0).cloned().collect()
    }
}

async fn carry(mut client: TcpStream, targets: Vec<SocketAddr>, gate: watch::Receiver<Gate>) {
    let mut server = None;
    for target in targets {
        if let Ok(stream) = TcpStream::connect(target).await {
            server = Some(stream);
            break;
        }
    }
    // Where nobody listens the client is dropped, as it would be without a proxy.
    let Some(mut server) = server else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut cut = gate.clone();
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    tokio::select! {
        () = pump(client_read, server_write, gate.clone()) => {}
        () = pump(server_read, client_write, gate) => {}
        _ = cut.wait_for(|gate| *gate == Gate::Cut) => {}
    }
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut gate: watch::Receiver<Gate>) {
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
                Ok(n) => if to.write_all(&buffer[..n]).await.is_err() { return },
            },
        }
    }
}
