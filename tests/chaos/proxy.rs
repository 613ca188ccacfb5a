//! A TCP proxy before each gateway, whose connections can be cut and stalled one by one. It must not look
//! into what it carries.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes carried in one go.
const BUFFER_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
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
    /// Listens; serves until the runtime ends.
    pub(crate) async fn start(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let addr = listener.local_addr().expect("is bound");
        let gates = Arc::new(Mutex::new(Vec::new()));
        let proxy = Self { addr, gates };
        let of_task = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (send, gate) = watch::channel(Gate::Open);
                let mut gates = of_task.gates.lock().expect("nobody panics with it");
                gates.retain(|gate| gate.receiver_count() > 0);
                gates.push(send);
                drop(gates);
                tokio::spawn(carry(client, gateway, gate));
            }
        });
        proxy
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cuts one of the connections. False where there is none.
    pub(crate) fn cut_one(&self, random: &mut fastrand::Rng) -> bool {
        self.pick(random).is_some_and(|gate| gate.send(Gate::Cut).is_ok())
    }

    /// Cuts them all; how many there were.
    pub(crate) fn cut_all(&self) -> usize {
        let gates = self.gates.lock().expect("nobody panics with it");
        gates.iter().filter(|gate| gate.send(Gate::Cut).is_ok()).count()
    }

    /// Carries nothing on one of the connections for a while.
    pub(crate) fn stall_one(&self, random: &mut fastrand::Rng, delay: Duration) -> bool {
        let Some(gate) = self.pick(random) else { return false };
        tokio::spawn(async move {
            gate.send_if_modified(|g| {
                *g == Gate::Open && {
                    *g = Gate::Stalled;
                    true
                }
            });
            tokio::time::sleep(delay).await;
            gate.send_if_modified(|g| {
                *g == Gate::Stalled && {
                    *g = Gate::Open;
                    true
                }
            });
        });
        true
    }

    fn pick(&self, random: &mut fastrand::Rng) -> Option<watch::Sender<Gate>> {
        let gates = self.gates.lock().expect("nobody panics with it");
        let alive: Vec<_> = gates.iter().filter(|gate| gate.receiver_count() > 0).collect();
        (!alive.is_empty()).then(|| alive[random.usize(..alive.len())].clone())
    }
}

async fn carry(mut client: TcpStream, gateway: SocketAddr, gate: watch::Receiver<Gate>) {
    // Where nobody listens the client is dropped, as it would be without a proxy.
    let Ok(mut server) = TcpStream::connect(gateway).await else { return };
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
