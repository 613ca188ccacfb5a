//! The state of the modelled database and its readers, and what can be varied. No behaviour of the
//! protocol is here.

/// Transactions of a run, at the most.
pub(crate) const TXS: usize = 4;
/// Events of one transaction, at the most.
pub(crate) const EVENTS_PER_TX: usize = 2;
/// Readers of a run, at the most.
pub(crate) const READERS: usize = 2;

/// How a transaction ends, and whether it may ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// `COMMIT`, with the deferred bell.
    Plain,
    /// `SET CONSTRAINTS ALL IMMEDIATE`: the bell's trigger ran before the commit, and was silent.
    Immediate,
    /// `PREPARE TRANSACTION`, then `COMMIT PREPARED`: silent, and it survives a crash in between.
    TwoPhase,
    /// `synchronous_commit = off`: a crash may take it back.
    Asynchronous,
}

/// A transaction to be run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) kind: Kind,
    pub(crate) events: usize,
    /// The transaction of the same writer that must have ended before.
    pub(crate) after: Option<usize>,
}

/// One deliberate error in the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutation {
    None,
    /// The cursor is a number: `id > last`.
    IdAlone,
    /// The cursor is a snapshot alone: no `id > m`.
    SnapshotAlone,
    /// Pages are not filtered by the point to which they lead.
    PagesUnfiltered,
    /// The reader doesn't look again at transactions in progress.
    NoRetry,
    /// The bell's lock is given back at the trigger's end, before the commit.
    UnlockBeforeCommit,
    /// The bell's lock is kept until somebody has heard the ring.
    UnlockAfterHearing,
    /// After silence the reader waits at once for the bell.
    NoLookAfterSilence,
    /// After silence the reader takes it that the bell rings, whoever else silences it.
    NoCheckOfOthers,
    /// A reader silences the bell without telling the others.
    NoWord,
    /// It tells them first, and silences it then.
    WordBeforeLock,
    /// A client joins a node that has not reached what it saw elsewhere.
    JoinsAhead,
    /// A node between two points takes the second one for where it stands.
    JoinsAtEnd,
    /// What a client missed comes in two parts, also from a node between two points.
    TwoParts,
    /// Where the pages lead counts, not how far they are, for whether a node has reached what a client saw.
    ReachesByEnd,
}

/// What is run, what may happen to it, and how the product does things.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) txs: &'static [Script],
    pub(crate) readers: usize,
    /// Rows in a page; 0: reads are not paged.
    pub(crate) page: usize,
    /// Writers may roll back before their commit.
    pub(crate) aborts: bool,
    /// Writers may fail in their commit, after the bell's trigger (another deferred constraint, or a
    /// serialization failure).
    pub(crate) late_aborts: bool,
    pub(crate) crashes: u8,
    /// Rings that get lost.
    pub(crate) losses: u8,
    /// Times that a doorbell's connection is lost and made anew.
    pub(crate) relistens: u8,
    /// Times that a reader's connection breaks.
    pub(crate) breaks: u8,
    /// Times that a client joins: each time any reader's node, and all but the last time it goes away again. 0:
    /// there is none.
    pub(crate) joins: u8,
    /// The last reader starts while the others run.
    pub(crate) late_start: bool,
    /// Where the readers begin: under load, one may silence the bell already.
    pub(crate) bells: [Bell; READERS],
    /// Times that a reader finds itself overrun by rings, and begins to silence the bell.
    pub(crate) overruns: u8,
    /// A transaction's beginning and its first event are one step.
    pub(crate) coarse: bool,
    /// The listening backend, woken by an earlier ring, takes a notification once it is visible, while the
    /// ringer has not yet given its lock back.
    pub(crate) early_hearing: bool,
    /// The unconditional look.
    pub(crate) poll: bool,
    pub(crate) mutation: Mutation,
    pub(crate) product: Product,
}

/// How a reader makes sure that nobody silences the bell any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Restoring {
    /// It takes the lock, and gives it back.
    Locks,
    /// It takes the lock as a writer does, in one statement, and rings.
    Rings,
    /// It looks at the lock without taking it.
    Peeks,
}

