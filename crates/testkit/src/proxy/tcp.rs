//! A plain TCP proxy in front of one gateway or several.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Gate, closed, pump};

/// A proxy that balances connections over its targets. It does not inspect what it carries.
#[derive(Clone, Debug)]
pub struct TcpProxy {
    addr: SocketAddr,
    gates: Arc<Mutex<Vec<watch::Sender<Gate>>>>,
}

impl TcpProxy {
    /// Listens, and serves until the runtime ends. Connections are assigned round-robin. If a target does not
    /// listen, the proxy tries the next one, as a balancer does.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(targets: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let addr = listener.local_addr().expect("is bound");
        let proxy = Self { addr, gates: Arc::default() };
        let gates = Arc::clone(&proxy.gates);
        tokio::spawn(async move {
            let mut first = 0;
            while let Ok((client, _)) = listener.accept().await {
                let (send, gate) = watch::channel(Gate::Open);
                let mut gates = gates.lock().unwrap_or_else(PoisonError::into_inner);
                gates.retain(|gate| gate.receiver_count() > 0);
                gates.push(send);
                drop(gates);
                let mut targets = targets.clone();
                targets.rotate_left(first);
                first = (first + 1) % targets.len();
                tokio::spawn(carry(client, targets, gate));
            }
        });
        proxy
    }

    /// Address on which the proxy listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Gates of the connections that are open now.
    #[must_use]
    pub fn gates(&self) -> Vec<watch::Sender<Gate>> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
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
    // If no target listens, the client's connection is dropped, as it would be without a proxy.
    let Some(mut server) = server else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let closed = closed(gate.clone());
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    tokio::select! {
        () = pump(client_read, server_write, gate.clone(), |_| true) => {}
        () = pump(server_read, client_write, gate, |_| true) => {}
        _ = closed => {}
    }
}
