-- Row-level security for the tables that Warden created itself. On a database without other tables it is complete at
-- once. On a database in use, `warden migrate --enforce` completes it: until then adoption must be able to read
-- organisations as their owner, and FORCE would hide them.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
do $do$
declare
  created regclass[] := array(
    select c.oid::regclass from pg_class c
    where c.oid in ('public.organizations'::regclass, 'public.organization_members'::regclass)
      and obj_description(c.oid, 'pg_class') like '%(created by Warden)'
      -- Once, when they have no rights yet: an operator may have changed rights or isolation since.
      and not exists (select from aclexplode(c.relacl) a where a.grantee = 'service_role'::regrole)
    order by c.relname desc);
begin
  if warden.is_public_empty() then
    perform warden.create_tenant_objects(created);
  end if;
  perform warden.grant_to_requests(created, may_write => false);
end
$do$;
