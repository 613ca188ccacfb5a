//! Tests of encoding and visibility, by example and by property.

use proptest::prelude::*;

use super::encoding::Decoder;
use super::*;
use crate::org::{Incarnation, OrgId};

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

/// A seal of the organisation with this number, with one key.
fn seal_of(org: u128, key: u8) -> CursorSeal {
    let ring = Arc::<KeyRing>::default();
    ring.replace(&[CursorKey { id: 1, key: vec![key; 32], is_current: true }]);
    ring.replace_transaction_key(&[key; 32]);
    CursorSeal::new(ring, OrgId::for_tests(org), Incarnation::default())
}

proptest! {
    #[test]
    fn an_opened_cursor_equals_the_sealed_one(cursor in any_cursor()) {
        prop_assert_eq!(Cursor::from_plain(cursor.epoch, &cursor.to_plain()), Some(cursor.clone()));
        let seal = seal_of(1, 1);
        let sealed = seal.seal(&cursor);
        prop_assert_eq!(seal.open(cursor.epoch, &sealed), Ok(cursor.clone()));
        prop_assert_eq!(seal.seal(&cursor), sealed, "a cursor has one sealed form");
    }

    #[test]
    fn all_bytes_are_rejected_or_the_only_plain_form_of_a_cursor(bytes: Vec<u8>) {
        if let Some(cursor) = Cursor::from_plain(Epoch::default(), &bytes) {
            prop_assert_eq!(cursor.to_plain(), bytes);
        }
    }

    #[test]
    fn every_change_of_a_sealed_cursor_is_rejected(cursor in any_cursor(), to in 0..64_usize, cut: prop::sample::Index,
                                                   at in any::<prop::sample::Index>(), other in any_cursor()) {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let seal = seal_of(1, 1);
        let sealed = seal.seal(&cursor);
        let (mut changed, at) = (sealed.clone().into_bytes(), at.index(sealed.len()));
        changed[at] = ALPHABET[to];
        let changed = String::from_utf8(changed).expect("ASCII");
        let cut = cut.index(sealed.len());
        let other = seal.seal(&other);
        // The beginning of one cursor, and the end of another one.
        let spliced = format!("{}{}", &sealed[..cut], &other[cut.min(other.len())..]);
        for text in [changed, sealed[..cut].to_owned(), format!("{sealed}A"), spliced] {
            prop_assert!(text == sealed || text == other || seal.open(cursor.epoch, &text).is_err(), "{}", text);
        }
    }
}

#[test]
fn a_cursor_is_bound_to_its_organisation_incarnation_epoch_and_key() {
    let epoch: Epoch = "7711331873380711507.00000001.16560".parse().expect("an epoch");
    let point = Point { snapshot: "750:750:".parse().expect("a snapshot"), max_id: 16 };
    let cursor = Cursor::at(epoch, point.into());
    let seal = seal_of(1, 1);
    let sealed = seal.seal(&cursor);
    assert_eq!(seal.open(epoch, &sealed), Ok(cursor));
    assert_eq!(seal_of(2, 1).open(epoch, &sealed), Err(InvalidCursor::NotSealed), "another organisation");
    assert_eq!(seal_of(1, 2).open(epoch, &sealed), Err(InvalidCursor::NotSealed), "another key");
    let reborn = Incarnation { number: 1, since_xid: 740 };
    let reborn = CursorSeal::new(Arc::clone(&seal.ring), seal.org(), reborn);
    assert_eq!(reborn.open(epoch, &sealed), Err(InvalidCursor::NotSealed), "another incarnation");
    for other in [
        Epoch { system: epoch.system + 1, ..epoch },
        Epoch { timeline: epoch.timeline + 1, ..epoch },
        Epoch { database: epoch.database + 1, ..epoch },
    ] {
        assert_eq!(seal.open(other, &sealed), Err(InvalidCursor::NotSealed), "{other:?}");
    }
    let old_format = "AWsFLmsWkEHj2Ae6OAa0GAAC2nAGtBgAAtpwBtpwB";
    assert_eq!(seal.open(epoch, old_format), Err(InvalidCursor::NotSealed));
    assert_eq!(seal.open(epoch, ""), Err(InvalidCursor::NotSealed));
    assert_eq!(seal.open(epoch, "____"), Err(InvalidCursor::UnknownKey));
}

