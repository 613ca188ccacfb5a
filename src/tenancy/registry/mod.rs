//! The registered tables as they exist in this database, and the reasons why some cannot be adopted.
//!
//! It reads the registry (`warden.tenant_tables`) and the catalogs, and changes nothing.

mod misfit;
mod other_tenants;
mod row;

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgConnection;

use self::other_tenants::OtherTenants;
use super::issue::AdoptionIssue;
use super::sql::{literal, quoted};

/// Whether the rows of a table belong to organisations or to users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Rows belong to an organisation: the table has `org_id`.
    Org,
    /// Rows belong to a user: the table gets policies by user, and no `org_id`.
    User,
    /// `organizations` itself.
    Root,
}

/// The table from which rows inherit their organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Schema of the parent.
    pub schema: String,
    /// Name of the parent.
    pub name: String,
    /// The child's column that references the parent.
    pub column: String,
    /// The parent's column that the child references.
    pub key: String,
    /// The parent's oid.
    pub oid: i64,
}

impl Parent {
    /// The column with the organisation of a parent's row: a row may reference `organizations` itself.
    #[must_use]
    pub fn org_column(&self) -> &'static str {
        if self.names_organization() { "id" } else { "org_id" }
    }

    /// Whether the child's column names the organisation itself.
    #[must_use]
    pub fn names_organization(&self) -> bool {
        self.schema == "public" && self.name == "organizations"
    }

    /// The quoted name for SQL.
    #[must_use]
    pub fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// A registered table that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Schema of the table.
    pub schema: String,
    /// Name of the table.
    pub name: String,
    /// Whether rows belong to organisations or to users.
    pub scope: Scope,
    /// The table's oid.
    pub oid: i64,
    /// The column with a row's user, if the table has it.
    pub user_column: Option<String>,
    /// The parent from which rows inherit their organisation, if it exists.
    pub parent: Option<Parent>,
    /// Whether rows of which nothing says to which organisation they belong get the default one.
    pub fills_with_default: bool,
    /// Whether `org_id` is never filled, because the table itself is about organisations.
    pub is_never_filled: bool,
    /// Whether the operator registered it with `warden.adopt_table()`.
    pub is_from_application: bool,
    /// Whether the backfill disables the table's triggers for each batch.
    pub pauses_triggers: bool,
    /// Whether a valid index starts with `org_id`.
    pub has_org_index: bool,
    /// Whether the column `org_id` exists.
    pub has_org_id: bool,
    /// Whether `org_id` is NOT NULL.
    pub is_not_null: bool,
    /// Rows at the last ANALYZE, from `pg_class`; −1 if the table was never analysed.
    pub reltuples: f32,
    /// Names of the table's own triggers that fire on updates.
    pub update_triggers: Vec<String>,
    /// Those update triggers that fire under every setting of `session_replication_role`.
    pub always_triggers: Vec<String>,
    /// Whether the table is partitioned, so that it stores no rows itself.
    pub is_partitioned: bool,
    /// Partitions or inheritance children, at all depths: parents before children.
    pub members: Vec<Table>,
}

impl Table {
    /// The quoted name for SQL.
    #[must_use]
    pub fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// The name in messages.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.schema, &self.name)
    }

    /// Estimated number of rows, members included; 0 if the table was never analysed.
    #[must_use]
    pub fn estimated_rows(&self) -> u64 {
        // ANALYZE counts the rows of all partitions for a partitioned table.
        let own = if self.is_partitioned { 0.0 } else { self.reltuples.max(0.0) };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
        let rows = own as u64;
        rows + self.members.iter().map(Self::estimated_rows).sum::<u64>()
    }

    /// Adds a partition or an inheritance child, with its own triggers.
    fn add_member(&mut self, member: Self) {
        for (all, own) in [
            (&mut self.update_triggers, &member.update_triggers),
            (&mut self.always_triggers, &member.always_triggers),
        ] {
            all.extend(own.iter().filter(|t| !all.contains(t)).cloned().collect::<Vec<_>>());
        }
        self.members.push(member);
    }

    pub(super) fn is(&self, schema: &str, name: &str) -> bool {
        self.schema == schema && self.name == name
    }
}

/// The name of a table in messages: without its schema if that is `public`.
pub(super) fn title(schema: &str, name: &str) -> String {
    if schema == "public" { name.to_owned() } else { format!("{schema}.{name}") }
}

