//! The parts of the hot path, measured one by one: fan-out to real sockets beside a bare loop of writes,
//! encoding of events, decoding of messages, and visibility and encoding of cursors.
//!
//! `cargo bench --bench engine` runs all of them; `-- fan_out` runs those with this in their names.

use std::num::NonZeroI64;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::ItemsCount;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use uuid::Uuid;
use warden::auth::{Token, Verifier, VerifierConfig};
use warden::config::{DEFAULT_AUDIENCE, Limits};
use warden::cursor::{
    Cursor, CursorKey, CursorPrefix, CursorSeal, Epoch, KeyRing, Point, Snapshot, Transaction,
};
use warden::filter::{ChannelFilter, Filter, Selection, TableColumns};
use warden::hub::{
    Batch, FanoutSender, FanoutWorker, Hub, OrgEvents, Outbox, Registration, SessionCheck, Subscribed,
    Transport, fanout,
};
use warden::log::LoggedEvent;
use warden::metrics::Metrics;
use warden::org::{Incarnation, OrgId};
use warden::reading::RowRequest;
use warden::replay::{RecentEvents, RecentLimits};
use warden::wire::{CloseCode, Event, Topic, append_event_frame, decode};
use warden_devkit::token::{TokenClaims, sign};

/// Bytes of an event's data, about as many as an updated call has.
const DATA_BYTES: usize = 150;

fn main() {
    divan::main();
}

/// The allocator of the gateway's own process.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

/// An organisation, which only a verified token can name.
static ORG: LazyLock<OrgId> = LazyLock::new(|| {
    const SECRET: &str = "the benchmark's secret of 32 bytes";
    let claims = TokenClaims {
        org: Uuid::from_u128(1),
        sub: "bench",
        role: "authenticated",
        ttl: Duration::from_hours(1),
        audience: DEFAULT_AUDIENCE,
        issuer: None,
        topics: None,
        filters: None,
    };
    let config = VerifierConfig::hs256(SECRET, DEFAULT_AUDIENCE, None);
    let limits = Limits::default();
    let verifier = Verifier::new(&config, limits.keys, limits.token_bytes_max, &Arc::new(Metrics::default()));
    let token = Token::new(sign(&claims, SECRET).expect("signs"));
    verifier.expect("a verifier").verify_now(&token).expect("a good token").org
});

fn event(n: usize) -> Event {
    let data = format!(r#"{{"n":{n},"x":"{}"}}"#, "x".repeat(DATA_BYTES));
    let mut event = Event::control("call.updated", &data, 0);
    event.id = 1_000_000 + i64::try_from(n).expect("small");
    // Each event is of a transaction of its own.
    event.xid = 5_000_000 + n as u64;
    event.topic = calls();
    event
}

fn calls() -> Topic {
    Topic::parse("calls").expect("a topic")
}

/// A seal with one key.
fn seal() -> CursorSeal {
    let ring = Arc::<KeyRing>::default();
    ring.replace(&[CursorKey { id: 1, key: vec![1; 32], is_current: true }]);
    ring.replace_transaction_key(&[1; 32]);
    CursorSeal::new(ring, *ORG, Incarnation::default())
}

/// A cursor with this number of transactions in progress.
fn cursor(in_progress: u64) -> Cursor {
    let xmin = 5_000_000;
    let point = |shift: u64| {
        let xmin = xmin + shift;
        let in_progress: Vec<u64> = (0..in_progress).map(|n| xmin + 3 * n).collect();
        let xmax = in_progress.last().map_or(xmin, |last| last + 2);
        Arc::new(Point { snapshot: Snapshot { xmin, xmax, in_progress }, max_id: 9_000_000 })
    };
    let epoch = Epoch { system: 7_300_000_000_000_000_000, timeline: 1, database: 16_384 };
    Cursor { epoch, from: point(0), to: point(1), id: 9_000_000 }
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

    fn is_carried(&self, _: &warden::hub::NamedTopics) -> bool {
        true
    }

    fn joinable(&self, _topics: &Arc<warden::hub::NamedTopics>) -> warden::hub::JoinableTopics {
        warden::hub::JoinableTopics { topics: None, checked: 0 }
    }
}

/// The server's end of a connection on this machine. A task reads the other end and discards the bytes.
async fn connection() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("bound");
    let (far, near) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let mut far = far.expect("connects");
    tokio::spawn(async move {
        let mut bytes = vec![0; 16 * 1024];
        while far.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
    });
    let (near, _) = near.expect("accepts");
    near.set_nodelay(true).expect("set");
    near.writable().await.expect("writable");
    near
}

/// Sockets that joined `calls`.
struct Sockets {
    sender: FanoutSender,
    worker: FanoutWorker,
    hub: Arc<Hub>,
    sessions: Vec<(Registration, Subscribed)>,
}

