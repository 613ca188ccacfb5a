//! The places where the programs of other servers are installed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Prefix of names that `scripts/setup peers` unpacks.
const TOOLS_PREFIX: &str = "tools/";

/// Paths from the command line, and folders to search.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    pub(crate) nginx: Option<PathBuf>,
    pub(crate) nats_server: Option<PathBuf>,
    pub(crate) bun: Option<PathBuf>,
    pub(crate) centrifugo: Option<PathBuf>,
    /// The value of PATH.
    pub(crate) search_path: OsString,
    /// The folder into which `scripts/setup peers` unpacks.
    pub(crate) tools: Option<PathBuf>,
}

impl Programs {
    /// The given path if it exists; without a given path the first of `names` that exists. A plain name is
    /// searched in PATH, and a name that begins with `tools/` in the folder of `scripts/setup peers`.
    pub(crate) fn find(&self, given: Option<&Path>, names: &[&str]) -> Option<PathBuf> {
        if let Some(given) = given {
            return given.exists().then(|| given.to_owned());
        }
        names.iter().find_map(|name| match name.strip_prefix(TOOLS_PREFIX) {
            Some(name) => Some(self.tools.as_ref()?.join(name)).filter(|path| path.exists()),
            None if name.contains('/') => Some(PathBuf::from(name)).filter(|path| path.exists()),
            None => {
                let in_folder = |folder: PathBuf| folder.join(name);
                std::env::split_paths(&self.search_path).map(in_folder).find(|path| path.is_file())
            }
        })
    }
}
