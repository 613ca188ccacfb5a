//! A change before and after its preparation, and the interface of a writer that makes changes.

use uuid::Uuid;

use crate::check::ChangeKind;
use crate::filters::RowChange;

/// A change that is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlannedChange {
    /// Index of its organisation.
    pub(crate) org: usize,
    pub(crate) org_id: Uuid,
    /// Number within its organisation.
    pub(crate) number: usize,
}

/// A change that is made, except for its COMMIT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreparedChange {
    pub(crate) entity: Uuid,
    pub(crate) kind: ChangeKind,
    /// Number within the life of its entity.
    pub(crate) seq: u32,
    /// Columns that filters compare, before and after.
    pub(crate) row: RowChange,
}

/// A way to make changes. Each writer has its own.
pub(crate) trait Publish: Send {
    /// Makes the changes of one transaction, except for its COMMIT. Until `commit` no other writer may change
    /// the same entities.
    fn prepare(
        &mut self,
        run: &str,
        changes: &[PlannedChange],
    ) -> impl Future<Output = anyhow::Result<Vec<PreparedChange>>> + Send;

    /// Commits the transaction.
    fn commit(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// The id of the transaction, with which its outcome can be queried after a broken COMMIT.
    fn transaction_id(&self) -> Option<String>;

    /// Opens a new connection after an error.
    fn reconnect(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;
}
