-- What row-level security, policies and grants of a table allow, and which policies are Warden's.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Whether row-level security of a table was enabled and forced before Warden protected it. The comment of the policy
-- warden_org records it. (A dump can lose comments: then the other policies show it.) On a table that Warden does not
-- protect, it is the present state.
create or replace function warden.former_row_security(
  relation regclass, out was_enabled boolean, out was_forced boolean
) language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  names name[] := array(
    select pol.polname from pg_catalog.pg_policy pol
    where pol.polrelid = relation
      and (pol.polname in ('warden_granted', 'warden_table_owner') or pol.polname = 'warden_org' and not pol.polpermissive));
  note text;
begin
  if names = '{}' then
    select c.relrowsecurity, c.relforcerowsecurity into was_enabled, was_forced
    from pg_catalog.pg_class c where c.oid = relation;
    return;
  end if;
  select pg_catalog.obj_description(pol.oid, 'pg_policy') into note
  from pg_catalog.pg_policy pol where pol.polrelid = relation and pol.polname = 'warden_org';
  was_enabled := coalesce(note ~ 'security was on', 'warden_granted' <> all (names));
  was_forced := coalesce(note !~ 'not forced', not names && array['warden_granted', 'warden_table_owner']::name[]);
end
$$;

-- Who decides which rows of its organisation a role sees in a table:
--   'own'       Warden, which created the table: members see all rows.
--   'grants'    the grants alone, because row-level security of the application's table was off.
--   'policies'  the application's policies, because row-level security was on.
-- In every mode the restrictive policy warden_org limits the rows to the organisation.
create or replace function warden.access_mode(relation regclass) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  whole regclass := relation;
begin
  if exists (select from pg_catalog.pg_inherits i where i.inhrelid = relation) then
    whole := coalesce(warden.whole(relation), relation);
  end if;
  if exists (select from pg_catalog.pg_description d
             where d.objoid = whole and d.classoid = 'pg_catalog.pg_class'::regclass and d.objsubid = 0
               and d.description like '%(created by Warden)') then
    return 'own';
  end if;
  if exists (
    select from warden.tenant_tables t
    join pg_catalog.pg_namespace n on n.nspname = t.schema_name
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
    where c.oid = whole and t.origin = 'platform'
  ) and warden.creates_platform_tables() then
    return 'own';
  end if;
  return (select case when f.was_enabled then 'policies' else 'grants' end
          from warden.former_row_security(relation) f);
end
$$;

