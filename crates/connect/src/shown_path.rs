//! The path of a configured file, for messages.
//!
//! Operators sometimes write a file's content into the variable of its path. So a path is shown only as far
//! as it exists, or if it cannot be anything else than a path.

use std::fmt;
use std::path::Path;

/// Extensions of files that are configured by their paths.
const EXTENSIONS: [&str; 8] = ["pem", "crt", "cer", "der", "key", "toml", "conf", "crl"];

/// A path that prints itself if it exists or has the form of a path, and otherwise the directory that exists.
#[derive(Clone, Copy)]
pub struct ShownPath<'a>(pub &'a Path);

impl fmt::Debug for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(path) = self;
        if path.exists() || is_evident(path) {
            return path.display().fmt(f);
        }
        match path.parent().filter(|dir| dir.is_dir()) {
            Some(dir) => write!(f, "the file in {}", dir.display()),
            None => write!(f, "the file"),
        }
    }
}

/// Whether a string is a path beyond doubt: it begins at the root, its names are plain, and it ends in an
/// extension. Neither PEM nor TOML nor base64 has this form.
fn is_evident(path: &Path) -> bool {
    let is_plain = |name: &str| {
        name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    path.is_absolute()
        && path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
        && path.to_str().is_some_and(|text| text[1..].split('/').all(is_plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_exists_or_is_evidently_a_path_is_shown() {
        let dir = std::env::temp_dir();
        let shown = |path: &Path| ShownPath(path).to_string();
        assert_eq!(shown(&dir), dir.display().to_string());
        for missing in ["/nowhere/client.pem", "/run/secrets/tls-v2/tls.key", "/etc/warden/issuers.toml"] {
            assert_eq!(shown(Path::new(missing)), missing);
        }
        assert_eq!(shown(&dir.join("m4rker")), format!("the file in {}", dir.display()));
        for content in [
            "m4rker",
            "/m4rker/x",
            "m4rker.pem",
            "/etc/m4rker pem",
            "/m4rker+/x=.pem",
            "-----BEGIN PRIVATE KEY-----\nm4rker/x\n",
            "/\nm4rker.pem",
            "[[issuer]]\nsecrets = [\"m4rker/x\"]",
            "",
        ] {
            let shown = shown(Path::new(content));
            assert!(shown.starts_with("the file") && !shown.contains("m4rker"), "{content}: {shown}");
        }
    }
}
