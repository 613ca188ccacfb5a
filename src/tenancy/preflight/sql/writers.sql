-- Ordinary roles that may write the application's own organisations or memberships: they could make themselves members
-- of any organisation. Columns: table, role, commands (SQL), and the statement that closes it.
with tables as (
  select c.*, t.name from (values ('organizations'), ('organization_members')) t (name)
  join pg_class c on c.oid = to_regclass('public.' || t.name) and c.relkind in ('r', 'p')
  where not coalesce(obj_description(c.oid, 'pg_class') like '%(created by Warden)', false)
), granted as (
  select t.oid, a.grantee, lower(a.privilege_type) as command from tables t, aclexplode(t.relacl) a
  union
  select t.oid, a.grantee, lower(a.privilege_type) from tables t
  join pg_attribute c on c.attrelid = t.oid, aclexplode(c.attacl) a
), writers as (
  select t.oid, t.name, g.grantee, g.command
  from tables t join granted g on g.oid = t.oid and g.command in ('insert', 'update', 'delete', 'truncate')
  left join pg_roles r on r.oid = g.grantee
  where g.grantee <> t.relowner
    -- These are exempt from row-level security, or own the table.
    and not coalesce(r.rolsuper or r.rolbypassrls, false)
    and not (g.grantee <> 0 and pg_has_role(g.grantee, t.relowner, 'usage'))
    and coalesce(r.rolname, '') <> 'service_role'
    -- Row-level security lets nothing through without a permissive policy. It does not apply to TRUNCATE.
    and (not t.relrowsecurity or g.command = 'truncate' or exists (
      select from pg_policy p
      where p.polrelid = t.oid and p.polpermissive
        and p.polcmd in ('*', case g.command when 'insert' then 'a' when 'update' then 'w' else 'd' end)
        and (0 = any (p.polroles) or g.grantee = 0 or exists (
          select from unnest(p.polroles) o (oid) where o.oid <> 0 and pg_has_role(g.grantee, o.oid, 'usage')))))
)
select 'public.' || w.name as "table", case w.grantee when 0 then 'PUBLIC' else w.grantee::regrole::text end as role,
  string_agg(w.command, ', ' order by w.command) as commands,
  format('revoke %s on public.%I from %s;', string_agg(w.command, ', ' order by w.command), w.name,
         case w.grantee when 0 then 'public' else w.grantee::regrole::text end) as statement
from writers w
group by w.oid, w.name, w.grantee
order by 1, 2
