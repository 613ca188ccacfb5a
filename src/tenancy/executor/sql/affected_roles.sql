-- Roles that are subject to policies and have rights on the tables or on members of them, and the login roles that may
-- become them: most applications log in as one role and run SET ROLE for each request. $1: oids of the tables.
with relations as (
  select t.oid as whole, m.oid
  from unnest($1::bigint[]) t (oid)
  cross join lateral warden.tree(t.oid::oid) m (oid)
  join pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
), affected as (
  select r.oid, r.rolname, r.rolcanlogin,
    (select count(distinct t.whole) from relations t
     where has_table_privilege(r.oid, t.oid, 'select, insert, update, delete')
        or has_any_column_privilege(r.oid, t.oid, 'select, insert, update')) as tables
  from pg_roles r
  where not r.rolsuper and not r.rolbypassrls and r.rolname !~ '^pg_'
    and r.rolname not in ('warden_owner', 'warden_gateway', 'warden_publisher', 'warden_worker')
), logins as (
  select a.oid, l.oid as login, l.rolname
  from affected a
  join pg_roles l on l.rolcanlogin and not l.rolsuper and l.oid <> a.oid
    -- From PostgreSQL 16 on, a membership may exist without the right to SET ROLE.
    and pg_has_role(l.oid, a.oid, case when current_setting('server_version_num')::int >= 160000 then 'set'
                                       else 'member' end)
), sessions as (
  select a.oid, s.pid, s.application_name
  from affected a
  join pg_stat_activity s on s.datname = current_database() and s.pid <> all ($2::int[])
    and (s.usesysid = a.oid or s.usesysid in (select l.login from logins l where l.oid = a.oid))
)
select a.rolname::text as name, a.rolcanlogin as can_log_in, a.tables,
  array(select l.rolname::text from logins l where l.oid = a.oid order by 1) as logins,
  (select count(*) from sessions s where s.oid = a.oid) as sessions,
  array(select distinct s.application_name from sessions s where s.oid = a.oid and s.application_name <> ''
        order by 1 limit 5) as applications
from affected a
where a.tables > 0
order by sessions desc, 1
