//! Tests of encoding and visibility, by example and by property.

use proptest::prelude::*;

use super::encoding::Decoder;
use super::*;

prop_compose! {
    fn any_point()(xmin in 0..1_u64 << 40, distances in prop::collection::vec(1..200_u64, 0..50),
                   beyond in 1..1000_u64, max_id in 0..i64::MAX) -> Point {
        let mut last = xmin;
        let mut in_progress = Vec::new();
        for (n, distance) in distances.iter().enumerate() {
            // xmin is the oldest transaction in progress, if there is one.
            last += if n == 0 { 0 } else { *distance };
            in_progress.push(last);
        }
        Point { snapshot: Snapshot { xmin, xmax: last + beyond, in_progress }, max_id }
    }
}

prop_compose! {
    fn any_cursor()(system: u64, timeline: u32, database: u32, from in any_point(), to in any_point(),
                    id in 0..i64::MAX) -> Cursor {
        Cursor { epoch: Epoch { system, timeline, database }, from: from.into(), to: to.into(), id }
    }
}

proptest! {
    #[test]
    fn a_decoded_cursor_equals_the_encoded_one(cursor in any_cursor()) {
        let text = cursor.to_string();
        prop_assert_eq!(text.parse::<Cursor>(), Ok(cursor));
    }

    #[test]
    fn every_string_is_rejected_or_the_only_encoding_of_a_cursor(text in "[A-Za-z0-9_-]{0,200}") {
        if let Ok(cursor) = text.parse::<Cursor>() {
            // An accepted cursor has one encoding.
            prop_assert_eq!(cursor.to_string(), text);
        }
    }

    #[test]
    fn a_mutated_cursor_is_rejected_or_a_different_cursor(cursor in any_cursor(), to in 0..64_usize,
                                                          at in any::<prop::sample::Index>()) {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = cursor.to_string().into_bytes();
        let at = at.index(text.len());
        let changed = text[at] != ALPHABET[to];
        text[at] = ALPHABET[to];
        let text = String::from_utf8(text).expect("ASCII");
        if changed {
            prop_assert_ne!(text.parse::<Cursor>(), Ok(cursor));
        }
    }
}

proptest! {
    #[test]
    fn inclusion_holds_for_every_event(a in any_point(), b in any_point(), xid in 0..1_u64 << 41, id: i64) {
        if a.includes(&b) {
            prop_assert!(!b.covers(xid, id) || a.covers(xid, id));
            // Also test near the edges, which random numbers rarely hit.
            for xid in b.snapshot.in_progress.iter().chain(&a.snapshot.in_progress) {
                for xid in [xid.saturating_sub(1), *xid, xid + 1] {
                    prop_assert!(!b.covers(xid, b.max_id) || a.covers(xid, b.max_id));
                }
            }
        }
        prop_assert!(a.includes(&a));
    }
}

proptest! {
    #[test]
    fn a_meet_covers_what_both_points_cover(a in any_point(), b in any_point(), xid in 0..1_u64 << 41, id: i64) {
        let meet = a.meet(&b);
        let edges = [&a, &b].into_iter().flat_map(|p| {
            p.snapshot.in_progress.iter().chain([&p.snapshot.xmin, &p.snapshot.xmax])
        });
        for xid in edges.flat_map(|xid| [xid.saturating_sub(1), *xid, xid + 1]).chain([xid]) {
            for id in [id, a.max_id, b.max_id] {
                prop_assert_eq!(meet.covers(xid, id), a.covers(xid, id) && b.covers(xid, id));
            }
        }
    }
}

#[test]
fn a_number_has_one_encoding() {
    let decode = |bytes: &[u8]| Decoder { bytes, at: 0 }.varint();
    assert_eq!(decode(&[0]), Some(0));
    assert_eq!(decode(&[0x80, 1]), Some(0x80));
    assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Some(u64::MAX));
    for padded in [&[0x80, 0][..], &[0xff, 0], &[0x80, 0x80, 0], &[0x80; 10]] {
        assert_eq!(decode(padded), None, "{padded:?}");
    }
}

#[test]
fn cursors_stay_short() {
    let epoch: Epoch = "7711331873380711507.00000001.16560".parse().expect("an epoch");
    let quiet = Point { snapshot: "750:750:".parse().expect("a snapshot"), max_id: 16 };
    assert!(Cursor::at(epoch, quiet.into()).to_string().len() < 48);
    let busy = (0..1000).map(|n| (1_000_000 + 2 * n).to_string()).collect::<Vec<_>>().join(",");
    let busy = Point { snapshot: format!("1000000:1002000:{busy}").parse().expect("a snapshot"), max_id: 1 };
    assert!(Cursor::at(epoch, busy.into()).to_string().len() < 2800);
}

#[test]
fn a_snapshot_parses_from_its_text_form() {
    let s: Snapshot = "10:20:10,14,15".parse().expect("valid");
    assert!(s.sees(9) && !s.sees(10) && s.sees(11) && !s.sees(15) && s.sees(19) && !s.sees(20));
    for bad in ["", "10", "10:20", "a:b:", "10:20:x", "10:20:1,"] {
        assert!(bad.parse::<Snapshot>().is_err(), "{bad}");
    }
}
