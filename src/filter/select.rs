//! Columns that a client selects, and the documents that have these alone.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::column::Columns;
use super::error::FilterError;
use super::row::Name;

/// Names of selected columns, sorted and without duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection(Box<[String]>);

impl Selection {
    /// Selects these columns.
    ///
    /// # Errors
    /// If a column is unknown.
    pub fn new(names: &[String], columns: &Columns) -> Result<Self, FilterError> {
        for name in names {
            columns.find(name)?;
        }
        Ok(Self::of_names(names.to_vec()))
    }

    /// Selects the columns of these names, which exist.
    #[must_use]
    pub fn of_names(mut names: Vec<String>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self(names.into())
    }

    /// The selected columns of a document, in its order and in the form of PostgreSQL. A document that is no
    /// object has none.
    #[must_use]
    pub fn project(&self, json: &str) -> String {
        let fields = Fields { selection: self, json: String::from("{") };
        let projected = serde_json::Deserializer::from_str(json).deserialize_map(fields);
        projected.unwrap_or_else(|_| String::from("{")) + "}"
    }
}

/// Copies the selected fields.
struct Fields<'s> {
    selection: &'s Selection,
    json: String,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<String, A::Error> {
        while let Some((Name { text, json }, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            if self.selection.0.binary_search_by(|name| name.as_str().cmp(&text)).is_ok() {
                if self.json.len() > 1 {
                    self.json.push_str(", ");
                }
                self.json.push_str(json);
                self.json.push_str(": ");
                self.json.push_str(value.get());
            }
        }
        Ok(self.json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_keeps_the_selected_columns_as_they_are() {
        let columns =
            Columns::for_tests(&[("id", "bigint"), ("a", "text"), ("ü\"", "text"), ("n", "numeric")]);
        let select = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Selection::new(&names, &columns)
        };
        let document = r#"{"a": "x, {}", "n": 1.50, "id": 7, "ü\"": {"a": [1]}, "other": 2}"#;
        let project = |names: &[&str]| select(names).expect("known").project(document);
        assert_eq!(project(&["n", "a", "n"]), r#"{"a": "x, {}", "n": 1.50}"#);
        assert_eq!(project(&["ü\""]), r#"{"ü\"": {"a": [1]}}"#);
        assert_eq!(select(&["id"]).expect("known").project("[1]"), "{}");
        assert!(select(&["other"]).is_err());
    }
}
