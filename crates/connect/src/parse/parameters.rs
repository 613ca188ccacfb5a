//! Values of connection parameters, each with its source. Values of an earlier source take precedence.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, bail, ensure};

use super::keywords::{self, Keyword, Support};

/// Parameters with one item per address.
const LISTS: [&str; 3] = ["host", "hostaddr", "port"];

/// Source of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The connection string.
    Text,
    /// The section of a service file.
    ServiceFile,
    /// An environment variable.
    Variable(&'static str),
}

/// Names a source in errors, after the name of a parameter.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => Ok(()),
            Self::ServiceFile => write!(f, " (in the service file)"),
            Self::Variable(name) => write!(f, " (in {name})"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    items: Vec<String>,
    source: Source,
}

/// Values by parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters(BTreeMap<&'static str, Value>);

impl Parameters {
    /// Sets the value of a parameter, and splits it if the parameter is a list. Within one source, the last
    /// value is used.
    ///
    /// # Errors
    /// If Warden does not support the parameter, or this value of it.
    pub(super) fn set(
        &mut self,
        keyword: &'static Keyword,
        value: &str,
        source: Source,
    ) -> anyhow::Result<()> {
        let items = if LISTS.contains(&keyword.name) {
            value.split(',').map(|item| item.trim().to_owned()).collect()
        } else {
            vec![value.to_owned()]
        };
        self.set_items(keyword, items, source)
    }

    /// Sets the items of a list, or the only item of another parameter.
    pub(super) fn set_items(
        &mut self,
        keyword: &'static Keyword,
        items: Vec<String>,
        source: Source,
    ) -> anyhow::Result<()> {
        let Keyword { name, support, .. } = keyword;
        match support {
            Support::Used | Support::Ignored => {}
            Support::Only(values, next_step) => {
                let is_accepted = |item: &String| item.is_empty() || values.contains(&item.as_str());
                ensure!(items.iter().all(is_accepted), "{name}{source}: {next_step}");
            }
            Support::Rejected(_) if items.iter().all(String::is_empty) => {}
            Support::Rejected(next_step) => bail!("{name}{source} is not supported: {next_step}"),
        }
        self.0.insert(name, Value { items, source });
        Ok(())
    }

    /// Sets the value of a parameter that is given by its name. `position` is its place in the source.
    ///
    /// # Errors
    /// As [`Self::set`], and if no parameter has this name. The error does not repeat an unknown name, which
    /// may be part of a password.
    pub(super) fn set_by_name(&mut self, name: &str, value: &str, position: usize) -> anyhow::Result<()> {
        self.set(named(name, position)?, value, Source::Text)
    }

    /// Adds the parameters of a source with a lower priority.
    pub(super) fn fill(&mut self, lower: Self) {
        for (name, value) in lower.0 {
            self.0.entry(name).or_insert(value);
        }
    }

    /// Whether the parameter is set, possibly to an empty value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Items of a list. An empty value counts as missing.
    pub(super) fn list(&self, name: &str) -> &[String] {
        match self.0.get(name) {
            Some(value) if value.items.iter().any(|item| !item.is_empty()) => &value.items,
            _ => &[],
        }
    }

    /// Value of a parameter. An empty value counts as missing.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.items.first()).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// Source of a parameter's value, for errors.
    pub(super) fn source(&self, name: &str) -> Source {
        self.0.get(name).map_or(Source::Text, |value| value.source)
    }
}

/// The parameter of this name at this place of a source.
pub(super) fn named(name: &str, position: usize) -> anyhow::Result<&'static Keyword> {
    keywords::find(name).with_context(|| {
        format!(
            "parameter {position} has a name that libpq does not know: check its spelling, and percent-encode the \
             characters & and = in values of a URL. (The name is not repeated, because it may be part of a password.)"
        )
    })
}
