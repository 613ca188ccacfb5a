-- Row-level security for the tables that Warden created itself. It lets no row through from the moment that they exist.
-- If schema public has no other tables, it is complete at once. Otherwise `warden migrate --enforce` completes it.
-- The same holds if the migrating role is subject to row-level security: FORCE would hide organisations from it, and
-- it must read them when it adopts tables, whatever their schema and whenever they are created.
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
  if warden.is_public_empty()
     and (select r.rolsuper or r.rolbypassrls from pg_roles r where r.rolname = current_user) then
    perform warden.create_tenant_objects(created);
  end if;
  perform warden.grant_to_requests(created, may_write => false);
end
$do$;
