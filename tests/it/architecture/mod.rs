//! Rules about the source itself: the direction of imports, and which module may do what.

mod graph;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file below a directory, with its path from there.
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
    assert!(!files.is_empty(), "the walk found the sources");
    files.into_iter().map(|(p, t)| (p.strip_prefix(&root).expect("below").to_owned(), t)).collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    files("src")
}

/// Folders of all packages of the workspace, beside the gateway's own.
fn packages() -> Vec<String> {
    let crates = fs::read_dir(root().join("crates")).expect("reads");
    let names = crates.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names.map(|name| format!("crates/{name}")).chain(["loadtest".to_owned()]).collect()
}

/// Modules that every other may import. They import at most each other.
const COMMON: &[&str] =
    &["org", "sync", "sparse", "backoff", "metrics", "audit_trail", "rate", "service", "capacity"];

/// Modules, each with the modules that it may import beside [`COMMON`].
const MODULES: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("cursor", &[]),
    ("filter", &[]),
    ("postgres", &[]),
    ("tenancy", &["postgres"]),
    ("claims_sync", &["postgres"]),
    ("auth", &["filter", "wire"]),
    ("hub", &["wire", "cursor", "filter"]),
    ("log", &["wire", "cursor", "postgres"]),
    ("retention", &["log"]),
    ("watch_check", &["log"]),
    ("control", &["wire", "cursor", "hub"]),
    ("replay", &["wire", "cursor", "log"]),
    ("tailer", &["wire", "cursor", "hub", "postgres", "log", "control", "replay"]),
    ("session", &["wire", "cursor", "filter", "hub", "log", "control", "replay", "reading", "auth"]),
    ("publish", &["auth", "cursor", "postgres"]),
    ("reading", &["cursor", "filter", "postgres"]),
    ("recordings", &["postgres"]),
    ("http", &["wire", "auth", "session", "log", "control", "hub", "publish", "reading"]),
    ("telemetry", &[]),
    ("shutdown", &[]),
    // Limits of every module, and values that they parse.
    (
        "config",
        &[
            "wire",
            "cursor",
            "auth",
            "hub",
            "log",
            "control",
            "replay",
            "filter",
            "reading",
            "tailer",
            "session",
            "http",
            "publish",
            "retention",
            "watch_check",
            "postgres",
            "tenancy",
        ],
    ),
    // The composition root.
    (
        "app",
        &[
            "wire",
            "auth",
            "hub",
            "log",
            "control",
            "replay",
            "reading",
            "tailer",
            "session",
            "http",
            "publish",
            "retention",
            "watch_check",
            "postgres",
            "config",
        ],
    ),
    ("dev", &["app", "auth", "config", "log", "postgres"]),
    (
        "cli",
        &[
            "app",
            "auth",
            "claims_sync",
            "config",
            "dev",
            "postgres",
            "recordings",
            "shutdown",
            "telemetry",
            "tenancy",
            "wire",
        ],
    ),
];

/// Imports of the modules in [`COMMON`] among each other.
const COMMON_IMPORTS: &[(&str, &[&str])] = &[
    ("audit_trail", &["org", "rate", "sync"]),
    ("capacity", &["sparse", "sync"]),
    ("service", &["backoff", "sync"]),
];

fn rule(path: &Path) -> Option<(&'static str, Vec<&'static str>)> {
    let module = path.with_extension("");
    if module == Path::new("lib") || module == Path::new("main") {
        return None;
    }
    if let Some(name) = COMMON.iter().find(|name| module.starts_with(name)) {
        let allowed = COMMON_IMPORTS.iter().find(|(common, _)| common == name);
        return Some((*name, allowed.map_or_else(Vec::new, |(_, allowed)| allowed.to_vec())));
    }
    // The most specific rule applies.
    let rules = MODULES.iter().filter(|(name, _)| module.starts_with(name));
    let (name, allowed) = rules
        .max_by_key(|(name, _)| name.len())
        .unwrap_or_else(|| panic!("{}: add its module to MODULES", path.display()));
    let allowed = if *name == "cursor" { vec!["org"] } else { [COMMON, *allowed].concat() };
    Some((*name, allowed))
}

