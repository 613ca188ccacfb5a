//! Topics, which clients send and replies echo: no string may cause a panic, and every accepted topic has one
//! spelling.

use warden::wire::{EntityIdType, Topic};

/// Longest name of a topic or kind of an entity, in bytes, as in the checks on `warden.topics` and
/// `warden.entity_topics`.
const NAME_BYTES_MAX: usize = 63;

/// Longest id of an entity, in bytes, as in `warden.is_entity_id()`.
const ID_BYTES_MAX: usize = 64;

pub(crate) fn run(text: &str) {
    let Some(topic) = Topic::parse(text) else { return };
    assert_eq!(topic.to_string(), text, "an accepted topic has one spelling");
    assert_eq!(Topic::parse(text).as_ref(), Some(&topic));
    assert_eq!(topic.is_org(), text == "org");
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:.~-".contains(&b)));
    let name = match &topic {
        Topic::Org => return,
        Topic::Named(name) => &**name,
        Topic::Entity(_) => {
            let (kind, id) = topic.entity().expect("kind and id");
            assert_eq!(format!("{kind}:{id}"), text);
            assert!((1..=ID_BYTES_MAX).contains(&id.len()));
            let types = [EntityIdType::Uuid, EntityIdType::Integer, EntityIdType::Text];
            assert!(types.into_iter().any(|id_type| id_type.accepts(id)));
            kind
        }
    };
    assert!((1..=NAME_BYTES_MAX).contains(&name.len()));
    assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
}