-- The policies of a table. The restrictive policy warden_org limits every other policy to the organisation. The
-- permissive policies only keep what was allowed before, so they depend on warden.access_mode():
--   'own'       one for each command, for the roles of requests. (service_role needs them if it has no BYPASSRLS.)
--   'grants'    warden_granted lets every row through.
--   'policies'  none, because it would be combined with the application's policies by OR. But if row-level security was
--               not forced, the table's owner was exempt, and so was each role that inherits from it: FORCE ends that,
--               and warden_table_owner gives the same roles every row.
-- The jobs of recordings, which run within one organisation, have a policy on their tables.
-- In a subselect, the function of the claims is called once per statement, not once per row. The conditions are spelled
-- as PostgreSQL prints them with an empty search_path.
-- squawk-ignore ban-drop-function
drop function if exists warden.tenant_policies(name, name, text, name, regtype, boolean);
create or replace function warden.tenant_policies(
  relation regclass, scope text, user_column name, is_read_only boolean
) returns table (
  name text, command "char", is_permissive boolean, roles oid[], using_condition text, checking_condition text
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  mode text := warden.access_mode(relation);
  requests constant oid[] := array['authenticated'::regrole::oid, 'service_role'::regrole::oid];
  user_type regtype := (select a.atttypid from pg_catalog.pg_attribute a
                        where a.attrelid = relation and a.attname = user_column and not a.attisdropped);
  own text;
  isolating text;
begin
  own := case
    when scope = 'user' and user_type = 'uuid'::regtype then
      pg_catalog.format('(%I = ( SELECT %s() AS auth_user_id))', user_column, warden.callee('auth_user_id'))
    when scope = 'user' then
      pg_catalog.format(case when user_type = 'text'::regtype then '(%I' else '((%I)::text' end
        || ' = ( SELECT (%s())::text AS auth_user_id))', user_column, warden.callee('auth_user_id'))
    else pg_catalog.format('(%I = ( SELECT %s() AS auth_org_id))',
                           case scope when 'root' then 'id' else 'org_id' end, warden.callee('auth_org_id')) end;
  isolating := own;
  -- Warden's own roles also read organisations and memberships, as far as they were granted.
  if relation in (pg_catalog.to_regclass('public.organizations'), pg_catalog.to_regclass('public.organization_members')) then
    isolating := pg_catalog.format(
      '(%s OR ( SELECT (CURRENT_USER = ANY (ARRAY[''warden_owner''::name, ''warden_gateway''::name]))))', own);
  end if;
  if mode = 'own' then
    return query values ('warden_select', 'r'::"char", true, requests, own, null::text);
    if not is_read_only then
      return query values
        ('warden_insert', 'a'::"char", true, requests, null::text, own),
        ('warden_update', 'w'::"char", true, requests, own, own),
        ('warden_delete', 'd'::"char", true, requests, own, null::text);
    end if;
  elsif mode = 'grants' then
    return query values ('warden_granted', '*'::"char", true, array[0::oid], 'true', 'true');
  elsif (select not f.was_forced from warden.former_row_security(relation) f) then
    return query select 'warden_table_owner', '*'::"char", true, array[c.relowner], 'true', 'true'
                 from pg_catalog.pg_class c where c.oid = relation;
  end if;
  if exists (
    select from warden.tenant_tables t
    join pg_catalog.pg_namespace n on n.nspname = t.schema_name
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
    where c.oid = relation and t.has_worker
  ) then
    return query values ('warden_worker', '*'::"char", true, array['warden_worker'::regrole::oid], own, own);
  end if;
  return query values ('warden_org', '*'::"char", false, array[0::oid], isolating, isolating);
end
$$;

-- Whether a policy has this command, these conditions and roles.
-- squawk-ignore ban-drop-function
drop function if exists warden.is_policy(oid, "char", boolean, text, text);
create or replace function warden.is_policy(
  policy oid, command "char", is_permissive boolean, roles oid[], using_condition text, checking_condition text
) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select p.polpermissive = is_permissive and p.polcmd = command
            and p.polroles @> roles and p.polroles <@ roles
            and pg_catalog.pg_get_expr(p.polqual, p.polrelid) is not distinct from using_condition
            and pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) is not distinct from checking_condition
          from pg_catalog.pg_policy p where p.oid = policy);
end
$$;

