//! Checks of JSON that serde does not make.

/// Whether this JSON value is an object. serde also deserialises an array into a struct, field by field.
pub(super) fn is_object(json: &str) -> bool {
    json.trim_ascii_start().starts_with('{')
}
