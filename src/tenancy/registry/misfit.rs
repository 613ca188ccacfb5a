//! Reasons why a registered table cannot be adopted as it is, each with a remedy.

use super::super::sql::{literal, quoted};
use super::row::RegistryRow;
use super::title;

/// A problem, and its remedy.
type Misfit = (String, String);

impl RegistryRow {
    /// Why the table cannot be adopted, or cannot be adopted with this member, if it cannot.
    pub(super) fn misfit(&self, role: &str) -> Option<Misfit> {
        if self.is_member {
            return self.member_misfit(role).or_else(|| self.owner_misfit(role));
        }
        self.kind_misfit()
            .or_else(|| self.owner_misfit(role))
            .or_else(|| self.user_column_misfit())
            .or_else(|| self.org_id_misfit())
            .or_else(|| self.parent_misfit())
    }

    /// A condition that selects this row of the registry.
    fn condition(&self) -> String {
        format!(
            "where (schema_name, table_name) = ({}, {});",
            literal(&self.schema_name),
            literal(&self.table_name)
        )
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

    /// Statements after which neither a run nor the audit reports the table again.
    fn leave_out(&self) -> String {
        format!(
            "{} select warden.accept_finding('unregistered-table', {}, '<reason>');",
            self.unregister(),
            literal(&format!("{}.{}", plain(&self.schema_name), plain(&self.table_name)))
        )
    }

    fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.member_schema), quoted(&self.member_name))
    }

    fn kind_misfit(&self) -> Option<Misfit> {
        let unregister = self.unregister();
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
            _ => return self.tree_misfit(),
        };
        Some((problem.to_owned(), remedy))
    }

    /// Why a partitioned table, a partition or a member of an inheritance tree cannot be registered.
    fn tree_misfit(&self) -> Option<Misfit> {
        if let Some(outer) = &self.outer_table {
            return Some((
                format!("is part of {outer}, which is adopted with all its members"),
                format!(
                    "Register the table at the top instead: {} select warden.adopt_table({});",
                    self.unregister(),
                    literal(outer)
                ),
            ));
        }
        // A fill trigger cannot move a row to another partition.
        (self.is_partitioned_by_org && self.is_not_null != Some(true)).then(|| {
            (
                "is partitioned by org_id, which may be null".to_owned(),
                format!(
                    "Give each row its org_id, then: alter table {} alter column org_id set not null;",
                    self.sql()
                ),
            )
        })
    }

    /// Why the registered table cannot be adopted with this member.
    fn member_misfit(&self, role: &str) -> Option<Misfit> {
        let member = title(&self.member_schema, &self.member_name);
        if self.relkind.as_deref() == Some("f") {
            return Some((
                format!("has the member {member}, a foreign table: no policy can protect its rows"),
                format!("Detach that member, or leave the whole table out: {}", self.leave_out()),
            ));
        }
        if let Some(outer) = &self.outer_table {
            return Some((
                format!("has the member {member}, which also inherits from {outer}"),
                format!(
                    "End one inheritance: alter table {} no inherit {outer}; or leave the whole table out: {}",
                    self.sql(),
                    self.leave_out()
                ),
            ));
        }
        if !self.can_use_schema {
            return Some((
                format!("has the member {member}, in a schema that the migrating role may not use"),
                format!(
                    "As a superuser: grant usage on schema {} to {};",
                    quoted(&self.member_schema),
                    quoted(role)
                ),
            ));
        }
        self.tree_misfit()
    }

    fn owner_misfit(&self, role: &str) -> Option<Misfit> {
        if self.is_owned == Some(true) {
            return None;
        }
        let owner = self.owner.as_deref().unwrap_or("?");
        let what = if self.is_member {
            format!("has the member {}, which belongs to", title(&self.member_schema, &self.member_name))
        } else {
            "belongs to".to_owned()
        };
        Some((
            format!("{what} {owner}, and the migrating role is not a member of {owner}"),
            format!("As a superuser: grant {} to {};", quoted(owner), quoted(role)),
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
        // Warden writes org_id only where it fills it. PostgreSQL's foreign keys reject virtual columns.
        let is_generated = self.is_org_generated == Some(true) && !self.is_read_only;
        if org_type == "uuid" && !is_generated {
            return None;
        }
        let kind = if is_generated { "generated" } else { org_type };
        Some((
            format!("has an org_id that is {kind}, and must be a plain uuid"),
            format!(
                "Rename it; values that are uuids of organizations can then be copied to the new column:\n\
                 alter table {} rename column org_id to former_org_id;",
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

/// An identifier as `format('%I')` prints it, except for keywords.
fn plain(name: &str) -> String {
    let is_plain = name
        .chars()
        .enumerate()
        .all(|(n, c)| c.is_ascii_lowercase() || c == '_' || (n > 0 && (c.is_ascii_digit() || c == '$')));
    if is_plain { name.to_owned() } else { quoted(name) }
}
