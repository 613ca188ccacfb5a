//! Revocations in memory, found by login, user and organisation. Does no I/O.

use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest as hash};

use crate::org::OrgId;

/// Claims of a verified token that decide whether it is revoked.
#[derive(Clone, Copy, Debug)]
pub struct TokenSubject<'a> {
    /// Organisation of the token.
    pub org: OrgId,
    /// Claim `iss`.
    pub issuer: Option<&'a str>,
    /// Claim `sub`.
    pub user: &'a str,
    /// Claim `session_id`: one login.
    pub session: Option<&'a str>,
    /// Claim `iat`.
    pub issued_at: Option<SystemTime>,
}

/// Reason why a token is no longer valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The login, user or organisation was revoked after the token was issued. A token without `iat` counts
    /// as issued before.
    Token,
    /// The organisation is suspended, so the time of issue does not matter.
    Suspended,
}

/// One row of the table `warden.revocations`.
#[derive(Clone, Debug)]
pub(super) struct RevocationRow {
    pub(super) id: i64,
    pub(super) user: Option<String>,
    pub(super) session: Option<String>,
    pub(super) org: Option<OrgId>,
    pub(super) issuer: Option<String>,
    /// Whole seconds since 1970. `iat` is compared in whole seconds.
    pub(super) revoked_at: i64,
    pub(super) is_suspended: bool,
    /// Whether a token may still exist that the row revokes.
    pub(super) is_valid: bool,
    pub(super) created_by: String,
    pub(super) requested_by: Option<String>,
}

/// The first half of the SHA-256 of an identifier. Identifiers have up to 256 bytes, which back ends choose.
type IdDigest = [u8; 16];

fn digest(id: &str) -> IdDigest {
    let mut half = IdDigest::default();
    half.copy_from_slice(&hash(&SHA256, id.as_bytes()).as_ref()[..size_of::<IdDigest>()]);
    half
}

/// The subject of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Session(IdDigest),
    User(IdDigest),
    Org(OrgId),
}

/// The claims of the tokens that a revocation concerns. The table has one row for each key, so a check takes
/// a few lookups, whichever rows back ends add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    subject: Subject,
    /// Limits the revocation of a login or user to one organisation.
    org: Option<OrgId>,
    issuer: Option<IdDigest>,
}

impl Key {
    /// The key of a row, or none if the row has no subject. A constraint of the table rules that out.
    fn of(row: &RevocationRow) -> Option<Self> {
        let (subject, org) = match (&row.session, &row.user, row.org) {
            (Some(session), _, org) => (Subject::Session(digest(session)), org),
            (None, Some(user), org) => (Subject::User(digest(user)), org),
            (None, None, Some(org)) => (Subject::Org(org), None),
            (None, None, None) => return None,
        };
        Some(Self { subject, org, issuer: row.issuer.as_deref().map(digest) })
    }
}

/// The state of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// See [`RevocationRow::revoked_at`].
    revoked_at: i64,
    is_suspended: bool,
}

impl Entry {
    fn of(row: &RevocationRow) -> Self {
        Self { revoked_at: row.revoked_at, is_suspended: row.is_suspended }
    }

    /// Checks a token that has the claims of the key.
    fn check(self, issued_at: Option<SystemTime>) -> Option<Revoked> {
        if self.is_suspended {
            return Some(Revoked::Suspended);
        }
        // A token of the same second may have been issued before the revocation, so it counts as revoked.
        let is_newer = issued_at.is_some_and(|at| {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            i64::try_from(at).is_ok_and(|at| at > self.revoked_at)
        });
        (!is_newer).then_some(Revoked::Token)
    }
}

/// All revocations. A check takes ten lookups, however many revocations there are.
#[derive(Debug, Default)]
pub(super) struct Entries {
    by_key: HashMap<Key, Entry>,
    by_id: HashMap<i64, Entry>,
}

impl Entries {
    pub(super) fn check(&self, token: &TokenSubject<'_>) -> Option<Revoked> {
        let user = Subject::User(digest(token.user));
        let issuer = token.issuer.map(digest);
        let check = |subject: Subject, org: Option<OrgId>| {
            let get = |issuer| self.by_key.get(&Key { subject, org, issuer })?.check(token.issued_at);
            get(None).or_else(|| get(Some(issuer?)))
        };
        let check_both = |subject| check(subject, None).or_else(|| check(subject, Some(token.org)));
        check(Subject::Org(token.org), None)
            .or_else(|| check_both(user))
            .or_else(|| check_both(Subject::Session(digest(token.session?))))
    }

