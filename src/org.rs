//! Identity of a tenant, as a type that cannot be created from an arbitrary string.
//!
//! An [`OrgId`] comes from three places: the claims of a verified token (module `auth`), a row of the
//! database (by its `sqlx` decoding), and what an operator has written (accounts of recordings, options of
//! commands). A test ensures that only `auth` calls [`OrgId::from_claim`], and that no code of a request
//! calls [`OrgId::from_operator`].

use std::fmt;

use uuid::Uuid;

/// Length of a UUID in the only accepted form: 8-4-4-4-12 hexadecimal digits.
const UUID_TEXT_LEN: usize = 36;

/// Id of an organisation: the primary key of `public.organizations`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct OrgId(Uuid);

/// One life of an organisation's id. An organisation that was deleted and created again with the same id is
/// in another incarnation, and another tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incarnation {
    /// Number of the deletion that ended the former incarnation; 0 if there was none.
    pub number: i64,
    /// The transaction of that deletion. A snapshot that shows it shows all events of the former incarnation.
    pub since_xid: u64,
}

impl OrgId {
    /// Parses the claim `org_id`.
    ///
    /// Only the hyphenated form is accepted. The parser of `uuid` also accepts braces, URNs and bare digits,
    /// which the functions in the database reject.
    pub(crate) fn from_claim(text: &str) -> Option<Self> {
        if text.len() != UUID_TEXT_LEN {
            return None;
        }
        // Revocations of every organisation are stored under the nil UUID.
        Uuid::try_parse(text).ok().filter(|id| !id.is_nil()).map(Self)
    }

    /// Parses an id that an operator has written, in a file or an option.
    pub(crate) fn from_operator(text: &str) -> Option<Self> {
        Self::from_claim(text)
    }

    /// An id for unit tests, which have neither a token nor a row.
    #[cfg(test)]
    pub(crate) fn for_tests(n: u128) -> Self {
        Self(Uuid::from_u128(n))
    }

    /// The UUID, for a query parameter.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for OrgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for OrgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hyphenated_form_is_accepted() {
        let plain = "a0000000-0000-0000-0000-000000000001";
        assert_eq!(OrgId::from_claim(plain).map(|o| o.to_string()).as_deref(), Some(plain));
        for wrong in [
            "",
            "null",
            "a0000000000000000000000000000001",
            "{a0000000-0000-0000-0000-000000000001}",
            "urn:uuid:a0000000-0000-0000-0000-000000000001",
            " a0000000-0000-0000-0000-00000000001",
            "a0000000-0000-0000-0000-00000000000g",
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert_eq!(OrgId::from_claim(wrong), None, "{wrong:?}");
        }
    }
}
