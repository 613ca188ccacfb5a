//! One row of the registry, joined with what the catalogs know about its table, or about one of its members.

use sqlx::postgres::PgConnection;

use super::{Parent, Scope, Table};

/// A registered table, whether it exists or not, or a member of a registered table.
#[derive(Debug)]
pub(super) struct RegistryRow {
    pub(super) schema_name: String,
    pub(super) table_name: String,
    /// The member's names; those of the registered table for the table itself.
    pub(super) member_schema: String,
    pub(super) member_name: String,
    pub(super) is_member: bool,
    /// A table of which this one is a partition or an inheritance child, and which is not part of the tree.
    pub(super) outer_table: Option<String>,
    pub(super) can_use_schema: bool,
    pub(super) is_partitioned_by_org: bool,
    pub(super) scope: String,
    pub(super) user_column: Option<String>,
    pub(super) parent_schema: Option<String>,
    pub(super) parent_table: Option<String>,
    pub(super) parent_column: Option<String>,
    pub(super) parent_key: String,
    pub(super) is_read_only: bool,
    pub(super) pauses_triggers: bool,
    pub(super) is_from_application: bool,
    pub(super) oid: Option<i64>,
    pub(super) relkind: Option<String>,
    pub(super) reltuples: Option<f32>,
    pub(super) owner: Option<String>,
    pub(super) is_owned: Option<bool>,
    pub(super) user_type: Option<String>,
    pub(super) org_type: Option<String>,
    pub(super) is_org_generated: Option<bool>,
    pub(super) is_not_null: Option<bool>,
    pub(super) has_org_index: bool,
    pub(super) parent_oid: Option<i64>,
    pub(super) parent_column_type: Option<String>,
    pub(super) parent_key_type: Option<String>,
    pub(super) is_parent_key_unique: bool,
    pub(super) update_triggers: Vec<String>,
    pub(super) always_triggers: Vec<String>,
}

