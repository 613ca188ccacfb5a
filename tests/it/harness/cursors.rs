//! Cursors in tests: opened to look at their points, and sealed after a change that no gateway would make.

use std::sync::Arc;

use sqlx::Row as _;
use uuid::Uuid;
use warden::cursor::{Cursor, CursorKey, CursorSeal, Epoch, KeyRing};
use warden::org::Incarnation;

use super::TestDb;

impl TestDb {
    /// The database's epoch.
    pub async fn epoch(&self) -> Epoch {
        let epoch: String =
            sqlx::query_scalar("select warden.epoch()").fetch_one(&self.pool).await.expect("queries");
        epoch.parse().expect("an epoch")
    }

    /// A seal of the organisation, with the database's keys.
    pub async fn seal(&self, org: Uuid) -> CursorSeal {
        let keys = sqlx::query("select id, key, is_current from warden.load_cursor_keys()")
            .fetch_all(&self.pool)
            .await
            .expect("queries");
        let keys =
            keys.iter().map(|row| CursorKey { id: row.get(0), key: row.get(1), is_current: row.get(2) });
        let ring = Arc::<KeyRing>::default();
        ring.replace(&Vec::from_iter(keys));
        let key = sqlx::query_scalar::<_, Vec<u8>>("select warden.load_transaction_key()");
        ring.replace_transaction_key(&key.fetch_one(&self.pool).await.expect("queries"));
        let row = sqlx::query(
            "select $1::uuid, coalesce((select value from warden.incarnations where org_id = $1), 0)",
        );
        let row = row.bind(org).fetch_one(&self.pool).await.expect("queries");
        CursorSeal::new(ring, row.get(0), Incarnation { number: row.get(1), since_xid: 0 })
    }

    /// Opens a cursor that a gateway sent to a member of the organisation.
    pub async fn open_cursor(&self, org: Uuid, cursor: &str) -> Cursor {
        self.seal(org).await.open(self.epoch().await, cursor).expect("a cursor of this organisation")
    }

    /// Seals a cursor as a gateway would.
    pub async fn seal_cursor(&self, org: Uuid, cursor: &Cursor) -> String {
        self.seal(org).await.seal(cursor)
    }
}
