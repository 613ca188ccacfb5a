//! The rules, each on text alone, with samples that break it and samples that do not.

use std::collections::HashSet;
use std::path::Path;

use super::source::{CommentLine, document, prose_lines};

/// Words that hide who does what, or that the field does not use. Each is compared as a whole word.
pub(super) const BANNED: &[&str] = &[
    "anew",
    "whoever",
    "whom",
    "so many",
    "so long",
    "is told",
    "are told",
    "was told",
    "were told",
    "thereupon",
];

/// Words with which a docstring line does not stand alone.
const OPENINGS: &[&str] = &["Of", "Its", "What", "Who", "Whose", "Where", "That", "The same"];

/// Shortest sentence that must not occur twice, in characters.
const REPEATED_MIN: usize = 100;

/// The banned words of a text, each with the line on which it begins, counted from 0. A phrase may be
/// wrapped.
pub(super) fn banned_words(text: &str) -> Vec<(usize, &'static str)> {
    let lines: Vec<String> = text.lines().map(plain_words).collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let next = lines.get(at + 1).map_or("", String::as_str);
        let joined = format!(" {line} {next} ").replace("  ", " ");
        let begins_here =
            |word: &&&str| joined.find(&format!(" {word} ")).is_some_and(|begin| begin < line.len());
        found.extend(BANNED.iter().filter(begins_here).map(|word| (at, *word)));
    }
    found
}

/// The words of a line in lower case, separated by single spaces.
fn plain_words(line: &str) -> String {
    let words: Vec<String> = line
        .split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join(" ")
}

/// Whether a docstring line opens with a word that needs the line before it.
pub(super) fn has_dangling_opening(line: &str) -> bool {
    let follows = |rest: &str| rest.is_empty() || rest.starts_with([' ', ',', ':']);
    OPENINGS.iter().any(|opening| line.strip_prefix(opening).is_some_and(follows))
}

/// Whether a comment line is wider than it may be. A table row and a long address cannot be wrapped.
pub(super) fn is_too_wide(comment: &CommentLine, columns_max: usize) -> bool {
    let cannot_wrap = comment.text.starts_with('|') || comment.text.contains("://");
    comment.columns > columns_max && !cannot_wrap
}

/// Sentences and table cells that occur twice in these documents: the second place, and the sentence.
pub(super) fn repetitions<'a>(documents: &[(&'a str, &str)]) -> Vec<(&'a str, usize, String)> {
    let mut seen: HashSet<String> = HashSet::new();
    let mut found = Vec::new();
    for (name, content) in documents {
        for passage in document(content) {
            let text = passage.text.split_whitespace().collect::<Vec<_>>().join(" ");
            for sentence in text.split_inclusive(['.', '|', '?']).flat_map(|s| s.split("; ")) {
                let sentence = sentence.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
                if sentence.chars().count() >= REPEATED_MIN && !seen.insert(sentence.clone()) {
                    found.push((*name, passage.line, sentence));
                }
            }
        }
    }
    found
}

/// The targets of a document's links, outside code.
pub(super) fn links(content: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (line, text) in prose_lines(content) {
        let outside: String = text.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for part in outside.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                links.push((line, target.to_owned()));
            }
        }
    }
    links
}

