//! The list of tables that an operator writes: on the command line, or in a file with one table per line.

use std::collections::BTreeMap;

/// One table of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableChoice {
    /// The table.
    pub table: TableName,
    /// Column with the user of a row.
    pub user_column: Option<String>,
    /// Table from which rows inherit their organisation.
    pub parent: Option<TableName>,
    /// Column that references the parent.
    pub parent_column: Option<String>,
    /// Column of the parent that it references.
    pub parent_key: Option<String>,
    /// Whether the operator said that rows belong to the default organisation: all, or those of which the
    /// other options say nothing.
    pub is_default: bool,
}

/// A table as the operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// The schema; `public` if none is given.
    pub schema: String,
    /// The name.
    pub name: String,
    /// Whether the name was quoted. Otherwise capital letters may be those of an unquoted name.
    pub is_exact: bool,
}

impl TableName {
    /// The name in messages.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

impl TableChoice {
    /// A table without options.
    #[must_use]
    pub fn of(table: TableName) -> Self {
        Self {
            table,
            user_column: None,
            parent: None,
            parent_column: None,
            parent_key: None,
            is_default: false,
        }
    }

    /// Column of the parent that the parent column references.
    #[must_use]
    pub fn key(&self) -> &str {
        self.parent_key.as_deref().unwrap_or("id")
    }

    /// Whether the operator said where the rows get their organisation from.
    #[must_use]
    pub fn is_explicit(&self) -> bool {
        self.is_default || self.user_column.is_some() || self.parent.is_some() || self.parent_column.is_some()
    }
}

/// Options after a name.
const OPTIONS: &str = "user_column=, parent=, parent_column=, parent_key= or organization=default";

/// Parses a list. Tables are separated by commas or line ends; `#` begins a comment.
///
/// # Errors
/// Every mistake in the list.
pub fn parse_tables(text: &str) -> Result<Vec<TableChoice>, Vec<String>> {
    let (mut choices, mut errors) = (Vec::new(), Vec::new());
    for item in split(text, &[',', '\n'], true) {
        match parse_item(&item) {
            Ok(Some(choice)) => choices.push(choice),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
    }
    if choices.is_empty() && errors.is_empty() {
        errors.push("the list of tables is empty".to_owned());
    }
    if errors.is_empty() { Ok(choices) } else { Err(errors) }
}

fn parse_item(item: &str) -> Result<Option<TableChoice>, String> {
    let words: Vec<String> =
        split(item, &[' ', '\t', '\r'], false).into_iter().filter(|word| !word.is_empty()).collect();
    let Some((name, options)) = words.split_first() else { return Ok(None) };
    let mut choice = TableChoice::of(table_name(name)?);
    let mut values = BTreeMap::new();
    for option in options {
        let (key, value) = option
            .split_once('=')
            .filter(|(_, value)| !value.is_empty())
            .ok_or_else(|| format!("{name}: \"{option}\" is not an option: use {OPTIONS}"))?;
        if values.insert(key, value).is_some() {
            return Err(format!("{name}: {key}= is given twice"));
        }
    }
    for (key, value) in values {
        match key {
            "user_column" => choice.user_column = Some(identifier(value)?.0),
            "parent" => choice.parent = Some(table_name(value)?),
            "parent_column" => choice.parent_column = Some(identifier(value)?.0),
            "parent_key" => choice.parent_key = Some(identifier(value)?.0),
            "organization" if value == "default" => choice.is_default = true,
            _ => return Err(format!("{name}: \"{key}={value}\" is not an option: use {OPTIONS}")),
        }
    }
    if choice.parent.is_some() && choice.parent_column.is_none() {
        return Err(format!("{name}: parent= needs parent_column=, the column that references it"));
    }
    if choice.parent.is_none() && (choice.parent_column.is_some() || choice.parent_key.is_some()) {
        return Err(format!(
            "{name}: parent_column= and parent_key= need parent=, the table that they are about"
        ));
    }
    Ok(Some(choice))
}

fn table_name(text: &str) -> Result<TableName, String> {
    let parts: Vec<String> = split(text, &['.'], false);
    let parsed = parts.iter().map(|part| identifier(part)).collect::<Result<Vec<_>, _>>()?;
    match parsed.as_slice() {
        [(name, is_exact)] => {
            Ok(TableName { schema: "public".to_owned(), name: name.clone(), is_exact: *is_exact })
        }
        [(schema, _), (name, is_exact)] => {
            Ok(TableName { schema: schema.clone(), name: name.clone(), is_exact: *is_exact })
        }
        _ => Err(format!("\"{text}\" is not the name of a table: write schema.table")),
    }
}

/// An identifier, and whether it was quoted.
fn identifier(text: &str) -> Result<(String, bool), String> {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) if text.len() > 2 => Ok((inner.replace("\"\"", "\""), true)),
        _ if text.is_empty() || text.contains('"') => Err(format!("\"{text}\" is not a name")),
        _ => Ok((text.to_owned(), false)),
    }
}

