//! What exists, from memory: organisations and topics.
//!
//! A miss is one query, however many ask at once, and the log keeps the memory current: any event
//! about an organisation forgets what is known of it, and a change of topics loads them again. So no
//! answer outlives the change that makes it false by more than the reader's delay.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use dashmap::DashMap;
use sqlx::postgres::PgPool;
use tokio::sync::OnceCell;

use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::wire::{EntityIdType, ORG_TOPIC, Topic};

/// Organisations kept in memory; beyond it the memory is dropped and begun anew, so that tokens for
/// organisations that don't exist can't fill it.
pub(crate) const ORGS_MAX: usize = 100_000;

/// See the module's documentation.
#[derive(Debug)]
pub struct Directory {
    pool: PgPool,
    /// Longest wait for the answer of the database.
    look_up_timeout: Duration,
    orgs: DashMap<OrgId, Arc<OnceCell<bool>>>,
    topics: RwLock<Arc<Topics>>,
    /// One load at a time: the later one must not be overwritten by the earlier.
    loading: tokio::sync::Mutex<()>,
    metrics: Arc<Metrics>,
}

/// Topics that can be joined.
#[derive(Debug, Default)]
struct Topics {
    names: HashSet<Arc<str>>,
    /// The kinds of entity topics, with the type of their ids.
    id_types: HashMap<String, EntityIdType>,
}

impl Directory {
    /// An empty memory in front of this database.
    #[must_use]
    pub fn new(pool: PgPool, look_up_timeout: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            pool,
            look_up_timeout,
            orgs: DashMap::new(),
            topics: RwLock::default(),
            loading: tokio::sync::Mutex::default(),
            metrics,
        }
    }

    /// Whether the organisation exists.
    ///
    /// # Errors
    /// When it is not known here and the database can't be asked.
    pub async fn has_org(&self, org: OrgId) -> Result<bool, sqlx::Error> {
        let known = self.orgs.get(&org).and_then(|cell| cell.get().copied());
        match known {
            Some(known) => Ok(known),
            // Boxed: it is large and rare, and every session would have room for it.
            None => Box::pin(self.look_up(org)).await,
        }
    }

    async fn look_up(&self, org: OrgId) -> Result<bool, sqlx::Error> {
        if self.orgs.len() > ORGS_MAX {
            self.orgs.clear();
        }
        // The cell is cloned out of the map: no guard lives across the await, and an answer that
        // comes after `forget_org` goes to a cell that nobody finds any more.
        let cell = Arc::clone(&self.orgs.entry(org).or_default());
        let look_up = cell.get_or_try_init(|| async {
            self.metrics.directory_org_queries.inc();
            let row = sqlx::query_scalar!(
                r#"select exists (select from public.organizations where id = $1) as "exists!""#,
                org.as_uuid()
            );
            row.fetch_one(&self.pool).await
        });
        // Those who wait for one another's failure would otherwise add up their waits.
        match tokio::time::timeout(self.look_up_timeout, look_up).await {
            Ok(known) => known.copied(),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// The organisations that are known here to exist.
    #[must_use]
    pub fn known_orgs(&self) -> Vec<OrgId> {
        let exists = |cell: &OnceCell<bool>| cell.get() == Some(&true);
        self.orgs.iter().filter(|entry| exists(entry.value())).map(|entry| *entry.key()).collect()
    }

    /// The log tells of a change of this organisation.
    pub fn forget_org(&self, org: OrgId) {
        self.orgs.remove(&org);
    }

    /// Continuity with the log was lost, or organisations were truncated.
    pub fn forget_all(&self) {
        self.orgs.clear();
    }

    /// A topic, if it can be joined; its name is then the one in memory here, which all who join it share.
    #[must_use]
    pub fn known(&self, topic: Topic) -> Option<Topic> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        match &topic {
            Topic::Org => topics.names.contains(ORG_TOPIC).then_some(topic),
            Topic::Named(name) => topics.names.get(name).map(|name| Topic::Named(Arc::clone(name))),
            Topic::Entity(_) => {
                let (kind, id) = topic.entity()?;
                topics.id_types.get(kind)?.accepts(id).then_some(topic)
            }
        }
    }

    /// Topics that can be joined, for a helpful error: names, then kinds of entities as `<kind>:<type of the id>`.
    #[must_use]
    pub fn topic_names(&self) -> Vec<String> {
        let topics = Arc::clone(&self.topics.read().unwrap_or_else(PoisonError::into_inner));
        let mut names: Vec<String> = topics.names.iter().map(ToString::to_string).collect();
        let mut kinds: Vec<String> =
            topics.id_types.iter().map(|(kind, id_type)| format!("{kind}:<{}>", id_type.as_str())).collect();
        names.sort_unstable();
        kinds.sort_unstable();
        names.append(&mut kinds);
        names
    }

    /// Loads the names of topics and the kinds of entity topics.
    ///
    /// # Errors
    /// When the database can't be asked; then those known before stay.
    pub async fn load_topics(&self) -> Result<(), sqlx::Error> {
        let _one = self.loading.lock().await;
        let rows = sqlx::query!(
            r#"
            select name as "name!", null as id_type from warden.topics
            union all
            select kind, id_type from warden.entity_topics
            "#
        )
        .fetch_all(&self.pool)
        .await?;
        let mut topics = Topics::default();
        for row in rows {
            match row.id_type {
                None => {
                    topics.names.insert(row.name.into());
                }
                Some(id_type) => match EntityIdType::parse(&id_type) {
                    Some(id_type) => {
                        topics.id_types.insert(row.name, id_type);
                    }
                    None => {
                        tracing::warn!(kind = row.name, id_type, "entity topics with an unknown type of ids")
                    }
                },
            }
        }
        *self.topics.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(topics);
        Ok(())
    }
}