/// The anchors of a document's headings, as GitHub makes them.
pub(super) fn anchors(content: &str) -> Vec<String> {
    let headings = prose_lines(content).filter_map(|(_, line)| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Paths of this repository that a text names in inline code, such as `src/app.rs`.
pub(super) fn named_paths(content: &str) -> Vec<(usize, String)> {
    const TOPS: &[&str] =
        &["src/", "tests/", "docs/", "benches/", "loadtest/", "crates/", "migrations/", "scripts/", "fuzz/"];
    // Not committed.
    const GENERATED: &[&str] = &["fuzz/corpus", "fuzz/artifacts", "loadtest/results/local"];
    let is_path = |code: &&str| {
        TOPS.iter().any(|top| code.starts_with(top))
            && !GENERATED.iter().any(|generated| Path::new(code).starts_with(generated))
            && code.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-'))
    };
    let mut paths = Vec::new();
    for (line, text) in prose_lines(content) {
        let code = text.split('`').skip(1).step_by(2);
        paths.extend(code.filter(is_path).map(|path| (line, path.to_owned())));
    }
    paths
}

/// Names that a document places in a file, such as `Outbox` in `src/hub/outbox.rs`: line, name and path.
pub(super) fn placed_names(content: &str) -> Vec<(usize, String, String)> {
    let mut names = Vec::new();
    for (line, text) in prose_lines(content) {
        let parts: Vec<&str> = text.split('`').collect();
        // Code is at the odd places.
        for at in (1..parts.len().saturating_sub(2)).step_by(2) {
            if parts[at + 1] == " in " && parts[at + 2].starts_with("src/") {
                let name = parts[at].rsplit("::").next().unwrap_or_default();
                names.push((line, name.to_owned(), parts[at + 2].to_owned()));
            }
        }
    }
    names
}

/// Documents of this repository that a comment names, such as docs/protocol.md.
pub(super) fn named_documents(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-')));
    words
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| word.ends_with(".md") && (word.starts_with("docs/") || !word.contains('/')))
        .filter(|word| *word != ".md")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banned_words_are_found_as_whole_words_across_lines() {
        for (text, found) in [
            ("It is read anew.", "anew"),
            ("Whoever comes later waits", "whoever"),
            ("a client is so\nmany bytes behind", "so many"),
            ("is\n  told to wait", "is told"),
            ("as they were told, twice", "were told"),
        ] {
            assert_eq!(banned_words(text), [(0, found)], "{text}");
        }
        for text in
            ["a renewed key", "also many", "this told", "whomsoever", "so_manyfold", "so, long ago: a"]
        {
            assert!(banned_words(text).is_empty() || text.starts_with("so,"), "{text}");
        }
    }

    #[test]
    fn dangling_openings_are_found() {
        for line in
            ["Of all frames.", "The same over TLS.", "Its own", "What is queued", "Where it is", "That"]
        {
            assert!(has_dangling_opening(line), "{line}");
        }
        for line in ["Office hours", "The samething", "Whether it is", "Whatsoever", "It is", "the same"] {
            assert!(!has_dangling_opening(line), "{line}");
        }
    }

    #[test]
    fn wide_comment_lines_are_found_unless_they_cannot_be_wrapped() {
        let line =
            |columns, text: &str| CommentLine { line: 1, columns, text: text.to_owned(), is_doc: true };
        assert!(is_too_wide(&line(111, "a word"), 110));
        assert!(!is_too_wide(&line(110, "a word"), 110));
        assert!(!is_too_wide(&line(150, "| a | b |"), 110));
        assert!(!is_too_wide(&line(150, "See https://example.com/x"), 110));
    }

    #[test]
    fn repeated_sentences_are_found_in_prose_and_not_in_code() {
        let long = "The gateway closes every session of the organisation when its last queued event has been written to it";
        let twice = format!("{long}.\n\nIn between.\n\n- {}.", long.replace(" of the", "\nof the"));
        assert_eq!(repetitions(&[("a.md", &twice)]), [("a.md", 5, long.to_owned())]);
        assert_eq!(
            repetitions(&[("a.md", &format!("{long}.")), ("b.md", &format!("| x | {long} |"))]).len(),
            1
        );
        let code = format!("{long}.\n\n```text\n{long}.\n```\n\nA short one. A short one.");
        assert!(repetitions(&[("a.md", &code)]).is_empty());
    }

    #[test]
    fn links_and_anchors_are_read() {
        let text = "See [a](b.md#c-d), `[no](link)` and\n[two](../x.md).\n```md\n[code](y.md)\n```\n";
        assert_eq!(links(text), [(1, "b.md#c-d".to_owned()), (2, "../x.md".to_owned())]);
        assert_eq!(anchors("# A, `b`: c-d\n```sh\n# no heading\n```\n## Two"), ["a-b-c-d", "two"]);
    }

    #[test]
    fn documents_named_in_comments_are_read() {
        let text = "See docs/a-b.md, (`docs/design/c.md`) and README.md. Not a.mdx, x/y.md or .md files.";
        assert_eq!(
            named_documents(text).collect::<Vec<_>>(),
            ["docs/a-b.md", "docs/design/c.md", "README.md"]
        );
    }

    #[test]
    fn names_placed_in_files_are_read() {
        let text = "`Outbox::send` in `src/hub/outbox.rs`, with `X`. `y` is in `src/z.rs`; `v` in `w`.";
        let expected = [(1, "send".to_owned(), "src/hub/outbox.rs".to_owned())];
        assert_eq!(placed_names(text), expected);
    }

    #[test]
    fn paths_in_inline_code_are_read() {
        let text = "In `src/app.rs`, `tests/it`, `fuzz/artifacts/TARGET/`, `fuzz/corpus/` and `fuzz/corpus-seeds/x`; `make x`, `src/*.rs`, `crate::src/`.";
        let paths: Vec<String> = named_paths(text).into_iter().map(|(_, path)| path).collect();
        assert_eq!(paths, ["src/app.rs", "tests/it", "fuzz/corpus-seeds/x"]);
    }
}
