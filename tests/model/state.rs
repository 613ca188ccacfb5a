//! The state of the modelled database, its tailers and one client, and the parameters of a run. This file
//! contains no behaviour of the protocol.

/// Most transactions of a run.
pub(crate) const TXS: usize = 4;
/// Most events of one transaction.
pub(crate) const EVENTS_PER_TX: usize = 2;
/// Most tailers of a run.
pub(crate) const TAILERS: usize = 2;

/// The way in which a transaction commits, which determines whether it may ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// `COMMIT`, with the deferred doorbell trigger.
    Plain,
    /// `SET CONSTRAINTS ALL IMMEDIATE`: the doorbell trigger ran before the commit, and stayed silent.
    Immediate,
    /// `PREPARE TRANSACTION`, then `COMMIT PREPARED`: it is silent, and survives a crash in between.
    TwoPhase,
    /// `synchronous_commit = off`: a crash may undo the commit.
    Asynchronous,
}

/// A transaction of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) kind: Kind,
    pub(crate) events: usize,
    /// The previous transaction of the same writer, which must have ended.
    pub(crate) after: Option<usize>,
}

/// One deliberate error in the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutation {
    None,
    /// The cursor is a sequence number: `id > last`.
    IdOnly,
    /// The cursor is a snapshot without `id > m`.
    SnapshotOnly,
    /// Pages are not filtered by the point to which the read leads.
    UnfilteredPages,
    /// The tailer does not poll again while transactions are in progress.
    NoRetry,
    /// The trigger releases the doorbell lock at its end, before the commit.
    UnlockBeforeCommit,
    /// The doorbell lock is kept until the notification was delivered.
    UnlockAfterDelivery,
    /// After silencing the doorbell the tailer does not poll before it waits for rings.
    NoPollAfterSilence,
    /// After silencing the doorbell the tailer does not check whether another tailer silences it.
    NoCheckForOthers,
    /// A tailer silences the doorbell without notifying the others.
    NoNotification,
    /// A tailer notifies the others before it silences the doorbell.
    NotificationBeforeLock,
    /// A client joins a node that has not reached everything that the client saw elsewhere.
    JoinWithoutWaiting,
    /// A node between two points uses the second point as its position.
    JoinAtTarget,
    /// A replay has two parts, even at a node between two points.
    TwoParts,
    /// Whether a node has reached what a client saw is decided by the target of its pages, not by its
    /// progress in them.
    ReachedByTarget,
}

/// The parameters of a run: transactions, tailers, faults that may happen, and details of the product.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) txs: &'static [Script],
    pub(crate) tailers: usize,
    /// Rows in a page. 0: reads are not paged.
    pub(crate) page: usize,
    /// Writers may roll back before their commit.
    pub(crate) aborts: bool,
    /// Writers may fail in their commit, after the doorbell trigger. Causes are another deferred constraint,
    /// or a serialization failure.
    pub(crate) late_aborts: bool,
    pub(crate) crashes: u8,
    /// Number of rings that may be lost.
    pub(crate) lost_rings: u8,
    /// Number of times that a doorbell's connection may be lost and reopened.
    pub(crate) doorbell_disconnects: u8,
    /// Number of times that a tailer's connection may be lost.
    pub(crate) disconnects: u8,
    /// Number of times that the client joins. It may join any tailer's node each time, and disconnects again
    /// each time but the last. 0: there is no client.
    pub(crate) joins: u8,
    /// The last tailer starts while the others run.
    pub(crate) late_start: bool,
    /// Initial doorbell state of each tailer. Under load, one may silence the doorbell from the start.
    pub(crate) doorbells: [DoorbellState; TAILERS],
    /// Number of times that rings may overrun a tailer, so that it starts to silence the doorbell.
    pub(crate) overruns: u8,
    /// The start of a transaction and its first event are one step.
    pub(crate) coarse: bool,
    /// A notification may arrive before the ringing transaction releases its lock. This happens if an earlier
    /// ring has woken the listening backend.
    pub(crate) early_delivery: bool,
    /// The unconditional poll exists.
    pub(crate) poll: bool,
    pub(crate) mutation: Mutation,
    pub(crate) product: Product,
}

/// The way in which a tailer checks that no tailer silences the doorbell any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Restoration {
    /// It takes the lock and releases it.
    TakesLock,
    /// It takes the lock and rings in one statement, as a writer does.
    Rings,
    /// It reads the state of the lock without taking it.
    ReadsLock,
}

