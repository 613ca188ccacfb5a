//! Graph of imports between the files of one crate, from a simple parser of `use` items and paths.
//!
//! A path leads to the file of its deepest module. If that module only re-exports the name (`pub use`), the
//! path leads on to the file that defines it, and the re-export itself is no import. Paths in comments and in
//! `mod tests` do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules and names of a path, without `crate`.
type Segments = Vec<String>;

/// Files, each with the files that it imports and one path that does so.
pub type Graph = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

#[derive(Default)]
struct Crate {
    /// File of each module.
    files: BTreeMap<Segments, PathBuf>,
    /// Origin of each re-exported name, by module and name.
    re_exports: BTreeMap<(Segments, String), Segments>,
}

/// The graph of a crate's files. Their paths begin at its `src`.
pub fn graph(sources: &[(PathBuf, String)]) -> Graph {
    let mut this = Crate::default();
    for (path, _) in sources {
        this.files.insert(module_of(path), path.clone());
    }
    let mut imports = Vec::new();
    for (path, text) in sources {
        let module = module_of(path);
        for (is_re_export, import) in paths(&code(text)) {
            let Some(target) = this.absolute(&module, &import) else { continue };
            if is_re_export {
                let name = target.last().cloned().unwrap_or_default();
                this.re_exports.insert((module.clone(), name), target);
            } else {
                imports.push((path.clone(), import, target));
            }
        }
    }
    let mut graph = Graph::new();
    for (path, import, target) in imports {
        if let Some(file) = this.resolve(target).filter(|file| *file != path) {
            graph.entry(path).or_default().insert(file, import);
        }
    }
    graph
}

/// Top-level modules of its crate that a source names.
pub fn modules(text: &str) -> BTreeSet<String> {
    let paths = paths(&code(text)).into_iter().map(|(_, path)| path);
    paths.filter_map(|path| path.strip_prefix("crate::")?.split("::").next().map(str::to_owned)).collect()
}

/// Shortest import cycle through each file that is on one, as texts.
pub fn cycles(graph: &Graph) -> BTreeSet<String> {
    graph.keys().filter_map(|start| cycle(graph, start)).collect()
}

/// Breadth-first search from a file back to itself.
fn cycle(graph: &Graph, start: &Path) -> Option<String> {
    let mut queue = std::collections::VecDeque::from([vec![start.to_owned()]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = queue.pop_front() {
        let last = way.last().expect("is not empty");
        for next in graph.get(last).into_iter().flat_map(BTreeMap::keys) {
            if next == start {
                // Every cycle begins at its first file, so that each is found once.
                let first = way.iter().enumerate().min_by_key(|(_, file)| *file).map_or(0, |(n, _)| n);
                let files = way[first..].iter().chain(&way[..=first]);
                return Some(files.map(|file| file.display().to_string()).collect::<Vec<_>>().join(" -> "));
            }
            if seen.insert(next.clone()) {
                queue.push_back([way.clone(), vec![next.clone()]].concat());
            }
        }
    }
    None
}

fn module_of(path: &Path) -> Segments {
    let mut segments: Segments =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if segments.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        segments.pop();
    }
    segments
}

/// Code without comments, and without the unit tests at the end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// All imported paths, and whether each is a re-export.
fn paths(code: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut rest = String::new();
    for item in code.split_inclusive(';') {
        let start = item.rfind("use ").filter(|at| !item[..*at].ends_with(|c: char| c.is_alphanumeric()));
        match start {
            Some(at) if item.ends_with(';') && !item[at..].contains(['=', '"']) => {
                let before = item[..at].rsplit(['\n', '{', '}']).next().unwrap_or_default();
                let is_re_export = before.trim_start().starts_with("pub");
                let tree = item[at + "use ".len()..].trim_end_matches(';');
                found.extend(expand(tree).into_iter().map(|path| (is_re_export, path)));
                rest.push_str(&item[..at]);
            }
            _ => rest.push_str(item),
        }
    }
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in rest.match_indices(root) {
            if !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                let is_path = |c: &char| c.is_alphanumeric() || *c == '_' || *c == ':';
                let path: String = rest[at..].chars().take_while(is_path).collect();
                found.push((false, path.trim_end_matches(':').to_owned()));
            }
        }
    }
    found
}

/// Paths of a `use` tree: `a::{b, c::d}` becomes `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, body)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let body = body.strip_suffix('}').unwrap_or(body);
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&body[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&body[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(expand).map(|path| format!("{}{path}", prefix.trim())).collect()
}

impl Crate {
    /// Path from the crate's root. None for a path into another crate.
    fn absolute(&self, module: &[String], path: &str) -> Option<Segments> {
        let mut segments: Segments = path.split("::").map(str::to_owned).collect();
        let mut base = module.to_vec();
        match segments.first()?.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                while segments.get(1).is_some_and(|next| next == "super") {
                    segments.remove(0);
                    base.pop();
                }
                base.pop();
            }
            child => {
                base.push(child.to_owned());
                self.files.contains_key(&base).then_some(())?;
            }
        }
        segments.remove(0);
        base.extend(segments);
        Some(base)
    }

    /// File that defines a path.
    fn resolve(&self, mut path: Segments) -> Option<PathBuf> {
        // A re-export may lead to another one, but not for ever.
        for _ in 0..8 {
            let depth = (0..=path.len()).rev().find(|n| self.files.contains_key(&path[..*n]))?;
            let origin = path.get(depth).and_then(|name| {
                self.re_exports.get(&(path[..depth].to_vec(), name.clone())).filter(|origin| **origin != path)
            });
            match origin {
                Some(origin) => path = [origin.clone(), path[depth + 1..].to_vec()].concat(),
                None => return self.files.get(&path[..depth]).cloned(),
            }
        }
        None
    }
}

#[test]
fn the_parser_finds_imports_and_follows_re_exports() {
    let sources = [
        ("a/mod.rs", "mod b;\nmod c;\npub use b::B;\nuse c::{C, D as E};\n"),
        ("a/b.rs", "//! use crate::d::X;\nuse std::fmt;\npub struct B;\n"),
        ("a/c.rs", "use super::B;\nfn f() -> crate::d::D {}\n#[cfg(test)]\nmod tests { use crate::e::E; }\n"),
        ("d.rs", "pub(crate) fn f() { let x = super::a::B; }\n"),
        ("e.rs", ""),
    ];
    let sources = sources.map(|(path, text)| (PathBuf::from(path), text.to_owned()));
    let graph = graph(&sources);
    let imports = |path: &str| -> Vec<String> {
        let files = graph.get(Path::new(path)).into_iter().flat_map(BTreeMap::keys);
        files.map(|file| file.display().to_string()).collect()
    };
    assert_eq!(imports("a/mod.rs"), ["a/c.rs"]);
    assert_eq!(imports("a/b.rs"), Vec::<String>::new());
    assert_eq!(imports("a/c.rs"), ["a/b.rs", "d.rs"]);
    assert_eq!(imports("d.rs"), ["a/b.rs"]);
    assert!(cycles(&graph).is_empty());
}

#[test]
fn the_search_finds_a_cycle_once() {
    let sources = [("a.rs", "use crate::b::B;"), ("b.rs", "use crate::c::C;"), ("c.rs", "use crate::a::A;")];
    let sources = sources.map(|(path, text)| (PathBuf::from(path), text.to_owned()));
    let found: Vec<_> = cycles(&graph(&sources)).into_iter().collect();
    assert_eq!(found, ["a.rs -> b.rs -> c.rs -> a.rs"]);
}
