-- Whether clients may SELECT all that a watch would send them.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Whether a policy for these roles applies to a role: it is for PUBLIC, for the role, or for one whose rights it has.
create or replace function warden.applies_to(policy_roles oid[], role oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from unnest(policy_roles) r (oid)
                 where case when r.oid = 0 then true else pg_catalog.pg_has_role(applies_to.role, r.oid, 'usage') end)
$$;

-- Whether this database uses the role `authenticated`: the role has a right or a policy on a table that Warden did not
-- create. If not, its rights say nothing about what the application's users see. Members of the role do not matter,
-- because they belong to the whole cluster.
create or replace function warden.uses_authenticated() returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (
    select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
      and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
      and coalesce(pg_catalog.obj_description(c.oid, 'pg_class'), '') not like '%(created by Warden)'
      -- The platform's tables.
      and not exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid and p.polname = 'warden_select')
      and (exists (select from pg_catalog.aclexplode(c.relacl) a where a.grantee = 'authenticated'::regrole)
           or exists (select from pg_catalog.pg_attribute t, pg_catalog.aclexplode(t.attacl) a
                      where t.attrelid = c.oid and a.grantee = 'authenticated'::regrole)
           or exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid and p.polname !~ '^warden_'
                        and 'authenticated'::regrole = any (p.polroles)))
  )
$$;

-- The policy, as a reason, because of which a role that row-level security binds sees fewer rows of a table than those
-- of its organisation; null if it sees all.
--
-- Row-level security shows all rows if one permissive policy does, and every restrictive one does. A condition shows
-- all rows of the organisation if it is `true` or Warden's own comparison with auth_org_id(). Of any other condition
-- nobody can know that in advance, so it counts as narrower.
create or replace function warden.hiding_policy(relation regclass, role oid, org_column name) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  role_name constant name := pg_catalog.pg_get_userbyid(role);
  whole text[] := array['true'] || array(
    select pg_catalog.format('(%I = ( SELECT %s() AS auth_org_id))', org_column, callee)
    from unnest(array['public.auth_org_id', 'warden.auth_org_id']) callee);
  hidden text;
begin
  if not (select c.relrowsecurity from pg_catalog.pg_class c where c.oid = relation)
     or (select r.rolbypassrls or r.rolsuper from pg_catalog.pg_roles r where r.oid = role)
     or (select not c.relforcerowsecurity and pg_catalog.pg_has_role(role, c.relowner, 'usage')
         from pg_catalog.pg_class c where c.oid = relation) then
    return null;
  end if;
  select pg_catalog.format('the restrictive policy %I hides rows of the organisation from role %I', p.polname, role_name)
    into hidden
  from pg_catalog.pg_policy p
  where p.polrelid = relation and not p.polpermissive and p.polname <> 'warden_org' and p.polcmd in ('r', '*')
    and warden.applies_to(p.polroles, role)
    and pg_catalog.pg_get_expr(p.polqual, p.polrelid) <> all (whole)
  order by p.polname limit 1;
  if hidden is not null then
    return hidden;
  end if;
  if not exists (
    select from pg_catalog.pg_policy p
    where p.polrelid = relation and p.polpermissive and p.polcmd in ('r', '*')
      and warden.applies_to(p.polroles, role) and pg_catalog.pg_get_expr(p.polqual, p.polrelid) = any (whole)
  ) then
    return pg_catalog.format('no policy shows all rows of the organisation to role %I', role_name);
  end if;
  return null;
end
$$;

-- The reason why a role that a token may name may SELECT less of a table than all rows of the organisation, without
-- the omitted columns. These roles cannot log in, and a policy of the application or a grant on the table names
-- them. Null if there is no such role.
create or replace function warden.narrower_for_named_role(relation regclass, omit_columns text[], org_column name)
returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(c.reason, h.reason)
  from pg_catalog.pg_roles r
  cross join lateral warden.hiding_policy(relation, r.oid, org_column) h (reason)
  left join lateral (
    select pg_catalog.format('role %I may not SELECT the columns %s', r.rolname,
                             string_agg(pg_catalog.quote_ident(a.attname), ', ' order by a.attnum))
    from pg_catalog.pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attname <> all (omit_columns)
      and not pg_catalog.has_column_privilege(r.oid, relation, a.attnum, 'select')
    having count(*) > 0) c (reason) on true
  where not r.rolcanlogin and r.rolname !~ '^(pg_|warden_)'
    and r.rolname not in ('anon', 'authenticated', 'service_role')
    and pg_catalog.has_any_column_privilege(r.oid, relation, 'select')
    and (exists (select from pg_catalog.pg_policy p
                 where p.polrelid = relation and p.polcmd in ('r', '*') and r.oid = any (p.polroles)
                   and not warden.is_own_policy(p.oid))
         or exists (select from pg_catalog.pg_class t, pg_catalog.aclexplode(t.relacl) g
                    where t.oid = relation and g.grantee = r.oid and g.privilege_type = 'SELECT')
         or exists (select from pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) g
                    where a.attrelid = relation and g.grantee = r.oid and g.privilege_type = 'SELECT'))
    and coalesce(c.reason, h.reason) is not null
  order by r.rolname limit 1
$$;

-- The reason why clients may SELECT less of a table than a watch sends: all rows of the organisation, without the
-- omitted columns. Null if they may SELECT all of that. The role `authenticated` counts, and each other role that a
-- token may name. In a database that does not use `authenticated`, each role counts to which a permissive policy of the
-- application shows rows of this table.
create or replace function warden.narrower_than_organization(relation regclass, omit_columns text[], org_column name)
returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  role constant oid := 'authenticated'::regrole;
  c pg_catalog.pg_class := (select t from pg_catalog.pg_class t where t.oid = relation);
  hidden text;
begin
  if not warden.uses_authenticated() then
    return (
      select warden.hiding_policy(relation, r.oid, org_column) as reason
      from pg_catalog.pg_roles r
      where c.relrowsecurity and r.rolname !~ '^(pg_|warden_)' and r.rolname not in ('anon', 'authenticated')
        and pg_catalog.has_any_column_privilege(r.oid, relation, 'select')
        and exists (select from pg_catalog.pg_policy p
                    where p.polrelid = relation and p.polpermissive and p.polcmd in ('r', '*')
                      and not warden.is_own_policy(p.oid) and warden.applies_to(p.polroles, r.oid))
        and warden.hiding_policy(relation, r.oid, org_column) is not null
      order by r.rolname limit 1);
  end if;
  if not pg_catalog.has_schema_privilege(role, c.relnamespace, 'usage') then
    return pg_catalog.format('role authenticated may not use schema %s', c.relnamespace::regnamespace);
  end if;
  select string_agg(pg_catalog.quote_ident(a.attname), ', ' order by a.attnum) into hidden
  from pg_catalog.pg_attribute a
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    and a.attname <> all (omit_columns)
    and not pg_catalog.has_column_privilege(role, relation, a.attnum, 'select');
  if hidden is not null then
    return pg_catalog.format('role authenticated may not SELECT the columns %s', hidden);
  end if;
  return coalesce(
    warden.hiding_policy(relation, role, org_column),
    warden.narrower_for_named_role(relation, omit_columns, org_column));
end
$$;

reset role;
