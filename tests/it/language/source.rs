//! Splits files into the passages that people read: comments, docstrings, messages, function names, prose.
//!
//! This is not a parser. It knows enough of each language to separate comments and strings from code.

use std::fs;
use std::path::{Path, PathBuf};

/// Directories and files that people write, from the root of the repository.
const ROOTS: &[&str] = &[
    "src",
    "loadtest",
    "crates",
    "tests",
    "benches",
    "fuzz",
    "migrations",
    "scripts",
    "docs",
    ".ci",
    ".env.example",
    "Makefile",
    "Cargo.toml",
    "deny.toml",
    "clippy.toml",
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
];

/// Generated or foreign directories and files below the roots.
const SKIPPED: &[&str] = &[
    "target",
    "node_modules",
    "artifacts",
    "coverage",
    "corpus",
    "corpus-seeds",
    "Cargo.lock",
    "package-lock.json",
];

/// Kinds of passages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A comment; consecutive comment lines are one passage.
    Comment,
    /// A docstring; consecutive lines are one passage.
    Doc,
    /// A string literal, or a line of a script.
    Message,
    /// The name of a function, with spaces instead of underscores.
    Name,
    /// A paragraph, list item or table row of a document.
    Prose,
}

/// A piece of text that people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passage {
    pub(super) line: usize,
    pub(super) kind: Kind,
    pub(super) text: String,
}

/// A line that consists of a comment only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommentLine {
    pub(super) line: usize,
    /// Width of the whole line, in characters.
    pub(super) columns: usize,
    /// The comment without its marker.
    pub(super) text: String,
    pub(super) is_doc: bool,
}

/// One file, split up.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// From the root of the repository.
    pub(super) path: PathBuf,
    pub(super) content: String,
    pub(super) passages: Vec<Passage>,
    pub(super) comment_lines: Vec<CommentLine>,
}

impl Source {
    pub(super) fn is_document(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "md")
    }

    pub(super) fn is_sql(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "sql")
    }

    /// Splits a file by the language that its name stands for.
    pub(super) fn split(path: &Path, content: String) -> Self {
        let mut source = Self { path: path.to_owned(), content, ..Self::default() };
        let content = std::mem::take(&mut source.content);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => rust(&content, &mut source),
            Some("sql") => sql(&content, &mut source),
            Some("md") => source.passages = document(&content),
            Some("js" | "mjs") => script(&content, "//", &mut source),
            _ => script(&content, "#", &mut source),
        }
        source.content = content;
        source
    }
}

/// All files that people write.
pub(super) fn sources(root: &Path) -> Vec<Source> {
    let mut paths = Vec::new();
    for start in ROOTS {
        walk(&root.join(start), &mut paths);
    }
    paths.sort();
    let read = |path: PathBuf| {
        let content = fs::read_to_string(&path).ok()?;
        Some(Source::split(path.strip_prefix(root).expect("below the root"), content))
    };
    paths.into_iter().filter_map(read).collect()
}

fn walk(path: &Path, into: &mut Vec<PathBuf>) {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if SKIPPED.contains(&name) {
        return;
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("reads the directory") {
            walk(&entry.expect("an entry").path(), into);
        }
    } else if path.is_file() {
        into.push(path.to_owned());
    }
}

/// Adds a comment, to the passage before if that is a comment of the same kind on the line before.
fn add_comment(source: &mut Source, line: usize, is_doc: bool, text: &str) {
    let kind = if is_doc { Kind::Doc } else { Kind::Comment };
    let text = text.trim();
    let lines_before = |passage: &Passage| passage.text.matches('\n').count() + 1;
    match source.passages.last_mut() {
        Some(last) if last.kind == kind && last.line + lines_before(last) == line => {
            last.text.push('\n');
            last.text.push_str(text);
        }
        _ => source.passages.push(Passage { line, kind, text: text.to_owned() }),
    }
}

fn rust(content: &str, source: &mut Source) {
    let chars: Vec<char> = content.chars().collect();
    let lines: Vec<&str> = content.lines().collect();
    let (mut at, mut line) = (0, 1);
    let mut code = String::new();
    while at < chars.len() {
        let rest = &chars[at..];
        if rest.starts_with(&['/', '/']) {
            let text: String = rest.iter().take_while(|c| **c != '\n').collect();
            at += text.chars().count();
            rust_comment(source, lines[line - 1], line, &text);
        } else if let Some((literal, length)) = string_literal(rest, code.chars().next_back()) {
            source.passages.push(Passage { line, kind: Kind::Message, text: literal });
            line += rest[..length].iter().filter(|c| **c == '\n').count();
            at += length;
            code.push('"');
        } else if let Some(length) = char_literal(rest) {
            at += length;
            code.push('\'');
        } else {
            if rest[0] == '\n' {
                push_names(source, line, &code);
                code.clear();
                line += 1;
            } else {
                code.push(rest[0]);
            }
            at += 1;
        }
    }
    push_names(source, line, &code);
}

