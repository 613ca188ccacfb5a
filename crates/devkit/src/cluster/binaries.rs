//! Finds the binaries of a PostgreSQL server on this machine.
//!
//! It must not read the environment: callers pass their configuration. It runs only `postgres --version` and
//! `pg_config`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{ClusterError, VERSION_MIN};

/// Directories of the usual packages. `*` stands for a version; of several, the highest is tried first.
const USUAL_DIRS: [&str; 9] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/pgsql/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/lib64/pgsql/bin",
    "/usr/bin",
];

/// Directory and version of a PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    version: u32,
}

impl Binaries {
    /// Finds a server of version 14 or later. If `hint` is given, only that directory is searched. Otherwise
    /// the directories of `path` (the value of PATH), the one that `pg_config` prints, and the usual ones.
    ///
    /// # Errors
    /// [`ClusterError::Hint`] or [`ClusterError::NotFound`], with the problem of each directory.
    pub fn find(hint: Option<&Path>, path: Option<&OsStr>) -> Result<Self, ClusterError> {
        if let Some(dir) = hint {
            // No fallback: a user who names a directory does not expect another version from elsewhere.
            return Self::probe(dir)
                .map_err(|problem| ClusterError::Hint { dir: dir.to_path_buf(), problem });
        }
        let dirs: Vec<PathBuf> = path.map(|p| std::env::split_paths(p).collect()).unwrap_or_default();
        let configured = dirs.iter().find_map(|dir| bindir_of_pg_config(dir));
        let usual = USUAL_DIRS.iter().flat_map(|pattern| expand(pattern));
        Self::first_of(dirs.into_iter().chain(configured).chain(usual))
    }

    fn first_of(candidates: impl Iterator<Item = PathBuf>) -> Result<Self, ClusterError> {
        let mut seen = HashSet::new();
        let mut searched = String::new();
        for dir in candidates.filter(|dir| dir.is_absolute()) {
            if !seen.insert(dir.clone()) {
                continue;
            }
            match Self::probe(&dir) {
                Ok(found) => return Ok(found),
                // Writing to a String cannot fail.
                Err(problem) => {
                    let _ = writeln!(searched, "  {}: {problem}", dir.display());
                }
            }
        }
        for pattern in USUAL_DIRS.iter().filter(|p| expand(p).is_empty()) {
            let _ = writeln!(searched, "  {pattern}: no such directory");
        }
        Err(ClusterError::NotFound { searched })
    }

    fn probe(dir: &Path) -> Result<Self, String> {
        for name in ["postgres", "initdb"] {
            if !dir.join(name).is_file() {
                return Err(format!("it does not contain `{name}`"));
            }
        }
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|e| format!("its `postgres` cannot be run: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        match parse_version(&text) {
            Some(version) if version >= VERSION_MIN => Ok(Self { dir: resolve_links(dir), version }),
            Some(version) => Err(format!("its version is {version}")),
            None => Err(format!("its `postgres --version` prints {:?}", text.trim_end())),
        }
    }

    /// Major version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Directory of the binaries, with symbolic links resolved.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    /// Path of a client program of the same version, such as `psql`, if it is installed.
    #[must_use]
    pub fn client(&self, name: &str) -> Option<PathBuf> {
        Some(self.dir.join(name)).filter(|path| path.is_file())
    }
}

/// Parses the major version of `postgres (PostgreSQL) 15.12 (Debian ...)`; a beta is `18beta1`.
fn parse_version(text: &str) -> Option<u32> {
    let number = text.strip_prefix("postgres (PostgreSQL) ")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

/// Resolves the symbolic link of `postgres`. The clients of the same version are in the real directory.
/// Beside the link they may be missing, or be wrappers that choose a version themselves.
fn resolve_links(dir: &Path) -> PathBuf {
    let real = std::fs::canonicalize(dir.join("postgres")).ok();
    real.as_deref()
        .and_then(Path::parent)
        .filter(|real| real.join("initdb").is_file())
        .unwrap_or(dir)
        .to_path_buf()
}

fn bindir_of_pg_config(dir: &Path) -> Option<PathBuf> {
    let program = dir.join("pg_config");
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end()))
}

/// Directories that match a pattern with at most one `*`, the highest version first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return Some(PathBuf::from(pattern)).filter(|p| p.is_dir()).into_iter().collect();
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?;
            let numbers = version.split('.').map_while(|n| n.parse().ok()).collect();
            let dir = PathBuf::from(format!("{parent}/{name}{after}"));
            dir.is_dir().then_some((numbers, dir))
        })
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, dir)| dir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_parsed_from_the_output_of_postgres() {
        let debian = "postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)\n";
        assert_eq!(parse_version(debian), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_version("postgres (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn patterns_expand_to_the_highest_version_first() {
        let root = std::env::temp_dir().join(format!("warden-expand-{}", std::process::id()));
        for version in ["9.6", "14", "17", "common"] {
            std::fs::create_dir_all(root.join(version).join("bin")).unwrap();
        }
        let found = expand(&format!("{}/*/bin", root.display()));
        let names: Vec<_> = found.iter().map(|p| p.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["17/bin", "14/bin", "9.6/bin", "common/bin"]);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_missing_server_is_reported_with_packages_and_searched_places() {
        let error = Binaries::first_of([PathBuf::from("/nonexistent/bin")].into_iter())
            .expect_err("a missing directory contains no server")
            .to_string();
        assert!(error.contains("apt-get install postgresql"), "{error}");
        assert!(error.contains("/nonexistent/bin: it does not contain `postgres`"), "{error}");
    }
}
