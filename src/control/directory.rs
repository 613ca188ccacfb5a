//! In-memory directory of existing organisations and topics.
//!
//! A miss costs one query, however many requests wait for it. The log keeps the directory current: an event
//! about an organisation removes its entry, and an event about topics loads them again. So an answer is wrong
//! at most until the tailer has read the change.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use dashmap::DashMap;
use sqlx::postgres::PgPool;
use tokio::sync::OnceCell;

use crate::metrics::Metrics;
use crate::org::{Incarnation, OrgId};
use crate::wire::{EntityIdType, Event, ORG_TOPIC, Topic};

/// Organisations in memory. Beyond this number the memory is cleared, so that tokens with made-up
/// organisations cannot fill it.
pub(crate) const ORGS_MAX: usize = 100_000;

/// Organisations and topics in memory.
#[derive(Debug)]
pub struct Directory {
    pool: PgPool,
    /// Longest wait for the database.
    look_up_timeout: Duration,
    /// The incarnation of each organisation, or none if it does not exist.
    orgs: DashMap<OrgId, Arc<OnceCell<Option<Incarnation>>>>,
    topics: RwLock<Arc<Topics>>,
    /// Held while topics are loaded: a slow load must not overwrite the result of a later one.
    loading: tokio::sync::Mutex<()>,
    metrics: Arc<Metrics>,
}

/// Topics that can be joined.
#[derive(Clone, Debug, Default)]
struct Topics {
    names: HashSet<Arc<str>>,
    /// Kinds of entity topics, with the type of their ids.
    id_types: HashMap<String, EntityIdType>,
    needing_claim: ClaimTopics,
}

/// Topics that a token must name, each with the kinds of entity topics that carry its events.
type ClaimTopics = HashMap<Arc<str>, HashSet<String>>;

impl Directory {
    /// An empty directory in front of this database.
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

    /// The present incarnation of an organisation. None if the organisation does not exist.
    ///
    /// # Errors
    /// When it is not in memory and the query fails.
    pub async fn incarnation(&self, org: OrgId) -> Result<Option<Incarnation>, sqlx::Error> {
        let known = self.orgs.get(&org).and_then(|cell| cell.get().copied());
        match known {
            Some(known) => Ok(known),
            // Boxed because it is large and rare: otherwise the future of every session would reserve room
            // for it.
            None => Box::pin(self.look_up(org)).await,
        }
    }