/// Details of the product on which the properties depend.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// A snapshot is settled only if no transaction id at or above its xmax was assigned.
    pub(crate) checks_beyond_xmax: bool,
    pub(crate) restoration: Restoration,
    /// A new connection of a tailer assumes that the doorbell may be silenced.
    pub(crate) starts_maybe_silenced: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stage {
    Idle,
    /// The transaction has its id.
    Running,
    /// The deferred triggers have run.
    AtCommit,
    Prepared,
    /// Committed and visible in every new snapshot, but the doorbell lock is not released yet.
    Visible,
    Committed,
    /// Rolled back, or lost in a crash.
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tx {
    pub(crate) stage: Stage,
    pub(crate) xid: u8,
    /// Event ids. 0: the event is not inserted yet.
    pub(crate) ids: [u8; EVENTS_PER_TX],
    /// Whether the transaction got the lock, so that its commit sends the notification.
    pub(crate) rings: bool,
}

/// A snapshot, and the highest event id that it covers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Point {
    pub(crate) xmax: u8,
    /// Bit n is set if the transaction with id n was in progress.
    pub(crate) in_progress: u16,
    pub(crate) max_id: u8,
}

impl Point {
    pub(crate) fn sees(self, xid: u8) -> bool {
        xid < self.xmax && self.in_progress & (1 << xid) == 0
    }

    pub(crate) fn covers(self, xid: u8, id: u8) -> bool {
        id <= self.max_id && self.sees(xid)
    }

    /// As in the product: the answer may be a false no.
    pub(crate) fn includes(self, other: Self) -> bool {
        let hidden = (0..16).filter(|xid| self.in_progress & (1 << xid) != 0);
        other.max_id <= self.max_id
            && other.xmax <= self.xmax
            && hidden.into_iter().all(|xid| !other.sees(xid))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum DoorbellState {
    Rings,
    Silenced,
    MaybeSilenced,
}

/// Phase of a tailer in its loop. `found`: whether the poll has found events so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    /// Not started.
    Off,
    /// About to read new events.
    Read { found: bool },
    /// The read has more than one page, and its target point is queried next.
    QueryTarget,
    /// About to read a page. Progress survives a lost connection only after the first page.
    Page { is_first: bool, found: bool },
    /// In `LogTailer::wait`.
    Wait { found: bool },
    /// Holds the lock in shared mode and is about to notify the others. A mutation reverses the two steps.
    Silencing,
    /// Holds the lock exclusively, which proves that no other tailer holds it.
    Probing,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tailer {
    pub(crate) phase: Phase,
    pub(crate) point: Point,
    /// A transaction id at or above the point's xmax was assigned.
    pub(crate) is_ahead: bool,
    /// A read of several pages: its target point, and the last id that was read.
    pub(crate) partial: Option<(Point, u8)>,
    /// Events that were dispatched, or that precede the tailer's start.
    pub(crate) dispatched: u16,
    pub(crate) doorbell: DoorbellState,
    pub(crate) woken_by_ring: bool,
    pub(crate) was_poll: bool,
    /// The doorbell signal: an unused request to poll, and an unread notice that the doorbell is silenced.
    pub(crate) poll_requested: bool,
    pub(crate) silenced: bool,
    /// The doorbell's connection, and the notifications in transit to it.
    pub(crate) is_listening: bool,
    pub(crate) ring_in_transit: bool,
    pub(crate) silenced_in_transit: bool,
}

/// Position of a client or a node: everything that `from` covers, and the part of `to` with ids up to `id`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Cursor {
    pub(crate) from: Point,
    pub(crate) to: Point,
    pub(crate) id: u8,
}

impl Cursor {
    pub(crate) fn at(point: Point) -> Self {
        Self { from: point, to: point, id: point.max_id }
    }