#[test]
fn cursors_of_former_keys_remain_valid() {
    let key = |id, is_current| CursorKey { id, key: vec![u8::try_from(id).expect("small"); 32], is_current };
    let (ring, epoch) = (Arc::<KeyRing>::default(), Epoch::default());
    let seal = CursorSeal::new(Arc::clone(&ring), OrgId::for_tests(1), Incarnation::default());
    let cursor = Cursor::at(epoch, Arc::default());
    assert_eq!(seal.seal(&cursor), "", "there is no key yet");
    ring.replace(&[key(1, true)]);
    let first = seal.seal(&cursor);
    ring.replace(&[key(1, false), key(2, true)]);
    let second = seal.seal(&cursor);
    assert_ne!(first, second);
    assert_eq!(seal.open(epoch, &first), Ok(cursor.clone()));
    assert_eq!(seal.open(epoch, &second), Ok(cursor));
    ring.replace(&[key(2, true)]);
    assert_eq!(seal.open(epoch, &first), Err(InvalidCursor::UnknownKey));
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

/// Lengths of the table in `docs/design/cursor.md`.
#[test]
fn cursors_stay_short() {
    let length = |in_progress: u64| {
        let point = |end: u64, max_id| {
            let list: Vec<u64> = (0..in_progress).map(|n| end - 3 * (in_progress - n)).collect();
            let xmin = list.first().copied().unwrap_or(end);
            Arc::new(Point { snapshot: Snapshot { xmin, xmax: end, in_progress: list }, max_id })
        };
        let (from, to) = (point(1_000_000_000, 10_000_000_000), point(1_000_000_020, 10_000_000_012));
        let cursor = Cursor { epoch: Epoch::default(), from, to, id: 10_000_000_005 };
        seal_of(1, 1).seal(&cursor).len()
    };
    assert_eq!([0, 16, 1000].map(length), [50, 92, 2738]);
}

#[test]
fn a_snapshot_parses_from_its_text_form() {
    let s: Snapshot = "10:20:10,14,15".parse().expect("valid");
    assert!(s.sees(9) && !s.sees(10) && s.sees(11) && !s.sees(15) && s.sees(19) && !s.sees(20));
    for bad in ["", "10", "10:20", "a:b:", "10:20:x", "10:20:1,"] {
        assert!(bad.parse::<Snapshot>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_snapshot_with_a_transaction_shows_this_one_more(point in any_point(), beyond in -300..300_i64, other in 0..1_u64 << 41) {
        let snapshot = point.snapshot;
        let xid = snapshot.xmax.saturating_add_signed(beyond);
        let with = snapshot.clone().with(xid, 1000).expect("few transactions");
        prop_assert!(with.sees(xid));
        for other in (snapshot.xmin.saturating_sub(2)..snapshot.xmax + 302).chain([other]) {
            prop_assert!(other == xid || with.sees(other) == snapshot.sees(other), "{}", other);
        }
        let cursor = Cursor::at(Epoch::default(), Arc::new(Point { snapshot: with, max_id: 1 }));
        prop_assert_eq!(Cursor::from_plain(cursor.epoch, &cursor.to_plain()), Some(cursor));
        prop_assert_eq!(snapshot.clone().with(snapshot.xmax + 2000, 1000), None);
    }
}

#[test]
fn a_transaction_is_sealed_for_its_organisation_and_epoch_and_is_no_cursor() {
    let epoch = Epoch { system: 7, timeline: 1, database: 5 };
    let (ours, theirs) = (seal_of(1, 1), seal_of(2, 1));
    let transaction = Transaction { epoch, xid: 750 };
    let sealed = ours.seal_transaction(transaction);
    assert_eq!(ours.open_transaction(epoch, &sealed), Ok(transaction));
    assert_eq!(theirs.open_transaction(epoch, &sealed), Err(InvalidCursor::NotSealed));
    let promoted = Epoch { timeline: 2, ..epoch };
    assert_eq!(ours.open_transaction(promoted, &sealed), Err(InvalidCursor::NotSealed));
    assert!(ours.open(epoch, &sealed).is_err());
    let cursor = ours.seal(&Cursor::at(epoch, Arc::default()));
    assert_eq!(ours.open_transaction(epoch, &cursor), Err(InvalidCursor::NotSealed));
    // Its length does not show how far the counter is.
    let later = ours.seal_transaction(Transaction { epoch, xid: u64::MAX });
    assert_eq!((sealed.len(), later.len()), (32, 32));
    for wrong in ["", "AAAA", &sealed[..31], &format!("{sealed}A"), &format!("{sealed}AAAA")] {
        assert_eq!(ours.open_transaction(epoch, wrong), Err(InvalidCursor::NotSealed), "{wrong}");
    }
    for at in 0..sealed.len() {
        let mut changed = sealed.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).expect("ASCII");
        assert_eq!(ours.open_transaction(epoch, &changed), Err(InvalidCursor::NotSealed), "{changed}");
    }
}

/// The database computes the same string: `tests/it/transactions` compares both for one transaction.
#[test]
fn the_seal_of_a_transaction_is_hmac_sha256_as_documented() {
    let seal = seal_of(0x0102, 3);
    let transaction = Transaction { epoch: Epoch { system: 7, timeline: 1, database: 5 }, xid: 750 };
    assert_eq!(seal.seal_transaction(transaction), "syGQehvaihzwWqzyABsdF-jnNm9e3L4h");
}

#[test]
fn a_cursor_covers_a_transaction_once_its_batch_is_complete() {
    let point = |xmax: u64, max_id| {
        Arc::new(Point { snapshot: format!("{xmax}:{xmax}:").parse().expect("a snapshot"), max_id })
    };
    let cursor = |id| Cursor { epoch: Epoch::default(), from: point(10, 100), to: point(12, 105), id };
    assert!(cursor(101).covers_transaction(9));
    assert!(!cursor(101).covers_transaction(10) && !cursor(104).covers_transaction(11));
    assert!(cursor(105).covers_transaction(10) && cursor(105).covers_transaction(11));
    assert!(!cursor(105).covers_transaction(12));
}
