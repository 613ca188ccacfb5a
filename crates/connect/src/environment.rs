//! Environment of the process, as libpq reads it. Tests pass their own.

use std::path::PathBuf;

/// Returns the value of a variable.
type Lookup = Box<dyn Fn(&str) -> Option<String>>;

/// Variables and home directory of a process.
pub struct Environment {
    variable: Lookup,
    home: Option<PathBuf>,
}

impl Environment {
    /// Environment of this process. Values that are not valid Unicode count as missing.
    #[must_use]
    pub fn of_process() -> Self {
        Self { variable: Box::new(|name| std::env::var(name).ok()), home: std::env::home_dir() }
    }

    /// An environment with these variables only.
    #[must_use]
    pub fn new(variables: &[(&str, &str)], home: Option<PathBuf>) -> Self {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let find =
            move |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        Self { variable: Box::new(find), home }
    }

    /// Value of a variable.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name)
    }

    /// A file in the home directory.
    pub(crate) fn in_home(&self, path: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(path))
    }
}