    pub(crate) fn covers(self, xid: u8, id: u8) -> bool {
        self.from.covers(xid, id) || (id <= self.id && self.to.covers(xid, id))
    }
}

/// State of the client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Session {
    Disconnected,
    /// Waits until the node has reached everything that the client saw, or has completed this number of
    /// reads.
    Waiting {
        node: usize,
        reads_left: u8,
    },
    Live {
        node: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    pub(crate) session: Session,
    pub(crate) cursor: Cursor,
    pub(crate) received: u16,
    pub(crate) joins: u8,
    /// Number of further events after which the client disconnects. None: it stays.
    pub(crate) events_left: Option<u8>,
}

/// Holder of the doorbell lock in exclusive mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum LockHolder {
    Tx(usize),
    Tailer(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) txs: [Tx; TXS],
    pub(crate) next_xid: u8,
    /// Highest transaction id that has ended. The xmax of a snapshot is the next one.
    pub(crate) completed: u8,
    /// Highest transaction id with a record in the WAL, and with a record on disk.
    pub(crate) written: u8,
    pub(crate) flushed: u8,
    pub(crate) next_id: u8,
    pub(crate) holder: Option<LockHolder>,
    /// Bit n is set if tailer n holds the lock in shared mode.
    pub(crate) shared: u8,
    pub(crate) tailers: [Tailer; TAILERS],
    pub(crate) client: Client,
    pub(crate) crashes: u8,
    pub(crate) lost_rings: u8,
    pub(crate) doorbell_disconnects: u8,
    pub(crate) disconnects: u8,
    pub(crate) overruns: u8,
}

/// A row of the log that is visible to new snapshots.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) bit: u16,
    pub(crate) xid: u8,
    pub(crate) id: u8,
}

impl State {
    pub(crate) fn new(setup: &Setup) -> Self {
        let point = Point { xmax: 1, in_progress: 0, max_id: 0 };
        let tailer = Tailer {
            phase: Phase::Wait { found: false },
            point,
            is_ahead: false,
            partial: None,
            dispatched: 0,
            doorbell: DoorbellState::Rings,
            woken_by_ring: false,
            was_poll: false,
            poll_requested: false,
            silenced: false,
            is_listening: true,
            ring_in_transit: false,
            silenced_in_transit: false,
        };
        let off = Tailer { phase: Phase::Off, is_listening: false, ..tailer };
        let mut tailers = [tailer; TAILERS];
        for (n, tailer) in tailers.iter_mut().enumerate() {
            if n >= setup.tailers || (setup.late_start && n + 1 == setup.tailers) {
                *tailer = off;
            } else {
                tailer.doorbell = setup.doorbells[n];
            }
        }
        let silencers = (0..TAILERS).filter(|n| tailers[*n].doorbell == DoorbellState::Silenced);
        Self {
            txs: [Tx { stage: Stage::Idle, xid: 0, ids: [0; EVENTS_PER_TX], rings: false }; TXS],
            next_xid: 1,
            completed: 0,
            written: 0,
            flushed: 0,
            next_id: 1,
            holder: None,
            shared: silencers.fold(0, |shared, n| shared | 1 << n),
            tailers,
            client: Client {
                session: Session::Disconnected,
                cursor: Cursor::at(point),
                received: 0,
                joins: 0,
                events_left: None,
            },
            crashes: 0,
            lost_rings: 0,
            doorbell_disconnects: 0,
            disconnects: 0,
            overruns: 0,
        }
    }

    /// Rows that are visible to a statement that begins now, in the order of their ids.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (n, tx) in self.txs.iter().enumerate() {
            if matches!(tx.stage, Stage::Visible | Stage::Committed) {
                let events = tx.ids.iter().enumerate().filter(|(_, id)| **id > 0);
                rows.extend(events.map(|(k, id)| Row {
                    bit: 1 << (n * EVENTS_PER_TX + k),
                    xid: tx.xid,
                    id: *id,
                }));
            }
        }
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    /// `pg_current_snapshot()`. As in PostgreSQL, its xmax is one above the highest transaction that has
    /// *ended*. Only running transactions below it are in the list.
    pub(crate) fn snapshot(&self, max_id: u8) -> Point {
        let xmax = self.completed + 1;
        let running = self
            .txs
            .iter()
            .filter(|tx| matches!(tx.stage, Stage::Running | Stage::AtCommit | Stage::Prepared));
        let in_progress = running.filter(|tx| tx.xid < xmax).fold(0, |list, tx| list | 1 << tx.xid);
        Point { xmax, in_progress, max_id }
    }

    /// Sends a notification to every doorbell that listens.
    pub(crate) fn notify(&mut self, is_silenced: bool) {
        for tailer in self.tailers.iter_mut().filter(|r| r.is_listening) {
            // Several in transit are merged into one, because the doorbell signal also merges requests.
            *(if is_silenced { &mut tailer.silenced_in_transit } else { &mut tailer.ring_in_transit }) = true;
        }
    }
}
