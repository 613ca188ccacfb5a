//! Topics: the names that a socket joins. A topic names a stream of events; it never names an organisation.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The topic of all events of the organisation.
pub const ORG_TOPIC: &str = "org";

/// Longest name of a topic, and longest kind of an entity topic, in bytes, as in the checks on
/// `warden.topics` and `warden.entity_topics`.
const NAME_BYTES_MAX: usize = 63;

/// Longest id in an entity topic, in bytes, as in `warden.is_entity_id()`.
const ENTITY_ID_BYTES_MAX: usize = 64;

/// Separates kind and id in an entity topic.
const ENTITY_SEPARATOR: char = ':';

/// A topic within one organisation. Clones share the string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// `org`: all events of the organisation.
    Org,
    /// `calls`, `recordings`, or another name in `warden.topics`.
    Named(Arc<str>),
    /// `<kind>:<id>`, such as `call:<uuid>`: the events about one entity. The kind is declared in
    /// `warden.entity_topics`.
    Entity(Arc<str>),
}

impl Topic {
    /// Parses a topic. It is valid in one spelling only, because replies and events echo it.
    ///
    /// This checks the grammar alone. The control module's directory knows which names and kinds are
    /// declared, and how ids of a kind are spelled.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == ORG_TOPIC {
            return Some(Self::Org);
        }
        match text.split_once(ENTITY_SEPARATOR) {
            Some((kind, id)) => (is_entity_kind(kind) && is_entity_id(id)).then(|| Self::Entity(text.into())),
            None => is_name(text).then(|| Self::Named(text.into())),
        }
    }

    /// The topic as clients write it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Org => ORG_TOPIC,
            Self::Named(topic) | Self::Entity(topic) => topic,
        }
    }

    /// Whether this is the topic `org`.
    #[must_use]
    pub fn is_org(&self) -> bool {
        matches!(self, Self::Org)
    }

    /// Whether this is the topic of one entity.
    #[must_use]
    pub fn is_entity(&self) -> bool {
        matches!(self, Self::Entity(_))
    }

    /// Kind and id of an entity topic.
    #[must_use]
    pub fn entity(&self) -> Option<(&str, &str)> {
        match self {
            Self::Entity(topic) => topic.split_once(ENTITY_SEPARATOR),
            Self::Org | Self::Named(_) => None,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Type of the ids of one kind of entity. Each id has one spelling: the one in which PostgreSQL prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntityIdType {
    /// Hyphenated and in lower case.
    Uuid,
    /// A `bigint`, without leading zeros and without a plus sign.
    Integer,
    /// 1 to 64 ASCII letters, digits, and `.`, `_`, `~`, `-`.
    Text,
}

impl EntityIdType {
    /// Parses `id_type` of `warden.entity_topics`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Uuid, Self::Integer, Self::Text].into_iter().find(|id_type| id_type.as_str() == name)
    }

    /// The type's name in `warden.entity_topics`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Integer => "integer",
            Self::Text => "text",
        }
    }

    /// Whether an id of this type is spelled like this.
    #[must_use]
    pub fn accepts(self, id: &str) -> bool {
        match self {
            Self::Uuid => Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id),
            Self::Integer => id.parse::<i64>().is_ok_and(|number| number.to_string() == id),
            Self::Text => is_entity_id(id),
        }
    }
}

/// Whether a string may be the kind of an entity topic.
#[must_use]
pub fn is_entity_kind(text: &str) -> bool {
    is_name(text) && text != ORG_TOPIC
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && text.len() <= NAME_BYTES_MAX
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The unreserved characters of RFC 3986: such an id needs no escaping in JSON, in a URL or in a shell.
fn is_entity_id(text: &str) -> bool {
    (1..=ENTITY_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_have_one_spelling() {
        for good in ["calls", "call_logs", "org", "call:6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "invoice:-17"]
        {
            assert_eq!(Topic::parse(good).expect(good).to_string(), good);
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        let long_id = format!("invoice:{}", "1".repeat(ENTITY_ID_BYTES_MAX + 1));
        for bad in [
            "",
            "Calls",
            "calls:",
            ":1",
            "org:1",
            "Invoice:1",
            "invoice:*",
            "invoice:a:b",
            "invoice:a b",
            "invoice:é",
            "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
            "call\u{0}s",
            &long,
            &long_id,
        ] {
            assert_eq!(Topic::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_entity_topic_has_a_kind_and_an_id() {
        let entity = |text: &str| {
            let topic = Topic::parse(text).expect("a topic");
            topic.entity().map(|(kind, id)| (kind.to_owned(), id.to_owned()))
        };
        assert_eq!(entity("ticket:EU-17.b"), Some(("ticket".to_owned(), "EU-17.b".to_owned())));
        assert_eq!(entity("calls"), None);
        assert_eq!(entity("org"), None);
    }

    #[test]
    fn ids_have_one_spelling_for_each_type() {
        use EntityIdType::{Integer, Text, Uuid};
        let accepted_by = |id: &str| -> Vec<EntityIdType> {
            [Uuid, Integer, Text].into_iter().filter(|id_type| id_type.accepts(id)).collect()
        };
        assert_eq!(accepted_by("6f9619ff-8b86-4d01-b42d-00cf4fc964ff"), [Uuid, Text]);
        for number in ["0", "17", "-17", "9223372036854775807", "-9223372036854775808"] {
            assert_eq!(accepted_by(number), [Integer, Text], "{number}");
        }
        for text in [
            "6F9619FF-8B86-4D01-B42D-00CF4FC964FF",
            "6f9619ff8b864d01b42d00cf4fc964ff",
            "007",
            "-0",
            "1.0",
            "9223372036854775808",
            "EU-17",
        ] {
            assert_eq!(accepted_by(text), [Text], "{text}");
        }
        for none in ["", "+17", " 17", "a b", "a:b", "*"] {
            assert_eq!(accepted_by(none), [], "{none:?}");
        }
    }

    #[test]
    fn a_topic_takes_no_more_than_a_shared_string_and_its_tag() {
        assert_eq!(size_of::<Topic>(), 24);
    }
}
