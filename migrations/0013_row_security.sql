-- The steps that enforce isolation on a table, as in 0012_org_id.sql: rights and policies.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Revokes the rights that no policy limits, and returns them as JSON, added to those that were revoked earlier.
create or replace function warden.revoke_unlimited_rights(relation regclass, earlier jsonb) returns jsonb
language plpgsql set search_path = '' as $$
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
  return revoked;
end
$$;

-- Grants the rights that warden.revoke_unlimited_rights() revoked, to the roles that still exist.
create or replace function warden.restore_rights(relation regclass, revoked jsonb) returns void
language plpgsql set search_path = '' as $$
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
  loop
    execute pg_catalog.format('grant %s%s on %s to %s%s', a.privilege,
      coalesce(' (' || pg_catalog.quote_ident(a.column_name) || ')', ''), relation,
      case a.role_name when 'public' then 'public' else pg_catalog.to_regrole(a.role_name)::text end,
      case when a.is_grantable then ' with grant option' else '' end);
  end loop;
end
$$;

-- Enables and forces row-level security on a table, creates its policies, and revokes the rights that no policy limits.
-- The former state is recorded in the comment of the policy warden_org, so it disappears with that policy.
create or replace function warden.protect(relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  r warden.tenant_tables := warden.registered(relation);
  former record;
  state record;
  revoked jsonb;
  note text;
  former_note text;
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
  former_note := pg_catalog.format('By warden.protect(). Before it row-level security was %s, %s.%s',
    case when former.was_enabled then 'on' else 'off' end, case when former.was_forced then 'forced' else 'not forced' end,
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
end
$$;

-- Drops Warden's policies, and restores the former state of row-level security and the revoked rights.
create or replace function warden.unprotect(relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  former record;
  note text := (select pg_catalog.obj_description(pol.oid, 'pg_policy') from pg_catalog.pg_policy pol
                where pol.polrelid = relation and pol.polname = 'warden_org');
  dropped int := 0;
  p record;
begin
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
  if not former.was_enabled then
    execute pg_catalog.format('alter table %s disable row level security', relation);
  end if;
end
$$;

-- Lets the application's policies decide which rows of the organisation a role sees, if so far the grants alone do:
-- enables row-level security for good, also after `warden migrate --relax`.
create or replace function warden.use_policies(relation regclass) returns void
language plpgsql set search_path = '' as $$
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

-- Views and functions through which ordinary roles reach rows of every organisation once these tables are enforced,
-- because they read the tables as a role that is exempt from row-level security. A function is recognised by a table's
-- name in its body. `object` is the name for warden.accept_finding().
create or replace function warden.bypasses(relations regclass[])
returns table (rule text, object text, kind text, owner text, readers text[], tables text)
language sql stable set search_path = '' set jit = off as $$
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
    -- A role that may become an exempt one bypasses row-level security anyway.
    select r.oid, r.rolname from pg_catalog.pg_roles r
    where not r.rolsuper and not r.rolbypassrls and r.rolname !~ '^(pg_|warden_)'
      and not exists (select from exempt e where pg_catalog.pg_has_role(r.oid, e.oid, 'member'))
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
  ), leaking (view, source, target) as (
    -- PostgreSQL checks a table as the owner of the view that names it. A materialized view is a copy.
    select v.oid, v.oid, t.name
    from views v join reads r on r.view = v.oid join tables t on t.oid = r.relation
    where v.relkind = 'm' or not v.is_invoker and v.relowner in (select e.oid from exempt e)
    union
    select v.oid, l.source, l.target from leaking l join reads r on r.relation = l.view join views v on v.oid = r.view
  ), readable as (
    select s.name, s.relkind, s.relowner::regrole::text as owner, l.target, pg_catalog.array_agg(distinct o.rolname::text order by o.rolname::text) as readers
    from leaking l
    join views s on s.oid = l.source
    join views v on v.oid = l.view
    join ordinary o on o.oid <> v.relowner and pg_catalog.has_any_column_privilege(o.oid, v.oid, 'select')
    group by s.oid, s.name, s.relkind, s.relowner, l.target
  ), passing (relation, target) as (
    -- Through a view with security_invoker, a function reads the table as the function's owner.
    select t.oid, t.name from tables t
    union
    select v.oid, p.target from passing p join reads r on r.relation = p.relation join views v on v.oid = r.view and v.is_invoker
  ), named as (
    select c.relname, pg_catalog.lower(c.relname) as lower_name, p.target
    from (select p.relation, p.target from passing p union select l.view, l.target from leaking l) p
    join pg_catalog.pg_class c on c.oid = p.relation
  ), functions as (
    select p.oid, p.oid::regprocedure::text as name, p.proowner::regrole::text as owner, t.target,
      array(select o.rolname::text from ordinary o
            where o.oid <> p.proowner and pg_catalog.has_function_privilege(o.oid, p.oid, 'execute') order by 1) as readers
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
    cross join lateral (
      select pg_catalog.lower(coalesce(p.prosrc, '') || coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), '')) as text) body
    join named t on case when pg_catalog.strpos(body.text, t.lower_name) > 0 then
        body.text ~ ('(^|[^a-z0-9_])' || pg_catalog.regexp_replace(t.lower_name, '([^a-z0-9_ ])', '\\\1', 'g') || '($|[^a-z0-9_])')
      else false end
    where p.prosecdef and p.proowner in (select e.oid from exempt e)
      and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
      and not (n.nspname = 'public' and warden.is_own(p.oid))
      and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  )
  select 'bypassing-view', r.name, r.relkind::text, r.owner, r.readers, pg_catalog.string_agg(r.target, ', ' order by r.target)
  from readable r group by r.name, r.relkind, r.owner, r.readers
  union all
  select 'definer-function', f.name, 'f', f.owner, f.readers, pg_catalog.string_agg(distinct f.target, ', ')
  from functions f where f.readers <> '{}' group by f.name, f.owner, f.readers
  order by 1, 2
$$;

reset role;