/// Details of the product on which the findings depend.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// A snapshot is settled only if no transaction id from its xmax on was handed out.
    pub(crate) looks_beyond_xmax: bool,
    pub(crate) restoring: Restoring,
    /// A reader's new connection takes it that the bell may be silent.
    pub(crate) starts_unsure: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stage {
    Idle,
    /// It has its transaction id.
    Running,
    /// The deferred triggers have run.
    AtCommit,
    Prepared,
    /// Committed and in every new snapshot; the bell's lock is not yet given back.
    Visible,
    Committed,
    /// Rolled back, or lost in a crash.
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tx {
    pub(crate) stage: Stage,
    pub(crate) xid: u8,
    /// 0: not inserted.
    pub(crate) ids: [u8; EVENTS_PER_TX],
    /// It got the lock, and its notification goes out with its commit.
    pub(crate) rings: bool,
}

/// A snapshot with the highest id that it covers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Point {
    pub(crate) xmax: u8,
    /// Bit n: the transaction with id n was in progress.
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

    /// As the product's: it may say no where the answer is yes.
    pub(crate) fn includes(self, other: Self) -> bool {
        let hidden = (0..16).filter(|xid| self.in_progress & (1 << xid) != 0);
        other.max_id <= self.max_id
            && other.xmax <= self.xmax
            && hidden.into_iter().all(|xid| !other.sees(xid))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Bell {
    Rings,
    Silenced,
    MaybeSilent,
}

/// Where a reader is in its loop. `found`: what the loop has seen so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    /// Not started.
    Off,
    /// About to read what is new.
    Read { found: bool },
    /// There was more than a page: about to ask where the read leads.
    EndOf,
    /// About to read a page. Only after the first one the place among the pages survives a broken connection.
    Page { is_first: bool, found: bool },
    /// In `Source::wait`.
    Wait { found: bool },
    /// Has the lock, shared, and is about to say so. (Or the other way round, by mutation.)
    Silencing,
    /// Has the lock to make sure that nobody else does.
    Probing,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Reader {
    pub(crate) phase: Phase,
    pub(crate) point: Point,
    /// A transaction id from the point's xmax on had been handed out.
    pub(crate) is_ahead: bool,
    /// A read of several pages: where it leads, and how far it got.
    pub(crate) partial: Option<(Point, u8)>,
    /// Events that it passed on, or that came before its start.
    pub(crate) got: u16,
    pub(crate) bell: Bell,
    pub(crate) woken_by_ring: bool,
    pub(crate) was_poll: bool,
    /// The doorbell's side: a wake-up not yet used, and "silenced" not yet taken notice of.
    pub(crate) permit: bool,
    pub(crate) silenced: bool,
    /// The connection's side: notifications on their way.
    pub(crate) is_listening: bool,
    pub(crate) rings: bool,
    pub(crate) words: bool,
}

/// Everything that `from` covers, and what `to` covers with an id up to `id`: a client's, or a node's place.
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

/// Where a client is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Session {
    Away,
    /// Until the node has reached what it saw, or has looked so many times.
    Waits {
        node: usize,
        looks: u8,
    },
    Live {
        node: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    pub(crate) session: Session,
    pub(crate) cursor: Cursor,
    pub(crate) got: u16,
    pub(crate) joins: u8,
    /// It goes away after so many more events. None: it stays.
    pub(crate) patience: Option<u8>,
}

/// Who has the bell's lock, alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Holder {
    Tx(usize),
    Reader(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) txs: [Tx; TXS],
    pub(crate) next_xid: u8,
    /// The highest transaction id that has ended: a snapshot's xmax is the next one.
    pub(crate) completed: u8,
    /// The highest one with a record in the WAL, and with one on disk.
    pub(crate) written: u8,
    pub(crate) flushed: u8,
    pub(crate) next_id: u8,
    pub(crate) holder: Option<Holder>,
    /// Bit n: reader n has it, shared.
    pub(crate) shared: u8,
    pub(crate) readers: [Reader; READERS],
    pub(crate) client: Client,
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
    pub(crate) relistens: u8,
    pub(crate) breaks: u8,
    pub(crate) overruns: u8,
}

/// A row of the log that new snapshots show.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) bit: u16,
    pub(crate) xid: u8,
    pub(crate) id: u8,
}

impl State {
    pub(crate) fn new(setup: &Setup) -> Self {
        let point = Point { xmax: 1, in_progress: 0, max_id: 0 };
        let reader = Reader {
            phase: Phase::Wait { found: false },
            point,
            is_ahead: false,
            partial: None,
            got: 0,
            bell: Bell::Rings,
            woken_by_ring: false,
            was_poll: false,
            permit: false,
            silenced: false,
            is_listening: true,
            rings: false,
            words: false,
        };
        let off = Reader { phase: Phase::Off, is_listening: false, ..reader };
        let mut readers = [reader; READERS];
        for (n, reader) in readers.iter_mut().enumerate() {
            if n >= setup.readers || (setup.late_start && n + 1 == setup.readers) {
                *reader = off;
            } else {
                reader.bell = setup.bells[n];
            }
        }
        let silencers = (0..READERS).filter(|n| readers[*n].bell == Bell::Silenced);
        Self {
            txs: [Tx { stage: Stage::Idle, xid: 0, ids: [0; EVENTS_PER_TX], rings: false }; TXS],
            next_xid: 1,
            completed: 0,
            written: 0,
            flushed: 0,
            next_id: 1,
            holder: None,
            shared: silencers.fold(0, |shared, n| shared | 1 << n),
            readers,
            client: Client {
                session: Session::Away,
                cursor: Cursor::at(point),
                got: 0,
                joins: 0,
                patience: None,
            },
            crashes: 0,
            losses: 0,
            relistens: 0,
            breaks: 0,
            overruns: 0,
        }
    }

    /// What a statement that begins now sees, in the order of ids.
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

    /// `pg_current_snapshot()`. As in PostgreSQL its xmax is one more than the highest transaction that has
    /// *ended*: of those that run, only the ones below it are in the list.
    pub(crate) fn snapshot(&self, max_id: u8) -> Point {
        let xmax = self.completed + 1;
        let running = self
            .txs
            .iter()
            .filter(|tx| matches!(tx.stage, Stage::Running | Stage::AtCommit | Stage::Prepared));
        let in_progress = running.filter(|tx| tx.xid < xmax).fold(0, |list, tx| list | 1 << tx.xid);
        Point { xmax, in_progress, max_id }
    }

    /// A notification goes out to all who listen.
    pub(crate) fn notify(&mut self, is_word: bool) {
        for reader in self.readers.iter_mut().filter(|r| r.is_listening) {
            // Several on their way count as one, the last: the doorbell has room for one wake-up, too.
            *(if is_word { &mut reader.words } else { &mut reader.rings }) = true;
        }
    }
}
