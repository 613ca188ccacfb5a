//! Strictness that serde does not have.

/// Whether this JSON is an object: serde takes a list for a struct as well, field by field.
pub(super) fn is_object(json: &str) -> bool {
    json.trim_ascii_start().starts_with('{')
}
