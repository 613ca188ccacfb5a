-- Registered tables, and whether a valid and enabled constraint guarantees their rows. Others must be read.
with registered as (
  select t.*, c.oid, format('%I.%I', t.schema_name, t.table_name) as full_name
  from warden.tenant_tables t
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind in ('r', 'p')
  where t.scope = 'org'
), keys as (
  select k.conrelid, k.confrelid,
    (select array_agg(a.attname order by u.n) from unnest(k.conkey) with ordinality u (attnum, n)
     join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum) as columns
  from pg_constraint k
  where k.contype = 'f' and k.convalidated and coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
    and k.conrelid in (select oid from registered)
    and not exists (select from pg_trigger g where g.tgconstraint = k.oid and g.tgenabled not in ('O', 'A'))
)
select r.full_name, a.attnotnull as is_not_null,
  exists (select from keys k where k.conrelid = r.oid and k.confrelid = to_regclass('public.organizations')
                               and k.columns = array['org_id'::name]) as has_org_key,
  case when r.parent_table is not null then format('%I.%I', r.parent_schema, r.parent_table) end as parent,
  quote_ident(r.parent_column) as parent_column, quote_ident(r.parent_key) as parent_key,
  p.oid is not null and pa.attname is not null and pk.attname is not null and po.attname is not null as has_parent,
  exists (select from keys k where k.conrelid = r.oid and k.confrelid = p.oid
                               and k.columns = array['org_id'::name, r.parent_column])
    or r.parent_column is not distinct from 'org_id'
    or (c.relkind = 'r' and exists (
      select from pg_constraint k
      where k.conrelid = r.oid and k.conname = 'warden_org_id_parent' and k.convalidated)) as has_parent_key,
  not coalesce(pa.attnotnull, false) as is_parent_optional,
  exists (select from pg_attribute n where n.attrelid = to_regclass('public.organizations') and n.attname = 'name'
            and n.atttypid in ('text'::regtype, 'varchar'::regtype)) as organizations_have_names
from registered r
join pg_class c on c.oid = r.oid
join pg_attribute a on a.attrelid = r.oid and a.attname = 'org_id' and a.atttypid = 'uuid'::regtype
  and a.attgenerated = '' and not a.attisdropped
left join pg_namespace pn on pn.nspname = r.parent_schema
left join pg_class p on p.relnamespace = pn.oid and p.relname = r.parent_table and p.relkind in ('r', 'p')
left join pg_attribute pa on pa.attrelid = r.oid and pa.attname = r.parent_column and not pa.attisdropped
left join pg_attribute pk on pk.attrelid = p.oid and pk.attname = r.parent_key and not pk.attisdropped
left join pg_attribute po on po.attrelid = p.oid and not po.attisdropped
  and po.attname = case when p.oid = to_regclass('public.organizations') then 'id' else 'org_id' end
order by r.full_name