impl Sockets {
    fn open(count: usize) -> Self {
        let limits = Limits::default();
        let hub = Arc::new(Hub::new(limits.outbox));
        hub.update_cursor(cursor(0));
        let sessions = RUNTIME.block_on(async {
            let mut sessions = Vec::new();
            for _ in 0..count {
                let outbox = Arc::new(Outbox::new(Transport::plain(connection().await), limits.outbox));
                let registration = hub.register(&seal(), outbox, Arc::new(AlwaysValid));
                let subscribed = registration.subscribe(&calls(), None, false, |_| bytes::Bytes::new());
                sessions.push((registration, subscribed));
            }
            sessions
        });
        let (sender, worker) = fanout(Arc::clone(&hub), limits.fanout, Arc::default());
        Self { sender, worker, hub, sessions }
    }

    /// Sends one batch to all sockets.
    fn send(&mut self, events: &[Arc<Event>]) {
        let cursor = cursor(2);
        let points = Arc::new(CursorPrefix::of(&cursor));
        let number = self.hub.advance(cursor.clone());
        let orgs = vec![OrgEvents { org: Some(*ORG), events: events.to_vec(), is_gone: false }];
        self.sender.send(&Batch { number, cursor, points, read_at: Instant::now(), orgs });
        self.worker.drain();
    }
}

/// Pairs of events per batch and sockets.
const FAN_OUTS: [(usize, usize); 4] = [(1, 1), (1, 50), (1, 1000), (50, 200)];

/// Fan-out through the hub. Items are deliveries.
#[divan::bench(args = FAN_OUTS)]
fn fan_out(bencher: Bencher<'_, '_>, (events, sockets): (usize, usize)) {
    let mut open = Sockets::open(sockets);
    let events: Vec<_> = (0..events).map(|n| Arc::new(event(n))).collect();
    bencher.counter(ItemsCount::new(events.len() * sockets)).bench_local(|| open.send(&events));
}

/// Filters on `calls` that no value finds, or that the value of one column finds.
#[derive(Clone, Copy, Debug)]
enum Filters {
    Equality(usize),
    Compound(usize),
}

/// The description of a table for filters.
fn table() -> Arc<TableColumns> {
    let column = |(name, kind): (&str, &str)| {
        let is_text = kind == "text";
        serde_json::json!({
            "name": name, "type": kind, "is_nullable": true, "is_ordered": true, "is_text": is_text,
            "is_boolean": false, "is_enum": false, "is_virtual": false, "collation": is_text.then_some("bytes")
        })
    };
    let columns = [
        ("id", "uuid"),
        ("agent_id", "text"),
        ("status", "text"),
        ("queue", "text"),
        ("priority", "integer"),
    ];
    let columns = serde_json::from_value(columns.into_iter().map(column).collect()).expect("columns");
    let key = Selection::of_names(vec!["id".into()]);
    Arc::new(TableColumns { version: "1".into(), columns, key, entity: None, checks: 0 })
}

/// An update of a row that no filter selects, in its present and its former version.
fn update() -> Arc<Event> {
    let id = Uuid::from_u128(7);
    let data = format!(r#"{{"id":"{id}","agent_id":"nobody","status":"ringing","queue":"x","priority":5}}"#);
    let old = Some(r#"{"agent_id":"none","status":"queued"}"#.into());
    Arc::new(Event { data: data.into(), old, watch: NonZeroI64::new(7), ..event(0) })
}

/// An event beside filters of which none selects it, through the hub: they are found under the lock of their
/// organisation, and evaluated. One socket gets all events.
#[divan::bench(args = [
    Filters::Equality(0), Filters::Equality(10_000), Filters::Compound(100), Filters::Compound(1000)
])]
fn filtered(bencher: Bencher<'_, '_>, filters: Filters) {
    let mut open = Sockets::open(1);
    let (Filters::Equality(count) | Filters::Compound(count)) = filters;
    let (table, metrics) = (table(), Arc::default());
    let handles: Vec<_> = (0..count)
        .map(|n| {
            let text = match filters {
                Filters::Equality(_) => format!("agent_id=eq.agent-{n}"),
                Filters::Compound(_) => {
                    format!("or=(agent_id.eq.agent-{n},and(priority.gt.3,queue.like.q{n}*))&status=neq.done")
                }
            };
            let conditions = RowRequest::parse(&text).expect("parses").conditions;
            let filter = Filter::compile(&conditions, &table.columns, &[]).expect("compiles");
            let (table, bytes) = (Arc::clone(&table), text.len());
            let filter = ChannelFilter { table, filter, select: None, bytes, is_signed: false };
            open.sessions[0].0.open_filter(&calls(), filter, &metrics).expect("opens")
        })
        .collect();
    let events = [update()];
    bencher.bench_local(|| open.send(&events));
    drop(handles);
}

