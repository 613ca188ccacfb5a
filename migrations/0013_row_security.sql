-- The steps that enforce isolation on a table, as in 0012_org_id.sql: rights and policies.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The rights that a role holds on a whole table by grants to itself, e.g. 'INSERT,SELECT'. 'public' is PUBLIC.
create or replace function warden.granted_rights(relation regclass, role_name text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(string_agg(distinct a.privilege_type, ',' order by a.privilege_type), '')
  from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
  where c.oid = relation
    and a.grantee = case role_name when 'public' then 0 else pg_catalog.to_regrole(role_name)::oid end
$$;

-- Revokes the rights that no policy limits, and returns them as JSON, added to those that were revoked earlier. `kept`
-- are the rights that the role still has.
create or replace function warden.revoke_unlimited_rights(relation regclass, earlier jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  a record;
  revoked jsonb := coalesce(earlier, '[]');
begin
  -- Rights on the whole table come first: to revoke one of them also revokes it on each column.
  for a in
    select u.*, case u.grantee when 0 then 'public' else u.grantee::regrole::text end as role_name,
      coalesce(' (' || pg_catalog.quote_ident(u.column_name) || ')', '') as columns
    from warden.unlimited_rights(relation) u order by u.column_name desc, u.privilege, u.grantee
  loop
    execute pg_catalog.format('revoke %s%s on %s from %s cascade', a.privilege, a.columns, relation, a.role_name);
    revoked := revoked || pg_catalog.jsonb_build_array(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
      'right', a.privilege, 'column', a.column_name, 'role', a.role_name,
      'grantable', case when a.is_grantable then true end)));
  end loop;
  return (select coalesce(pg_catalog.jsonb_agg(
            case when x ? 'kept' then x
                 else x || pg_catalog.jsonb_build_object('kept', warden.granted_rights(relation, x ->> 'role')) end
            order by n), '[]')
          from pg_catalog.jsonb_array_elements(revoked) with ordinality e (x, n));
end
$$;

-- Grants the rights that warden.revoke_unlimited_rights() revoked, to the roles that still exist. A role that has lost
-- other rights since gets none back: the application wants it to have fewer.
create or replace function warden.restore_rights(relation regclass, revoked jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  a record;
begin
  for a in
    select x ->> 'right' as privilege, x ->> 'column' as column_name, x ->> 'role' as role_name,
      coalesce((x ->> 'grantable')::boolean, false) as is_grantable
    from pg_catalog.jsonb_array_elements(revoked) x
    where x ->> 'right' in ('TRUNCATE', 'REFERENCES', 'TRIGGER')
      and (x ->> 'role' = 'public' or pg_catalog.to_regrole(x ->> 'role') is not null)
      and (x ->> 'column' is null or warden.has_column(relation, (x ->> 'column')::name))
      and pg_catalog.string_to_array(coalesce(x ->> 'kept', ''), ',')
          <@ pg_catalog.string_to_array(warden.granted_rights(relation, x ->> 'role'), ',')
  loop
    execute pg_catalog.format('grant %s%s on %s to %s%s', a.privilege,
      coalesce(' (' || pg_catalog.quote_ident(a.column_name) || ')', ''), relation,
      case a.role_name when 'public' then 'public' else pg_catalog.to_regrole(a.role_name)::text end,
      case when a.is_grantable then ' with grant option' else '' end);
  end loop;
end
$$;

-- The policies of a table that are not Warden's, as MD5 sums of their names. In the record no name can then be mistaken
-- for a part of its form.
create or replace function warden.application_policies(relation regclass) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select pg_catalog.md5(p.polname) from pg_catalog.pg_policy p
               where p.polrelid = relation and not warden.is_own_policy(p.oid) order by 1)
$$;

-- Those that had no effect when the table was protected, because row-level security was off; null if that was not
-- recorded.
create or replace function warden.policies_without_effect(relation regclass) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.string_to_array(
    (pg_catalog.regexp_match(pg_catalog.obj_description(p.oid, 'pg_policy'), 'without effect: ([0-9a-f,]*)[.]'))[1], ',')
  from pg_catalog.pg_policy p where p.polrelid = relation and p.polname = 'warden_org'
$$;

