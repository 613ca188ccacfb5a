//! State that the workers of one program share.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::sync::watch;
use uuid::Uuid;

use super::model::Change;

/// Organisations and calls of a program, and the record of its changes.
pub struct World {
    pub orgs: Vec<Uuid>,
    /// Calls that exist from the start and are never deleted.
    pub anchors: Vec<(Uuid, Uuid)>,
    /// Organisations and ids of calls that sockets may join before the calls are created.
    pub planned: Vec<(Uuid, Uuid)>,
    state: Mutex<State>,
    /// Number of changes that have been committed or rolled back.
    pub progress: watch::Sender<usize>,
    /// Number of transactions that have begun.
    pub begun: AtomicUsize,
}

/// State behind the lock.
#[derive(Default)]
pub struct State {
    /// Planned calls that no worker has created yet.
    pub unborn: Vec<(Uuid, Uuid)>,
    /// Ids of rows that may exist, by table.
    pub rows: [Vec<Uuid>; 3],
    pub committed: Vec<Change>,
    pub rolled_back: usize,
}

impl World {
    pub fn new(orgs: Vec<Uuid>, anchors: Vec<(Uuid, Uuid)>, planned: Vec<(Uuid, Uuid)>) -> Self {
        let state = State { unborn: planned.clone(), ..State::default() };
        Self {
            orgs,
            anchors,
            planned,
            state: Mutex::new(state),
            progress: watch::Sender::default(),
            begun: AtomicUsize::new(0),
        }
    }

    pub fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("no worker has failed"))
    }

    /// The committed changes, and the number of changes that were rolled back.
    pub fn outcome(&self) -> (Vec<Change>, usize) {
        self.state(|s| (s.committed.clone(), s.rolled_back))
    }
}
