-- Roles of the names that Warden uses, with attributes or memberships that row-level security does not stop. Columns:
-- subject, problem, remedy, and the name by which an operator accepts it.
with named as (
  select r.*, r.rolname in ('anon', 'authenticated') as is_request
  from pg_roles r
  where r.rolname in ('warden_owner', 'warden_gateway', 'warden_publisher', 'warden_worker', 'anon', 'authenticated')
), attributes as (
  select n.rolname, a.name, a.opposite
  from named n, lateral (values
    ('SUPERUSER', 'nosuperuser', n.rolsuper), ('BYPASSRLS', 'nobypassrls', n.rolbypassrls),
    ('CREATEROLE', 'nocreaterole', n.rolcreaterole), ('REPLICATION', 'noreplication', n.rolreplication),
    -- A session of its own can set any claims. (The gateway and back ends log in as theirs.)
    ('LOGIN', 'nologin', n.rolcanlogin and (n.is_request or n.rolname = 'warden_owner'))) a (name, opposite, is_set)
  where a.is_set
), memberships as (
  select n.rolname, r.rolname as of_role,
    case when r.rolsuper then 'is a superuser' when r.rolbypassrls then 'bypasses row-level security'
         when r.rolname = 'warden_owner' then 'owns schema warden'
         else 'owns public.organizations or public.organization_members' end as why
  from named n join pg_roles r on r.oid <> n.oid and not n.rolsuper and pg_has_role(n.oid, r.oid, 'member')
  where r.rolsuper or r.rolbypassrls or r.rolname = 'warden_owner'
    or r.oid in (select c.relowner from pg_class c where c.oid in (
         to_regclass('public.organizations'), to_regclass('public.organization_members')))
)
select 'role ' || a.rolname as subject,
  format('exists with %s: row-level security does not bind it', string_agg(a.name, ', ' order by a.name)) as problem,
  format('alter role %I %s;', a.rolname, string_agg(a.opposite, ' ' order by a.name)) as remedy,
  a.rolname::text as accepted_as
from attributes a group by a.rolname
union all
select 'role ' || m.rolname, format('is a member of %s, which %s', m.of_role, m.why),
  format('revoke %I from %I;', m.of_role, m.rolname), m.rolname::text
from memberships m
order by 1, 2