    /// The number of revocations.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether the row is known in this state, and under this key.
    pub(super) fn knows(&self, row: &RevocationRow) -> bool {
        let entry = Some(Entry::of(row));
        let has_key = |key| self.by_key.get(&key).copied() == entry;
        self.by_id.get(&row.id).copied() == entry && Key::of(row).is_some_and(has_key)
    }

    /// Whether the row is known, perhaps in another state.
    pub(super) fn contains(&self, row: &RevocationRow) -> bool {
        self.by_id.contains_key(&row.id)
    }

    /// Adds a row, or replaces its former state.
    pub(super) fn put(&mut self, row: &RevocationRow) {
        if let Some(key) = Key::of(row) {
            self.by_key.insert(key, Entry::of(row));
            self.by_id.insert(row.id, Entry::of(row));
        }
    }
}

/// The sessions that fresh revocations may end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AffectedSessions {
    OfOrgs(HashSet<OrgId>),
    All,
}

impl Default for AffectedSessions {
    fn default() -> Self {
        Self::OfOrgs(HashSet::new())
    }
}

impl AffectedSessions {
    pub(super) fn add(&mut self, row: &RevocationRow) {
        match (&mut *self, row.org) {
            (Self::OfOrgs(orgs), Some(org)) => _ = orgs.insert(org),
            (_, None) => *self = Self::All,
            (Self::All, Some(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Rows of few values, so that many of them concern the same token. The id follows from the key, as the
    /// table's unique index demands.
    fn row() -> impl Strategy<Value = RevocationRow> {
        let values = (0..3_u8, 0..2_u8, 0..3_u8, 0..3_u8, 0..20_i64, any::<bool>());
        values.prop_map(|(kind, id, org, issuer, revoked_at, is_suspended)| {
            let name = |of: u8| (of > 0).then(|| of.to_string());
            let (id, org) = if kind == 0 { (0, org.max(1)) } else { (id, org) };
            RevocationRow {
                id: i64::from(kind) * 100 + i64::from(id) * 10 + i64::from(org) + i64::from(issuer) * 1000,
                user: (kind == 1).then(|| id.to_string()),
                session: (kind == 2).then(|| id.to_string()),
                org: (org > 0).then(|| OrgId::for_tests(org.into())),
                issuer: name(issuer),
                revoked_at,
                is_suspended: kind == 0 && issuer == 0 && is_suspended,
                is_valid: true,
                created_by: String::new(),
                requested_by: None,
            }
        })
    }

    /// Whether a row concerns a token, as the comments of the table's migration define it.
    fn revoked(row: &RevocationRow, token: &TokenSubject<'_>, iat: Option<i64>) -> bool {
        row.user.as_deref().is_none_or(|user| user == token.user)
            && row.session.as_deref().is_none_or(|session| Some(session) == token.session)
            && row.org.is_none_or(|org| org == token.org)
            && row.issuer.as_deref().is_none_or(|issuer| Some(issuer) == token.issuer)
            && (row.is_suspended || iat.is_none_or(|iat| iat <= row.revoked_at))
    }

    proptest! {
        #[test]
        fn a_check_finds_exactly_the_rows_that_concern_the_token(
            rows in prop::collection::vec(row(), 0..30),
            org in 1..3_u8,
            user in 0..2_u8,
            session in prop::option::of(0..2_u8),
            issuer in prop::option::of(1..3_u8),
            iat in prop::option::of(0..20_i64),
        ) {
            let mut entries = Entries::default();
            let mut last: HashMap<i64, RevocationRow> = HashMap::new();
            for row in rows {
                entries.put(&row);
                prop_assert!(entries.knows(&row));
                last.insert(row.id, row);
            }
            prop_assert_eq!(entries.len(), last.len());
            let [session, issuer] = [session, issuer].map(|of| of.map(|of| of.to_string()));
            let user = user.to_string();
            let token = TokenSubject {
                org: OrgId::for_tests(org.into()),
                issuer: issuer.as_deref(),
                user: &user,
                session: session.as_deref(),
                issued_at: iat.map(|iat| UNIX_EPOCH + Duration::from_secs(iat.unsigned_abs())),
            };
            let expected = last.values().any(|row| revoked(row, &token, iat));
            prop_assert_eq!(entries.check(&token).is_some(), expected);
        }
    }
}
