//! The decisions of the operator on the command line.

use super::names::TableChoice;

/// Decisions of the operator about a run.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// Tables to adopt.
    pub tables: Vec<TableChoice>,
    /// Whether to adopt the platform's tables that exist.
    pub has_platform: bool,
    /// Whether Warden may use the application's organisations and memberships. The platform includes them.
    pub uses_organizations: bool,
    /// Whether rows of which nothing says to which organisation they belong belong to the default one.
    pub uses_default: bool,
    /// Objects that remain the application's.
    pub keep: Vec<String>,
    /// Objects that Warden may replace.
    pub replace: Vec<String>,
    /// Objects whose findings the operator accepts.
    pub accept: Vec<String>,
}

impl Choices {
    /// Whether rows may get the default organisation.
    pub(super) fn needs_default(&self) -> bool {
        self.has_platform || self.uses_default || self.tables.iter().any(|table| table.is_default)
    }

    /// Whether the operator decided nothing.
    pub(in crate::tenancy) fn is_empty(&self) -> bool {
        [&self.keep, &self.replace, &self.accept].iter().all(|names| names.is_empty())
            && self.tables.is_empty()
            && !self.has_platform
            && !self.uses_default
    }
}

/// The name of an object in decisions: with its schema, and without the arguments of a function.
pub(super) fn object_name(name: &str) -> String {
    let name = name.trim();
    let name = name.split('(').next().unwrap_or(name);
    if name.contains('.') { name.to_owned() } else { format!("public.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_names_have_a_schema_and_no_arguments() {
        assert_eq!(object_name(" auth_org_id()"), "public.auth_org_id");
        assert_eq!(object_name("public.custom_access_token_hook(jsonb)"), "public.custom_access_token_hook");
    }
}
