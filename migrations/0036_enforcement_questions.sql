-- Questions that a person answers before tables are isolated, beside those of warden.bypasses(): functions through
-- which a role may act as another organisation, and policies whose conditions read tables that will be isolated.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The text of a function without comments. A comment with an apostrophe stays: it may be a part of a literal.
create or replace function warden.without_comments(body text) returns text
language sql immutable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
  select pg_catalog.regexp_replace(pg_catalog.regexp_replace(body, '/\*([^*'']|\*+[^*/''])*\*+/', ' ', 'g'),
                                   '--[^\n'']*(?=\n|$)', ' ', 'g')
$$;

-- Whether a function sets the claims, the role or the user of its transaction, by a statement of its text or by a
-- setting of its own. The name of a setting that is no literal may be any of them. Empty claims, and the roles of
-- requests, give no rights. `body` is in lower case.
create or replace function warden.sets_claims(body text, settings text[]) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
  select pg_catalog.regexp_replace(warden.without_comments(body),
           '\mset_config"?\s*\(\s*''(request\.jwt[^'']*''(::text)?\s*,\s*(''''|null)|role''(::text)?\s*,\s*''(anon|authenticated|none)'')(::text)?\s*,', ' ', 'g')
       ~ ('\mset_config"?\s*\(\s*(''(request\.jwt|role''|session_authorization'')|[^''\s]|''[^'']*''(::[a-z]+)?\s*\|\|)'
          || '|(^|[;''$]|\m(begin|then|else|loop)\M)\s*set\s+((local|session)\s+)?'
          || '("?request\.jwt|%|role(?=[\s=])(?!\s*(to\s|=)?\s*["'']?(anon|authenticated|none)\M)|session\s+authorization)'
          || '|\mupdate\s+(only\s+)?(pg_catalog\.)?"?pg_settings\M')
    or exists (select from unnest(settings) s where s ~* '^(request\.jwt|role=(?!(anon|authenticated)$)|session_authorization=)')
$$;

-- Whether a function runs a statement into which a caller may be able to write another one: EXECUTE of anything but a
-- literal, or of format() with a literal that has no %s; a query that is no literal, as an argument of a function that
-- runs it; or a language that runs statements in ways of its own. `body` is in lower case.
create or replace function warden.runs_any_statement(language name, body text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
  select language not in ('sql', 'plpgsql', 'internal')
    or pg_catalog.regexp_replace(warden.without_comments(body),
         '\mexecute\s+(function|procedure|on)\M'
         || '|\mexecute\s+(''([^'']|'''')*''|\$\w*\$[^$]*\$\w*\$)\s*(;|\m(into|using|loop)\M)'
         || '|\mexecute\s+(pg_catalog\.)?format\s*\(\s*(''([^''%]|''''|%%|%(\d+\$)?[il])*''|\$\w*\$([^$%]|%%|%(\d+\$)?[il])*\$\w*\$)'
         -- Its arguments, with parentheses, and no text that is appended to its result.
         || '\s*(,([^();]|\(([^();]|\(([^();]|\([^();]*\))*\))*\))*)?\)(?!\s*\|\|)',
         ' ', 'g')
       ~ '\mexecute\M|\m(query_to_xml\w*|ts_stat|crosstab\w*|connectby|pg_background_launch)"?\s*\(\s*[^''\s]'
$$;

-- Functions through which an ordinary role may act as another organisation, because they set the claims or the role of
-- the transaction ('s', or 'g' if a trigger calls them), or run any statement ('b'). A function that calls one counts
-- too. `revoke` takes the rights away from all these roles; it is null if statements of requests need them.
-- (warden.bypasses() lists the functions that run any statement as an exempt owner.)
create or replace function warden.claim_setters()
returns table (object text, kind text, owner text, readers text[], revoke text, used_by text)
language sql stable set search_path = pg_catalog, pg_temp set jit = off set standard_conforming_strings = on as $$
  with recursive routines as materialized (
    select p.oid, p.pronamespace, p.proowner, p.prosecdef, p.proconfig, p.proacl, l.lanname, pg_catalog.lower(p.proname) as lower_name,
      p.prorettype = 'trigger'::regtype as is_trigger, p.prosecdef and (o.rolsuper or o.rolbypassrls) as is_exempt,
      pg_catalog.lower(coalesce(p.prosrc, '') || coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), '')) as body
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
    join pg_catalog.pg_language l on l.oid = p.prolang
    join pg_catalog.pg_roles o on o.oid = p.proowner and o.rolname !~ '^supabase_'
    where p.prokind in ('f', 'p') and p.prorettype <> 'event_trigger'::regtype
      and case when n.nspname = 'public' and p.proname in ('auth_org_id', 'auth_user_id', 'prevent_org_id_change', 'custom_access_token_hook')
               then not warden.is_own(p.oid) else true end
      -- Functions of extensions, and those that PostgreSQL creates for a range type.
      and not exists (select from pg_catalog.pg_depend d
                      where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype in ('e', 'i'))
  ), found (oid, kind, called) as (
    select r.oid, case when warden.sets_claims(r.body, r.proconfig) then 's' else 'b' end, null::oid
    from routines r
    where warden.sets_claims(r.body, r.proconfig)
      or not r.is_exempt and not r.is_trigger and warden.runs_any_statement(r.lanname, r.body)
    union
    select r.oid, f.kind, c.oid
    from found f join routines c on c.oid = f.oid and not c.is_trigger
    join routines r on r.oid <> c.oid and not (f.kind = 'b' and (r.is_exempt or r.is_trigger))
      and case when pg_catalog.strpos(r.body, c.lower_name) > 0
        then r.body ~ ('(^|[^a-z0-9_])' || pg_catalog.regexp_replace(c.lower_name, '([^a-z0-9_ ])', '\\\1', 'g') || '"?\s*\(') else false end
  ), callable as (
    select r.oid, pg_catalog.bool_or(f.kind = 's') as sets, r.is_trigger, r.proowner, o.name,
      pg_catalog.pg_has_role(o.oid, r.proowner, 'usage') as has_owner
    from found f
    join routines r on r.oid = f.oid
    join warden.ordinary_roles() o on o.oid <> r.proowner
    where case when r.is_trigger then exists (
        select from pg_catalog.pg_trigger g
        where g.tgfoid = r.oid and not g.tgisinternal and g.tgenabled <> 'D'
          and (pg_catalog.has_any_column_privilege(o.oid, g.tgrelid, 'insert, update') or pg_catalog.has_table_privilege(o.oid, g.tgrelid, 'delete')))
      else pg_catalog.has_schema_privilege(o.oid, r.pronamespace, 'usage') and pg_catalog.has_function_privilege(o.oid, r.oid, 'execute')
        and (r.prosecdef or f.called is null or pg_catalog.has_function_privilege(o.oid, f.called, 'execute')) end
    group by r.oid, r.is_trigger, r.proowner, o.oid, o.name
  ), needed as materialized (
    select n.object, n.used_by from warden.needed_objects() n where n.class = 'pg_catalog.pg_proc'::regclass
  )
  select c.oid::regprocedure::text, case when c.is_trigger then 'g' when pg_catalog.bool_or(c.sets) then 's' else 'b' end,
    c.proowner::regrole::text, pg_catalog.array_agg(c.name order by c.name),
    -- Nothing takes the right away from a member of the owner.
    case when not c.is_trigger and n.used_by is null and not pg_catalog.bool_or(c.has_owner) then (
      select case when pg_catalog.count(*) > 0 then pg_catalog.format('revoke execute on routine %s from %s%s;', c.oid::regprocedure,
        pg_catalog.string_agg(distinct case when a.grantee = 0 then 'public' else a.grantee::regrole::text end, ', '),
        case when pg_catalog.bool_or(a.grantor <> c.proowner or a.is_grantable) then ' cascade' end) end
      from routines r cross join lateral pg_catalog.aclexplode(coalesce(r.proacl, pg_catalog.acldefault('f', r.proowner))) a
      left join pg_catalog.pg_roles g on g.oid = a.grantee
      where r.oid = c.oid and a.grantee <> c.proowner and not coalesce(g.rolsuper or g.rolbypassrls, false)) end,
    n.used_by
  from callable c left join needed n on n.object = c.oid
  group by c.oid, c.is_trigger, c.proowner, n.used_by
  order by 1
$$;

-- Policies of the application whose conditions read these tables, which are not isolated yet, and how. From then on
-- such a condition sees rows of the organisation only: EXISTS holds for fewer rows, and NOT EXISTS for more. It
-- reads a table itself, through views, and through functions that name it; what an exempt owner reads stays as it is. A
-- function that runs statements that it builds may read any table. A subquery on the policy's own table fails in
-- PostgreSQL, so it is no question; neither are policies of tables whose row-level security is off.
create or replace function warden.policy_conditions(relations regclass[])
returns table (object text, reads text)
language sql stable set search_path = pg_catalog, pg_temp set jit = off set standard_conforming_strings = on as $$
  with recursive targets as materialized (
    select m.oid, t.oid::regclass::text as name
    from unnest(relations) t (oid) cross join lateral warden.tree(t.oid) m (oid)
  ), policies as materialized (
    select p.oid, p.polrelid, pg_catalog.format('%I.%I.%s', n.nspname, c.relname, p.polname) as name
    from pg_catalog.pg_policy p
    join pg_catalog.pg_class c on c.oid = p.polrelid and c.relrowsecurity
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname <> 'warden'
    where not warden.is_own_policy(p.oid)
  ), routines as materialized (
    select p.oid, p.oid::regprocedure::text as signature, l.lanname,
      pg_catalog.lower(coalesce(p.prosrc, '') || coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), '')) as body
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
    join pg_catalog.pg_language l on l.oid = p.prolang
    join pg_catalog.pg_roles o on o.oid = p.proowner
    where p.prokind = 'f' and not (p.prosecdef and (o.rolsuper or o.rolbypassrls))
      and not exists (select from pg_catalog.pg_depend d
                      where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  ), views as materialized (
    select v.oid, v.oid::regclass::text as name
    from pg_catalog.pg_class v
    join pg_catalog.pg_namespace n on n.oid = v.relnamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
    join pg_catalog.pg_roles o on o.oid = v.relowner
    where v.relkind = 'v' and (not (o.rolsuper or o.rolbypassrls) or exists (
      select from pg_catalog.pg_options_to_table(v.reloptions) x
      where x.option_name = 'security_invoker' and x.option_value in ('true', 'on', '1', 'yes')))
  ), names as materialized (
    select 'pg_catalog.pg_proc'::regclass::oid as class, p.oid, pg_catalog.lower(p.proname) as lower_name, '"?\s*\(' as ending
    from routines r join pg_catalog.pg_proc p on p.oid = r.oid
    union all
    select 'pg_catalog.pg_class'::regclass, c.oid, pg_catalog.lower(c.relname), '($|[^a-z0-9_])'
    from pg_catalog.pg_class c where c.oid in (select t.oid from targets t union all select v.oid from views v)
  ), reached (policy, class, object, through) as (
    select p.oid, d.refclassid, d.refobjid, null::text
    from policies p
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_policy'::regclass and d.objid = p.oid and d.refobjid <> p.polrelid
    where d.refclassid in ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_class'::regclass)
    union
    select r.policy, x.class, x.object, coalesce(r.through, x.through)
    from reached r
    cross join lateral (
      select d.refclassid as class, d.refobjid as object, 'view ' || v.name as through
      from views v
      join pg_catalog.pg_rewrite w on w.ev_class = v.oid
      join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = w.oid and d.refobjid <> v.oid
      where r.class = 'pg_catalog.pg_class'::regclass and v.oid = r.object
        and d.refclassid in ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_class'::regclass)
      union all
      select m.class, m.oid, 'function ' || f.signature
      from routines f
      join names m on m.oid <> f.oid and case when pg_catalog.strpos(f.body, m.lower_name) > 0
        then f.body ~ ('(^|[^a-z0-9_])' || pg_catalog.regexp_replace(m.lower_name, '([^a-z0-9_ ])', '\\\1', 'g') || m.ending) else false end
      where r.class = 'pg_catalog.pg_proc'::regclass and f.oid = r.object) x
  )
  select p.name, pg_catalog.string_agg(distinct f.what, ', ' order by f.what)
  from policies p
  join (
    select r.policy, t.name || coalesce(' through ' || r.through, '') as what, t.oid as target
    from reached r join targets t on r.class = 'pg_catalog.pg_class'::regclass and t.oid = r.object
    union all
    select r.policy, 'what ' || f.signature || ' builds', null
    from reached r join routines f on r.class = 'pg_catalog.pg_proc'::regclass and f.oid = r.object
    where warden.builds_statements(f.lanname, f.body) and relations <> '{}') f on f.policy = p.oid
  group by p.name order by 1
$$;

reset role;
