//! The attacks of `attacks.sql`.

use crate::harness::managed::{ANN, BEN, ORG_A, ORG_B};

/// Project of A in `target.sql`.
const PROJECT_OF_A: &str = "a0000000-0000-4000-8000-0000000000a1";

/// One attack.
#[derive(Clone, Debug)]
pub struct Attack {
    /// `read`, `write`, `join`, `become` or `limit`.
    pub aim: String,
    pub name: String,
    /// Why a limit remains.
    pub reason: Option<String>,
    pub statements: Vec<String>,
}

impl Attack {
    /// Whether the attack remains possible, and is only documented.
    pub fn is_limit(&self) -> bool {
        self.reason.is_some()
    }
}

/// All attacks, in the order of the file.
pub fn attacks() -> Vec<Attack> {
    let text = super::file("attacks.sql")
        .replace("{A}", &ORG_A.to_string())
        .replace("{B}", &ORG_B.to_string())
        .replace("{PA}", PROJECT_OF_A)
        .replace("{ANN}", &ANN.to_string())
        .replace("{BEN}", &BEN.to_string());
    // The first part is the head of the file.
    text.split("\n\n").skip(1).map(parse).collect()
}

fn parse(part: &str) -> Attack {
    let (head, body) = part.trim().split_once('\n').expect("a head and statements");
    let (aim, name) = head.strip_prefix("-- ").and_then(|h| h.split_once(": ")).expect("`-- aim: name`");
    assert!(["read", "write", "join", "become", "limit"].contains(&aim), "{head}");
    let (name, reason) = match name.split_once(" | ") {
        Some((name, reason)) => (name, Some(reason.to_owned())),
        None => (name, None),
    };
    assert_eq!(aim == "limit", reason.is_some(), "{head}: a limit has a reason");
    let statements =
        format!("{body}\n").split(";\n").map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect();
    Attack { aim: aim.to_owned(), name: name.to_owned(), reason, statements }
}