-- Keeps the application's own column with the organisation equal to org_id, on an enforced table or one that is about
-- to be. Each partition has the check, and the whole has none: otherwise tables without it could not be attached.
create or replace function warden.check_organization_column(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  r warden.tenant_tables := warden.registered(relation);
begin
  if r.scope = 'org' and not r.is_read_only and (r.parent_schema, r.parent_table) = ('public', 'organizations')
     and r.parent_key = 'id' and r.parent_column <> 'org_id' and warden.has_column(relation, r.parent_column)
     and exists (select from pg_catalog.pg_class c where c.oid = relation and c.relkind = 'r')
     and not exists (select from pg_catalog.pg_constraint k
                     where k.conrelid = relation and k.conname = 'warden_org_id_parent') then
    execute pg_catalog.format(
      'alter table %s add constraint warden_org_id_parent check (org_id = %I) no inherit not valid', relation, r.parent_column);
  end if;
end
$$;

-- Enables and forces row-level security on a table, creates its policies, and revokes the rights that no policy
-- limits. The former state is recorded in the comment of the policy warden_org, so it disappears with that policy.
create or replace function warden.protect(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  r warden.tenant_tables := warden.registered(relation);
  former record;
  state record;
  revoked jsonb;
  note text;
  former_note text;
  without_effect constant text[] :=
    coalesce(warden.policies_without_effect(relation), warden.application_policies(relation));
  commands constant jsonb := '{"r": "select", "a": "insert", "w": "update", "d": "delete", "*": "all"}';
  p record;
begin
  for p in select q.* from warden.access_questions(relation) q loop
    raise exception '% %', relation, p.problem using hint = p.remedy;
  end loop;
  select f.* into former from warden.former_row_security(relation) f;
  select pg_catalog.obj_description(pol.oid, 'pg_policy') into note
  from pg_catalog.pg_policy pol where pol.polrelid = relation and pol.polname = 'warden_org';
  for p in
    select coalesce(t.name, pol.polname) as policy_name, t.*, pol.oid as present
    from warden.tenant_policies(relation, r.scope, r.user_column, r.is_read_only) t
    full join (select x.oid, x.polname from pg_catalog.pg_policy x
               where x.polrelid = relation and warden.is_own_policy(x.oid)) pol on pol.polname = t.name
    where not coalesce(warden.is_policy(pol.oid, t.command, t.is_permissive, t.roles, t.using_condition,
                                        t.checking_condition), false)
  loop
    if p.present is not null then
      execute pg_catalog.format('drop policy %I on %s', p.policy_name, relation);
    end if;
    continue when p.name is null;
    execute pg_catalog.format('create policy %I on %s as %s for %s to %s%s%s', p.name, relation,
      case when p.is_permissive then 'permissive' else 'restrictive' end, commands ->> p.command::text,
      (select pg_catalog.string_agg(case u.role when 0 then 'public' else u.role::regrole::text end, ', ')
       from unnest(p.roles) u (role)),
      ' using (' || p.using_condition || ')', ' with check (' || p.checking_condition || ')');
    execute pg_catalog.format('comment on policy %I on %s is %L', p.name, relation, 'By warden.protect().');
  end loop;
  revoked := warden.revoke_unlimited_rights(
    relation, (pg_catalog.regexp_match(note, 'Revoked rights: (\[.*\])'))[1]::jsonb);
  former_note := pg_catalog.format('By warden.protect(). Before it row-level security was %s, %s.%s%s',
    case when former.was_enabled then 'on' else 'off' end, case when former.was_forced then 'forced' else 'not forced' end,
    case when former.was_enabled then ''
         else ' Policies without effect: ' || pg_catalog.array_to_string(without_effect, ',') || '.' end,
    case when revoked <> '[]' then ' Revoked rights: ' || revoked::text else '' end);
  if not exists (select from pg_catalog.pg_policy pol where pol.polrelid = relation and pol.polname = 'warden_org'
                   and pg_catalog.obj_description(pol.oid, 'pg_policy') = former_note) then
    execute pg_catalog.format('comment on policy warden_org on %s is %L', relation, former_note);
  end if;
  select c.relrowsecurity as is_enabled, c.relforcerowsecurity as is_forced into state
  from pg_catalog.pg_class c where c.oid = relation;
  if not state.is_enabled then
    execute pg_catalog.format('alter table %s enable row level security', relation);
  end if;
  if not state.is_forced then
    execute pg_catalog.format('alter table %s force row level security', relation);
  end if;
  perform warden.check_organization_column(relation);
  perform warden.require_protected_members(relation);
end
$$;

-- Drops Warden's policies, and restores the former state of row-level security and the revoked rights, except where the
-- application has restricted access since.
create or replace function warden.unprotect(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  former record;
  note text := (select pg_catalog.obj_description(pol.oid, 'pg_policy') from pg_catalog.pg_policy pol
                where pol.polrelid = relation and pol.polname = 'warden_org');
  without_effect constant text[] := warden.policies_without_effect(relation);
  dropped int := 0;
  p record;
begin
  perform warden.drop_trigger(relation, 'warden_require_protection');
  if exists (select from pg_catalog.pg_constraint k where k.conrelid = relation and k.conname = 'warden_org_id_parent') then
    execute pg_catalog.format('alter table %s drop constraint warden_org_id_parent', relation);
  end if;
  select f.* into former from warden.former_row_security(relation) f;
  for p in
    select pol.polname from pg_catalog.pg_policy pol where pol.polrelid = relation and warden.is_own_policy(pol.oid)
  loop
    execute pg_catalog.format('drop policy %I on %s', p.polname, relation);
    dropped := dropped + 1;
  end loop;
  -- The table has none of Warden's policies, so its state is the application's.
  if dropped = 0 then
    return;
  end if;
  perform warden.restore_rights(
    relation, coalesce((pg_catalog.regexp_match(note, 'Revoked rights: (\[.*\])'))[1]::jsonb, '[]'));
  -- If warden_org, with the record, was dropped: leave it enabled, but not forced.
  if not former.was_forced or note is null then
    execute pg_catalog.format('alter table %s no force row level security', relation);
  end if;
  -- Policies that came later are meant to have an effect. They get it now, because without them requests would see
  -- rows of every organisation that the application wants to hide.
  if not former.was_enabled and warden.application_policies(relation) <@ coalesce(without_effect, '{}') then
    execute pg_catalog.format('alter table %s disable row level security', relation);
  end if;
end
$$;

-- Lets the application's policies decide which rows of the organisation a role sees, if so far the grants alone do:
-- enables row-level security for good, also after `warden migrate --relax`.
create or replace function warden.use_policies(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  note text := (select pg_catalog.obj_description(pol.oid, 'pg_policy') from pg_catalog.pg_policy pol
                where pol.polrelid = relation and pol.polname = 'warden_org' and warden.is_own_policy(pol.oid));
begin
  if warden.access_mode(relation) <> 'grants' then
    return;
  end if;
  if exists (select from pg_catalog.pg_policy pol
             where pol.polrelid = relation and pol.polname = 'warden_org' and warden.is_own_policy(pol.oid)) then
    execute pg_catalog.format('comment on policy warden_org on %s is %L', relation,
      coalesce(pg_catalog.replace(note, 'security was off', 'security was on'),
               'By warden.protect(). Before it row-level security was on, not forced.'));
    perform warden.protect(relation);
  else
    execute pg_catalog.format('alter table %s enable row level security', relation);
  end if;
end
$$;

-- Roles that were granted rights on a relation or its columns, except its owner and roles that are exempt from
-- row-level security, as REVOKE needs their names; and whether one of them may have granted them to others.
create or replace function warden.grantees(relation regclass) returns table (grantee text, is_passed_on boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when a.grantee = 0 then 'public' else pg_catalog.quote_ident(r.rolname) end,
    pg_catalog.bool_or(a.grantor <> c.relowner or a.is_grantable)
  from pg_catalog.pg_class c
  cross join lateral (
    select x.grantee, x.grantor, x.is_grantable
    from pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) x
    union all
    select x.grantee, x.grantor, x.is_grantable
    from pg_catalog.pg_attribute k cross join lateral pg_catalog.aclexplode(k.attacl) x
    where k.attrelid = c.oid and not k.attisdropped) a
  left join pg_catalog.pg_roles r on r.oid = a.grantee
  where c.oid = relation and a.grantee <> c.relowner and not coalesce(r.rolsuper or r.rolbypassrls, false)
  group by 1
$$;

-- Views, functions and rules through which ordinary roles reach rows of every organisation once these tables are
-- enforced, because they read or write the tables as a role that is exempt from row-level security. A function is
-- recognised by the name of a table, of a view of one, or of another such function in its body, and by
-- warden.builds_statements(), because it may run any statement. `object` is the name for warden.accept_finding(), and
-- `revoke` takes the rights away from all these roles; it is null if statements of requests need them. Also functions
-- and roles that turn row-level security off: their statements on the tables will fail.
-- squawk-ignore ban-drop-function
drop function if exists warden.bypasses(regclass[]);
create or replace function warden.bypasses(relations regclass[])
returns table (rule text, object text, kind text, owner text, readers text[], tables text, revoke text, used_by text,
               is_policy boolean)
language sql stable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on set jit = off as $$
  with recursive tables as (
    select m.oid, c.relname, whole.name
    from unnest(relations) t (oid)
    cross join lateral (select pg_catalog.format('%I.%I', n.nspname, c.relname) as name from pg_catalog.pg_class c
                        join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = t.oid) whole
    cross join lateral warden.tree(t.oid) m (oid)
    join pg_catalog.pg_class c on c.oid = m.oid
  ), exempt as (
    select r.oid from pg_catalog.pg_roles r where r.rolsuper or r.rolbypassrls
  ), ordinary as (
    select o.oid, o.name as rolname from warden.ordinary_roles() o
  ), needed as materialized (
    select n.class, n.object, n.used_by, n.is_policy from warden.needed_objects() n
  ), reads as (
    select distinct w.ev_class as view, d.refobjid as relation
    from pg_catalog.pg_rewrite w
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_catalog.pg_class'::regclass
    where d.refobjid <> w.ev_class
  ), views as (
    select c.oid, c.relkind, c.relowner, pg_catalog.format('%I.%I', n.nspname, c.relname) as name,
      exists (select from pg_catalog.pg_options_to_table(c.reloptions) o
              where o.option_name = 'security_invoker' and o.option_value in ('true', 'on', '1', 'yes')) as is_invoker
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('v', 'm') and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
  ), above (relation, target) as (
    select t.oid, t.name from tables t
    union
    select v.oid, a.target from above a join reads r on r.relation = a.relation join views v on v.oid = r.view and v.relkind = 'v'
  ), leaking (view, source, target) as (
    -- PostgreSQL checks a table as the owner of the view that names it. A materialized view is a copy, also through
    -- views.
    select v.oid, v.oid, t.name
    from views v join reads r on r.view = v.oid join tables t on t.oid = r.relation
    where v.relkind = 'v' and not v.is_invoker and v.relowner in (select e.oid from exempt e)
    union
    select v.oid, v.oid, a.target from views v join reads r on r.view = v.oid join above a on a.relation = r.relation
    where v.relkind = 'm'
    union
    -- The reader of a view with security_invoker needs rights on the view below.
    select v.oid, l.source, l.target from leaking l join reads r on r.relation = l.view join views v on v.oid = r.view and not v.is_invoker
  ), open_views as (
    -- Rights to write are enough: an exempt owner's view changes rows of every organisation.
    select v.oid as view, o.oid as role, o.rolname as reader, pg_catalog.pg_has_role(o.oid, v.relowner, 'usage') as has_owner
    from (select distinct l.view from leaking l) l join views v on v.oid = l.view
    join ordinary o on o.oid <> v.relowner and (
      pg_catalog.has_any_column_privilege(o.oid, v.oid, 'select')
      or v.relkind = 'v' and pg_catalog.pg_relation_is_updatable(v.oid, true) & 28 <> 0
        and (pg_catalog.has_any_column_privilege(o.oid, v.oid, 'insert, update') or pg_catalog.has_table_privilege(o.oid, v.oid, 'delete')))
  ), readable as (
    select s.name, s.relkind, s.relowner::regrole::text as owner, l.target, pg_catalog.array_agg(distinct o.reader order by o.reader) as readers,
      pg_catalog.array_agg(distinct o.view::oid) as views, pg_catalog.bool_or(o.has_owner) as has_owner, pg_catalog.min(n.used_by) as used_by,
      coalesce(pg_catalog.bool_or(n.is_policy), false) as is_policy
    from leaking l join views s on s.oid = l.source join open_views o on o.view = l.view
    left join needed n on n.class = 'pg_catalog.pg_class'::regclass and n.object = o.view
    group by s.oid, s.name, s.relkind, s.relowner, l.target
  ), passing (relation, target) as (
    -- Through a view with security_invoker, a function reads the table as the function's owner.
    select t.oid, t.name from tables t
    union
    select v.oid, p.target from passing p join reads r on r.relation = p.relation join views v on v.oid = r.view and v.is_invoker
  ), routines as materialized (
    select p.oid, p.oid::regprocedure::text as name, pg_catalog.lower(p.proname) as lower_name, p.proowner, l.lanname, p.prosecdef,
      p.prorettype in ('trigger'::regtype, 'event_trigger'::regtype) as is_trigger,
      p.prosecdef and p.proowner in (select e.oid from exempt e) as is_exempt,
      exists (select from unnest(p.proconfig) x
              where x ~* '^row_security=(off?|f|fa|fal|fals|false|no?|0)$') as is_unfiltered,
      pg_catalog.lower(coalesce(p.prosrc, '') || coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), '')) as body
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
    join pg_catalog.pg_language l on l.oid = p.prolang
    where p.prokind in ('f', 'p')
      and case when n.nspname = 'public' and p.proname in ('auth_org_id', 'auth_user_id', 'prevent_org_id_change', 'custom_access_token_hook')
               then not warden.is_own(p.oid) else true end
      and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  ), named (lower_name, pattern, target) as (
    select pg_catalog.lower(c.relname), '(^|[^a-z0-9_])' || pg_catalog.regexp_replace(pg_catalog.lower(c.relname), '([^a-z0-9_ ])', '\\\1', 'g')
      || '($|[^a-z0-9_])', p.target
    from (select p.relation, p.target from passing p union select l.view, l.target from leaking l) p
    join pg_catalog.pg_class c on c.oid = p.relation
    union
    -- A function that calls such a function.
    select r.lower_name, '(^|[^a-z0-9_])' || pg_catalog.regexp_replace(r.lower_name, '([^a-z0-9_ ])', '\\\1', 'g') || '"?\s*\(', n.target
    from named n join routines r on not r.is_trigger
      and case when pg_catalog.strpos(r.body, n.lower_name) > 0 then r.body ~ n.pattern else false end
  ), building (oid) as (
    select r.oid from routines r where warden.builds_statements(r.lanname, r.body)
    union
    -- A function that calls such a function, which then runs with the same rights.
    select r.oid
    from building b join routines c on c.oid = b.oid and not c.is_trigger and (c.is_exempt or not c.prosecdef)
    join routines r on case when pg_catalog.strpos(r.body, c.lower_name) > 0
      then r.body ~ ('(^|[^a-z0-9_])' || pg_catalog.regexp_replace(c.lower_name, '([^a-z0-9_ ])', '\\\1', 'g') || '"?\s*\(') else false end
  ), reaching as (
    select r.oid, n.target
    from routines r join named n on case when pg_catalog.strpos(r.body, n.lower_name) > 0 then r.body ~ n.pattern else false end
    where r.is_exempt or r.is_unfiltered
    union
    select r.oid, null from routines r join building b on b.oid = r.oid where r.is_exempt or r.is_unfiltered
  ), functions as (
    select r.oid, r.name, r.is_trigger, r.proowner, f.target from reaching f join routines r on r.oid = f.oid where r.is_exempt
  ), callable as (
    select f.oid, f.name, f.proowner, f.target,
      array(select o.rolname from ordinary o
            where o.oid <> f.proowner and pg_catalog.has_function_privilege(o.oid, f.oid, 'execute') order by 1) as readers
    from functions f where not f.is_trigger
  ), unregistered as (
    -- Tables and views that no policy of Warden limits.
    select c.oid, c.relkind, c.relowner, pg_catalog.format('%I.%I', n.nspname, c.relname) as name
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v') and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
      and c.oid not in (select t.oid from tables t)
      and not exists (select from warden.tenant_tables t where t.schema_name = n.nspname and t.table_name = c.relname)
  ), acting as (
    -- What a write runs: triggers, and rules, whose actions run with the rights of the table's owner. A policy limits
    -- the row that a request writes to a registered table, but not the rows that a trigger then reads or writes.
    select c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) as name, 'definer-function' as rule, 't' as kind,
      f.name as object, f.proowner as owner, c.relowner, f.target
    from functions f
    join pg_catalog.pg_trigger g on g.tgfoid = f.oid and not g.tgisinternal and g.tgenabled <> 'D' and g.tgparentid = 0
    join pg_catalog.pg_class c on c.oid = g.tgrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
    where f.is_trigger
    union
    select u.oid, u.name, 'rewrite-rule', 'r', u.name || '.' || w.rulename, u.relowner, u.relowner, a.name
    from unregistered u
    join pg_catalog.pg_rewrite w on w.ev_class = u.oid and w.ev_type <> '1'
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_catalog.pg_class'::regclass
    join tables a on a.oid = d.refobjid
    where u.relkind <> 'v' and u.relowner in (select e.oid from exempt e)
  ), writable as (
    select a.rule, a.kind, a.object, a.owner::regrole::text as owner, a.target, a.oid, a.name,
      array(select o.rolname from ordinary o
            where o.oid <> a.owner and not pg_catalog.pg_has_role(o.oid, a.relowner, 'usage')
              and (pg_catalog.has_any_column_privilege(o.oid, a.oid, 'insert, update')
                   or pg_catalog.has_table_privilege(o.oid, a.oid, 'delete')) order by 1) as readers
    from acting a
  )
  select 'bypassing-view', r.name, r.relkind::text, r.owner, r.readers, pg_catalog.string_agg(distinct r.target, ', '), (
      select case when pg_catalog.min(r.used_by) is null and not pg_catalog.bool_or(r.has_owner) then 'revoke all on ' || pg_catalog.string_agg(distinct v.name, ', ') || ' from ' || pg_catalog.string_agg(distinct a.grantee, ', ')
        || case when pg_catalog.bool_or(a.is_passed_on) then ' cascade;' else ';' end end
      from unnest(r.views) x (oid) join views v on v.oid = x.oid cross join lateral warden.grantees(v.oid) a),
    pg_catalog.min(r.used_by), pg_catalog.bool_or(r.is_policy)
  from readable r group by r.name, r.relkind, r.owner, r.readers, r.views
  union all
  select 'definer-function', c.name, 'f', c.proowner::regrole::text, c.readers, pg_catalog.string_agg(distinct c.target, ', '), (
      select case when pg_catalog.min(n.used_by) is null then pg_catalog.format('revoke execute on routine %s from %s%s;', c.name,
        pg_catalog.string_agg(distinct case when a.grantee = 0 then 'public' else a.grantee::regrole::text end, ', '),
        case when pg_catalog.bool_or(a.grantor <> c.proowner or a.is_grantable) then ' cascade' end) end
      from pg_catalog.pg_proc p
      cross join lateral pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
      where p.oid = c.oid and a.grantee <> c.proowner and a.grantee not in (select e.oid from exempt e)),
    pg_catalog.min(n.used_by), coalesce(pg_catalog.bool_or(n.is_policy), false)
  from callable c
  left join needed n on n.class = 'pg_catalog.pg_proc'::regclass and n.object = c.oid
  where c.readers <> '{}' group by c.oid, c.name, c.proowner, c.readers
  union all
  select w.rule, w.object, w.kind, w.owner, pg_catalog.array_agg(distinct r.role order by r.role), pg_catalog.string_agg(distinct w.target, ', '),
    pg_catalog.string_agg(distinct (
      select pg_catalog.format('revoke insert, update, delete on %s from %s%s;', w.name, pg_catalog.string_agg(distinct a.grantee, ', '),
                               case when pg_catalog.bool_or(a.is_passed_on) then ' cascade' end)
      from warden.grantees(w.oid) a), ' '), null, false
  from writable w cross join unnest(w.readers) r (role) group by w.rule, w.object, w.kind, w.owner
  union all
  -- With row_security = off, a statement that policies would filter fails.
  select 'row-security-off', r.name, case when r.prosecdef then 'o' else 'i' end, r.proowner::regrole::text, array(
      select o.rolname from ordinary o where r.is_trigger or pg_catalog.has_function_privilege(o.oid, r.oid, 'execute') order by 1),
    pg_catalog.string_agg(distinct f.target, ', '), pg_catalog.format('alter routine %s reset row_security;', r.name), null, false
  from reaching f join routines r on r.oid = f.oid
  where r.is_unfiltered and not r.is_exempt
  group by r.oid, r.name, r.prosecdef, r.proowner, r.is_trigger
  order by 1, 2
$$;

reset role;