/// Splits at separators outside double quotes, and drops comments: a `#` within a name begins none.
fn split(text: &str, separators: &[char], has_comments: bool) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut is_quoted, mut is_comment, mut previous) = (false, false, ' ');
    for c in text.chars() {
        let begins_word = previous.is_whitespace() || separators.contains(&previous);
        is_comment = (is_comment || has_comments && !is_quoted && c == '#' && begins_word) && c != '\n';
        previous = c;
        if is_comment {
            continue;
        }
        is_quoted ^= c == '"';
        if !is_quoted && separators.contains(&c) {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> TableChoice {
        parse_tables(text).expect("parses").remove(0)
    }

    #[test]
    fn a_list_may_be_written_on_one_line_or_in_a_file() {
        let line = parse_tables("public.calls, leads,crm.\"Deal, open\"").expect("parses");
        let file =
            parse_tables("# ours\npublic.calls\n\nleads   # new\r\ncrm.\"Deal, open\"\n").expect("parses");
        assert_eq!(line, file);
        let titles: Vec<String> = line.iter().map(|choice| choice.table.title()).collect();
        assert_eq!(titles, ["public.calls", "public.leads", "crm.Deal, open"]);
        assert_eq!(line.iter().map(|c| c.table.is_exact).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn options_follow_the_name() {
        let choice =
            one("\"Task \"\"#\"\" Notes\" parent=public.tasks parent_column=\"taskId\" parent_key=number");
        assert_eq!(choice.table.name, "Task \"#\" Notes");
        assert_eq!(choice.parent.as_ref().map(TableName::title).as_deref(), Some("public.tasks"));
        assert_eq!(choice.parent_column.as_deref(), Some("taskId"));
        assert_eq!(choice.parent_key.as_deref(), Some("number"));
        assert!(one("settings organization=default").is_explicit());
        assert!(one("calls user_column=owner organization=default").is_default);
        assert_eq!(one("settings user_column=owner# # his").user_column.as_deref(), Some("owner#"));
        assert!(!one("settings").is_explicit());
    }

    #[test]
    fn every_mistake_of_a_list_is_reported() {
        let errors = parse_tables("a.b.c.d, x colour=red, y parent=z, \"open, ok").expect_err("mistakes");
        assert_eq!(errors.len(), 4, "{errors:?}");
        for (list, error) in [
            ("x user_column=a user_column=b", "x: user_column= is given twice"),
            ("x parent=y parent_column=a parent=z", "x: parent= is given twice"),
            ("x parent_column=a", "x: parent_column= and parent_key= need parent="),
            ("x parent_key=a", "x: parent_column= and parent_key= need parent="),
            ("x organization=other", "x: \"organization=other\" is not an option"),
            ("x USER_COLUMN=a", "x: \"USER_COLUMN=a\" is not an option"),
            ("x user_column=\"\"", "\"\"\"\" is not a name"),
        ] {
            let errors = parse_tables(list).expect_err(list);
            assert!(matches!(errors.as_slice(), [only] if only.starts_with(error)), "{list}: {errors:?}");
        }
        assert_eq!(parse_tables(" \n# none\n").expect_err("empty"), ["the list of tables is empty"]);
    }
}
