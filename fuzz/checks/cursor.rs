//! Cursors come back from clients: no text may panic, and what is taken has one spelling.
//!
//! Looks at the product's public functions only, and must not repeat how a cursor is encoded.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use warden::log::cursor::{CURSOR_BYTES_MAX, Cursor, Point};

pub(crate) fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        check(text);
    }
    // The same bytes as what lies below base64: there a mutation moves one number, not four.
    check(&URL_SAFE_NO_PAD.encode(data));
}

fn check(text: &str) {
    let Ok(cursor) = text.parse::<Cursor>() else { return };
    assert!(text.len() <= CURSOR_BYTES_MAX, "a cursor beyond its limit was taken");
    assert_eq!(cursor.to_string(), text, "what is taken has one spelling");

    let (from, to) = (&*cursor.from, &*cursor.to);
    for point in [from, to] {
        assert!(point.includes(point), "a point includes itself");
    }
    let (forth, back) = (from.includes(to), to.includes(from));
    for xid in edges(from).into_iter().chain(edges(to)) {
        for id in [i64::MIN, 0, cursor.id, from.max_id, to.max_id, i64::MAX] {
            let (in_from, in_to) = (from.covers(xid, id), to.covers(xid, id));
            assert!(!(forth && in_to) || in_from, "`from` includes `to`, and misses {xid}/{id}");
            assert!(!(back && in_from) || in_to, "`to` includes `from`, and misses {xid}/{id}");
            assert_eq!(cursor.covers(xid, id), in_from || (id <= cursor.id && in_to));
            assert!(id <= cursor.max_id() || !cursor.covers(xid, id), "beyond its highest: {xid}/{id}");
        }
    }
}

/// Transaction ids around which the answers change.
fn edges(point: &Point) -> Vec<u64> {
    let snapshot = &point.snapshot;
    [snapshot.xmin, snapshot.xmax]
        .iter()
        .chain(snapshot.in_progress.iter().take(64))
        .flat_map(|xid| [xid.saturating_sub(1), *xid, xid.saturating_add(1)])
        .collect()
}
