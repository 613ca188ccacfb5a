-- Owners of tables that are ordinary roles: no superuser, not the database's owner, no role that migrates. $1: tables
-- (oids). Columns: owner, tables, and the login roles that are or can become the owner.
with owned as (
  select c.relowner, string_agg(c.oid::regclass::text, ', ' order by c.oid::regclass::text) as tables
  from pg_class c where c.oid = any ($1::bigint[]::oid[]) group by c.relowner
)
select o.rolname::text, w.tables, coalesce((
  select string_agg(r.rolname, ', ' order by r.rolname) from pg_roles r
  where r.rolcanlogin and not r.rolsuper and pg_has_role(r.oid, o.oid, 'member')), 'none')
from owned w
join pg_roles o on o.oid = w.relowner
join pg_database d on d.datname = current_database()
where not o.rolsuper and o.oid <> d.datdba and o.rolname <> current_user
  and not pg_has_role(o.oid, (select m.oid from pg_roles m where m.rolname = 'warden_owner'), 'member')
order by 1
