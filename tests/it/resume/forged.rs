//! Cursors that no gateway of this database issued for this organisation: each leads to a resync, and to
//! nothing else.

use serde_json::json;
use warden::cursor::{CursorKey, CursorSeal, KeyRing};
use warden::org::Incarnation;

use super::{connect, cursor_after_one_call, gateway_on};
use crate::harness::TestDb;

/// A cursor in the format before cursors were sealed.
const OLD_FORMAT: &str = "AWsFLmsWkEHj2Ae6OAa0GAAC2nAGtBgAAtpwBtpwB";

#[tokio::test]
async fn cursors_that_no_gateway_issued_resync() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    let gateway = gateway_on(&db).await;
    let first = cursor_after_one_call(&gateway, &db, org).await;
    let theirs = cursor_after_one_call(&gateway, &db, other).await;
    let missed = db.insert_call(org).await;
    let last = cursor_after_one_call(&gateway, &db, org).await;

    let opened = db.open_cursor(org, &first).await;
    let mut epoch = opened.clone();
    epoch.epoch.timeline += 1;
    let ring = std::sync::Arc::<KeyRing>::default();
    ring.replace(&[CursorKey { id: 1, key: vec![0; 32], is_current: true }]);
    let own_key = CursorSeal::new(ring, db.seal(org).await.org(), Incarnation::default()).seal(&opened);
    let mut flipped = first.clone().into_bytes();
    flipped[20] = if flipped[20] == b'A' { b'B' } else { b'A' };
    let half = first.len() / 2;
    let forged = [
        ("empty", String::new()),
        ("not base64", "null!".to_owned()),
        ("unknown key", "_AAA".to_owned()),
        ("too long", "A".repeat(40_000)),
        ("old format", OLD_FORMAT.to_owned()),
        ("another organisation's", theirs),
        ("another epoch", db.seal_cursor(org, &epoch).await),
        ("sealed with another key", own_key),
        ("one changed character", String::from_utf8(flipped).expect("ASCII")),
        ("cut", first[..first.len() - 2].to_owned()),
        ("longer", format!("{first}A")),
        ("spliced", format!("{}{}", &first[..half], &last[half..])),
    ];
    for (kind, cursor) in forged {
        let mut client = connect(&gateway, org).await;
        let response = client.join_with("calls", json!({"since": cursor})).await;
        assert_eq!(response["resync"], true, "{kind}");
        // The reply's own cursor is valid.
        db.open_cursor(org, response["cursor"].as_str().expect("a cursor")).await;
    }
    let mut client = connect(&gateway, org).await;
    client.join_with("calls", json!({"since": first})).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), missed.to_string());
    gateway.stop().await;
}

/// The client comes from a node that is ahead, for example after this node lost its database for a while.
#[tokio::test]
async fn a_cursor_that_is_ahead_waits_for_two_polls_and_suppresses_no_event() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_on(&db).await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    let mut ahead = db.open_cursor(org, &since).await;
    let mut point = (*ahead.to).clone();
    point.snapshot.xmax += 1_000_000;
    ahead.to = point.into();
    let ahead = db.seal_cursor(org, &ahead).await;
    let mut client = connect(&gateway, org).await;
    client.join_with("calls", json!({"since": ahead})).await;
    db.publish(org, "calls", "live").await;
    while client.next_event().await.name != "live" {}
    gateway.stop().await;
}
