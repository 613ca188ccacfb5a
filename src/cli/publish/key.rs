//! Idempotency keys of `warden publish`.

use uuid::Uuid;

/// Checks a key of the operator.
pub(super) fn parse(text: &str) -> Result<String, String> {
    // The number of a line is added.
    let is_valid = (1..=200).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    is_valid.then(|| text.to_owned()).ok_or_else(|| "expected 1 to 200 printable ASCII characters".to_owned())
}

/// A key for a run without one.
pub(super) fn random() -> String {
    Uuid::new_v4().to_string()
}

/// The flag with a key, as part of a command for a shell.
pub(super) fn flag(key: &str) -> String {
    let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(&byte));
    // Without `=`, a key that begins with a hyphen would be another flag.
    match is_plain && !key.starts_with('-') {
        true => format!("--idempotency-key {key}"),
        false => format!("--idempotency-key='{}'", key.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_can_be_copied_into_a_shell() {
        for (key, expected) in [
            ("import-7", "--idempotency-key import-7"),
            ("-7", "--idempotency-key='-7'"),
            ("7 of $x", "--idempotency-key='7 of $x'"),
            ("it's", r"--idempotency-key='it'\''s'"),
        ] {
            assert_eq!(flag(key), expected);
        }
    }
}