    async fn look_up(&self, org: OrgId) -> Result<Option<Incarnation>, sqlx::Error> {
        if self.orgs.len() > ORGS_MAX {
            self.orgs.clear();
        }
        // Cloned out of the map, so that no guard lives across the await. If `forget_org` removes the cell
        // meanwhile, the stale answer goes into a cell that no later request finds.
        let cell = Arc::clone(&self.orgs.entry(org).or_default());
        let look_up = cell.get_or_try_init(|| async {
            self.metrics.directory_org_queries.inc();
            let row = sqlx::query!(
                r#"
                select coalesce(i.value, 0) as "number!", coalesce(i.xid::text::bigint, 0) as "xid!"
                from public.organizations o
                left join lateral (
                    select * from warden.incarnations
                    where org_id in (o.id, '00000000-0000-0000-0000-000000000000') order by value desc limit 1
                ) i on true
                where o.id = $1
                "#,
                org.as_uuid()
            );
            let row = row.fetch_optional(&self.pool).await?;
            Ok(row.map(|row| Incarnation { number: row.number, since_xid: row.xid.cast_unsigned() }))
        });
        // Around the whole wait: requests that queue for one cell would otherwise wait for one failed query
        // after the other.
        match tokio::time::timeout(self.look_up_timeout, look_up).await {
            Ok(known) => known.copied(),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// Organisations in memory that exist, and their incarnations.
    #[must_use]
    pub fn known_orgs(&self) -> Vec<(OrgId, Incarnation)> {
        let incarnation = |cell: &OnceCell<Option<Incarnation>>| cell.get().copied().flatten();
        self.orgs.iter().filter_map(|entry| Some((*entry.key(), incarnation(entry.value())?))).collect()
    }

    /// Removes an organisation from memory, because the log has an event about it.
    pub fn forget_org(&self, org: OrgId) {
        self.orgs.remove(&org);
    }

    /// Removes all organisations, because continuity with the log was lost or they were truncated.
    pub fn forget_all(&self) {
        self.orgs.clear();
    }

    /// The topic, if it can be joined. Its name is then a clone of the one in memory, which all subscriptions
    /// share.
    #[must_use]
    pub fn joinable(&self, topic: Topic) -> Option<Topic> {
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

    /// The topics that a token must name before it may join this one: the topic itself, and those whose
    /// events it carries.
    #[must_use]
    pub fn topics_needing_claim(&self, topic: &Topic) -> Vec<Arc<str>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let is_reached = |name: &str, kinds: &HashSet<String>| match topic {
            Topic::Org => true,
            Topic::Named(joined) => **joined == *name,
            Topic::Entity(_) => topic.entity().is_some_and(|(kind, _)| kinds.contains(kind)),
        };
        let reached = topics.needing_claim.iter().filter(|(name, kinds)| is_reached(name, kinds));
        reached.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Records that an event of this topic needs a claim, because the event says so. Returns whether that was
    /// not known. The topic then needs a claim until the topics are loaded again.
    pub fn require_claim(&self, event: &Event) -> bool {
        let kind = event.entity_topic.as_ref().and_then(|topic| topic.entity()).map(|(kind, _)| kind);
        let is_known = |topics: &Topics| {
            let kinds = topics.needing_claim.get(event.topic.as_str());
            kinds.is_some_and(|kinds| kind.is_none_or(|kind| kinds.contains(kind)))
        };
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if is_known(&topics) {
            return false;
        }
        let mut changed = Topics::clone(&topics);
        let kinds = changed.needing_claim.entry(event.topic.as_str().into()).or_default();
        kinds.extend(kind.map(str::to_owned));
        *topics = Arc::new(changed);
        true
    }

    /// Topics that can be joined, for error messages: names, then kinds of entities as `<kind>:<type of the
    /// id>`.
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

    /// Loads the names of topics, the kinds of entity topics, and which topics need a claim. Returns whether
    /// more topics need a claim than before, or more entity topics carry them.
    ///
    /// # Errors
    /// When the query fails. The topics in memory remain.
    pub async fn load_topics(&self) -> Result<bool, sqlx::Error> {
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
                        tracing::warn!(kind = row.name, id_type, "entity topics ignored: unknown id type");
                    }
                },
            }
        }
        let needing_claim = sqlx::query!(
            r#"select topic as "topic!", entity_topic from warden.watches where visibility = 'claim'"#
        )
        .fetch_all(&self.pool)
        .await?;
        for row in needing_claim {
            let kinds = topics.needing_claim.entry(row.topic.into()).or_default();
            kinds.extend(row.entity_topic);
        }
        let mut current = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let is_restricted = topics.needing_claim.iter().any(|(name, kinds)| {
            current.needing_claim.get(name).is_none_or(|former| !kinds.is_subset(former))
        });
        *current = Arc::new(topics);
        Ok(is_restricted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn organisations_beyond_the_limit_are_dropped_and_looked_up_again() {
        let nowhere = sqlx::postgres::PgPoolOptions::new().connect_lazy("postgres://127.0.0.1:1/x");
        let directory = Directory::new(nowhere.expect("a URL"), Duration::from_millis(10), Arc::default());
        let known = OrgId::for_tests(1);
        for n in 1..=u128::try_from(ORGS_MAX).expect("few") {
            let cell = OnceCell::new_with(Some(Some(Incarnation::default())));
            directory.orgs.insert(OrgId::for_tests(n), Arc::new(cell));
        }
        directory.incarnation(OrgId::for_tests(0)).await.expect_err("no database");
        assert!(directory.incarnation(known).await.is_ok(), "in memory");
        directory.incarnation(OrgId::for_tests(u128::MAX)).await.expect_err("no database");
        assert_eq!(directory.orgs.len(), 1);
        directory.incarnation(known).await.expect_err("is looked up again");
    }
}
