-- Definitions of every object outside schema warden: relations with columns, owners and rights; constraints, indexes,
-- triggers, policies, functions and types. A table counts as changed if anything of it does.
with outside as (
  select n.oid, n.nspname from pg_namespace n
  where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'warden')
)
select format('relation %s.%s', o.nspname, c.relname) as object,
  concat_ws(' | ', c.relkind, pg_get_userbyid(c.relowner), c.relacl::text, c.relrowsecurity, c.relforcerowsecurity,
    c.reloptions::text, pg_get_viewdef(c.oid),
    (select string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attacl::text,
                                 pg_get_expr(d.adbin, d.adrelid)), ', ' order by a.attnum)
     from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)) as definition
from pg_class c join outside o on o.oid = c.relnamespace where c.relkind <> 'i'
union all
select format('index %s.%s', o.nspname, c.relname), pg_get_indexdef(c.oid)
from pg_class c join outside o on o.oid = c.relnamespace where c.relkind = 'i'
union all
select format('constraint %s of %s', k.conname, k.conrelid::regclass), pg_get_constraintdef(k.oid)
from pg_constraint k join outside o on o.oid = k.connamespace where k.conrelid <> 0
union all
select format('trigger %s of %s', g.tgname, g.tgrelid::regclass), pg_get_triggerdef(g.oid) || g.tgenabled::text
from pg_trigger g join pg_class c on c.oid = g.tgrelid join outside o on o.oid = c.relnamespace where not g.tgisinternal
union all
select format('policy %s of %s', p.polname, p.polrelid::regclass),
  concat_ws(' | ', p.polcmd, p.polpermissive, p.polroles::text, pg_get_expr(p.polqual, p.polrelid),
            pg_get_expr(p.polwithcheck, p.polrelid))
from pg_policy p join pg_class c on c.oid = p.polrelid join outside o on o.oid = c.relnamespace
union all
select format('function %s', p.oid::regprocedure),
  concat_ws(' | ', case p.prokind when 'a' then 'aggregate' else pg_get_functiondef(p.oid) end,
            pg_get_userbyid(p.proowner), p.proacl::text, obj_description(p.oid, 'pg_proc'))
from pg_proc p join outside o on o.oid = p.pronamespace
union all
select format('type %s', t.oid::regtype), concat_ws(' | ', t.typtype, pg_get_userbyid(t.typowner))
from pg_type t join outside o on o.oid = t.typnamespace where t.typrelid = 0 and t.typelem = 0
order by 1
