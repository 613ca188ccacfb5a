//! The registered tables as they are in this database, and whether they can be adopted.
//!
//! It reads the registry (`warden.tenant_tables`) and the catalogs, and changes nothing.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgConnection;

use super::{Finding, quoted};

/// Whose rows a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// An organisation's: it has `org_id`.
    Org,
    /// A user's: it gets policies by user, and no `org_id`.
    User,
    /// `organizations` itself.
    Root,
}

/// Where a row inherits its organisation from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Schema of the parent.
    pub schema: String,
    /// Name of the parent.
    pub name: String,
    /// The child's column that names the parent's row.
    pub column: String,
    /// The parent's column that it holds.
    pub key: String,
    /// The parent's oid.
    pub oid: i64,
}

impl Parent {
    /// As SQL names it.
    #[must_use]
    pub fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// A registered table that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whose rows it holds.
    pub scope: Scope,
    /// Its oid, as a number.
    pub oid: i64,
    /// The column that names a row's user, where there is one.
    pub user_column: Option<String>,
    /// Where its rows inherit from, where the parent is there too.
    pub parent: Option<Parent>,
    /// Whether the table is about organisations, so that `org_id` is never filled.
    pub is_never_filled: bool,
    /// Whether the operator registered it with `warden.adopt_table()`.
    pub is_from_application: bool,
    /// Whether its triggers are disabled for each batch.
    pub pauses_triggers: bool,
    /// Whether an index that begins with `org_id` is there and valid.
    pub has_org_index: bool,
    /// Whether `org_id` is there, and whether it is NOT NULL.
    pub has_org_id: bool,
    /// Whether `org_id` is NOT NULL.
    pub is_not_null: bool,
    /// What `pg_class` says: rows when it was last analysed, −1 where it never was.
    pub reltuples: f32,
    /// Its own triggers that fire on updates, by name, for people.
    pub update_triggers: Vec<String>,
    /// Those of them that fire whatever `session_replication_role` says.
    pub stubborn_triggers: Vec<String>,
}

impl Table {
    /// As SQL names it.
    #[must_use]
    pub fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// As people name it.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.schema, &self.name)
    }

    /// About how many rows it has; 0 where nobody knows.
    #[must_use]
    pub fn rows_about(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
        let rows = self.reltuples.max(0.0) as u64;
        rows
    }

    pub(super) fn is(&self, schema: &str, name: &str) -> bool {
        self.schema == schema && self.name == name
    }
}

pub(super) fn title(schema: &str, name: &str) -> String {
    if schema == "public" { name.to_owned() } else { format!("{schema}.{name}") }
}

/// What is registered and there, parents before children, and what can't be adopted.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Tables that can be worked on, parents first.
    pub tables: Vec<Table>,
    /// Tables that are registered and not there.
    pub absent: Vec<String>,
    /// Tables that are there and can't be adopted as they are.
    pub findings: Vec<Finding>,
}

#[derive(Debug)]
struct Row {
    schema_name: String,
    table_name: String,
    scope: String,
    user_column: Option<String>,
    parent_schema: Option<String>,
    parent_table: Option<String>,
    parent_column: Option<String>,
    parent_key: String,
    is_read_only: bool,
    pauses_triggers: bool,
    is_from_application: bool,
    oid: Option<i64>,
    relkind: Option<String>,
    is_partition: Option<bool>,
    has_children: bool,
    reltuples: Option<f32>,
    owner: Option<String>,
    is_ours: Option<bool>,
    user_type: Option<String>,
    org_type: Option<String>,
    is_org_generated: Option<bool>,
    is_not_null: Option<bool>,
    has_org_index: bool,
    parent_oid: Option<i64>,
    parent_column_type: Option<String>,
    parent_key_type: Option<String>,
    is_parent_key_unique: bool,
    update_triggers: Vec<String>,
    stubborn_triggers: Vec<String>,
}