/// A bare loop that writes the same bytes, with one write for each event and socket.
#[divan::bench(args = FAN_OUTS)]
fn bare_writes(bencher: Bencher<'_, '_>, (events, sockets): (usize, usize)) {
    let open: Vec<_> = RUNTIME.block_on(async {
        let mut open = Vec::new();
        for _ in 0..sockets {
            let stream = connection().await.into_std().expect("a socket");
            open.push(stream);
        }
        open
    });
    let frame = frame(&event(0));
    bencher.counter(ItemsCount::new(events * sockets)).bench_local(|| {
        for _ in 0..events {
            for mut stream in &open {
                // The loop ignores bytes that the kernel does not accept.
                let _ = std::io::Write::write(&mut stream, &frame);
            }
        }
    });
}

fn frame(event: &Event) -> bytes::BytesMut {
    let mut into = bytes::BytesMut::new();
    let (seal, cursor) = (seal(), cursor(2));
    let tx = seal.seal_transaction(Transaction { epoch: cursor.epoch, xid: event.xid });
    let payload = event.payload(&seal.seal(&cursor), &tx);
    append_event_frame(&mut into, &calls(), event, &payload);
    into
}

#[divan::bench]
fn encode_event(bencher: Bencher<'_, '_>) {
    let event = event(0);
    bencher.bench(|| frame(divan::black_box(&event)));
}

#[divan::bench]
fn decode_join(bencher: Bencher<'_, '_>) {
    let join = r#"["1","1","calls","phx_join",{"config":{"broadcast":{"self":false}}}]"#;
    bencher.bench(|| decode(divan::black_box(join)).expect("a message"));
}

const IN_PROGRESS: [u64; 3] = [0, 16, 1000];

/// Checks whether a cursor covers an event.
#[divan::bench(args = IN_PROGRESS)]
fn cursor_covers(bencher: Bencher<'_, '_>, in_progress: u64) {
    let cursor = cursor(in_progress);
    bencher
        .bench(|| divan::black_box(&cursor).covers(divan::black_box(5_000_100), divan::black_box(8_999_999)));
}

/// Seals the cursors of a batch of 50 events. Items are cursors.
#[divan::bench(args = IN_PROGRESS)]
fn cursor_seal(bencher: Bencher<'_, '_>, in_progress: u64) {
    let (seal, cursor) = (seal(), cursor(in_progress));
    bencher.counter(ItemsCount::new(50_usize)).bench(|| {
        let points = CursorPrefix::of(&cursor);
        (0..50).map(|n| seal.seal_at(&points, cursor.id + n)).collect::<Vec<_>>()
    });
}

#[divan::bench(args = IN_PROGRESS)]
fn cursor_open(bencher: Bencher<'_, '_>, in_progress: u64) {
    let (seal, cursor) = (seal(), cursor(in_progress));
    let text = seal.seal(&cursor);
    bencher.bench(|| seal.open(cursor.epoch, divan::black_box(&text)).expect("a cursor"));
}

/// Events of an organisation in memory.
const RECENT_EVENTS: [usize; 3] = [0, 1_000, 10_000];

/// A window with this many recent events of the organisation, and a cursor from before them.
fn recent(events: usize) -> (Arc<RecentEvents>, Cursor) {
    let Limits { recent: RecentLimits { bytes_max, .. }, .. } = Limits::default();
    let recent = Arc::new(RecentEvents::new(RecentLimits { bytes_max, org_bytes_max: bytes_max }));
    let since = cursor(0);
    recent.reset(Arc::clone(&since.to));
    for n in 0..events {
        let logged = LoggedEvent { org: Some(*ORG), event: Arc::new(event(n)) };
        recent.push(&Arc::new(point_after(n)), &[logged]);
    }
    (recent, Cursor { from: Arc::clone(&since.to), ..since })
}

/// A point that covers the event with this number, and all before it.
fn point_after(n: usize) -> Point {
    let xmin = 5_000_001 + n as u64;
    Point { snapshot: Snapshot { xmin, xmax: xmin, in_progress: vec![] }, max_id: 9_000_000 }
}

/// A resume from memory that finds nothing, without and with the events that it searches.
#[divan::bench(args = RECENT_EVENTS)]
fn recent_search(bencher: Bencher<'_, '_>, events: usize) {
    let (recent, since) = recent(events);
    bencher.bench(|| recent.between(*ORG, &calls(), divan::black_box(&since), &since).expect("complete"));
}

/// The tailer adds an event, while this many threads resume from memory without a pause. The difference to no
/// thread is the wait for the lock, and for a core.
#[divan::bench(args = [0, 1, 4])]
fn recent_push(bencher: Bencher<'_, '_>, resuming: usize) {
    let (recent, since) = recent(10_000);
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..resuming {
            scope.spawn(|| {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    let found = recent.between(*ORG, &calls(), &since, &since);
                    divan::black_box(found.expect("complete"));
                }
            });
        }
        let mut n = 10_000;
        bencher.bench_local(|| {
            let logged = LoggedEvent { org: Some(*ORG), event: Arc::new(event(n)) };
            recent.push(&Arc::new(point_after(n)), &[logged]);
            n += 1;
        });
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
