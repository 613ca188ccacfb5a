//! Events by `warden.publish`, as a backend sends what is no row of a table. Each is of an entity that
//! one writer at a time owns, for nothing but its transaction gives it an order.

use std::sync::{Arc, Mutex};

use bench_support::database::{Database, explain};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Made, Planned, Publish, lock};
use crate::check::Kind;
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

/// The entities of each organisation that nobody writes to at the moment.
pub(crate) struct Entities(Vec<Mutex<Vec<Entity>>>);

impl Entities {
    pub(crate) fn new(orgs: usize) -> Self {
        Self((0..orgs).map(|_| Mutex::default()).collect())
    }

    fn pick(&self, org: usize) -> Entity {
        lock(&self.0[org]).pop().unwrap_or_else(|| Entity { id: Uuid::new_v4(), seq: 0 })
    }

    fn give(&self, org: usize, entity: Entity) {
        if entity.seq < EVENTS_PER_ENTITY {
            lock(&self.0[org]).push(entity);
        }
    }
}

/// A writer of events.
pub(crate) struct Events {
    database: Database,
    connection: PgConnection,
    entities: Arc<Entities>,
    padding: String,
    made: Vec<(usize, Entity)>,
    transaction: Option<String>,
}

impl Events {
    pub(crate) async fn connect(
        database: &Database,
        entities: &Arc<Entities>,
        padding_bytes: usize,
    ) -> anyhow::Result<Self> {
        let connection = database.connect().await?;
        let (database, entities, padding) =
            (database.clone(), Arc::clone(entities), "x".repeat(padding_bytes));
        Ok(Self { database, connection, entities, padding, made: Vec::new(), transaction: None })
    }

    /// Tries one event and takes it back, so that a missing right is found before anyone connects.
    pub(crate) async fn rehearse(&mut self, org_id: Uuid) -> anyhow::Result<()> {
        const HELP: &str =
            "cannot publish: may this role execute warden.publish (grant warden_publisher to it)?";
        let explained = |error| anyhow::anyhow!("{HELP}: {error:#}");
        self.make("", &[Planned { org: 0, org_id, n: 0 }]).await.map_err(explained)?;
        sqlx::raw_sql("rollback").execute(&mut self.connection).await.map_err(explain(HELP))?;
        Ok(())
    }
}

impl Publish for Events {
    async fn make(&mut self, run: &str, changes: &[Planned]) -> anyhow::Result<Vec<Made>> {
        self.made.clear();
        self.transaction = None;
        sqlx::raw_sql("begin").execute(&mut self.connection).await.map_err(explain("begin"))?;
        let mut all = Vec::with_capacity(changes.len());
        for change in changes {
            let mut entity = self.entities.pick(change.org);
            entity.seq += 1;
            let (_, transaction): (i64, String) = sqlx::query_as(PUBLISH)
                .bind(change.org_id)
                .bind(TOPIC)
                .bind(PUBLISHED)
                .bind(entity.id)
                .bind(run)
                .bind(i64::try_from(change.n)?)
                .bind(i64::from(entity.seq))
                .bind(&self.padding)
                .fetch_one(&mut self.connection)
                .await
                .map_err(explain("warden.publish"))?;
            self.transaction = Some(transaction);
            self.made.push((change.org, entity));
            all.push(Made { entity: entity.id, kind: Kind::Published, seq: entity.seq });
        }
        Ok(all)
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        sqlx::raw_sql("commit").execute(&mut self.connection).await.map_err(explain("commit"))?;
        for (org, entity) in self.made.drain(..) {
            self.entities.give(org, entity);
        }
        Ok(())
    }

    fn receipt(&self) -> Option<String> {
        self.transaction.clone()
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.connection = self.database.connect().await?;
        Ok(())
    }
}
