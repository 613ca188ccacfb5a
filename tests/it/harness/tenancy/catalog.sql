-- One JSON document about every registered table that exists and its partitions, and about the tables that they
-- reference.
with recursive registered as (
  select r.*, c.oid as rel
  from warden.tenant_tables r
  join pg_namespace n on n.nspname = r.schema_name
  join pg_class w on w.relnamespace = n.oid and w.relname = r.table_name and w.relkind in ('r', 'p')
  cross join lateral warden.tree(w.oid) c (oid)
), reached as (
  select rel from registered
  union
  select k.confrelid from reached join pg_constraint k on k.conrelid = rel and k.contype = 'f'
), objects as materialized (
  select * from warden.tenant_objects o where o.is_present
)
select jsonb_agg(jsonb_build_object(
  'name', format('%I.%I', n.nspname, c.relname),
  'scope', r.scope,
  'key', coalesce(case r.scope when 'root' then 'id' when 'org' then 'org_id' when 'user' then r.user_column::text end, ''),
  'is_read_only', coalesce(r.is_read_only, false),
  'has_worker', coalesce(r.has_worker, false),
  'is_granted', warden.access_mode(c.oid) = 'grants',
  'has_default', exists (select from objects o where o.relation = c.oid and o.kind = 'default'),
  'is_immutable', coalesce(r.scope = 'org' and exists (
      select from objects o where o.relation = c.oid and o.name = 'warden_org_id_immutable'), false),
  'parent_column', r.parent_column,
  'primary_key', coalesce((
    select jsonb_agg(a.attname order by u.n)
    from pg_constraint k, unnest(k.conkey) with ordinality u (attnum, n), pg_attribute a
    where k.conrelid = c.oid and k.contype = 'p' and a.attrelid = c.oid and a.attnum = u.attnum), '[]'),
  'columns', (
    select jsonb_agg(jsonb_build_object(
      'name', a.attname, 'type_name', format_type(a.atttypid, a.atttypmod),
      'category', t.typcategory, 'base_type', format_type(coalesce(b.oid, t.oid), null),
      'element_type', format_type(e.oid, null), 'element_category', e.typcategory,
      'first_label', (select l.enumlabel from pg_enum l where l.enumtypid = coalesce(nullif(t.typbasetype, 0), t.oid) order by l.enumsortorder limit 1),
      'is_required', (a.attnotnull or t.typnotnull) and not a.atthasdef and a.attidentity = '' and a.attgenerated = '') order by a.attnum)
    from pg_attribute a
    join pg_type t on t.oid = a.atttypid
    left join pg_type b on b.oid = t.typbasetype
    left join pg_type e on e.oid = coalesce(b.typelem, t.typelem) and coalesce(b.typcategory, t.typcategory) = 'A'
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
  'checks', coalesce((
    select jsonb_agg(jsonb_build_object('name', k.conname, 'definition', pg_get_constraintdef(k.oid), 'columns', (
      select jsonb_agg(a.attname) from pg_attribute a
      where a.attrelid = c.oid and a.attnum > 0 and (a.attnum = any (k.conkey) or a.atttypid = k.contypid))))
    from pg_constraint k
    where k.contype = 'c' and (k.conrelid = c.oid or k.contypid in (
      select a.atttypid from pg_attribute a where a.attrelid = c.oid and a.attnum > 0))), '[]'),
  'foreign_keys', coalesce((
    select jsonb_agg(jsonb_build_object(
      'name', k.conname, 'parent', (select format('%I.%I', pn.nspname, p.relname) from pg_class p join pg_namespace pn on pn.oid = p.relnamespace where p.oid = k.confrelid),
      'columns', (select jsonb_agg(a.attname order by u.n) from unnest(k.conkey) with ordinality u (attnum, n) join pg_attribute a on a.attrelid = c.oid and a.attnum = u.attnum),
      'parent_columns', (select jsonb_agg(a.attname order by u.n) from unnest(k.confkey) with ordinality u (attnum, n) join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum),
      'is_between_orgs', r.scope = 'org' and exists (select from registered p where p.rel = k.confrelid and p.scope = 'org')) order by k.conname)
    from pg_constraint k where k.conrelid = c.oid and k.contype = 'f'), '[]'),
  'uniques', coalesce((
    select jsonb_agg(jsonb_build_object('name', o.found, 'columns', to_jsonb(i.key_columns)))
    from warden.tenant_indexes i join objects o on o.name = i.index_name and o.relation = c.oid
    where i.schema_name = n.nspname and i.table_name = c.relname and i.is_unique), '[]'),
  'indexes', coalesce((
    select jsonb_agg(jsonb_build_object('name', o.found, 'columns', o.definition))
    -- A query of a partitioned table uses the indexes of its partitions.
    from objects o where o.relation = c.oid and o.kind = 'index' and c.relkind = 'r'), '[]')
) order by c.oid)
from reached x
join pg_class c on c.oid = x.rel
join pg_namespace n on n.oid = c.relnamespace
left join registered r on r.rel = x.rel
