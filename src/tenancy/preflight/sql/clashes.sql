-- Objects of the application that have the name of one of Warden's on registered tables and their members: triggers,
-- policies, constraints, and indexes or other relations. Columns: the oid of the whole, the object, its definition, the
-- definition of Warden's object if it is known, and a statement that renames the object. $1 has the required objects.
with relations as (
  select w.oid as whole, t.scope, t.origin, c.oid, c.relname, c.relnamespace
  from warden.tenant_tables t
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class w on w.relnamespace = n.oid and w.relname = t.table_name
  cross join lateral warden.tree(w.oid) m (oid)
  join pg_class c on c.oid = m.oid
), objects as materialized (
  select o.relation::oid::regclass as relation, o.kind, o.name, o.definition, o.is_unique, o.problem
  from jsonb_to_recordset($1::jsonb) o (relation bigint, kind text, name text, definition text, is_unique boolean, problem text)
), wanted as (
  -- What a run will create. (It drops an invalid index of its own itself.)
  select r.whole, r.relnamespace, o.relation, o.kind, o.name, case o.kind
      when 'index' then format('create %sindex %I on %s (%s)', case when o.is_unique then 'unique ' else '' end, o.name,
                               o.relation, o.definition)
      else o.definition end as definition
  from objects o join relations r on r.oid = o.relation
  where o.kind in ('index', 'unique', 'foreign_key')
    and o.problem in ('is missing', 'is another index', 'is another constraint')
  union all
  select r.whole, r.relnamespace, r.oid, 'check', warden.object_name(r.relname, 'org_id_present'), 'check (org_id is not null)'
  from relations r where r.scope = 'org'
)
select r.whole::bigint as oid, format('trigger "%s"', g.tgname) as object,
  pg_get_triggerdef(g.oid) as definition, null as own,
  format('alter trigger %I on %s rename to %I;', g.tgname, r.oid::regclass, 'application_' || g.tgname) as rename
from relations r
join pg_trigger g on g.tgrelid = r.oid and not g.tgisinternal and g.tgname like 'warden\_%'
join pg_proc f on f.oid = g.tgfoid
-- Warden's own triggers call functions of schema warden, or those that it created in schema public. A partition has
-- copies of the triggers of its whole.
where f.pronamespace <> 'warden'::regnamespace and not warden.is_own(f.oid) and g.tgparentid = 0
  -- The application replaced the function: the trigger is still Warden's.
  and not (g.tgname = 'warden_org_id_immutable' and f.pronamespace = 'public'::regnamespace
           and f.proname = 'prevent_org_id_change'
           and coalesce(obj_description(f.oid, 'pg_proc'), '') like '%(created by Warden)')
union all
select r.whole::bigint, format('policy "%s"', p.polname),
  format('using (%s) with check (%s)', coalesce(pg_get_expr(p.polqual, p.polrelid), 'true'),
         coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true')),
  (select format('using (%s)', o.definition) from objects o
   where o.kind = 'policy' and o.relation = r.oid and o.name = p.polname),
  format('alter policy %I on %s rename to %I;', p.polname, r.oid::regclass, 'application_' || p.polname)
from relations r
join pg_policy p on p.polrelid = r.oid and p.polname like 'warden\_%'
-- Warden's policies come with warden_org, whose comment says who created it.
where r.origin <> 'core' and not exists (
    select from pg_policy o where o.polrelid = r.oid and o.polname = 'warden_org'
      and obj_description(o.oid, 'pg_policy') like 'By warden.protect()%')
  -- A table of users has policies without such a comment.
  and r.scope = 'org'
union all
select w.whole::bigint, format('constraint "%s"', k.conname), pg_get_constraintdef(k.oid), w.definition,
  format('alter table %s rename constraint %I to %I;', w.relation::regclass, k.conname, 'application_' || k.conname)
from wanted w join pg_constraint k on k.conrelid = w.relation and k.conname = w.name
where w.kind <> 'index'
  and not (w.kind = 'check' and k.contype = 'c' and pg_get_constraintdef(k.oid) ~ '^CHECK \(\(org_id IS NOT NULL\)\)')
union all
-- The name of an index is taken by any relation of the schema, also by an index of another table.
select w.whole::bigint, format('%s "%s"', k.kind, x.relname),
  coalesce(pg_get_indexdef(i.indexrelid), format('%s %s', k.kind, x.oid::regclass)), w.definition,
  format('alter %s %s rename to %I;', k.kind, x.oid::regclass, 'application_' || x.relname)
from wanted w
join pg_class x on x.relnamespace = w.relnamespace and x.relname = w.name
left join pg_index i on i.indexrelid = x.oid
cross join lateral (select case x.relkind when 'i' then 'index' when 'I' then 'index' when 'S' then 'sequence' when 'v' then 'view'
    when 'm' then 'materialized view' when 'f' then 'foreign table' when 'c' then 'type' else 'table' end as kind) k
where w.kind in ('index', 'unique')
  and (i.indrelid is distinct from w.relation or i.indisvalid)
  -- It was reported as a constraint.
  and not exists (select from pg_constraint c where c.conrelid = w.relation and c.conname = w.name and w.kind = 'unique')
order by 1, 2
