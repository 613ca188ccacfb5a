//! Topics are named by clients and echoed to them: one spelling, or none, and never a panic.

use warden::wire::Topic;

/// The check on `warden.topics`, in bytes.
const NAME_BYTES_MAX: usize = 63;

pub(crate) fn run(text: &str) {
    let Some(topic) = Topic::parse(text) else { return };
    assert_eq!(topic.to_string(), text, "what is taken has one spelling");
    assert_eq!(Topic::parse(text).as_ref(), Some(&topic));
    assert_eq!(topic.is_org(), text == "org");
    assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_:-".contains(&b)));
    match topic {
        Topic::Named(name) => assert!((1..=NAME_BYTES_MAX).contains(&name.len())),
        Topic::Call(_) => assert!(text.starts_with("call:")),
    }
}
