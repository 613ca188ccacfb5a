//! Whose tokens count no longer, from memory: `warden.revocations`, as a whole.
//!
//! The reader loads it whenever it connects, and so before the node lets anybody in; a control event in the
//! log, and an interval in any case, have it loaded again by a task of its own, so that no event waits for it. While the
//! database is away what is known stays. It ends open sessions through the hub, and knows no tokens: who
//! asks says what a token says ([`TokenSubject`]).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::postgres::PgPool;
use tokio::sync::Notify;

use crate::audit_trail;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::service::{Schedule, Trigger, periodic};

/// Entries held in memory. `warden.revoke()` keeps to 100,000, beside what is being
/// written at the same moment; beyond this the oldest of single sessions are passed over, and the log says so.
pub(crate) const ENTRIES_MAX: usize = 110_000;

/// Delays of the task that keeps the table in memory.
#[derive(Clone, Copy, Debug)]
pub struct RevocationLimits {
    /// The table is loaded so often in any case, and entries that can't matter any more are removed.
    pub interval: Duration,
    /// A load that takes longer has failed.
    pub timeout: Duration,
    /// The first delay after a load that failed.
    pub retry_first: Duration,
    /// The longest delay after a load that failed.
    pub retry_max: Duration,
}

/// What a verified token says of itself.
#[derive(Clone, Copy, Debug)]
pub struct TokenSubject<'a> {
    /// Its organisation.
    pub org: OrgId,
    /// Who made it.
    pub issuer: Option<&'a str>,
    /// Its `sub`.
    pub user: &'a str,
    /// Its `session_id`.
    pub session: Option<&'a str>,
    /// Its `iat`.
    pub issued_at: Option<SystemTime>,
}

/// Why a token counts no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It was made before its session, user or organisation was revoked, or does not say when it was made.
    Token,
    /// Its organisation is suspended, whenever it was made.
    Suspended,
}

/// A row of the table.
#[derive(Clone, Debug)]
struct Entry {
    id: i64,
    user: Option<String>,
    session: Option<String>,
    org: Option<OrgId>,
    issuer: Option<String>,
    /// In whole seconds since 1970, as `iat` is.
    revoked_at: i64,
    is_suspended: bool,
    created_by: String,
    requested_by: Option<String>,
}

impl Entry {
    fn check(&self, holder: &TokenSubject<'_>) -> Option<Revoked> {
        let is_meant = self.org.is_none_or(|org| org == holder.org)
            && self.issuer.as_deref().is_none_or(|issuer| Some(issuer) == holder.issuer);
        if !is_meant {
            return None;
        }
        if self.is_suspended {
            return Some(Revoked::Suspended);
        }
        // A token of the very second may have been made before the revocation: refused, to be safe.
        let is_newer = holder.issued_at.is_some_and(|at| {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            i64::try_from(at).is_ok_and(|at| at > self.revoked_at)
        });
        (!is_newer).then_some(Revoked::Token)
    }
}

/// The table by what is looked up: a check costs three look-ups, however many entries there are.
#[derive(Debug, Default)]
struct Entries {
    sessions: HashMap<String, Vec<Entry>>,
    users: HashMap<String, Vec<Entry>>,
    orgs: HashMap<OrgId, Vec<Entry>>,
    /// Each with the time that it had when it was loaded; none before the first load.
    known: Option<HashSet<(i64, i64, bool)>>,
}

impl Entries {
    fn check(&self, holder: &TokenSubject<'_>) -> Option<Revoked> {
        let of_org = self.orgs.get(&holder.org);
        let of_user = self.users.get(holder.user);
        let of_session = holder.session.and_then(|session| self.sessions.get(session));
        let entries = [of_org, of_user, of_session];
        entries.into_iter().flatten().flatten().find_map(|entry| entry.check(holder))
    }

