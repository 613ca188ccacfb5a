//! Reasons why a registered table cannot be adopted as it is, each with a remedy.

use super::super::sql::quoted;
use super::row::RegistryRow;
use super::title;

/// A problem, and its remedy.
type Misfit = (String, String);

impl RegistryRow {
    /// Why the table cannot be adopted, if it cannot.
    pub(super) fn misfit(&self) -> Option<Misfit> {
        self.kind_misfit()
            .or_else(|| self.owner_misfit())
            .or_else(|| self.user_column_misfit())
            .or_else(|| self.org_id_misfit())
            .or_else(|| self.parent_misfit())
    }

    /// A condition that selects this row of the registry.
    fn condition(&self) -> String {
        format!("where (schema_name, table_name) = ('{}', '{}');", self.schema_name, self.table_name)
    }

    /// A statement that removes this row from the registry.
    fn unregister(&self) -> String {
        format!("delete from warden.tenant_tables {}", self.condition())
    }

    /// A statement that makes rows inherit from no parent.
    fn unlink(&self) -> String {
        format!(
            "update warden.tenant_tables set parent_schema = null, parent_table = null, parent_column = null {}",
            self.condition()
        )
    }

    fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema_name), quoted(&self.table_name))
    }

    fn kind_misfit(&self) -> Option<Misfit> {
        let unregister = self.unregister();
        let by_hand = "Add and fill org_id, and add its indexes and policies, by hand";
        let (problem, remedy) = match self.relkind.as_deref() {
            Some("v") => (
                "is a view",
                format!(
                    "Register its underlying table. From PostgreSQL 15 on, let the view apply the policies of its \
                     reader: alter view {} set (security_invoker = true); then {unregister}",
                    self.sql()
                ),
            ),
            Some("m") => (
                "is a materialized view",
                format!("No policy can protect its rows: revoke it from tenants, and {unregister}"),
            ),
            Some("f") => (
                "is a foreign table",
                format!("Adopt the table on the server that stores its rows, and {unregister}"),
            ),
            Some("p") => (
                "is partitioned, which the online executor does not support",
                format!("{by_hand} to it and to each partition, and {unregister}"),
            ),
            _ if self.is_partition == Some(true) || self.has_children => (
                "is part of an inheritance tree or partitioned, which the online executor does not support",
                format!("{by_hand} to each table of the tree, and {unregister}"),
            ),
            _ => return None,
        };
        Some((problem.to_owned(), remedy))
    }

    fn owner_misfit(&self) -> Option<Misfit> {
        if self.is_owned == Some(true) {
            return None;
        }
        let owner = self.owner.as_deref().unwrap_or("?");
        Some((
            format!("belongs to {owner}, and the migrating role is not a member of {owner}"),
            format!("As a superuser: grant {} to the role of DATABASE_URL;", quoted(owner)),
        ))
    }

    fn user_column_misfit(&self) -> Option<Misfit> {
        if self.scope != "user" || self.user_type.is_some() {
            return None;
        }
        let column = self.user_column.as_deref().unwrap_or("?");
        Some((
            format!("has no column {column}, which would name the user of a row"),
            format!(
                "Name the right column: update warden.tenant_tables set user_column = '...' {} or {}",
                self.condition(),
                self.unregister()
            ),
        ))
    }

    fn org_id_misfit(&self) -> Option<Misfit> {
        if self.scope != "org" {
            return None;
        }
        let org_type = self.org_type.as_deref()?;
        let is_generated = self.is_org_generated == Some(true);
        if org_type == "uuid" && !is_generated {
            return None;
        }
        let kind = if is_generated { "generated" } else { org_type };
        Some((
            format!("has an org_id that is {kind}, and must be a plain uuid"),
            format!(
                "alter table {} rename column org_id to former_org_id; values that are uuids of organizations can \
                 then be copied to the new column.",
                self.sql()
            ),
        ))
    }

    fn parent_misfit(&self) -> Option<Misfit> {
        if self.scope != "org" {
            return None;
        }
        let column = self.parent_column.as_deref()?;
        self.parent_oid?;
        let parent = title(self.parent_schema.as_deref()?, self.parent_table.as_deref()?);
        let unlink = self.unlink();
        match (&self.parent_column_type, &self.parent_key_type) {
            (None, _) => Some((
                format!("has no column {column}, through which its rows would inherit from {parent}"),
                format!("Name the right column, or use the user alone: {unlink}"),
            )),
            (_, None) => Some((
                format!("inherits from {parent}, which has no column {}", self.parent_key),
                format!("Name the right key, or use the user alone: {unlink}"),
            )),
            (Some(child), Some(key)) if child != key => Some((
                format!("has a {column} of type {child}, but {parent}.{} is {key}", self.parent_key),
                format!("Change one of the types, or use the user alone: {unlink}"),
            )),
            _ if !self.is_parent_key_unique => Some((
                format!("inherits from {parent}, where {} is not unique", self.parent_key),
                format!("Make it unique, or use the user alone: {unlink}"),
            )),
            _ => None,
        }
    }
}
