//! Tables whose `org_id` references another table than `public.organizations`: the application keeps its
//! organisations under another name. A key to `public.organizations` would reject what it writes, so such a
//! table waits until every organisation of the application is there too.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::super::sql::quoted;

/// A foreign key of `org_id`.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct OtherTenants {
    /// The registered table.
    pub(super) oid: i64,
    table: String,
    referenced: String,
    key: String,
    has_name: bool,
    are_users: bool,
}

const KEYS: &str = "
    select c.oid::bigint as oid, format('%I.%I', n.nspname, c.relname) as \"table\",
      format('%I.%I', rn.nspname, r.relname) as referenced, ra.attname::text as key,
      exists (select from pg_attribute a where a.attrelid = r.oid and a.attname = 'name' and not a.attisdropped) as has_name,
      coalesce(r.oid = to_regclass('auth.users'), false) as are_users
    from warden.tenant_tables t
    join pg_namespace n on n.nspname = t.schema_name
    join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
    join pg_attribute a on a.attrelid = c.oid and a.attname = 'org_id' and not a.attisdropped and a.atttypid = 'uuid'::regtype
    join pg_constraint k on k.conrelid = c.oid and k.contype = 'f' and k.conkey = array[a.attnum]
    join pg_class r on r.oid = k.confrelid and r.oid <> 'public.organizations'::regclass
    join pg_namespace rn on rn.oid = r.relnamespace
    join pg_attribute ra on ra.attrelid = r.oid and ra.attnum = k.confkey[1]
    -- Once Warden's key exists, it has decided.
    where t.scope = 'org'
      and not exists (select from pg_constraint w where w.conrelid = c.oid and w.contype = 'f' and w.conkey = array[a.attnum]
                        and w.confrelid = 'public.organizations'::regclass)
      and has_schema_privilege(rn.oid, 'usage') and has_table_privilege(r.oid, 'select')
    order by k.conname";

impl OtherTenants {
    /// The keys to tables that contain organisations which `public.organizations` lacks.
    pub(super) async fn load(connection: &mut PgConnection) -> Result<Vec<Self>, sqlx::Error> {
        let keys: Vec<Self> = sqlx::query_as(KEYS).fetch_all(&mut *connection).await?;
        let mut open = Vec::new();
        for key in keys {
            let missing = format!("select exists ({})", key.missing());
            if sqlx::query_scalar(AssertSqlSafe(missing)).fetch_one(&mut *connection).await? {
                open.push(key);
            }
        }
        Ok(open)
    }

    /// A query for organisations that are missing. A row without a value in the referenced column is none.
    fn missing(&self) -> String {
        format!(
            "select from {} k where k.{key} is not null
               and not exists (select from public.organizations o where o.id = k.{key})",
            self.referenced,
            key = quoted(&self.key)
        )
    }

    /// The problem, and its remedy.
    pub(super) fn misfit(&self) -> (String, String) {
        let Self { table, referenced, .. } = self;
        let key = quoted(&self.key);
        let rename = format!("alter table {table} rename column org_id to former_org_id;");
        if self.are_users {
            let problem = format!("has an org_id that references {referenced}: it names a user");
            return (problem, rename);
        }
        let name = if self.has_name {
            format!("coalesce(nullif(left(k.name::text, 200), ''), k.{key}::text)")
        } else {
            format!("k.{key}::text")
        };
        (
            format!(
                "has an org_id that references {referenced}, which has rows that public.organizations lacks"
            ),
            format!(
                "If they are the organisations, copy them, and later ones by a trigger (docs/tenancy.md):\n\
                 insert into public.organizations (id, name) select k.{key}, {name} from {referenced} k where k.{key} is not \
                 null on conflict (id) do nothing;\nOtherwise:\n{rename}"
            ),
        )
    }
}
