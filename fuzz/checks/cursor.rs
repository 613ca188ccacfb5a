//! Cursors that clients send: no string may cause a panic, and every accepted cursor has one encoding.
//!
//! The checks use only public functions of the gateway. They must not repeat how a cursor is encoded.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use warden::cursor::{CURSOR_BYTES_MAX, Cursor, Point};

pub(crate) fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        check(text);
    }
    // The bytes are also used as the decoded form of base64. There a mutation changes one number instead of
    // four.
    check(&URL_SAFE_NO_PAD.encode(data));
}

fn check(text: &str) {
    let Ok(cursor) = text.parse::<Cursor>() else { return };
    assert!(text.len() <= CURSOR_BYTES_MAX, "a cursor above the size limit was accepted");
    assert_eq!(cursor.to_string(), text, "an accepted cursor has one encoding");

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