    fn add(&mut self, entry: Entry) {
        if let Some(session) = &entry.session {
            self.sessions.entry(session.clone()).or_default().push(entry);
        } else if let Some(user) = &entry.user {
            self.users.entry(user.clone()).or_default().push(entry);
        } else if let Some(org) = entry.org {
            self.orgs.entry(org).or_default().push(entry);
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Revocations {
    pub(super) pool: PgPool,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    pub(super) limits: RevocationLimits,
    entries: RwLock<Arc<Entries>>,
    changed: Notify,
    /// One load at a time: the later one must not be overwritten by the earlier.
    loading: tokio::sync::Mutex<()>,
}

impl Revocations {
    /// Nothing is known yet; sessions are ended through this hub.
    #[must_use]
    pub fn new(pool: PgPool, hub: Arc<Hub>, metrics: Arc<Metrics>, limits: RevocationLimits) -> Self {
        Self {
            pool,
            hub,
            metrics,
            limits,
            entries: RwLock::default(),
            changed: Notify::new(),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// Whether this token counts no longer.
    #[must_use]
    pub fn check(&self, holder: &TokenSubject<'_>) -> Option<Revoked> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).check(holder)
    }

    /// The log tells of a change.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    /// Loads when told to, and now and then.
    pub async fn run(self: Arc<Self>) {
        let schedule = Schedule {
            interval: self.limits.interval,
            retry: (self.limits.retry_first, self.limits.retry_max),
            // The tailer loads the table when it connects.
            starts_immediately: false,
        };
        let this = &*self;
        periodic(schedule, &this.changed, |trigger| async move {
            this.look(trigger == Trigger::Interval).await.inspect_err(|error| {
                tracing::warn!(%error, "revocations could not be loaded; those known stand");
            })
        })
        .await;
    }

    async fn look(&self, forgets: bool) -> Result<(), sqlx::Error> {
        let look = async {
            if forgets {
                sqlx::query_scalar!("select warden.forget_revocations()").fetch_one(&self.pool).await?;
            }
            self.load().await
        };
        match tokio::time::timeout(self.limits.timeout, look).await {
            Ok(looked) => looked,
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// Loads the table, and ends the sessions of this node that it concerns.
    ///
    /// # Errors
    /// When the database can't be asked; then what was known stands.
    pub async fn load(&self) -> Result<(), sqlx::Error> {
        let _one = self.loading.lock().await;
        let rows_max = i64::try_from(ENTRIES_MAX).unwrap_or(i64::MAX);
        // Organisations and users first, and the newest, where there are more than may be.
        let rows = sqlx::query_as!(
            Entry,
            r#"
            select id, user_id as "user", session_id as "session", org_id as "org: OrgId", issuer,
                   floor(extract(epoch from revoked_at))::bigint as "revoked_at!",
                   suspended as "is_suspended", created_by, requested_by
            from warden.revocations
            where suspended or expires_at > now()
            order by session_id is not null, revoked_at desc limit $1
            "#,
            rows_max + 1,
        )
        .fetch_all(&self.pool)
        .await?;
        if rows.len() > ENTRIES_MAX {
            tracing::error!(
                limit = ENTRIES_MAX,
                "there are more revocations than are held in memory: the oldest of single sessions do not count; remove some from warden.revocations"
            );
        }
        let former = Arc::clone(&self.entries.read().unwrap_or_else(PoisonError::into_inner));
        let mut entries = Entries::default();
        let mut known = HashSet::new();
        let mut fresh = Vec::new();
        for entry in rows.into_iter().take(ENTRIES_MAX) {
            let mark = (entry.id, entry.revoked_at, entry.is_suspended);
            if former.known.as_ref().is_none_or(|known| !known.contains(&mark)) {
                fresh.push(entry.clone());
            }
            known.insert(mark);
            entries.add(entry);
        }
        let count = i64::try_from(known.len()).unwrap_or(i64::MAX);
        entries.known = Some(known);
        // First this and then the walk: who registers meanwhile is either walked upon, or looks here after.
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(entries);
        self.metrics.revocations.set(count);
        if fresh.is_empty() {
            return Ok(());
        }
        // A node that starts has no session, and those entries were told of when they came.
        if former.known.is_some() {
            fresh.iter().for_each(tell);
        }
        let ended = self.hub.close_invalid_sessions();
        if ended > 0 {
            tracing::info!(sessions = ended, "sessions were ended, because they were revoked");
        }
        Ok(())
    }
}

fn tell(entry: &Entry) {
    audit_trail::revoked(audit_trail::Revocation {
        id: entry.id,
        session: entry.session.as_deref(),
        user: entry.user.as_deref(),
        org: entry.org,
        issuer: entry.issuer.as_deref(),
        is_suspension: entry.is_suspended,
        by: &entry.created_by,
        requested_by: entry.requested_by.as_deref(),
    });
}
