//! Password files: lines of `host:port:database:user:password`, each of the first four possibly `*`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Login for which a password is looked up.
pub(super) struct Login<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// Password of the first line that matches. As in libpq, a missing file has no passwords, and a file that
/// others may read is ignored with a warning.
pub(super) fn password(file: &Path, login: &Login<'_>) -> Option<String> {
    let metadata = std::fs::metadata(file).ok()?;
    if !metadata.is_file() {
        tracing::warn!(file = %file.display(), "password file ignored: it is not a plain file");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %file.display(), "password file ignored: others may read it, so run chmod 600 on it");
        return None;
    }
    find(&std::fs::read_to_string(file).ok()?, login)
}

fn find(text: &str, login: &Login<'_>) -> Option<String> {
    let port = login.port.to_string();
    let wanted = [login.host, &port, login.database, login.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for value in wanted {
            let (field, after) = field(rest)?;
            if field != "*" && unescape(field) != value {
                return None;
            }
            rest = after;
        }
        Some(unescape(rest)).filter(|password| !password.is_empty())
    })
}

/// Splits the text at the first colon that no backslash escapes.
fn field(text: &str) -> Option<(&str, &str)> {
    let mut is_escaped = false;
    let end = text.find(|c| {
        let is_end = c == ':' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    })?;
    Some((&text[..end], &text[end + 1..]))
}

fn unescape(text: &str) -> String {
    let mut chars = text.chars();
    let mut plain = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_line_counts() {
        let text = "# h:1:d:u:comment\nother:5432:app:ann:no\nh:5433:app:ann:no\nh:5432:*:an\\:n:with colon\n\
                    h:5432:app:ann:a\\:b\\\\c\n*:*:*:*:rest\nshort\n";
        let of = |host, port, database, user| find(text, &Login { host, port, database, user });
        assert_eq!(of("h", 5432, "app", "ann").as_deref(), Some("a:b\\c"));
        assert_eq!(of("h", 5432, "x", "an:n").as_deref(), Some("with colon"));
        assert_eq!(of("x", 1, "y", "z").as_deref(), Some("rest"));
        assert_eq!(
            find("h:5432:app:ann\n", &Login { host: "h", port: 5432, database: "app", user: "ann" }),
            None
        );
    }
}
