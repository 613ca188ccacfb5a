//! The direction of imports, and who may make what, held against the source itself.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file below a directory of this package, named from there.
fn files(dir: &str) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, into: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).expect("reads") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("reads");
                into.push((path, text));
            }
        }
    }
    let root = root().join(dir);
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 5, "the walk found the sources");
    files.into_iter().map(|(p, t)| (p.strip_prefix(&root).expect("below").to_owned(), t)).collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    files("src")
}

/// The modules of this crate that a source names in its code (not in comments).
fn imports(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.match_indices("crate::").map(move |(at, m)| &line[at + m.len()..]))
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect()
}

#[test]
fn imports_run_one_way() {
    // Leaves that everybody may use: the tenant's type, locks, maps, delays, counters, rates, the audit trail.
    let common = ["org", "sync", "sparse", "backoff", "metrics", "audit_trail", "rate"];
    let allowed: &[(&str, &[&str])] = &[
        ("wire", &[]),
        ("log/cursor", &[]),
        ("org.rs", &["auth"]), // in a link of its documentation only; checked below
        ("sync.rs", &[]),
        ("sparse.rs", &[]),
        ("backoff.rs", &[]),
        ("rate.rs", &[]),
        ("audit_trail.rs", &[]),
        ("metrics.rs", &[]),
        ("auth", &["wire"]),
        ("hub", &["wire"]),
        ("postgres", &[]),
        ("tenancy", &["postgres"]),
        ("log", &["wire", "postgres"]),
        ("control", &["wire", "hub"]),
        ("replay", &["wire", "log"]),
        ("retention.rs", &["log"]),
        ("tailer", &["wire", "hub", "postgres", "log", "control", "replay"]),
        ("session", &["wire", "hub", "log", "control", "replay", "auth"]),
        ("http", &["wire", "auth", "session", "log", "control", "hub"]),
    ];
    for (path, text) in sources() {
        let Some((_, may)) = allowed.iter().find(|(module, _)| path.starts_with(module)) else {
            continue;
        };
        let own =
            path.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned()).expect("a name");
        for import in imports(&text) {
            assert!(
                may.contains(&import.as_str()) || common.contains(&import.as_str()) || import == own,
                "{} must not import {import}",
                path.display()
            );
        }
        if path.starts_with("wire") || path.starts_with("log/cursor") {
            assert!(
                !text.contains("use tokio::") && !text.contains("use sqlx"),
                "{}: no I/O",
                path.display()
            );
        }
    }
}

#[test]
fn an_org_is_made_by_auth_alone() {
    for (path, text) in sources() {
        if text.contains("OrgId::from_claim") {
            assert!(path.starts_with("auth") || path.ends_with("org.rs"), "{}", path.display());
        }
    }
}

#[test]
fn nothing_but_config_reads_the_environment() {
    for (path, text) in sources() {
        let reads = text.contains("env::var") || text.contains("env = \"");
        let is_command_line = path.starts_with("cli") || path.ends_with("telemetry.rs");
        assert!(!reads || path.starts_with("config") || is_command_line, "{}", path.display());
        assert!(!text.contains("env::var") || path.starts_with("config"), "{}", path.display());
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} opens with no documentation", path.display());
    }
}

#[test]
fn every_threat_names_tests_that_exist() {
    let document = fs::read_to_string(root().join("docs/security.md")).expect("reads");
    let (_, section) = document.split_once("\n## Threats\n").expect("has the section");
    let section = section.split("\n## ").next().expect("a section");
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() > 40, "the table was found");
    let files: Vec<_> = [files("src"), files("tests/it")].concat();
    let is_test = |name: &str| {
        let mut modules: Vec<&str> = name.split("::").collect();
        let function = format!("fn {}(", modules.pop().expect("a name"));
        files.iter().any(|(path, text)| {
            let path = path.with_extension("");
            text.contains(&function) && modules.iter().all(|module| path.iter().any(|part| part == *module))
        })
    };
    // The head, the line below it, and the titles within have no tests.
    let is_threat = |row: &&Vec<&str>| row[1] != "threat" && !row[1].starts_with(['-', '*']);
    for row in rows.iter().filter(is_threat) {
        assert_eq!(row.len(), 6, "{row:?}");
        let names: Vec<&str> = row[4].split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row:?}");
        for name in names {
            let exists = if name.contains('/') { root().join(name).exists() } else { is_test(name) };
            assert!(exists, "there is no {name}");
        }
    }
}

#[test]
fn the_load_tester_and_the_comparison_share_no_code_with_the_gateway() {
    for package in ["loadtest", "crates/compare", "crates/bench-support"] {
        for (path, text) in files(&format!("{package}/src")) {
            assert!(!text.contains("warden::"), "{} uses the gateway's code", path.display());
        }
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).expect("reads");
        // Tests may start a gateway.
        let dependencies = manifest.split("[dev-dependencies]").next().expect("has text");
        assert!(
            !dependencies.contains("\nwarden ") && !dependencies.contains("\nwarden."),
            "{package} links the gateway"
        );
    }
}
