//! The language of the project: comments, docstrings, messages, test names and documents.
//!
//! CONTRIBUTING.md has the rules. These tests check the ones that a program can check, without false
//! positives. `source` splits files into passages. `rules` checks one passage at a time, and has samples
//! that break each rule.

mod rules;
mod source;

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use rules::{
    anchors, banned_words, has_dangling_opening, is_too_wide, links, named_documents, named_paths,
    placed_names, repetitions,
};
use source::{Kind, Source, sources};

/// Widest comment line.
const COLUMNS_MAX: usize = 110;
/// Widest comment line in SQL.
const SQL_COLUMNS_MAX: usize = 120;

/// The directory of this checker.
const SELF: &str = "tests/it/language";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn checked() -> Vec<Source> {
    let sources = sources(root());
    assert!(sources.len() > 300, "the walk found the sources");
    sources
}

fn documents() -> Vec<Source> {
    checked().into_iter().filter(Source::is_document).collect()
}

/// Fails with all findings, one per line.
fn report(findings: &[String], rule: &str) {
    let mut text = String::new();
    for finding in findings {
        let _ = writeln!(text, "  {finding}");
    }
    assert!(findings.is_empty(), "{} findings: {rule}\n{text}", findings.len());
}

#[test]
fn texts_use_plain_words() {
    let mut findings = Vec::new();
    for source in checked() {
        for passage in &source.passages {
            // A string without a space is a value. The samples of this checker break its rules on purpose.
            let is_sample = source.path.starts_with(SELF);
            if passage.kind == Kind::Message && (is_sample || !passage.text.contains(' ')) {
                continue;
            }
            for (line, word) in banned_words(&passage.text) {
                findings.push(format!("{}:{}: {word:?}", source.path.display(), passage.line + line));
            }
        }
    }
    report(&findings, "say who does what, in today's words (CONTRIBUTING.md, Language)");
}

#[test]
fn comment_lines_fit_the_width() {
    let mut findings = Vec::new();
    for source in checked() {
        let columns_max = if source.is_sql() { SQL_COLUMNS_MAX } else { COLUMNS_MAX };
        for comment in source.comment_lines.iter().filter(|comment| is_too_wide(comment, columns_max)) {
            findings.push(format!(
                "{}:{}: {} columns, at most {columns_max}",
                source.path.display(),
                comment.line,
                comment.columns
            ));
        }
    }
    report(&findings, "wrap the comment");
}

#[test]
fn docstrings_open_with_a_phrase_that_stands_alone() {
    let mut findings = Vec::new();
    for source in checked() {
        for line in source.comment_lines.iter().filter(|line| line.is_doc) {
            if has_dangling_opening(&line.text) {
                findings.push(format!("{}:{}: {}", source.path.display(), line.line, line.text));
            }
        }
    }
    report(&findings, "open docstring lines with a noun phrase or a verb phrase");
}

#[test]
fn documents_do_not_repeat_themselves() {
    let documents = documents();
    let texts: Vec<(&str, &str)> = documents
        .iter()
        .map(|document| (document.path.to_str().expect("UTF-8"), &*document.content))
        .collect();
    let found = repetitions(&texts);
    let findings: Vec<String> =
        found.into_iter().map(|(path, line, sentence)| format!("{path}:{line}: {sentence}")).collect();
    report(&findings, "say it in one place, and link to it");
}

#[test]
fn links_lead_to_existing_headings() {
    let mut findings = Vec::new();
    for document in documents() {
        for (line, target) in links(&document.content) {
            if let Err(reason) = resolve(&document, &target) {
                findings.push(format!("{}:{line}: {target}: {reason}", document.path.display()));
            }
        }
    }
    for source in checked().iter().filter(|source| !source.is_document()) {
        for passage in source.passages.iter().filter(|p| matches!(p.kind, Kind::Comment | Kind::Doc)) {
            for path in named_documents(&passage.text).filter(|path| !root().join(path).exists()) {
                findings.push(format!("{}:{}: {path}: no such file", source.path.display(), passage.line));
            }
        }
    }
    report(&findings, "correct the link");
}

fn resolve(document: &Source, target: &str) -> Result<(), &'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if path.is_empty() {
        document.path.clone()
    } else {
        normalised(&document.path.parent().unwrap_or(Path::new("")).join(path))
    };
    if !root().join(&path).exists() {
        return Err("no such file");
    }
    if anchor.is_empty() {
        return Ok(());
    }
    let content = std::fs::read_to_string(root().join(&path)).map_err(|_| "not a text file")?;
    if anchors(&content).iter().any(|heading| heading == anchor) { Ok(()) } else { Err("no such heading") }
}

/// Resolves `..` without the file system.
fn normalised(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir => {}
            other => result.push(other),
        }
    }
    result
}

#[test]
fn paths_named_in_documents_exist() {
    let mut findings = Vec::new();
    for document in documents() {
        for (line, path) in named_paths(&document.content) {
            // A document of a package may name paths of that package.
            let beside = document.path.parent().unwrap_or(Path::new("")).join(&path);
            if !root().join(&path).exists() && !root().join(beside).exists() {
                findings.push(format!("{}:{line}: {path}", document.path.display()));
            }
        }
    }
    report(&findings, "name a file or directory that exists");
}

#[test]
fn names_placed_in_files_are_there() {
    let sources = checked();
    let mut findings = Vec::new();
    for document in sources.iter().filter(|source| source.is_document()) {
        for (line, name, path) in placed_names(&document.content) {
            let mut files = sources.iter().filter(|source| source.path.starts_with(&path));
            if !files.any(|file| file.content.contains(&name)) {
                findings.push(format!("{}:{line}: {name} in {path}", document.path.display()));
            }
        }
    }
    report(&findings, "name the file in which it is today");
}

/// These sections are tables, and the last column of each row names modules with tests: those that failed
/// when the code was broken on purpose, and those that load a shared resource.
#[test]
fn tests_named_in_tables_exist() {
    let sources = checked();
    let modules: Vec<PathBuf> = sources
        .iter()
        .filter(|source| source.path.extension().is_some_and(|extension| extension == "rs"))
        .map(|source| source.path.with_extension(""))
        .collect();
    let is_module = |name: &str| {
        modules.iter().any(|path| name.split("::").all(|part| path.iter().any(|own| own == part)))
    };
    let mut findings = Vec::new();
    for (page, title) in
        [("testing.md", "Tests that can fail"), ("design/isolation.md", "Shares of resources")]
    {
        let path = Path::new("docs").join(page);
        let page = sources.iter().find(|source| source.path.ends_with(&path)).expect("the page");
        let (_, section) = page.content.split_once(&format!("\n## {title}\n")).expect("the section");
        let section = section.split("\n## ").next().unwrap_or_default();
        for row in section.lines().filter(|line| line.starts_with('|')) {
            let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
            for name in last.split('`').skip(1).step_by(2) {
                let exists = if name.contains('/') { root().join(name).exists() } else { is_module(name) };
                if !exists {
                    findings.push(format!("{name}: {row}"));
                }
            }
        }
    }
    report(&findings, "name the module that the test is in today");
}
