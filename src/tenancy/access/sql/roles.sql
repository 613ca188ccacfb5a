-- What each role may do in each table and in each of its members, by command, today and once the table is enforced. $1:
-- oids of the tables. Superusers and Warden's own roles are left out.
with relations as (
  select c.oid, case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname as name, c.relowner,
    c.relrowsecurity, c.relforcerowsecurity, c.relkind
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
), tables as (
  select c.*, w.oid as whole, w.name as whole_name, warden.access_mode(c.oid) as mode
  from unnest($1::bigint[]) t (oid)
  join relations w on w.oid = t.oid::oid
  cross join lateral warden.tree(w.oid) m (oid)
  join relations c on c.oid = m.oid and c.relkind in ('r', 'p')
), roles as (
  select r.oid, r.rolname, r.rolbypassrls from pg_roles r
  where not r.rolsuper and r.rolname !~ '^pg_' and
    r.rolname not in ('warden_owner', 'warden_gateway', 'warden_publisher', 'warden_worker')
), commands (n, name, letter) as (
  values (1, 'SELECT', 'r'::"char"), (2, 'INSERT', 'a'), (3, 'UPDATE', 'w'), (4, 'DELETE', 'd')
), allowed as (
  select t.oid, t.whole_name, t.oid <> t.whole as is_member, t.name as table_name, r.rolname as role_name, c.n, c.name as command, t.mode, r.rolbypassrls,
    -- A role that inherits from the owner is exempt like the owner.
    not t.relrowsecurity or r.rolbypassrls or not t.relforcerowsecurity and pg_has_role(r.oid, t.relowner, 'usage')
      as is_exempt,
    (select array_agg(p.polname::text order by p.polname) from pg_policy p
     where p.polrelid = t.oid and p.polpermissive and p.polcmd in (c.letter, '*')
       and exists (select from unnest(p.polroles) u (role) where u.role = 0 or pg_has_role(r.oid, u.role, 'usage')))
      as policies,
    pg_has_role(r.oid, 'authenticated', 'usage') or pg_has_role(r.oid, 'service_role', 'usage') as is_request
  from tables t cross join roles r cross join commands c
  where has_table_privilege(r.oid, t.oid, c.name)
     or c.name <> 'DELETE' and has_any_column_privilege(r.oid, t.oid, c.name)
)
select a.whole_name, a.is_member, a.table_name, a.role_name::text as role_name, lower(a.command) as command, a.rolbypassrls as bypasses,
  case when a.is_exempt then 'all rows'
       when a.policies is null then 'no rows'
       else 'rows that ' || case cardinality(a.policies) when 1 then 'the policy ' else 'the policies ' end
            || array_to_string(a.policies, ', ') || case cardinality(a.policies) when 1 then ' allows' else ' allow' end
  end as before,
  case when a.mode = 'own' and not a.rolbypassrls then a.is_request
       else a.is_exempt or a.policies is not null end as sees_rows_after,
  array(select distinct lower(u.privilege) from warden.unlimited_rights(a.oid) u
        left join pg_roles g on g.oid = u.grantee
        where a.n = 1 and (u.grantee = 0 or g.rolname = a.role_name) order by 1) as loses
from allowed a
order by a.whole_name, a.is_member, a.table_name, a.role_name, a.n
