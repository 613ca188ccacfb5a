//! Remedies: statements, a command, or a question whose answers each have a remedy.

use serde::{Deserialize, Serialize};

/// How to apply a [`Remedy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemedyKind {
    /// SQL statements for the role that ran the audit, unless a comment before them names another role.
    Sql,
    /// A shell command.
    Shell,
    /// A question. Each of its choices removes the cause.
    Decide,
    /// Something to do outside the database.
    Advice,
}

/// Way to remove the cause of a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// How to apply it.
    pub kind: RemedyKind,
    /// The statements, the command, the question, or the advice.
    pub text: String,
    /// A shell command to run afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
    /// The answers, if the remedy is a question.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
}

/// One answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The answer.
    pub answer: String,
    /// How to apply it. An answer is never a question itself.
    pub kind: RemedyKind,
    /// The statements, the command, or the advice.
    pub text: String,
    /// A shell command to run afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
}

/// A question as a rule's query returns it: answers that do not apply are null.
#[derive(Deserialize)]
struct Question {
    question: String,
    choices: Vec<Option<(String, RemedyKind, String)>>,
}

/// Separates the statements of a remedy from the command to run afterwards.
const THEN: &str = "\n$ ";

fn split_then(text: &str) -> (String, Option<String>) {
    match text.split_once(THEN) {
        Some((text, then)) => (text.to_owned(), Some(then.to_owned())),
        None => (text.to_owned(), None),
    }
}

impl Choice {
    /// An answer. `$ command` on a line after the statements is a command to run afterwards.
    pub(super) fn new(answer: impl Into<String>, kind: RemedyKind, text: &str) -> Self {
        let (text, then) = split_then(text);
        Self { answer: answer.into(), kind, text, then }
    }
}

impl Remedy {
    fn new(kind: RemedyKind, text: &str) -> Self {
        let (text, then) = split_then(text);
        Self { kind, text, then, choices: Vec::new() }
    }

    pub(super) fn sql(text: impl AsRef<str>) -> Self {
        Self::new(RemedyKind::Sql, text.as_ref())
    }

    pub(super) fn shell(text: impl AsRef<str>) -> Self {
        Self::new(RemedyKind::Shell, text.as_ref())
    }

    pub(super) fn advice(text: impl AsRef<str>) -> Self {
        Self::new(RemedyKind::Advice, text.as_ref())
    }

    pub(super) fn decide(question: impl Into<String>, choices: Vec<Choice>) -> Self {
        Self { kind: RemedyKind::Decide, text: question.into(), then: None, choices }
    }

    /// The remedy that a rule's query returned. A question is a JSON document.
    pub(super) fn from_row(kind: &str, text: &str) -> Self {
        match kind {
            "sql" => Self::sql(text),
            "shell" => Self::shell(text),
            "decide" => match serde_json::from_str::<Question>(text) {
                Ok(document) => {
                    let choices = document.choices.into_iter().flatten();
                    let choices =
                        choices.map(|(answer, kind, text)| Choice::new(answer, kind, &text)).collect();
                    Self::decide(document.question, choices)
                }
                Err(_) => Self::advice(text),
            },
            _ => Self::advice(text),
        }
    }
}
