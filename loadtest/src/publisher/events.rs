//! Events of `warden.publish`: a back end uses this function to publish something that is not a row of a
//! table. Only one writer at a time uses an entity. Otherwise the order of the entity's events would be
//! undefined.

use std::sync::{Arc, Mutex};

use bench_support::database::{Database, explain};
use sqlx::PgConnection;
use uuid::Uuid;

use super::change::{PlannedChange, PreparedChange, Publish};
use crate::check::ChangeKind;
use crate::filters::RowChange;
use crate::sync::lock;
use crate::wire::PUBLISHED;

/// Events in the life of an entity.
const EVENTS_PER_ENTITY: u32 = 8;
const TOPIC: &str = "calls";

const PUBLISH: &str = "
    select warden.publish($1, $2, $3, jsonb_build_object('id', $4::uuid, 'org_id', $1::uuid, 'padding', $8::text,
        'metadata', jsonb_build_object('lt_run', $5::text, 'lt_change', $6::bigint, 'lt_seq', $7::bigint))),
        pg_current_xact_id()::text";

/// An entity, and how many events it has had.
#[derive(Clone, Copy)]
struct Entity {
    id: Uuid,
    seq: u32,
}

/// The entities of each organisation that no writer uses at present.
pub(crate) struct EntityPool(Vec<Mutex<Vec<Entity>>>);

impl EntityPool {
    pub(crate) fn new(orgs: usize) -> Self {
        Self((0..orgs).map(|_| Mutex::default()).collect())
    }

    /// Removes an entity from the pool, or creates one.
    fn take(&self, org: usize) -> Entity {
        lock(&self.0[org]).pop().unwrap_or_else(|| Entity { id: Uuid::new_v4(), seq: 0 })
    }

    /// Returns an entity to the pool, unless its life is over.
    fn put(&self, org: usize, entity: Entity) {
        if entity.seq < EVENTS_PER_ENTITY {
            lock(&self.0[org]).push(entity);
        }
    }
}

/// A writer of events.
pub(crate) struct EventWriter {
    database: Database,
    connection: PgConnection,
    pool: Arc<EntityPool>,
    padding: String,
    /// Entities that return to the pool after the commit, by organisation.
    prepared: Vec<(usize, Entity)>,
    transaction_id: Option<String>,
}

impl EventWriter {
    pub(crate) async fn connect(
        database: &Database,
        pool: &Arc<EntityPool>,
        padding_bytes: usize,
    ) -> anyhow::Result<Self> {
        let connection = database.connect().await?;
        let (database, pool, padding) = (database.clone(), Arc::clone(pool), "x".repeat(padding_bytes));
        Ok(Self { database, connection, pool, padding, prepared: Vec::new(), transaction_id: None })
    }

    /// Publishes one event and rolls it back, so that a missing privilege is found before any socket
    /// connects.
    pub(crate) async fn preflight(&mut self, org_id: Uuid) -> anyhow::Result<()> {
        const HELP: &str = "cannot call warden.publish: grant warden_publisher to the role in --database-url";
        let change = PlannedChange { org: 0, org_id, number: 0 };
        let explained = |error| anyhow::anyhow!("{HELP}: {error:#}");
        self.prepare("", &[change]).await.map_err(explained)?;
        // The rolled-back entity must not be used again.
        self.prepared.clear();
        sqlx::raw_sql("rollback").execute(&mut self.connection).await.map_err(explain(HELP))?;
        Ok(())
    }
}

impl Publish for EventWriter {
    async fn prepare(&mut self, run: &str, changes: &[PlannedChange]) -> anyhow::Result<Vec<PreparedChange>> {
        self.prepared.clear();
        self.transaction_id = None;
        sqlx::raw_sql("begin").execute(&mut self.connection).await.map_err(explain("begin"))?;
        let mut all = Vec::with_capacity(changes.len());
        for change in changes {
            let mut entity = self.pool.take(change.org);
            entity.seq += 1;
            let (_, transaction_id): (i64, String) = sqlx::query_as(PUBLISH)
                .bind(change.org_id)
                .bind(TOPIC)
                .bind(PUBLISHED)
                .bind(entity.id)
                .bind(run)
                .bind(i64::try_from(change.number)?)
                .bind(i64::from(entity.seq))
                .bind(&self.padding)
                .fetch_one(&mut self.connection)
                .await
                .map_err(explain("warden.publish"))?;
            self.transaction_id = Some(transaction_id);
            self.prepared.push((change.org, entity));
            let (kind, row) = (ChangeKind::Published, RowChange::default());
            all.push(PreparedChange { entity: entity.id, kind, seq: entity.seq, row });
        }
        Ok(all)
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        sqlx::raw_sql("commit").execute(&mut self.connection).await.map_err(explain("commit"))?;
        for (org, entity) in self.prepared.drain(..) {
            self.pool.put(org, entity);
        }
        Ok(())
    }

    fn transaction_id(&self) -> Option<String> {
        self.transaction_id.clone()
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.connection = self.database.connect().await?;
        Ok(())
    }
}