-- Whether Warden created a policy: one with a name of Warden, and with the comment of warden.protect(), or on a
-- table that Warden created, or exactly as warden.protect() or the former version creates it. An application may have a
-- policy of the same name: Warden neither changes nor drops that one.
create or replace function warden.is_own_policy(policy oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  p pg_catalog.pg_policy;
begin
  select x.* into p from pg_catalog.pg_policy x where x.oid = policy;
  if p.polname is null or p.polname not in ('warden_select', 'warden_insert', 'warden_update', 'warden_delete',
                                            'warden_granted', 'warden_table_owner', 'warden_worker', 'warden_org') then
    return false;
  end if;
  if pg_catalog.obj_description(policy, 'pg_policy') like 'By warden.protect().%' then
    return true;
  end if;
  -- The former version also gave the application's tables a permissive policy for each command.
  if p.polpermissive and p.polcmd <> '*' and pg_catalog.cardinality(p.polroles) = 2
     and p.polroles @> array['authenticated'::regrole::oid, 'service_role'::regrole::oid]
     and coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
         ~ '^\(.* = \( SELECT \(?public\.auth_(org|user)_id\(\)\)?(::text)? AS auth_(org|user)_id\)\)$' then
    return true;
  end if;
  return exists (
    select from warden.tenant_tables t
    join pg_catalog.pg_namespace n on n.nspname = t.schema_name
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
    cross join lateral warden.tenant_policies(p.polrelid, t.scope, t.user_column, t.is_read_only) w
    where c.oid = warden.whole(p.polrelid) and w.name = p.polname
      and (warden.access_mode(p.polrelid) = 'own'
        or warden.is_policy(p.oid, w.command, w.is_permissive, w.roles, w.using_condition, w.checking_condition)));
end
$$;

-- Why a table cannot be protected until somebody decides, and how; no row if it can.
create or replace function warden.access_questions(relation regclass)
returns table (problem text, remedy text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select pg_catalog.format('has a policy "%s" that Warden did not create, and Warden needs this name', p.polname),
           pg_catalog.format('Rename it: alter policy %1$I on %2$s rename to %3$I;', p.polname, relation,
                             'own_' || p.polname)
    from pg_catalog.pg_policy p
    where p.polrelid = relation and not warden.is_own_policy(p.oid)
      and p.polname in ('warden_select', 'warden_insert', 'warden_update', 'warden_delete', 'warden_granted',
                        'warden_table_owner', 'warden_worker', 'warden_org')
    union all
    -- Enabled together with warden_org, it would take rows away from roles that see them today.
    select pg_catalog.format('has restrictive policies that have no effect, because row-level security is off: %s',
                             pg_catalog.string_agg(pg_catalog.quote_ident(p.polname), ', ' order by p.polname)),
           pg_catalog.format('Should they have an effect? Then: alter table %1$s enable row level security; '
                             'otherwise drop them: %2$s', relation,
                             pg_catalog.string_agg(pg_catalog.format('drop policy %I on %s;', p.polname, relation), ' '
                                                   order by p.polname))
    from pg_catalog.pg_policy p
    join pg_catalog.pg_class c on c.oid = p.polrelid and not c.relrowsecurity
    where p.polrelid = relation and not p.polpermissive and not warden.is_own_policy(p.oid)
    having pg_catalog.count(*) > 0
    union all
    -- No permissive policy can exempt the owner from a restrictive one.
    select pg_catalog.format('has restrictive policies from which %s, who owns it, is exempt today, and will not be: %s',
                             c.relowner::regrole, pg_catalog.string_agg(pg_catalog.quote_ident(p.polname), ', '
                                                                        order by p.polname)),
           pg_catalog.format('May they apply to %1$s as well? Then: alter table %2$s force row level security; '
                             'otherwise name the roles to which they apply: alter policy %3$s on %2$s to <roles>;',
                             c.relowner::regrole, relation, pg_catalog.min(pg_catalog.quote_ident(p.polname)))
    from pg_catalog.pg_policy p
    join pg_catalog.pg_class c on c.oid = p.polrelid and c.relrowsecurity and not c.relforcerowsecurity
    where p.polrelid = relation and not p.polpermissive and not warden.is_own_policy(p.oid)
      and warden.access_mode(relation) = 'policies'
      and exists (
        select from pg_catalog.pg_roles r
        where not r.rolsuper and not r.rolbypassrls and pg_catalog.pg_has_role(r.oid, c.relowner, 'usage')
          and exists (select from unnest(p.polroles) u (role)
                      where u.role = 0 or pg_catalog.pg_has_role(r.oid, u.role, 'usage')))
    group by c.relowner;
end
$$;

-- Rights on a table that no policy limits to rows, of roles to which policies apply: TRUNCATE deletes the rows of every
-- organisation, and a foreign key (REFERENCES) or a trigger (TRIGGER) of another role observes them.
create or replace function warden.unlimited_rights(relation regclass)
returns table (privilege text, column_name name, grantee oid, is_grantable boolean)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select a.privilege_type, a.column_name, a.grantee, a.is_grantable
    from pg_catalog.pg_class c
    cross join lateral (
      select x.privilege_type, null::name as column_name, x.grantee, x.is_grantable
      from pg_catalog.aclexplode(c.relacl) x
      union all
      select x.privilege_type, k.attname, x.grantee, x.is_grantable
      from pg_catalog.pg_attribute k cross join lateral pg_catalog.aclexplode(k.attacl) x
      where k.attrelid = c.oid and not k.attisdropped) a
    left join pg_catalog.pg_roles r on r.oid = a.grantee
    where c.oid = relation and a.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER')
      and a.grantee <> c.relowner and not coalesce(r.rolsuper or r.rolbypassrls, false);
end
$$;

-- Whether a function may run statements that are no part of its text: by EXECUTE, by a function of PostgreSQL or of an
-- extension that runs a string as a query, or because its language runs statements in ways of its own. `body` is in
-- lower case. (The checks of `warden migrate` before it installs schema warden have the same pattern.)
create or replace function warden.builds_statements(language name, body text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
  select language not in ('sql', 'plpgsql', 'internal')
    -- A quote after two hyphens: they may be part of a string, and no comment.
    or pg_catalog.regexp_replace(body, '--[^\n'']*(?=\n|$)', '', 'g')
       ~ '\m(execute|(query|cursor|table|schema|database)_to_xml\w*|ts_stat|ts_rewrite|xpath_table|crosstab\w*|connectby|pgr_\w+|cron\.\w+|pg_background_launch|graphql\.resolve)\M'
$$;

-- Functions and views that statements of requests use without naming them: in policies, defaults, check constraints,
-- indexes, conditions of triggers, and views. Without EXECUTE or SELECT, these statements fail. What a policy uses must
-- also keep the rights of its owner: with those of the caller, it would be subject to policies, and maybe to this one.
create or replace function warden.needed_objects()
returns table (class oid, object oid, used_by text, is_policy boolean)
language sql stable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on set jit = off as $$
  with recursive uses as (
    select d.refclassid, d.refobjid, pg_catalog.format('policy %I on %s', p.polname, p.polrelid::regclass) as used_by, true as is_policy
    from pg_catalog.pg_policy p
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_policy'::regclass and d.objid = p.oid and d.refobjid <> p.polrelid
    union all
    select d.refclassid, d.refobjid, pg_catalog.format('the default of column %I of %s', a.attname, a.attrelid::regclass), false
    from pg_catalog.pg_attrdef f
    join pg_catalog.pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_attrdef'::regclass and d.objid = f.oid
    union all
    select d.refclassid, d.refobjid, pg_catalog.format('constraint %I', c.conname), false
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_constraint'::regclass and d.objid = c.oid
    where c.contype = 'c'
    union all
    select d.refclassid, d.refobjid, pg_catalog.format('trigger %I on %s', t.tgname, t.tgrelid::regclass), false
    from pg_catalog.pg_trigger t
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_trigger'::regclass and d.objid = t.oid and d.refobjid <> t.tgfoid
    where t.tgqual is not null
    union all
    select d.refclassid, d.refobjid, pg_catalog.format('index %s', i.indexrelid::regclass), false
    from pg_catalog.pg_index i
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = i.indexrelid
    where i.indexprs is not null or i.indpred is not null
    union all
    select d.refclassid, d.refobjid, pg_catalog.format('view %s', w.ev_class::regclass), false
    from pg_catalog.pg_rewrite w
    join pg_catalog.pg_class v on v.oid = w.ev_class and v.relkind = 'v'
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = w.oid
    where w.ev_type = '1' and d.refclassid = 'pg_catalog.pg_proc'::regclass
  ), routines as materialized (
    select p.oid, p.prosecdef, pg_catalog.lower(p.proname) as lower_name,
      pg_catalog.lower(coalesce(p.prosrc, '') || coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), '')) as body
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
    where p.prokind in ('f', 'p')
      and not exists (select from pg_catalog.pg_depend d
                      where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  ), names as materialized (
    select 'pg_catalog.pg_proc'::regclass::oid as class, r.oid, r.lower_name,
      '(^|[^a-z0-9_])' || pg_catalog.regexp_replace(r.lower_name, '([^a-z0-9_ ])', '\\\1', 'g') || '"?\s*\(' as pattern
    from routines r
    union all
    select 'pg_catalog.pg_class'::regclass, c.oid, pg_catalog.lower(c.relname),
      '(^|[^a-z0-9_])' || pg_catalog.regexp_replace(pg_catalog.lower(c.relname), '([^a-z0-9_ ])', '\\\1', 'g') || '($|[^a-z0-9_])'
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
    where c.relkind in ('v', 'm')
  ), needed (class, object, used_by, is_policy) as (
    select u.refclassid, u.refobjid, pg_catalog.min(u.used_by), u.is_policy
    from uses u where u.refclassid in ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_class'::regclass)
    group by u.refclassid, u.refobjid, u.is_policy
    union
    -- What a view or function uses, if it runs with the rights of its caller.
    select x.class, x.object, n.used_by, n.is_policy
    from needed n
    cross join lateral (
      select d.refclassid as class, d.refobjid as object
      from pg_catalog.pg_rewrite w
      join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = w.oid and d.refobjid <> n.object
      where n.class = 'pg_catalog.pg_class'::regclass and w.ev_class = n.object and w.ev_type = '1'
        and d.refclassid in ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_class'::regclass)
      union all
      select m.class, m.oid
      from routines r
      join names m on m.oid <> r.oid and case when pg_catalog.strpos(r.body, m.lower_name) > 0 then r.body ~ m.pattern else false end
      where n.class = 'pg_catalog.pg_proc'::regclass and r.oid = n.object and not r.prosecdef) x
  )
  select n.class, n.object, pg_catalog.min(n.used_by), pg_catalog.bool_or(n.is_policy) from needed n group by n.class, n.object
$$;

-- Roles to which policies apply, except those of PostgreSQL and Warden. A role that may become one that is exempt from
-- row-level security bypasses it anyway.
create or replace function warden.ordinary_roles() returns table (oid oid, name text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select r.oid, r.rolname::text from pg_catalog.pg_roles r
  where not r.rolsuper and not r.rolbypassrls and r.rolname !~ '^(pg_|warden_)'
    and not exists (select from pg_catalog.pg_roles e
                    where (e.rolsuper or e.rolbypassrls) and pg_catalog.pg_has_role(r.oid, e.oid, 'member'))
$$;

reset role;