fn rust_comment(source: &mut Source, whole_line: &str, line: usize, text: &str) {
    let is_doc = text.starts_with("//!") || (text.starts_with("///") && !text.starts_with("////"));
    let inner = text.trim_start_matches('/').trim_start_matches('!').trim();
    if whole_line.trim_start().starts_with("//") {
        let columns = whole_line.chars().count();
        source.comment_lines.push(CommentLine { line, columns, text: inner.to_owned(), is_doc });
    }
    add_comment(source, line, is_doc, inner);
}

fn push_names(source: &mut Source, line: usize, code: &str) {
    for part in code.split(" fn ").skip(1).chain(code.strip_prefix("fn ")) {
        let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        source.passages.push(Passage { line, kind: Kind::Name, text: name.replace('_', " ") });
    }
}

/// A string literal at the beginning: its text, and its length in characters.
fn string_literal(rest: &[char], before: Option<char>) -> Option<(String, usize)> {
    let follows_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix = rest.iter().take_while(|c| matches!(c, 'b' | 'c' | 'r')).count();
    if prefix > 2 || (prefix > 0 && follows_name) {
        return None;
    }
    let is_raw = rest[..prefix].contains(&'r');
    let hashes = if is_raw { rest[prefix..].iter().take_while(|c| **c == '#').count() } else { 0 };
    let begin = prefix + hashes + 1;
    if rest.get(begin - 1) != Some(&'"') {
        return None;
    }
    let mut text = String::new();
    let mut at = begin;
    while at < rest.len() {
        if rest[at] == '"' && rest[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
            return Some((text, at + 1 + hashes));
        }
        if rest[at] == '\\' && !is_raw {
            match rest.get(at + 1) {
                // The next line continues this one.
                Some('\n') => {
                    at += 2 + rest[at + 2..].iter().take_while(|c| c.is_whitespace()).count();
                    continue;
                }
                Some('n' | 't' | 'r') => text.push(' '),
                Some(other) => text.push(*other),
                None => {}
            }
            at += 2;
            continue;
        }
        text.push(rest[at]);
        at += 1;
    }
    Some((text, at))
}

/// The length of a character literal at the beginning; a lifetime is none.
fn char_literal(rest: &[char]) -> Option<usize> {
    match rest {
        ['\'', '\\', _, tail @ ..] => Some(3 + tail.iter().position(|c| *c == '\'')? + 1),
        ['\'', _, '\'', ..] => Some(3),
        _ => None,
    }
}

fn sql(content: &str, source: &mut Source) {
    let mut in_string = false;
    let mut literal = String::new();
    for (line, text) in (1..).zip(content.lines()) {
        let mut rest = text;
        while !rest.is_empty() {
            if in_string {
                let Some((inner, tail)) = rest.split_once('\'') else {
                    literal.push_str(rest);
                    literal.push(' ');
                    break;
                };
                literal.push_str(inner);
                source.passages.push(Passage {
                    line,
                    kind: Kind::Message,
                    text: std::mem::take(&mut literal),
                });
                in_string = false;
                rest = tail;
            } else if let Some(comment) = rest.strip_prefix("--") {
                if text.trim_start().starts_with("--") {
                    let columns = text.chars().count();
                    let inner = comment.trim().to_owned();
                    source.comment_lines.push(CommentLine { line, columns, text: inner, is_doc: false });
                }
                add_comment(source, line, false, comment);
                break;
            } else {
                in_string = rest.starts_with('\'');
                rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..];
            }
        }
    }
}

/// A script or configuration file: comment lines, and every other line as a message.
fn script(content: &str, marker: &str, source: &mut Source) {
    for (line, text) in (1..).zip(content.lines()) {
        if let Some(comment) = text.trim_start().strip_prefix(marker) {
            let inner = comment.trim_start_matches(marker).trim().to_owned();
            add_comment(source, line, false, &inner);
            let columns = text.chars().count();
            source.comment_lines.push(CommentLine { line, columns, text: inner, is_doc: false });
        } else if !text.trim().is_empty() {
            source.passages.push(Passage { line, kind: Kind::Message, text: text.trim().to_owned() });
        }
    }
}

