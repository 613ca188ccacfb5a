//! Sealed cursors, the only form in which a cursor leaves the node. A sealed cursor is encrypted and
//! authenticated with a key from the database. It is bound to an epoch, an organisation and its incarnation.
//!
//! The cipher is AES-256-GCM-SIV (RFC 8452). It is made for the case that a nonce is used again. The nonce
//! here is constant, so sealing is deterministic: a position has one sealed form for each key and
//! organisation, and equal cursors are all that an observer can recognise.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::encoding::{CURSOR_BYTES_MAX, CursorPrefix};
use super::{Cursor, Epoch};
use crate::org::{Incarnation, OrgId};

/// Bytes of a sealed cursor beside its encrypted part: the low byte of the key's id, and the tag.
const OVERHEAD_BYTES: usize = 1 + TAG_BYTES;
const TAG_BYTES: usize = 16;

/// First byte of the data that a cursor is bound to. Another value makes all cursors invalid.
const VERSION: u8 = 2;

/// Length of the data that a cursor is bound to: version, epoch, organisation and incarnation.
const CONTEXT_BYTES: usize = 1 + 16 + 16 + 8;

/// A row of `warden.cursor_keys`.
pub struct CursorKey {
    /// The key's id. Cursors contain its low byte.
    pub id: i64,
    /// 32 random bytes.
    pub key: Vec<u8>,
    /// Whether cursors are sealed with this key.
    pub is_current: bool,
}

/// The keys of a node. All seals of the node share them.
#[derive(Debug, Default)]
pub struct KeyRing {
    cursors: RwLock<Arc<Keys>>,
    transactions: RwLock<Option<Arc<hmac::Key>>>,
}

#[derive(Debug, Default)]
struct Keys {
    keys: Vec<SealingKey>,
    /// Index of the key for new cursors.
    current: Option<usize>,
}

#[derive(Debug)]
struct SealingKey {
    id: u8,
    cipher: LessSafeKey,
}

impl KeyRing {
    /// Replaces all keys of cursors. A key with a wrong length is left out.
    pub fn replace(&self, rows: &[CursorKey]) {
        let mut new = Keys::default();
        for row in rows {
            let Ok(cipher) = UnboundKey::new(&AES_256_GCM_SIV, &row.key) else { continue };
            if row.is_current {
                new.current = Some(new.keys.len());
            }
            new.keys.push(SealingKey { id: row.id.to_le_bytes()[0], cipher: LessSafeKey::new(cipher) });
        }
        *self.cursors.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
    }

    /// Replaces the key of transactions.
    pub fn replace_transaction_key(&self, key: &[u8]) {
        let key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key));
        *self.transactions.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.cursors.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn transaction_key(&self) -> Option<Arc<hmac::Key>> {
        self.transactions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Error for a string that is not a cursor of this organisation. It gives no further details to clients: the
/// gateway answers with a resync.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidCursor {
    /// No gateway has sealed this string for this incarnation of the organisation in this epoch.
    #[error("not a cursor of this organisation")]
    NotSealed,
    /// The node does not have the key that the cursor names. Another node may have it.
    #[error("the cursor names a key that this node does not have")]
    UnknownKey,
}

/// Seals and opens the cursors of one incarnation of an organisation.
#[derive(Clone, Debug)]
pub struct CursorSeal {
    pub(super) ring: Arc<KeyRing>,
    org: OrgId,
    incarnation: Incarnation,
}

impl CursorSeal {
    /// A seal of this organisation, with the keys of this node.
    #[must_use]
    pub fn new(ring: Arc<KeyRing>, org: OrgId, incarnation: Incarnation) -> Self {
        Self { ring, org, incarnation }
    }

    /// The organisation.
    #[must_use]
    pub fn org(&self) -> OrgId {
        self.org
    }

    /// The organisation's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The cursor as clients receive it.
    #[must_use]
    pub fn seal(&self, cursor: &Cursor) -> String {
        self.seal_at(&CursorPrefix::of(cursor), cursor.id)
    }

    /// The cursor after the event with this id, as clients receive it. Without a key this is an empty string,
    /// with which no client can resume; but a node has keys before it has a position.
    #[must_use]
    pub fn seal_at(&self, points: &CursorPrefix, id: i64) -> String {
        let keys = self.ring.keys();
        let Some(key) = keys.current.map(|current| &keys.keys[current]) else { return String::new() };
        let mut bytes = Vec::with_capacity(points.bytes() + CursorPrefix::ID_BYTES_MAX + OVERHEAD_BYTES);
        bytes.push(key.id);
        points.append_plain(id, &mut bytes);
        let context = Aad::from(self.context(VERSION, points.epoch()));
        let Ok(tag) = key.cipher.seal_in_place_separate_tag(nonce(), context, &mut bytes[1..]) else {
            return String::new();
        };
        bytes.extend_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Opens a cursor that a client presents.
    ///
    /// # Errors
    /// If no gateway sealed it for this organisation in this epoch, or its key is unknown.
    pub fn open(&self, epoch: Epoch, text: &str) -> Result<Cursor, InvalidCursor> {
        if text.len() > CURSOR_BYTES_MAX {
            return Err(InvalidCursor::NotSealed);
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor::NotSealed)?;
        let (id, sealed) = bytes.split_first_mut().ok_or(InvalidCursor::NotSealed)?;
        let keys = self.ring.keys();
        let key = keys.keys.iter().find(|key| key.id == *id).ok_or(InvalidCursor::UnknownKey)?;
        let context = Aad::from(self.context(VERSION, epoch));
        let plain = key.cipher.open_in_place(nonce(), context, sealed);
        let plain = plain.map_err(|_| InvalidCursor::NotSealed)?;
        Cursor::from_plain(epoch, plain).ok_or(InvalidCursor::NotSealed)
    }

    /// The data that a sealed string is bound to without containing it. The first byte tells apart what is
    /// sealed.
    pub(super) fn context(&self, version: u8, epoch: Epoch) -> [u8; CONTEXT_BYTES] {
        let mut context = [0; CONTEXT_BYTES];
        context[0] = version;
        context[1..9].copy_from_slice(&epoch.system.to_be_bytes());
        context[9..13].copy_from_slice(&epoch.timeline.to_be_bytes());
        context[13..17].copy_from_slice(&epoch.database.to_be_bytes());
        context[17..33].copy_from_slice(self.org.as_uuid().as_bytes());
        context[33..].copy_from_slice(&self.incarnation.number.to_be_bytes());
        context
    }
}

/// The constant nonce.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}
