//! The files of `tests/schemas`: SQL that creates an application's schema, and a header for the runner.
//!
//! A header line is `--! key: value`. A line `--!   ...` continues the previous one. CONTRIBUTING.md explains
//! the keys.

use std::fs;
use std::path::Path;

const KEYS: [&str; 13] = [
    "tables", "watch", "write", "check", "setup", "later", "keep", "replace", "accept", "ignores", "needs",
    "role", "since",
];

/// One file.
#[derive(Clone, Debug)]
pub struct SchemaFile {
    pub name: String,
    pub sql: String,
    header: Vec<(String, String)>,
}

impl SchemaFile {
    /// Every file, by name.
    pub fn all() -> Vec<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas");
        let mut files: Vec<Self> = fs::read_dir(&dir)
            .expect("the directory exists")
            .map(|entry| entry.expect("reads").path())
            .filter(|path| path.extension().is_some_and(|e| e == "sql"))
            .map(|path| {
                let name = path.file_stem().expect("a name").to_str().expect("text").to_owned();
                Self::parse(name, fs::read_to_string(path).expect("reads"))
            })
            .collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    fn parse(name: String, sql: String) -> Self {
        assert!(sql.starts_with("-- "), "{name}: begins with a comment that states what it models");
        let mut header: Vec<(String, String)> = Vec::new();
        for line in sql.lines().filter_map(|line| line.strip_prefix("--!")) {
            if let Some(more) = line.strip_prefix("   ") {
                let last = header.last_mut().expect("a line to continue");
                last.1 = format!("{} {}", last.1, more.trim());
                continue;
            }
            let (key, value) = line.trim().split_once(": ").expect("`--! key: value`");
            assert!(KEYS.contains(&key), "{name}: unknown key {key}");
            header.push((key.to_owned(), value.trim().to_owned()));
        }
        Self { name, sql, header }
    }

    /// Values of a key that may occur several times.
    pub fn all_of(&self, key: &str) -> Vec<&str> {
        self.header.iter().filter(|(k, _)| k == key).map(|(_, value)| value.as_str()).collect()
    }

    /// Value of a key that occurs once at most.
    pub fn one(&self, key: &str) -> Option<&str> {
        self.all_of(key).into_iter().next()
    }

    /// Items of a value that is a list.
    pub fn list(&self, key: &str) -> Vec<&str> {
        self.one(key).map(|list| list.split(',').map(str::trim).collect()).unwrap_or_default()
    }

    /// Names of the tables, without the options that follow some of them.
    pub fn tables(&self) -> Vec<String> {
        // No name of the collection ends in a word with an equals sign.
        let bare =
            |item: &str| item.split(' ').take_while(|word| !word.contains('=')).collect::<Vec<_>>().join(" ");
        self.list("tables").into_iter().map(bare).collect()
    }

    /// Arguments of each `warden migrate`.
    pub fn arguments(&self) -> Vec<String> {
        let tables = self.list("tables").join(",");
        let mut arguments = vec!["--tables".to_owned(), tables, "--default-organization".to_owned()];
        arguments.extend(self.decisions());
        arguments
    }

    /// The decisions about existing objects, as arguments of `warden migrate`.
    pub fn decisions(&self) -> Vec<String> {
        ["keep", "replace", "accept"]
            .iter()
            .filter_map(|key| {
                Some([format!("--{key}"), self.list(key).join(",")]).filter(|_| self.one(key).is_some())
            })
            .flatten()
            .collect()
    }
}