impl Registry {
    /// Reads registry and catalogs.
    ///
    /// # Errors
    /// When the database can't be read, or has no registry.
    pub async fn load(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let rows = sqlx::query_as!(
            Row,
            r#"select t.schema_name::text as "schema_name!", t.table_name::text as "table_name!", t.scope,
                 t.user_column::text, t.parent_schema::text, t.parent_table::text, t.parent_column::text,
                 t.parent_key::text as "parent_key!", t.is_read_only, t.pauses_triggers,
                 t.origin = 'application' as "is_from_application!",
                 c.oid::bigint as "oid?", c.relkind::text as "relkind?", c.relispartition as "is_partition?",
                 c.reltuples as "reltuples?",
                 exists (select from pg_inherits i where i.inhparent = c.oid) as "has_children!",
                 pg_get_userbyid(c.relowner)::text as "owner?", pg_has_role(c.relowner, 'usage') as "is_ours?",
                 format_type(u.atttypid, null) as "user_type?",
                 format_type(o.atttypid, null) as "org_type?", o.attgenerated <> '' as "is_org_generated?",
                 o.attnotnull as "is_not_null?",
                 exists (select from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am am on am.oid = x.relam
                         where i.indrelid = c.oid and i.indkey[0] = o.attnum and i.indisvalid and i.indpred is null
                           and am.amname = 'btree') as "has_org_index!",
                 p.oid::bigint as "parent_oid?", format_type(f.atttypid, null) as "parent_column_type?",
                 format_type(k.atttypid, null) as "parent_key_type?",
                 exists (select from pg_index i where i.indrelid = p.oid and i.indkey[0] = k.attnum and i.indnkeyatts = 1
                           and i.indisunique and i.indisvalid and i.indpred is null) as "is_parent_key_unique!",
                 array(select g.tgname::text from pg_trigger g
                       where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled <> 'D' and g.tgtype & 16 <> 0
                         and g.tgname not like 'warden\_%' order by 1) as "update_triggers!",
                 array(select g.tgname::text from pg_trigger g
                       where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled in ('A', 'R') and g.tgtype & 16 <> 0
                         and g.tgname not like 'warden\_%' order by 1) as "stubborn_triggers!"
               from warden.tenant_tables t
               left join pg_namespace n on n.nspname = t.schema_name
               left join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
                 and c.relkind in ('r', 'p', 'v', 'm', 'f')
               left join pg_attribute u on u.attrelid = c.oid and u.attname = t.user_column and not u.attisdropped
               left join pg_attribute o on o.attrelid = c.oid and o.attname = 'org_id' and not o.attisdropped
               left join pg_attribute f on f.attrelid = c.oid and f.attname = t.parent_column and not f.attisdropped
               left join pg_namespace pn on pn.nspname = t.parent_schema
               left join pg_class p on p.relnamespace = pn.oid and p.relname = t.parent_table and p.relkind in ('r', 'p')
               left join pg_attribute k on k.attrelid = p.oid and k.attname = t.parent_key and not k.attisdropped
               order by t.schema_name, t.table_name"#
        )
        .fetch_all(connection)
        .await?;
        let mut registry = Self::default();
        let mut fitting = Vec::new();
        for row in rows {
            let name = title(&row.schema_name, &row.table_name);
            if row.oid.is_none() {
                registry.absent.push(name);
            } else if let Some((what, remedy)) = row.misfit() {
                registry.findings.push(Finding::new(name, what, remedy));
            } else {
                fitting.push(row.into_table());
            }
        }
        registry.drop_orphans(&mut fitting);
        registry.order(fitting);
        Ok(registry)
    }

    /// A child can't be adopted while its parent can't: its rows would be given to the wrong organisation.
    fn drop_orphans(&mut self, tables: &mut Vec<Table>) {
        loop {
            let there: HashSet<i64> = tables.iter().map(|t| t.oid).collect();
            let (stay, go): (Vec<Table>, Vec<Table>) =
                tables.drain(..).partition(|t| t.parent.as_ref().is_none_or(|p| there.contains(&p.oid)));
            *tables = stay;
            if go.is_empty() {
                return;
            }
            for table in go {
                let parent = table.parent.as_ref().map(|p| title(&p.schema, &p.name)).unwrap_or_default();
                self.findings.push(Finding::new(
                    table.title(),
                    format!("inherits its organisation from {parent}, which is not adopted"),
                    format!("Mend {parent} first."),
                ));
            }
        }
    }

    /// Parents first; what is left is a circle.
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
        let mut circle: Vec<Table> = waiting.into_values().flatten().collect();
        circle.sort_by(|a, b| a.name.cmp(&b.name));
        for table in circle {
            self.findings.push(Finding::new(
                table.title(),
                "inherits its organisation from itself, by way of its parents",
                format!(
                    "Break the circle: update warden.tenant_tables set parent_schema = null, parent_table = null, \
                     parent_column = null where (schema_name, table_name) = ('{}', '{}');",
                    table.schema, table.name
                ),
            ));
        }
    }
}

