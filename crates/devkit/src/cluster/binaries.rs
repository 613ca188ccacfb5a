//! Finds the PostgreSQL server on this machine. It must not read the environment (the caller hands
//! in what configuration says) and starts nothing but `--version` and `pg_config`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{ClusterError, VERSION_MIN};

/// Folders of packagers, with `*` for a version; newest first where several match.
const USUAL_FOLDERS: [&str; 9] = [
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

/// The folder of a PostgreSQL server, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    version: u32,
}

impl Binaries {
    /// Finds a server of version 14 or later: in `hint` and nowhere else where it is given, else in
    /// the folders of `path` (the value of PATH), where `pg_config` points, and in the usual places.
    ///
    /// # Errors
    /// [`ClusterError::NotFound`] or [`ClusterError::Hint`], with what was looked at.
    pub fn find(hint: Option<&Path>, path: Option<&OsStr>) -> Result<Self, ClusterError> {
        if let Some(dir) = hint {
            // Whoever names a folder wants that one: another, found silently, would surprise.
            return Self::probe(dir)
                .map_err(|problem| ClusterError::Hint { dir: dir.to_path_buf(), problem });
        }
        let folders: Vec<PathBuf> = path.map(|p| std::env::split_paths(p).collect()).unwrap_or_default();
        let configured = folders.iter().find_map(|dir| bindir_of_pg_config(dir));
        let usual = USUAL_FOLDERS.iter().flat_map(|pattern| expand(pattern));
        Self::first_of(folders.into_iter().chain(configured).chain(usual))
    }

    fn first_of(candidates: impl Iterator<Item = PathBuf>) -> Result<Self, ClusterError> {
        let mut seen = HashSet::new();
        let mut looked_at = String::new();
        for dir in candidates.filter(|dir| dir.is_absolute()) {
            if !seen.insert(dir.clone()) {
                continue;
            }
            match Self::probe(&dir) {
                Ok(found) => return Ok(found),
                // Writing to a String cannot fail.
                Err(problem) => {
                    let _ = writeln!(looked_at, "  {}: {problem}", dir.display());
                }
            }
        }
        for pattern in USUAL_FOLDERS.iter().filter(|p| expand(p).is_empty()) {
            let _ = writeln!(looked_at, "  {pattern}: no such folder");
        }
        Err(ClusterError::NotFound { looked_at })
    }

    fn probe(dir: &Path) -> Result<Self, String> {
        for name in ["postgres", "initdb"] {
            if !dir.join(name).is_file() {
                return Err(format!("it holds no `{name}`"));
            }
        }
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .map_err(|e| format!("its `postgres` cannot be run: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        match parse_version(&text) {
            Some(version) if version >= VERSION_MIN => Ok(Self { dir: behind_links(dir), version }),
            Some(version) => Err(format!("its version is {version}")),
            None => Err(format!("its `postgres --version` answers {:?}", text.trim_end())),
        }
    }

    /// The major version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The folder, behind links such as /usr/local/bin may hold.
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

    /// A client program of the same version (`psql`, `pgbench`), where it is installed.
    #[must_use]
    pub fn client(&self, name: &str) -> Option<PathBuf> {
        Some(self.dir.join(name)).filter(|path| path.is_file())
    }
}

/// The major version in `postgres (PostgreSQL) 15.12 (Debian ...)`; betas say `18beta1`.
fn parse_version(text: &str) -> Option<u32> {
    let number = text.strip_prefix("postgres (PostgreSQL) ")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

/// The folder that `postgres` really is in, where the clients of its version are too: those beside a
/// link may be missing, or wrappers that choose a version by themselves.
fn behind_links(dir: &Path) -> PathBuf {
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

/// The folders that match a pattern with at most one `*`, the highest version first.
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
            let folder = PathBuf::from(format!("{parent}/{name}{after}"));
            folder.is_dir().then_some((numbers, folder))
        })
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, folder)| folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_postgres_prints() {
        let debian = "postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)\n";
        assert_eq!(parse_version(debian), Some(15));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_version("postgres (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn folders_are_expanded_newest_first() {
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
    fn a_missing_server_names_the_packages_and_the_places() {
        let error = Binaries::first_of([PathBuf::from("/nonexistent/bin")].into_iter())
            .expect_err("there is no server in a folder that does not exist")
            .to_string();
        assert!(error.contains("apt-get install postgresql"), "{error}");
        assert!(error.contains("/nonexistent/bin: it holds no `postgres`"), "{error}");
    }
}
