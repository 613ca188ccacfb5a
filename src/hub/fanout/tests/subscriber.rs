//! A client's socket that receives what the fan-out sends.

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::cursor::{CursorKey, CursorSeal, KeyRing};
use crate::hub::{
    Hub, JoinableTopics, NamedTopics, Outbox, OutboxLimits, Registration, SessionCheck, Subscribed, Transport,
};
use crate::org::{Incarnation, OrgId};
use crate::wire::{CloseCode, Topic};

pub(super) const OUTBOX: OutboxLimits =
    OutboxLimits { queue_bytes_max: 1 << 20, queue_chunks_max: 64, memory_bytes_max: 64 << 20 };
/// Kernel buffers of a socket whose queue must fill.
const SMALL_BUFFER: u32 = 4 * 1024;
pub(super) const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

pub(super) fn calls() -> Topic {
    Topic::parse("calls").expect("a topic")
}

/// A seal with one key.
pub(super) fn seal(org: OrgId, number: i64) -> CursorSeal {
    let ring = Arc::<KeyRing>::default();
    ring.replace(&[CursorKey { id: 1, key: vec![1; 32], is_current: true }]);
    CursorSeal::new(ring, org, Incarnation { number, since_xid: 0 })
}

/// A check that lets every session stay.
#[derive(Debug)]
struct AlwaysValid;

impl SessionCheck for AlwaysValid {
    fn close_reason(&self) -> Option<CloseCode> {
        None
    }

    fn names(&self, _topic: &str) -> bool {
        true
    }

    fn is_carried(&self, _: &NamedTopics) -> bool {
        true
    }

    fn joinable(&self, topics: &Arc<NamedTopics>) -> JoinableTopics {
        JoinableTopics { topics: None, checked: topics.len() }
    }
}

/// Both ends of a connection. The client's end has this receive buffer.
async fn connection(receive_buffer: Option<u32>) -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).expect("set");
    }
    let connecting = socket.connect(listener.local_addr().expect("bound"));
    let (client, accepted) = tokio::join!(connecting, listener.accept());
    let (server, _) = accepted.expect("accepts");
    server.writable().await.expect("writable");
    (Transport::plain(server), client.expect("connects"))
}

/// A socket that joined `calls`.
pub(super) struct Subscriber {
    pub(super) client: std::net::TcpStream,
    pub(super) registration: Registration,
    pub(super) subscribed: Option<Subscribed>,
}

impl Subscriber {
    pub(super) async fn new(hub: &Arc<Hub>, org: OrgId) -> Self {
        Self::in_incarnation(hub, org, 0).await
    }

    pub(super) async fn with_marks(hub: &Arc<Hub>, org: OrgId) -> Self {
        Self::join(hub, org, 0, true).await
    }

    pub(super) async fn in_incarnation(hub: &Arc<Hub>, org: OrgId, number: i64) -> Self {
        Self::join(hub, org, number, false).await
    }

    async fn join(hub: &Arc<Hub>, org: OrgId, number: i64, with_marks: bool) -> Self {
        let (transport, client) = connection(None).await;
        Self::register(hub, &seal(org, number), transport, client, with_marks)
    }

    /// A socket with small kernel buffers.
    pub(super) async fn with_small_buffers(hub: &Arc<Hub>, org: OrgId) -> Self {
        let (transport, client) = connection(Some(SMALL_BUFFER)).await;
        transport.configure(SMALL_BUFFER as usize).expect("set");
        Self::register(hub, &seal(org, 0), transport, client, false)
    }

    fn register(
        hub: &Arc<Hub>,
        seal: &CursorSeal,
        transport: Transport,
        client: TcpStream,
        with_marks: bool,
    ) -> Self {
        let outbox = Arc::new(Outbox::new(transport, hub.outbox_limits()));
        let registration = hub.register(seal, outbox, Arc::new(AlwaysValid));
        let subscribed = registration.subscribe(&calls(), None, with_marks, |_| Bytes::new());
        let client = client.into_std().expect("a socket");
        Self { client, registration, subscribed: Some(subscribed) }
    }

    /// Everything received so far: loopback delivers before `write` returns.
    pub(super) fn received(&mut self) -> String {
        let mut bytes = vec![0; 1 << 20];
        let n = self.client.read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    /// Everything received up to this marker. With several writing threads the kernel may deliver after
    /// `write` has returned.
    pub(super) fn received_until(&mut self, marker: &str) -> String {
        self.received_until_count(marker, 1)
    }

    /// Everything received up to this number of markers.
    pub(super) fn received_until_count(&mut self, marker: &str, count: usize) -> String {
        self.client.set_nonblocking(false).expect("set");
        self.client.set_read_timeout(Some(DEADLINE)).expect("set");
        let (mut all, mut bytes) = (String::new(), [0; 4096]);
        while all.matches(marker).count() < count {
            let n = self.client.read(&mut bytes).expect("before the deadline");
            all.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
        all
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Some(subscribed) = self.subscribed.take() {
            self.registration.unsubscribe(&calls(), &subscribed);
        }
    }
}
