-- Triggers and policies of the application that have the name of one of Warden's, on registered tables. Warden's own
-- triggers call functions of schema warden, or those that it created in schema public. Its policies come with
-- warden_org, whose comment says who created it.
select c.oid::bigint as oid, format('trigger "%s"', g.tgname) as object,
  pg_get_triggerdef(g.oid) as definition,
  format('alter trigger %I on %s rename to %I;', g.tgname, c.oid::regclass, 'application_' || g.tgname) as remedy
from warden.tenant_tables t
join pg_namespace n on n.nspname = t.schema_name
join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
join pg_trigger g on g.tgrelid = c.oid and not g.tgisinternal and g.tgname like 'warden\_%'
join pg_proc f on f.oid = g.tgfoid
where f.pronamespace <> 'warden'::regnamespace and not warden.is_own(f.oid)
union all
select c.oid::bigint, format('policy "%s"', p.polname),
  format('using (%s) with check (%s)', coalesce(pg_get_expr(p.polqual, p.polrelid), 'true'),
         coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true')),
  format('alter policy %I on %s rename to %I;', p.polname, c.oid::regclass, 'application_' || p.polname)
from warden.tenant_tables t
join pg_namespace n on n.nspname = t.schema_name
join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
join pg_policy p on p.polrelid = c.oid and p.polname like 'warden\_%'
where t.origin <> 'core' and not exists (
    select from pg_policy o where o.polrelid = c.oid and o.polname = 'warden_org'
      and obj_description(o.oid, 'pg_policy') like 'By warden.protect()%')
  -- A table of users has policies without such a comment.
  and t.scope = 'org'
order by 1, 2
