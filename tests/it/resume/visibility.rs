//! Compares the visibility of transactions in the gateway's snapshots with PostgreSQL's own answer.

use warden::cursor::Snapshot;

use crate::harness::TestDb;

/// Number of random snapshots, each compared at every transaction id near it.
const SNAPSHOTS: usize = 200;

#[tokio::test]
async fn snapshot_visibility_equals_that_of_postgresql() {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let db = TestDb::create().await;
    for _ in 0..SNAPSHOTS {
        let xmin = random.u64(3..1 << 40);
        let mut in_progress = vec![];
        let mut xid = xmin;
        for _ in 0..random.usize(..12) {
            in_progress.push(xid.to_string());
            xid += random.u64(1..4);
        }
        let xmax = xid + random.u64(..4);
        let text = format!("{xmin}:{xmax}:{}", in_progress.join(","));
        let snapshot: Snapshot = text.parse().expect("a snapshot");
        let seen: Vec<(i64, bool)> = sqlx::query_as(
            "select x, pg_visible_in_snapshot(x::text::xid8, $1::pg_snapshot)
             from generate_series($2::bigint, $3::bigint) x",
        )
        .bind(&text)
        .bind(i64::try_from(xmin - 2).expect("small"))
        .bind(i64::try_from(xmax + 2).expect("small"))
        .fetch_all(&db.pool)
        .await
        .expect("compares");
        for (xid, is_visible) in seen {
            assert_eq!(snapshot.sees(xid.cast_unsigned()), is_visible, "{text} at {xid}; WARDEN_SEED={seed}");
        }
    }
    // A real snapshot of PostgreSQL, with open transactions.
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut tx = db.pool.begin().await.expect("begins");
        sqlx::query("select pg_current_xact_id()").execute(&mut *tx).await.expect("gets an id");
        open.push(tx);
    }
    open.swap_remove(2).commit().await.expect("commits");
    let text: String =
        sqlx::query_scalar("select pg_current_snapshot()::text").fetch_one(&db.pool).await.expect("reads");
    let snapshot: Snapshot = text.parse().expect("a snapshot");
    assert!(!snapshot.in_progress.is_empty(), "{text}");
    assert!(snapshot.in_progress.iter().all(|xid| !snapshot.sees(*xid)));
}
