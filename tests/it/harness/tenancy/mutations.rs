//! Every way to break isolation: one statement or more per policy, trigger, constraint and index of
//! `warden.tenant_objects`. A test runs each in a transaction, checks that it is noticed, and rolls it back.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

/// One object, broken in one way.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// Quoted name of the table.
    pub table: String,
    /// The registered table, of which `table` may be a partition.
    pub whole: String,
    /// Kind in `warden.tenant_objects`.
    pub kind: String,
    pub name: String,
    /// The statement that breaks the object.
    pub sql: String,
}

/// All mutations, by table.
pub async fn mutations(connection: &mut PgConnection) -> Vec<Mutation> {
    let objects = sqlx::query(
        "select format('%I.%I', o.schema_name, o.table_name) as target, o.kind, o.name, quote_ident(o.found) as found,
                warden.whole(o.relation)::text as whole, o.schema_name::text as schema_name, coalesce(o.is_unique, false) as is_unique,
                (select quote_ident(k.conname) from pg_constraint k
                 where k.conrelid = o.relation and k.conindid = i.oid and k.contype in ('u', 'p')) as of_constraint
         from warden.tenant_objects o
         left join pg_class i on i.relname = o.found and i.relkind in ('i', 'I') and o.kind in ('index', 'unique')
           and i.relnamespace = o.schema_name::text::regnamespace
         where o.is_present and o.phase <> 'fill'
           -- The other objects of a partition belong to its whole, and can only be broken there.
           and (o.kind in ('policy', 'row_security')
                or not (select c.relispartition from pg_class c where c.oid = o.relation))
           -- Queries of a partitioned table use the indexes of its partitions.
           and not (o.kind = 'index' and (select c.relkind = 'p' from pg_class c where c.oid = o.relation))
           -- A column of a primary key cannot become nullable.
           and not (o.kind = 'not_null' and exists (
             select from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid and a.attnum = any (k.conkey)
             where k.conrelid = o.relation and k.contype = 'p' and a.attname = 'org_id'))
         order by o.schema_name, o.table_name, o.step, o.name",
    )
    .fetch_all(connection)
    .await
    .expect("reads");
    let mut found = Vec::new();
    for object in objects {
        let table: String = object.get("target");
        let kind: String = object.get("kind");
        let name: String = object.get("found");
        let schema: String = object.get("schema_name");
        let statements = match kind.as_str() {
            "column" => vec![format!("alter table {table} drop column org_id cascade")],
            "index" | "unique" => vec![match object.get::<Option<String>, _>("of_constraint") {
                Some(constraint) => {
                    format!("alter table {table} drop constraint if exists {constraint} cascade")
                }
                None => format!("drop index if exists \"{schema}\".{name} cascade"),
            }],
            "foreign_key" => vec![format!("alter table {table} drop constraint if exists {name}")],
            "trigger" => vec![
                format!("drop trigger {name} on {table}"),
                format!("alter table {table} disable trigger {name}"),
                format!("alter table {table} enable replica trigger {name}"),
            ],
            "default" => vec![format!("alter table {table} alter column org_id drop default")],
            "not_null" => vec![format!("alter table {table} alter column org_id drop not null")],
            "policy" => vec![format!("drop policy {name} on {table}")],
            "row_security" if name == "forced" => {
                vec![format!("alter table {table} no force row level security")]
            }
            "row_security" => vec![format!("alter table {table} disable row level security")],
            other => panic!("no mutation for the kind {other}"),
        };
        found.extend(statements.into_iter().map(|sql| Mutation {
            table: table.clone(),
            whole: object.get("whole"),
            kind: kind.clone(),
            name: object.get("name"),
            sql,
        }));
    }
    found
}
