//! Sealed transactions: the string `tx` by which a client recognises that it has seen what a transaction
//! published.
//!
//! A raw transaction id would show how much the whole platform writes, and recurs after a failover. So it is
//! sealed like a cursor, with the same keys, and is bound to the epoch, the organisation and its incarnation.
//! The version byte keeps the two apart: a cursor is never read as a transaction, nor the reverse.

use super::{CursorSeal, Epoch, InvalidCursor};

/// First byte of the data that a transaction is bound to. No version of cursors has this bit.
const VERSION: u8 = 0x81;

/// A transaction of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The epoch in which the id is valid.
    pub epoch: Epoch,
    /// Transaction id, with its epoch of wraparounds (`xid8`).
    pub xid: u64,
}

impl CursorSeal {
    /// The transaction as clients receive it. All of them have the same length.
    #[must_use]
    pub fn seal_transaction(&self, transaction: Transaction) -> String {
        let plain = transaction.xid.to_be_bytes();
        self.encrypt(VERSION, transaction.epoch, plain.len(), |bytes| bytes.extend_from_slice(&plain))
    }

    /// Opens a transaction that a client presents.
    ///
    /// # Errors
    /// If no gateway sealed it for this organisation in this epoch, or its key is unknown.
    pub fn open_transaction(&self, epoch: Epoch, text: &str) -> Result<Transaction, InvalidCursor> {
        self.decrypt(VERSION, epoch, text, |plain| {
            Some(Transaction { epoch, xid: u64::from_be_bytes(plain.try_into().ok()?) })
        })
    }
}
