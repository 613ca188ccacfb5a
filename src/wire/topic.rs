//! Topics: what a socket joins. They name what is listened to, never whose it is.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// Everything that happens in the organisation.
pub const ORG_TOPIC: &str = "org";

/// Longest name of a topic, as in the check on `warden.topics`.
const TOPIC_BYTES_MAX: usize = 63;

const CALL_PREFIX: &str = "call:";

/// A topic within one organisation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// `calls`, `recordings`, `org`, or another name in `warden.topics`.
    Named(Arc<str>),
    /// `call:<uuid>`: one call, its logs and its recordings.
    Call(Uuid),
}

impl Topic {
    /// Reads a topic in its one spelling. Whether a named topic exists is another question.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(id) = text.strip_prefix(CALL_PREFIX) {
            let call = Uuid::try_parse(id).ok()?;
            // One spelling only (hyphens, lower case), because replies and events echo the topic.
            return (call.to_string() == id).then_some(Self::Call(call));
        }
        let mut bytes = text.bytes();
        let named = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
            && text.len() <= TOPIC_BYTES_MAX
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        named.then(|| Self::Named(text.into()))
    }

    /// The topic `org`.
    #[must_use]
    pub fn org() -> Self {
        Self::Named(ORG_TOPIC.into())
    }

    /// Whether this is the topic `org`.
    #[must_use]
    pub fn is_org(&self) -> bool {
        matches!(self, Self::Named(name) if &**name == ORG_TOPIC)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Call(id) => write!(f, "{CALL_PREFIX}{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_have_one_spelling() {
        for good in ["calls", "call_logs", "org", "call:6f9619ff-8b86-4d01-b42d-00cf4fc964ff"] {
            assert_eq!(Topic::parse(good).expect(good).to_string(), good);
        }
        for bad in [
            "",
            "Calls",
            "calls:",
            "calls:6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
            "org:6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
            "call:",
            "call:6F9619FF-8B86-4D01-B42D-00CF4FC964FF",
            "call:6f9619ff8b864d01b42d00cf4fc964ff",
            "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
            "call\u{0}s",
            "a234567890123456789012345678901234567890123456789012345678901234",
        ] {
            assert_eq!(Topic::parse(bad), None, "{bad:?}");
        }
    }
}
