//! The decision about one user. Both modes of the command use it.

use serde_json::Value;
use uuid::Uuid;

use super::options::SyncOptions;
use super::user::{AuthUser, Standing};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The user has the right organisation.
    Right,
    /// The organisation must be written. `replaced` is the former one, if it was another.
    Update { org: Uuid, replaced: Option<Value> },
    /// The user must become a member of the default organisation first.
    Join,
    /// The user has another organisation than this one, which may not be overwritten.
    Conflict(Uuid),
    /// Nothing may be written, for this reason.
    Skip(&'static str),
}

/// Decides about a user with this organisation, which the token hook would choose.
pub(super) fn decide(
    user: &AuthUser,
    standing: Standing,
    org: Option<Uuid>,
    options: &SyncOptions,
) -> Decision {
    if standing == Standing::Deleted {
        return Decision::Skip("deleted");
    }
    let Some(org) = org else {
        return match standing {
            Standing::Deleted => Decision::Skip("deleted"),
            Standing::Anonymous => Decision::Skip("anonymous, without membership"),
            Standing::Banned => Decision::Skip("banned, without membership"),
            Standing::Active if options.inserts_memberships => Decision::Join,
            Standing::Active => Decision::Skip("without membership"),
        };
    };
    match user.org_id() {
        Value::Null => Decision::Update { org, replaced: None },
        Value::String(text) if *text == org.to_string() => Decision::Right,
        // The id in another notation is no other organisation.
        Value::String(text) if text.parse() == Ok(org) => Decision::Update { org, replaced: None },
        _ if !options.reassigns => Decision::Conflict(org),
        other => Decision::Update { org, replaced: Some(other.clone()) },
    }
}
