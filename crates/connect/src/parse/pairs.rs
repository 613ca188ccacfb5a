//! libpq's keyword form: `host=db port=5432 password='it''s'`, where a backslash escapes the next character.

use anyhow::{Context as _, bail};

use super::parameters::Parameters;

/// Parses a string of keywords and values.
pub(super) fn parse(text: &str) -> anyhow::Result<Parameters> {
    let mut parameters = Parameters::default();
    let mut rest = text.trim_start();
    let mut position = 0;
    while !rest.is_empty() {
        position += 1;
        let (name, value) = rest
            .split_once('=')
            .with_context(|| format!("parameter {position} has no value: write keyword=value"))?;
        let name = name.trim_end();
        let (value, after) = value_of(value.trim_start(), position)?;
        parameters.set_by_name(name, &value, position)?;
        rest = after.trim_start();
    }
    Ok(parameters)
}

/// Reads one value. Returns it with the text after it.
fn value_of(text: &str, position: usize) -> anyhow::Result<(String, &str)> {
    let is_quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(is_quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if is_quoted => return Ok((value, &text[at + 1..])),
            c if c.is_ascii_whitespace() && !is_quoted => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if is_quoted {
        bail!(
            "parameter {position} has an opening quote and no closing one: add it, or write \\' for a quote in a value"
        );
    }
    Ok((value, ""))
}
