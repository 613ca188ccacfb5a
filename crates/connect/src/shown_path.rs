//! The path of a configured file, for messages.
//!
//! Operators sometimes write a file's content into the variable of its path. So a path is shown only as far
//! as it exists.

use std::fmt;
use std::path::Path;

/// A path that prints itself if it exists, and otherwise the directory that does.
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
        if path.exists() {
            return path.display().fmt(f);
        }
        match path.parent().filter(|dir| dir.is_dir()) {
            Some(dir) => write!(f, "the file in {}", dir.display()),
            None => write!(f, "the file"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_exists_is_shown() {
        let dir = std::env::temp_dir();
        let shown = |path: &Path| ShownPath(path).to_string();
        assert_eq!(shown(&dir), dir.display().to_string());
        assert_eq!(shown(&dir.join("m4rker.pem")), format!("the file in {}", dir.display()));
        for content in
            ["m4rker", "-----BEGIN PRIVATE KEY-----\nm4rker/x\n", "[[issuer]]\nsecrets = [\"m4rker/x\"]", ""]
        {
            assert_eq!(shown(Path::new(content)), "the file", "{content}");
        }
    }
}
