//! A user of Supabase Auth, reduced to the fields that decide.

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::passes::parse_time;

/// Fields of a user in an answer of the admin API. All others are not kept.
#[derive(Debug, Deserialize)]
pub(super) struct AuthUser {
    pub(super) id: Uuid,
    #[serde(default)]
    app_metadata: Option<Metadata>,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    banned_until: Option<String>,
    #[serde(default)]
    deleted_at: Option<String>,
    #[serde(default)]
    is_anonymous: bool,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    #[serde(default)]
    org_id: Value,
}

/// Whether a user may become a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Active,
    Anonymous,
    Banned,
    Deleted,
}

impl AuthUser {
    /// A row of `auth.users`.
    pub(super) fn of_row(id: Uuid, org_id: Option<Value>, standing: Standing) -> (Self, Standing) {
        let metadata = Metadata { org_id: org_id.unwrap_or_default() };
        let user = Self {
            id,
            app_metadata: Some(metadata),
            created_at: None,
            banned_until: None,
            deleted_at: None,
            is_anonymous: false,
        };
        (user, standing)
    }

    /// Value of `app_metadata.org_id`, or null.
    pub(super) fn org_id(&self) -> &Value {
        self.app_metadata.as_ref().map_or(&Value::Null, |metadata| &metadata.org_id)
    }

    pub(super) fn created_at(&self) -> Option<OffsetDateTime> {
        parse_time(self.created_at.as_deref()?)
    }

    /// A time that cannot be parsed counts as a ban, because a banned user must not become a member.
    pub(super) fn standing(&self, now: OffsetDateTime) -> Standing {
        let is_banned = |until: &String| parse_time(until).is_none_or(|until| until > now);
        if self.deleted_at.is_some() {
            Standing::Deleted
        } else if self.banned_until.as_ref().is_some_and(is_banned) {
            Standing::Banned
        } else if self.is_anonymous {
            Standing::Anonymous
        } else {
            Standing::Active
        }
    }
}
