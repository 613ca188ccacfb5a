-- Rights in schema warden, whose event log contains rows of every organisation, and the right to TRUNCATE.
with requests as (
  select 0::oid as oid, 'PUBLIC' as name, 'public' as sql
  union all
  select r.oid, r.rolname::text, quote_ident(r.rolname) from pg_roles r
  where r.rolname in ('anon', 'authenticated', 'service_role')
), functions as (
  select p.oid, p.oid::regprocedure::text as signature, p.proname, n.nspname
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = 'warden' and p.proname not in ('auth_org_id', 'auth_user_id')
    or n.nspname = 'public' and p.proname = 'custom_access_token_hook' and warden.is_own(p.oid)
), relations as (
  select c.oid, c.oid::regclass::text as name, c.relname, c.relacl, c.relowner, c.relkind
  from pg_class c where c.relnamespace = 'warden'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
)
select 'function-rights' as rule, null::text as severity, null::text as "table", f.signature as object,
  format('%s may execute it', q.name) as cause, 'sql' as remedy_kind,
  format('revoke execute on function %s from %s;', f.signature, q.sql) as remedy
from functions f join pg_proc p on p.oid = f.oid
cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
join requests q on q.oid = a.grantee
where a.privilege_type = 'EXECUTE'
  -- Documents that `authenticated` reads call these.
  and not (q.name = 'authenticated' and f.nspname = 'warden' and f.proname in ('has_short_numbers', 'json_is_convertible'))
  -- Back ends may revoke; requests may not.
  and not (q.name = 'service_role' and f.signature in (
    'warden.revoke(text,text,uuid,text,interval,text)', 'warden.unrevoke(bigint)',
    'warden.suspend(uuid,text,interval)', 'warden.resume(uuid)'))
union all
select 'log-rights', null, null, r.name,
  format('%s may %s', q.name, string_agg(distinct lower(a.privilege_type), ', ')), 'sql',
  format('revoke all on %s%s from %s;', case r.relkind when 'S' then 'sequence ' else '' end, r.name, q.sql)
from relations r
cross join lateral (
  select x.grantee, x.privilege_type from aclexplode(r.relacl) x
  union all
  select x.grantee, x.privilege_type || ' of column ' || a.attname
  from pg_attribute a cross join lateral aclexplode(a.attacl) x where a.attrelid = r.oid) a
join requests q on q.oid = a.grantee
group by r.name, r.relkind, q.name, q.sql
union all
select 'log-rights', null, null, r.name,
  format('warden_gateway may %s, and must only read', lower(a.privilege_type)), 'sql',
  format('revoke %s on %s from warden_gateway;', a.privilege_type, r.name)
from relations r cross join lateral aclexplode(r.relacl) a
where a.grantee = (select oid from pg_roles where rolname = 'warden_gateway') and a.privilege_type <> 'SELECT'
union all
select 'log-rights', null, null, 'warden', format('%s may create objects in schema warden', q.name), 'sql',
  format('revoke create on schema warden from %s;', q.sql)
from pg_namespace n cross join lateral aclexplode(n.nspacl) a join requests q on q.oid = a.grantee
where n.nspname = 'warden' and a.privilege_type = 'CREATE'
union all
-- A member inherits the rights of its roles. (A superuser needs none.)
select 'log-rights', null, null, m.rolname,
  format('%s is a member of %s, which may read or write the event log', m.rolname, o.rolname),
  'sql', format('revoke %I from %I;', o.rolname, m.rolname)
from pg_roles m join pg_auth_members g on g.member = m.oid join pg_roles o on o.oid = g.roleid
where m.rolname in ('anon', 'authenticated', 'service_role', 'authenticator', 'warden_gateway', 'warden_publisher',
                    'warden_worker')
  and o.rolname in ('warden_owner', 'warden_gateway') and m.rolname <> o.rolname
  -- One login role may serve both the back end and the gateway, but a request role must not.
  and (o.rolname = 'warden_owner' or m.rolname in ('anon', 'authenticated', 'service_role', 'authenticator'))
union all
select 'truncate-right', null, x.full_name, x.grantee,
  format('%s may %s, which no policy limits to an organisation', x.grantee, string_agg(x.privilege, ', ' order by x.privilege)),
  'sql', format('select warden.protect(%L);', x.full_name)
from (
  select distinct format('%I.%I', n.nspname, c.relname) as full_name,
    case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end as grantee,
    case a.privilege when 'TRUNCATE' then 'TRUNCATE it' when 'TRIGGER' then 'create triggers on it'
                     else 'reference it' end as privilege
  from warden.tenant_tables t
  cross join lateral warden.tree(to_regclass(format('%I.%I', t.schema_name, t.table_name))) m (oid)
  join pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
  join pg_namespace n on n.oid = c.relnamespace
  cross join lateral warden.unlimited_rights(c.oid) a
  where exists (select from pg_policy p where p.polrelid = c.oid and p.polname = 'warden_org')) x
group by x.full_name, x.grantee
