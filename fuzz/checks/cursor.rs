//! Cursors that clients send: no string may cause a panic, none is accepted that was not sealed, and every
//! cursor has one plain form and one sealed form.
//!
//! The checks use only public functions of the gateway. They must not repeat how a cursor is encoded.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use warden::auth::{Token, Verifier, VerifierConfig};
use warden::config::Limits;
use warden::cursor::{CURSOR_BYTES_MAX, Cursor, CursorKey, CursorSeal, Epoch, KeyRing, Point};
use warden::org::Incarnation;

/// A secret and a token, because only a verified token can name an organisation.
const SECRET: &str = "a secret of more than thirty-two bytes";
const CLAIMS: &str = r#"{"iss":"https://issuer.example","aud":"authenticated","sub":"fuzz","exp":33000000000,
    "role":"authenticated","app_metadata":{"org_id":"3f8c2f6e-7a0e-4b5e-9b5a-0f6f5c2d1e00"}}"#;

static SEAL: LazyLock<CursorSeal> = LazyLock::new(|| {
    let config = VerifierConfig::hs256(SECRET, "authenticated", Some("https://issuer.example"));
    let limits = Limits::default();
    let verifier =
        Verifier::new(&config, limits.keys, limits.token_bytes_max, &Arc::default()).expect("a verifier");
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(CLAIMS)
    );
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("a secret signs");
    let token = Token::new(format!("{message}.{signature}"));
    let ring = Arc::<KeyRing>::default();
    ring.replace(&[CursorKey { id: 1, key: vec![1; 32], is_current: true }]);
    CursorSeal::new(ring, verifier.verify_now(&token).expect("a good token").org, Incarnation::default())
});

const EPOCH: Epoch = Epoch { system: 7_300_000_000_000_000_000, timeline: 1, database: 16_384 };

pub(crate) fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(SEAL.open(EPOCH, text).is_err(), "a string was accepted that was not sealed");
    }
    assert!(
        SEAL.open(EPOCH, &URL_SAFE_NO_PAD.encode(data)).is_err(),
        "bytes were accepted that were not sealed"
    );
    // The bytes as the plain form, which only a gateway can seal.
    if let Some(cursor) = Cursor::from_plain(EPOCH, data) {
        assert_eq!(cursor.to_plain(), data, "a cursor has one plain form");
        check(&cursor);
        check_sealed(&cursor, data);
    }
}

/// Checks that the sealed form leads back to the cursor, and a changed one does not.
fn check_sealed(cursor: &Cursor, plain: &[u8]) {
    let sealed = SEAL.seal(cursor);
    if sealed.len() > CURSOR_BYTES_MAX {
        assert!(SEAL.open(EPOCH, &sealed).is_err(), "a cursor above the size limit was accepted");
        return;
    }
    assert_eq!(SEAL.open(EPOCH, &sealed).as_ref(), Ok(cursor));
    let mut changed = URL_SAFE_NO_PAD.decode(&sealed).expect("base64");
    let at = usize::from(plain[0]) % changed.len();
    changed[at] ^= 1 << (plain[1] % 8);
    assert!(SEAL.open(EPOCH, &URL_SAFE_NO_PAD.encode(changed)).is_err(), "a changed cursor was accepted");
}

fn check(cursor: &Cursor) {
    let (from, to) = (&*cursor.from, &*cursor.to);
    for point in [from, to] {
        assert!(point.includes(point), "a point includes itself");
    }
    let (from_includes_to, to_includes_from) = (from.includes(to), to.includes(from));
    for xid in edges(from).into_iter().chain(edges(to)) {
        for id in [i64::MIN, 0, cursor.id, from.max_id, to.max_id, i64::MAX] {
            let (in_from, in_to) = (from.covers(xid, id), to.covers(xid, id));
            assert!(
                !(from_includes_to && in_to) || in_from,
                "`from` includes `to` but does not cover {xid}/{id}"
            );
            assert!(
                !(to_includes_from && in_from) || in_to,
                "`to` includes `from` but does not cover {xid}/{id}"
            );
            assert_eq!(cursor.covers(xid, id), in_from || (id <= cursor.id && in_to));
            assert!(
                id <= cursor.max_id() || !cursor.covers(xid, id),
                "covers an id above its maximum: {xid}/{id}"
            );
        }
    }
}

/// Transaction ids at which visibility changes, with their neighbours.
fn edges(point: &Point) -> Vec<u64> {
    let snapshot = &point.snapshot;
    [snapshot.xmin, snapshot.xmax]
        .iter()
        .chain(snapshot.in_progress.iter().take(64))
        .flat_map(|xid| [xid.saturating_sub(1), *xid, xid.saturating_add(1)])
        .collect()
}