impl Row {
    /// Why the table can't be adopted as it is, and what to do.
    fn misfit(&self) -> Option<(String, String)> {
        let where_ =
            format!("where (schema_name, table_name) = ('{}', '{}');", self.schema_name, self.table_name);
        let forget = format!("delete from warden.tenant_tables {where_}");
        let sql = format!("{}.{}", quoted(&self.schema_name), quoted(&self.table_name));
        let say = |what: &str, remedy: String| Some((what.to_owned(), remedy));
        match self.relkind.as_deref() {
            Some("v") => {
                return say(
                    "is a view",
                    format!(
                        "Register the table behind it, and make the view's reader the one who is checked (with (security_invoker), from PostgreSQL 15 on): {forget}"
                    ),
                );
            }
            Some("m") => {
                return say(
                    "is a materialized view",
                    format!("Its rows can't be protected one by one: keep it from tenants, and {forget}"),
                );
            }
            Some("f") => {
                return say(
                    "is a foreign table",
                    format!("Its rows are protected where they are: adopt it there, and {forget}"),
                );
            }
            Some("p") => {
                return say(
                    "is partitioned, which is not adopted online",
                    format!(
                        "Add and fill org_id, its indexes and policies by hand on it and each partition, and {forget}"
                    ),
                );
            }
            _ => {}
        }
        if self.is_partition == Some(true) || self.has_children {
            return say(
                "is part of an inheritance tree or partitioned, which is not adopted online",
                format!(
                    "Add and fill org_id, its indexes and policies by hand on each of them, and {forget}"
                ),
            );
        }
        if self.is_ours != Some(true) {
            let owner = self.owner.as_deref().unwrap_or("?");
            return Some((
                format!("belongs to {owner}, and this role is no member of it"),
                format!("As a superuser: grant {} to the role of DATABASE_URL;", quoted(owner)),
            ));
        }
        if self.scope == "user" && self.user_type.is_none() {
            let column = self.user_column.as_deref().unwrap_or("?");
            return Some((
                format!("has no column {column}, by which its rows would be a user's"),
                format!(
                    "Name the right column: update warden.tenant_tables set user_column = '...' {where_} or {forget}"
                ),
            ));
        }
        if self.scope == "org" { self.misfit_of_columns(&sql, &where_) } else { None }
    }

    fn misfit_of_columns(&self, sql: &str, where_: &str) -> Option<(String, String)> {
        if let Some(org_type) = self.org_type.as_deref()
            && (org_type != "uuid" || self.is_org_generated == Some(true))
        {
            let kind = if self.is_org_generated == Some(true) { "generated" } else { org_type };
            return Some((
                format!("has an org_id that is {kind}, and must be a plain uuid"),
                format!(
                    "alter table {sql} rename column org_id to former_org_id; its values can then be copied where they are uuids of organizations."
                ),
            ));
        }
        let column = self.parent_column.as_deref()?;
        self.parent_oid?;
        let parent = title(self.parent_schema.as_deref()?, self.parent_table.as_deref()?);
        let unlink = format!(
            "update warden.tenant_tables set parent_schema = null, parent_table = null, parent_column = null {where_}"
        );
        match (&self.parent_column_type, &self.parent_key_type) {
            (None, _) => Some((
                format!("has no column {column}, by which its rows would inherit from {parent}"),
                format!("Name the right column, or go by the user alone: {unlink}"),
            )),
            (_, None) => Some((
                format!("inherits from {parent}, which has no column {}", self.parent_key),
                format!("Name the right key, or go by the user alone: {unlink}"),
            )),
            (Some(child), Some(key)) if child != key => Some((
                format!("has a {column} of type {child}, but {parent}.{} is {key}", self.parent_key),
                format!("Give both the same type, or go by the user alone: {unlink}"),
            )),
            _ if !self.is_parent_key_unique => Some((
                format!("inherits from {parent}, where {} is not unique", self.parent_key),
                format!("Make it unique, or go by the user alone: {unlink}"),
            )),
            _ => None,
        }
    }

    fn into_table(self) -> Table {
        let parent = match (self.parent_schema, self.parent_table, self.parent_column, self.parent_oid) {
            (Some(schema), Some(name), Some(column), Some(oid)) => {
                Some(Parent { schema, name, column, key: self.parent_key, oid })
            }
            _ => None,
        };
        Table {
            schema: self.schema_name,
            name: self.table_name,
            scope: match self.scope.as_str() {
                "user" => Scope::User,
                "root" => Scope::Root,
                _ => Scope::Org,
            },
            oid: self.oid.unwrap_or(0),
            user_column: self.user_column.filter(|_| self.user_type.is_some()),
            parent,
            is_never_filled: self.is_read_only,
            is_from_application: self.is_from_application,
            pauses_triggers: self.pauses_triggers,
            has_org_index: self.has_org_index,
            has_org_id: self.org_type.is_some(),
            is_not_null: self.is_not_null.unwrap_or(false),
            reltuples: self.reltuples.unwrap_or(-1.0),
            update_triggers: self.update_triggers,
            stubborn_triggers: self.stubborn_triggers,
        }
    }
}
