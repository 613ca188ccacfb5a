-- Ordinary roles that own organisations or memberships, on which the isolation of every table rests: an owner can turn
-- row-level security off. $1: tables that the operator named or an earlier run registered (oids). Columns: role,
-- tables, remedy.
with isolating as (
  select c.oid, c.relowner, c.oid::regclass::text as name
  from pg_class c
  where c.oid in (to_regclass('public.organizations'), to_regclass('public.organization_members'))
), trusted as (
  select r.oid from pg_roles r join pg_database d on d.datname = current_database()
  where r.rolsuper or r.oid = d.datdba or r.rolname in (current_user, 'pg_database_owner')
     -- Roles that migrate are its members.
     or pg_has_role(r.oid, (select w.oid from pg_roles w where w.rolname = 'warden_owner'), 'member')
     or r.oid in (select c.relowner from pg_class c
                  where c.oid = any ($1::bigint[]::oid[]) and c.oid not in (select i.oid from isolating i))
)
select i.relowner::regrole::text as role, string_agg(i.name, ' and ' order by i.name) as tables,
  string_agg(format('alter table %s owner to %I;', i.name, current_user), E'\n' order by i.name) as remedy
from isolating i
where i.relowner not in (select t.oid from trusted t)
group by i.relowner
order by 1
