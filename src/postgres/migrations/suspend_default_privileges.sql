-- Suspends default privileges until the end of a migration's transaction: those of the migrating role, and for good
-- those of warden_owner and in schema warden. Otherwise ALTER DEFAULT PRIVILEGES would grant what a migration creates
-- to other roles, until the next statement revokes it or for ever. restore_default_privileges.sql is its reverse.
do $$
declare
  d record;
  -- Statements that restore what this block revokes.
  former text := '';
begin
  for d in
    select r.rolname, n.nspname, k.kind, a.privilege_type, a.is_grantable,
      case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
    from pg_roles r
    cross join (values ('r', 'tables'), ('S', 'sequences'), ('f', 'functions'), ('T', 'types'), ('n', 'schemas'))
      k (type, kind)
    left join lateral (
      select s.defaclnamespace, s.defaclacl from pg_default_acl s
      where s.defaclrole = r.oid and s.defaclobjtype = k.type::"char"
      union all
      -- Built in: PUBLIC may execute functions.
      select 0, acldefault('f', r.oid)
      where k.type = 'f' and not exists (select from pg_default_acl s where s.defaclrole = r.oid
                                           and s.defaclobjtype = 'f' and s.defaclnamespace = 0)
    ) da on true
    left join pg_namespace n on n.oid = da.defaclnamespace
    cross join lateral aclexplode(da.defaclacl) a
    where r.rolname in (current_user, 'warden_owner') and pg_has_role(r.oid, 'usage')
      and (n.nspname is null or n.nspname in ('public', 'warden')) and a.grantee <> r.oid
  loop
    execute format('alter default privileges for role %I %s revoke %s on %s from %s', d.rolname,
                   'in schema ' || quote_ident(d.nspname), d.privilege_type, d.kind, d.grantee);
    continue when d.rolname = 'warden_owner' or d.nspname = 'warden';
    former := former || format('alter default privileges for role %I %s grant %s on %s to %s%s;', d.rolname,
                   'in schema ' || quote_ident(d.nspname), d.privilege_type, d.kind, d.grantee,
                   case when d.is_grantable then ' with grant option' end);
  end loop;
  perform set_config('warden.default_privileges', former, true);
end
$$;