/// The prose of a document, without code blocks, inline code and the addresses of links.
pub(super) fn document(content: &str) -> Vec<Passage> {
    let mut passages: Vec<Passage> = Vec::new();
    let mut continues = false;
    for (line, text) in prose_lines(content) {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            continues = false;
            continue;
        }
        let begins = trimmed.starts_with(['#', '|', '-', '*', '>'])
            || trimmed.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        let plain = without_code(trimmed);
        match passages.last_mut() {
            Some(last) if continues && !begins => {
                last.text.push('\n');
                last.text.push_str(&plain);
            }
            _ => passages.push(Passage { line, kind: Kind::Prose, text: plain }),
        }
        continues = !trimmed.starts_with(['#', '|']);
    }
    passages
}

/// The lines of a document. Those of code blocks are empty, so that a code block ends a paragraph.
pub(super) fn prose_lines(content: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    (1..).zip(content.lines()).map(move |(line, text)| {
        let is_fence = text.trim_start().starts_with("```");
        let is_code = in_block || is_fence;
        if is_fence {
            in_block = !in_block;
        }
        (line, if is_code { "" } else { text })
    })
}

/// A line without inline code and without the targets of links.
fn without_code(line: &str) -> String {
    let outside: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let mut text = String::new();
    let mut rest = &*outside;
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, tail)| tail);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(name: &str, content: &str) -> Source {
        Source::split(Path::new(name), content.to_owned())
    }

    fn texts(source: &Source, kind: Kind) -> Vec<(usize, &str)> {
        source.passages.iter().filter(|p| p.kind == kind).map(|p| (p.line, &*p.text)).collect()
    }

    #[test]
    fn rust_is_split_into_comments_docstrings_strings_and_names() {
        let source = split(
            "a.rs",
            "//! A file\n\n/// A line.\n/// Another.\nfn one_two<'a>(x: &'a str) -> char { // behind\n    \
             let s = \"a // b \\\n        c\\\"d\";\n    // first\n    // second\n    let r = r#\"raw \" // text\"#;\n    \
             if x == \"\" { '\"' } else { '\\'' } // last\n}\n",
        );
        assert_eq!(texts(&source, Kind::Doc), [(1, "A file"), (3, "A line.\nAnother.")]);
        assert_eq!(texts(&source, Kind::Comment), [(5, "behind"), (8, "first\nsecond"), (11, "last")]);
        assert_eq!(texts(&source, Kind::Message), [(6, "a // b c\"d"), (10, "raw \" // text"), (11, "")]);
        assert_eq!(texts(&source, Kind::Name), [(5, "one two")]);
        let lines: Vec<usize> = source.comment_lines.iter().map(|comment| comment.line).collect();
        assert_eq!(lines, [1, 3, 4, 8, 9]);
    }

    #[test]
    fn sql_is_split_into_comments_and_strings() {
        let source =
            split("a.sql", "-- A comment\nselect 'it''s -- text', x -- behind\nfrom 'two\nlines';\n");
        assert_eq!(texts(&source, Kind::Comment), [(1, "A comment"), (2, "behind")]);
        assert_eq!(texts(&source, Kind::Message), [(2, "it"), (2, "s -- text"), (4, "two lines")]);
    }

    #[test]
    fn documents_are_split_into_prose_without_code() {
        let source = split(
            "a.md",
            "# Title\nOne `code` line\nand more.\n\n- an [item](x.md#y)\n  of two lines\n- next\n\n```sh\n# no prose\n```\n| a | b |\n",
        );
        assert_eq!(
            texts(&source, Kind::Prose),
            [
                (1, "# Title"),
                (2, "One   line\nand more."),
                (5, "- an [item\nof two lines"),
                (7, "- next"),
                (12, "| a | b |")
            ]
        );
    }

    #[test]
    fn scripts_are_split_into_comments_and_lines() {
        let source = split("run", "#!/bin/sh\n# A comment\necho 'a message' # behind\n");
        assert_eq!(texts(&source, Kind::Message), [(3, "echo 'a message' # behind")]);
        let source = split("a.mjs", "// A comment\nconst x = 1;\n");
        assert_eq!(texts(&source, Kind::Comment), [(1, "A comment")]);
    }
}