/// The registered tables, parents before children, and the tables that cannot be adopted.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Tables that can be adopted, parents first.
    pub tables: Vec<Table>,
    /// Registered tables that do not exist.
    pub absent: Vec<String>,
    /// Existing tables that cannot be adopted as they are.
    pub issues: Vec<AdoptionIssue>,
}

impl Registry {
    /// Reads the registry and the catalogs.
    ///
    /// # Errors
    /// If the database cannot be read, or has no registry.
    pub async fn load(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let mut registry = Self::default();
        let mut adoptable: Vec<Table> = Vec::new();
        // Whether the last registered table can be adopted, so far. Its members follow it.
        let mut is_adoptable = false;
        let role: String =
            sqlx::query_scalar("select current_user::text").fetch_one(&mut *connection).await?;
        let other_tenants = OtherTenants::load(&mut *connection).await?;
        let with_default: HashSet<(String, String)> = sqlx::query_as(
            "select schema_name::text, table_name::text from warden.tenant_tables
             where uses_default_organization or fills_rest_with_default or origin = 'platform'",
        )
        .fetch_all(&mut *connection)
        .await?
        .into_iter()
        .collect();
        for row in row::load(connection).await? {
            let name = title(&row.schema_name, &row.table_name);
            if row.is_member && !is_adoptable {
                continue;
            }
            is_adoptable = false;
            if row.oid.is_none() {
                registry.absent.push(name);
            } else if let Some((problem, remedy)) = row.misfit(&role).or_else(|| {
                other_tenants.iter().find(|key| Some(key.oid) == row.oid).map(OtherTenants::misfit)
            }) {
                registry.issues.push(AdoptionIssue::new(name, problem, remedy));
                if row.is_member {
                    adoptable.pop();
                }
            } else {
                is_adoptable = true;
                let fills = with_default.contains(&(row.schema_name.clone(), row.table_name.clone()));
                match adoptable.last_mut().filter(|_| row.is_member) {
                    Some(whole) => whole.add_member(row.into_table(fills)),
                    None => adoptable.push(row.into_table(fills)),
                }
            }
        }
        registry.drop_orphans(&mut adoptable);
        registry.order(adoptable);
        Ok(registry)
    }

    /// Removes children whose parent cannot be adopted: their rows would go to the wrong organisation.
    fn drop_orphans(&mut self, tables: &mut Vec<Table>) {
        loop {
            let oids: HashSet<i64> = tables.iter().map(|t| t.oid).collect();
            let (kept, orphans): (Vec<Table>, Vec<Table>) =
                tables.drain(..).partition(|t| t.parent.as_ref().is_none_or(|p| oids.contains(&p.oid)));
            *tables = kept;
            if orphans.is_empty() {
                return;
            }
            for table in orphans {
                let parent = table.parent.as_ref().map(|p| title(&p.schema, &p.name)).unwrap_or_default();
                self.issues.push(AdoptionIssue::new(
                    table.title(),
                    format!("inherits its organisation from {parent}, which is not adopted"),
                    format!("Resolve the issue of {parent} first."),
                ));
            }
        }
    }

    /// Sorts parents before children. Tables that remain form a cycle.
    fn order(&mut self, tables: Vec<Table>) {
        let mut waiting: HashMap<i64, Vec<Table>> = HashMap::new();
        let mut ready = Vec::new();
        for table in tables {
            match &table.parent {
                Some(parent) => waiting.entry(parent.oid).or_default().push(table),
                None => ready.push(table),
            }
        }
        ready.reverse();
        while let Some(table) = ready.pop() {
            let mut children = waiting.remove(&table.oid).unwrap_or_default();
            children.reverse();
            self.tables.push(table);
            ready.extend(children);
        }
        let mut cycle: Vec<Table> = waiting.into_values().flatten().collect();
        cycle.sort_by(|a, b| a.name.cmp(&b.name));
        for table in cycle {
            self.issues.push(AdoptionIssue::new(
                table.title(),
                "inherits its organisation from itself, through its parents",
                format!(
                    "Break the cycle: update warden.tenant_tables set parent_schema = null, parent_table = null, \
                     parent_column = null where (schema_name, table_name) = ({}, {});",
                    literal(&table.schema),
                    literal(&table.name)
                ),
            ));
        }
    }
}
