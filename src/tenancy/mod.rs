//! Tenancy in a database that is there: what belongs to an organisation, what is still missing for it, the
//! executor that adds it while the application goes on writing, and the audit, which judges the result.
//!
//! It runs as the migrating role (the operator's `DATABASE_URL`), never as the gateway, and no session of a
//! tenant comes through here. What there is to do is read from the catalogs each time: nothing is remembered
//! between runs, so a run that was killed is completed by the next.

pub mod apply;
pub mod audit;
pub mod plan;
pub mod preview;
pub mod registry;

use std::fmt;

/// Something that a person has to decide or mend; the rest goes on without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The table it is about, or what else.
    pub subject: String,
    /// What is the matter.
    pub what: String,
    /// What to do: a command, a statement, or a query that shows the rows.
    pub remedy: String,
    /// Whether nobody may be cut off before it is mended.
    pub is_blocking: bool,
}

impl Finding {
    pub(crate) fn new(
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { subject: subject.into(), what: what.into(), remedy: remedy.into(), is_blocking: true }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    {}", self.subject, self.what, self.remedy.replace('\n', "\n    "))
    }
}

/// A name as SQL takes it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL takes it, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(quoted(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\b"), r" E'a\\b'");
    }
}
