//! The examples of docs/orms.md are the files that the tests run.

use std::fs;

use super::project::root;

/// A comment above a code block names the file whose content the block is.
const MARK: &str = "<!-- tests/orms/";

#[test]
fn the_examples_of_the_page_are_the_tested_files() {
    let page = fs::read_to_string(root().join("docs/orms.md")).expect("the page exists");
    let mut parts = page.split(MARK);
    parts.next();
    let mut count = 0;
    for part in parts {
        let (name, rest) = part.split_once(" -->\n```").expect("a comment is followed by a code block");
        let (_, code) = rest.split_once('\n').expect("a block begins with its language");
        let (code, _) = code.split_once("```").expect("a block ends");
        let file = fs::read_to_string(root().join("tests/orms").join(name)).expect("the file exists");
        assert_eq!(code, file, "docs/orms.md differs from tests/orms/{name}: copy the file into the page");
        count += 1;
    }
    assert!(count > 0, "no code block of the page names its file");
}