/// Reads every row of the registry. In the trigger conditions, bit 16 of `tgtype` means "on update".
pub(super) async fn load(connection: &mut PgConnection) -> Result<Vec<RegistryRow>, sqlx::Error> {
    sqlx::query_as!(
        RegistryRow,
        r#"select t.schema_name::text as "schema_name!", t.table_name::text as "table_name!", t.scope,
             t.user_column::text, t.parent_schema::text, t.parent_table::text, t.parent_column::text,
             t.parent_key::text as "parent_key!", t.is_read_only, t.pauses_triggers,
             t.origin = 'application' as "is_from_application!",
             coalesce(cn.nspname, t.schema_name)::text as "member_schema!",
             coalesce(c.relname, t.table_name)::text as "member_name!", c.oid is distinct from w.oid as "is_member!",
             (select min(i.inhparent::regclass::text) from pg_inherits i
              where i.inhrelid = c.oid and i.inhparent not in (select x from warden.tree(w.oid) x)) as outer_table,
             coalesce(has_schema_privilege(cn.oid, 'usage'), true) as "can_use_schema!",
             exists (select from pg_partitioned_table pt where pt.partrelid = c.oid and o.attnum = any (pt.partattrs))
               as "is_partitioned_by_org!",
             c.oid::bigint as "oid?", c.relkind::text as "relkind?", c.reltuples as "reltuples?",
             pg_get_userbyid(c.relowner)::text as "owner?", pg_has_role(c.relowner, 'usage') as "is_owned?",
             format_type(u.atttypid, null) as "user_type?",
             format_type(o.atttypid, null) as "org_type?", o.attgenerated <> '' as "is_org_generated?",
             o.attnotnull as "is_not_null?",
             exists (select from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am am on am.oid = x.relam
                     where i.indrelid = c.oid and i.indkey[0] = o.attnum and i.indisvalid and i.indpred is null
                       and am.amname = 'btree') as "has_org_index!",
             p.oid::bigint as "parent_oid?", format_type(f.atttypid, null) as "parent_column_type?",
             format_type(k.atttypid, null) as "parent_key_type?",
             -- A unique index of a partitioned table also contains the partition key.
             exists (select from pg_index i where i.indrelid = p.oid and k.attnum = any (i.indkey)
                       and i.indisunique and i.indisvalid and i.indpred is null
                       and not exists (select from unnest(i.indkey::int2[]) with ordinality u (attnum, n)
                         where u.n <= i.indnkeyatts and u.attnum <> k.attnum and not exists (
                           select from warden.tree(p.oid) m (oid) join pg_partitioned_table pt on pt.partrelid = m.oid
                           join pg_attribute ka on ka.attrelid = m.oid and ka.attnum = any (pt.partattrs)
                           join pg_attribute ua on ua.attrelid = p.oid and ua.attnum = u.attnum
                           where ka.attname = ua.attname))) as "is_parent_key_unique!",
             array(select g.tgname::text from pg_trigger g
                   where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled <> 'D' and g.tgtype & 16 <> 0
                     and g.tgname not like 'warden\_%' order by 1) as "update_triggers!",
             array(select g.tgname::text from pg_trigger g
                   where g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled in ('A', 'R') and g.tgtype & 16 <> 0
                     and g.tgname not like 'warden\_%' order by 1) as "always_triggers!"
           from warden.tenant_tables t
           left join pg_namespace n on n.nspname = t.schema_name
           left join pg_class w on w.relnamespace = n.oid and w.relname = t.table_name
             and w.relkind in ('r', 'p', 'v', 'm', 'f')
           cross join lateral warden.tree(w.oid) with ordinality m (oid, n)
           left join pg_class c on c.oid = m.oid
           left join pg_namespace cn on cn.oid = c.relnamespace
           left join pg_attribute u on u.attrelid = c.oid and u.attname = t.user_column and not u.attisdropped
           left join pg_attribute o on o.attrelid = c.oid and o.attname = 'org_id' and not o.attisdropped
           left join pg_attribute f on f.attrelid = c.oid and f.attname = t.parent_column and not f.attisdropped
           left join pg_namespace pn on pn.nspname = t.parent_schema
           left join pg_class p on p.relnamespace = pn.oid and p.relname = t.parent_table and p.relkind in ('r', 'p')
           left join pg_attribute k on k.attrelid = p.oid and k.attname = t.parent_key and not k.attisdropped
           order by t.schema_name, t.table_name, m.n"#
    )
    .fetch_all(connection)
    .await
}

impl RegistryRow {
    /// The table, or member, of a row whose table exists.
    pub(super) fn into_table(self, fills_with_default: bool) -> Table {
        let parent = match (self.parent_schema, self.parent_table, self.parent_column, self.parent_oid) {
            (Some(schema), Some(name), Some(column), Some(oid)) => {
                Some(Parent { schema, name, column, key: self.parent_key, oid })
            }
            _ => None,
        };
        Table {
            schema: self.member_schema,
            name: self.member_name,
            scope: match self.scope.as_str() {
                "user" => Scope::User,
                "root" => Scope::Root,
                _ => Scope::Org,
            },
            oid: self.oid.unwrap_or(0),
            user_column: self.user_column.filter(|_| self.user_type.is_some()),
            parent,
            fills_with_default,
            is_never_filled: self.is_read_only,
            is_from_application: self.is_from_application,
            pauses_triggers: self.pauses_triggers,
            has_org_index: self.has_org_index,
            has_org_id: self.org_type.is_some(),
            is_not_null: self.is_not_null.unwrap_or(false),
            reltuples: self.reltuples.unwrap_or(-1.0),
            update_triggers: self.update_triggers,
            always_triggers: self.always_triggers,
            is_partitioned: self.relkind.as_deref() == Some("p"),
            members: Vec::new(),
        }
    }
}