#[test]
fn imports_run_one_way() {
    for (path, text) in sources() {
        let Some((name, allowed)) = rule(&path) else { continue };
        let own = name.split('/').next().expect("a name");
        for import in graph::modules(&text) {
            let is_allowed = import == own || allowed.contains(&import.as_str());
            assert!(is_allowed, "{} must not import {import}", path.display());
        }
        let has_io = text.contains("use tokio::") || text.contains("use sqlx");
        assert!(!has_io || !["wire", "cursor", "filter"].contains(&name), "{}: no I/O", path.display());
    }
}

#[test]
fn no_files_import_each_other() {
    for package in packages().iter().map(|package| format!("{package}/src")).chain(["src".to_owned()]) {
        let found = Vec::from_iter(graph::cycles(&graph::graph(&files(&package))));
        assert!(found.is_empty(), "{package}: import cycles:\n{}", found.join("\n"));
    }
}

#[test]
fn only_auth_creates_an_org_id_from_a_claim() {
    for (path, text) in sources() {
        if text.contains("OrgId::from_claim") {
            assert!(path.starts_with("auth") || path.ends_with("org.rs"), "{}", path.display());
        }
    }
}

/// An id that an operator has written needs no token, so no request may contain it.
#[test]
fn only_configuration_creates_an_org_id_from_an_operators_text() {
    for (path, text) in sources() {
        if text.contains("OrgId::from_operator") {
            let is_allowed = path.starts_with("cli")
                || path.ends_with("recordings/accounts.rs")
                || path.ends_with("org.rs");
            assert!(is_allowed, "{}", path.display());
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
fn every_file_begins_with_its_documentation() {
    for package in packages().iter().map(|package| format!("{package}/src")).chain(["src".to_owned()]) {
        for (path, text) in files(&package) {
            assert!(text.starts_with("//! "), "{package}/{} has no documentation", path.display());
        }
    }
}

#[test]
fn every_threat_names_tests_that_exist() {
    let document = fs::read_to_string(root().join("docs/security.md")).expect("reads");
    let (_, section) = document.split_once("\n## Threats\n").expect("has the section");
    let section = section.split("\n## ").next().expect("a section");
    let rows: Vec<Vec<&str>> = section
        .lines()
        .skip_while(|line| !line.starts_with("| threat |"))
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() > 40, "found the table");
    let files: Vec<_> = [files("src"), files("tests/it")].concat();
    let is_test = |name: &str| {
        let mut modules: Vec<&str> = name.split("::").collect();
        let function = format!("fn {}(", modules.pop().expect("a name"));
        files.iter().any(|(path, text)| {
            let path = path.with_extension("");
            text.contains(&function) && modules.iter().all(|module| path.iter().any(|part| part == *module))
        })
    };
    // The head of the table, the line below it, and the titles of its parts name no tests.
    let is_threat = |row: &&Vec<&str>| row[1] != "threat" && !row[1].starts_with(['-', '*']);
    for row in rows.iter().filter(is_threat) {
        assert_eq!(row.len(), 6, "{row:?}");
        let names: Vec<&str> = row[4].split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test: {row:?}");
        for name in names {
            let exists = if name.contains('/') { root().join(name).exists() } else { is_test(name) };
            assert!(exists, "there is no test or file {name}");
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

/// Without sequential scans, a query on a small table without an index seems so expensive that the server
/// compiles it, which takes 100 ms each time.
#[test]
fn queries_without_sequential_scans_are_not_compiled() {
    let migrations = fs::read_dir(root().join("migrations")).expect("reads").map(|entry| {
        let path = entry.expect("an entry").path();
        let text = if path.is_file() { fs::read_to_string(&path).expect("reads") } else { String::new() };
        (path, text)
    });
    let mut checked = 0;
    for (path, text) in sources().into_iter().chain(migrations) {
        let scans = text.matches("enable_seqscan").count();
        // A plan that is only explained is not compiled.
        if scans == 0 || text.contains("explain (format json, costs off)") {
            continue;
        }
        checked += 1;
        let is_off = |line: &&str| line.contains("jit") && line.contains("off");
        let compilations = text.lines().filter(is_off).count();
        assert!(compilations >= scans, "{}: set jit off beside enable_seqscan", path.display());
    }
    assert!(checked >= 4, "the settings were found");
}
