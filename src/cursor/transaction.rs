//! Sealed transactions: the string `tx` by which a client recognises the events of one transaction.
//!
//! A raw transaction id would show how much the whole platform writes, and recurs after a failover. So it is
//! encrypted and authenticated, and bound to the epoch, the organisation and its incarnation.
//!
//! `warden.current_tx()` computes the same string in the database, where SHA-256 is the only primitive. So
//! the cipher is a synthetic IV from HMAC-SHA256: the tag authenticates the id, and the id is combined with a
//! pad that the tag determines. `docs/design/cursor.md` explains it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{CursorPrefix, CursorSeal, Epoch, InvalidCursor};

/// First byte of the data from which a tag is computed. Another value makes all strings invalid.
const TAG_DOMAIN: u8 = 0x81;

/// First byte of the data from which a pad is computed.
const PAD_DOMAIN: u8 = 0x82;

const ID_BYTES: usize = 8;
const TAG_BYTES: usize = 16;

/// A transaction of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The epoch in which the id is valid.
    pub epoch: Epoch,
    /// Transaction id, with its epoch of wraparounds (`xid8`).
    pub xid: u64,
}

/// Seals the transactions of consecutive events, each of them once while it repeats.
#[derive(Debug)]
pub struct TransactionSealer<'a> {
    seal: &'a CursorSeal,
    last: Option<(Transaction, String)>,
}

impl<'a> TransactionSealer<'a> {
    /// A sealer for events of this organisation.
    #[must_use]
    pub fn new(seal: &'a CursorSeal) -> Self {
        Self { seal, last: None }
    }

    /// The transaction of an event whose cursor has these points.
    pub fn seal(&mut self, points: &CursorPrefix, xid: u64) -> &str {
        let transaction = Transaction { epoch: points.epoch(), xid };
        let last = self.last.take().filter(|(last, _)| *last == transaction);
        let last = last.unwrap_or_else(|| (transaction, self.seal.seal_transaction(transaction)));
        &self.last.insert(last).1
    }
}

impl CursorSeal {
    /// The transaction as clients receive it. All of them have the same length. Without a key this is an
    /// empty string; but a node has the key before it has a position.
    #[must_use]
    pub fn seal_transaction(&self, transaction: Transaction) -> String {
        let Some(key) = self.ring.transaction_key() else { return String::new() };
        let tag = self.tag(&key, transaction);
        let mut sealed = [0; ID_BYTES + TAG_BYTES];
        sealed[..ID_BYTES].copy_from_slice(&(transaction.xid ^ pad(&key, &tag)).to_be_bytes());
        sealed[ID_BYTES..].copy_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// Opens a transaction that a client presents.
    ///
    /// # Errors
    /// If it was not sealed for this organisation in this epoch, with the present key.
    pub fn open_transaction(&self, epoch: Epoch, text: &str) -> Result<Transaction, InvalidCursor> {
        let key = self.ring.transaction_key().ok_or(InvalidCursor::UnknownKey)?;
        let mut sealed = [0; ID_BYTES + TAG_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut sealed).ok();
        let (id, tag) = sealed.split_first_chunk().ok_or(InvalidCursor::NotSealed)?;
        let transaction = Transaction { epoch, xid: u64::from_be_bytes(*id) ^ pad(&key, tag) };
        let is_sealed = length == Some(sealed.len())
            && verify_slices_are_equal(tag, &self.tag(&key, transaction)).is_ok();
        if is_sealed { Ok(transaction) } else { Err(InvalidCursor::NotSealed) }
    }

    fn tag(&self, key: &hmac::Key, transaction: Transaction) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(key);
        context.update(&self.context(TAG_DOMAIN, transaction.epoch));
        context.update(&transaction.xid.to_be_bytes());
        first_bytes(&context.sign())
    }
}

/// The pad that belongs to a tag.
fn pad(key: &hmac::Key, tag: &[u8]) -> u64 {
    let mut context = hmac::Context::with_key(key);
    context.update(&[PAD_DOMAIN]);
    context.update(tag);
    u64::from_be_bytes(first_bytes(&context.sign()))
}

fn first_bytes<const N: usize>(mac: &hmac::Tag) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&mac.as_ref()[..N]);
    bytes
}
