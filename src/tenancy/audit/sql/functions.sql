-- Compares Warden's functions with $1, the functions that this version's migrations create. For functions per table
-- (watches: "log ...", fill triggers: "fill ...") only the marks are compared, because their text differs.
with expected as (
  select e.* from jsonb_to_recordset($1) e (
    schema text, name text, body text, volatility text, parallel text, is_definer boolean, has_search_path boolean,
    settings text[], is_strict boolean, creation text)
  -- The application's own function of that name is none of Warden's.
  where not (e.schema = 'public' and exists (select from warden.occupants(e.name)))
), present as (
  select p.*, n.nspname, p.oid::regprocedure::text as signature, pg_get_userbyid(p.proowner) as owner,
    p.prokind = 'f' and p.proname like 'fill %' and n.nspname = 'warden' as is_filling,
    p.prokind = 'f' and p.proname like 'log %' and n.nspname = 'warden' as is_log
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  -- In this order, because warden.is_own() takes its time, and there are thousands of functions.
  where n.nspname = 'warden'
     or case when exists (select from expected e where e.schema = n.nspname and e.name = p.proname)
             then warden.is_own(p.oid) else false end
), matched as (
  select p.oid, p.signature, p.nspname, p.owner, p.proowner, p.prosrc, p.provolatile, p.proparallel, p.prosecdef,
    p.proconfig, p.proisstrict, p.proleakproof, p.prorettype, p.is_filling, p.is_log, e.name is not null as is_known,
    coalesce(e.is_strict, false) as is_strict,
    case when p.is_log then array['search_path', 'timezone', 'datestyle', 'intervalstyle', 'extra_float_digits', 'bytea_output',
                                  'lc_monetary', 'quote_all_identifiers', 'array_nulls']
         when p.is_filling then array['search_path'] else e.settings end as settings, e.body, e.creation,
    case when p.is_filling or p.is_log then 'v' else e.volatility end as volatility,
    case when p.is_filling or p.is_log then 'u' else e.parallel end as parallel,
    case when p.is_filling or p.is_log then true else e.is_definer end as is_definer,
    coalesce(e.has_search_path, p.is_filling or p.is_log or p.prosecdef) as has_search_path,
    r.rolsuper as is_superusers,
    -- Owners of the tables that a fill trigger belongs to, or whose rows it reads.
    (select array_agg(distinct x.owner) from (
       select c.relowner as owner from pg_trigger g join pg_class c on c.oid = g.tgrelid where g.tgfoid = p.oid
       union
       select pc.relowner from pg_trigger g
       join pg_class c on c.oid = g.tgrelid join pg_namespace cn on cn.oid = c.relnamespace
       join warden.tenant_tables t on t.schema_name = cn.nspname and t.table_name = c.relname
       join pg_namespace pn on pn.nspname = t.parent_schema
       join pg_class pc on pc.relnamespace = pn.oid and pc.relname = t.parent_table
       where g.tgfoid = p.oid) x) as table_owners
  from present p join pg_roles r on r.oid = p.proowner
  left join expected e on e.schema = p.nspname and e.name = p.proname
)
select 'function' as rule, null::text as severity, null::text as "table", format('%s.%s', e.schema, e.name) as object,
  'it is missing' as cause, 'sql' as remedy_kind, e.creation as remedy
from expected e
where e.creation is not null and not exists (select from present p where p.nspname = e.schema and p.proname = e.name)
union all
-- CREATE OR REPLACE keeps the comment of the former function.
select 'function', null, null, p.oid::regprocedure::text,
  'the application has replaced Warden''s function of this name', 'decide',
  json_build_object(
    'question', format('whose is it? (warden migrate --keep public.%1$s, or --replace public.%1$s)', p.proname),
    'choices', json_build_array(
      json_build_array('the application''s: Warden uses its own in schema warden', 'sql', format(
        E'insert into warden.decisions (rule, object, choice, reason) values (''existing-object'', %L, ''keep'', '
        '''the application needs it'');\n$ warden migrate', 'public.' || p.proname)),
      json_build_array('Warden''s: the present definition is stored in warden.replaced_objects', 'sql', format(
        E'set warden.replace = %L;\nselect warden.create_public_function(%L);\nreset warden.replace;\n$ warden migrate',
        'public.' || p.proname, p.proname))))::text
from pg_proc p
where p.pronamespace = 'public'::regnamespace
  and case when obj_description(p.oid, 'pg_proc') like '%(created by Warden)'
           then exists (select from warden.occupants(p.proname) o where o = p.oid) else false end
  and not exists (select from warden.decisions d where d.rule = 'existing-object' and d.choice = 'keep'
                    and d.object = 'public.' || p.proname)
union all
select 'function', null, null, m.signature,
  'its text differs from the one that this version of Warden creates', 'sql', m.creation
from matched m where m.body is not null and m.prosrc is distinct from m.body
union all
select 'function-search-path', null, null, m.signature,
  case when m.prosecdef then 'it runs with its owner''s rights, and objects of its caller can take the place of PostgreSQL''s in it'
       else 'objects of its caller can take the place of PostgreSQL''s in it' end,
  'sql', format('alter function %s set search_path = pg_catalog, pg_temp;', m.signature)
from matched m
where m.has_search_path and not coalesce('search_path=pg_catalog, pg_temp' = any (m.proconfig), false)
union all
select 'function-marks', null, null, m.signature,
  format('it is %s, and must be %s', concat_ws(' ', marks.v, marks.p, marks.s),
         concat_ws(' ', wanted.v, wanted.p, wanted.s)), 'sql',
  format('alter function %s %s;', m.signature, concat_ws(' ', wanted.v, wanted.p, wanted.s))
from matched m
cross join lateral (select (jsonb '{"i": "immutable", "s": "stable", "v": "volatile"}') ->> m.provolatile::text as v,
  (jsonb '{"s": "parallel safe", "r": "parallel restricted", "u": "parallel unsafe"}') ->> m.proparallel::text as p,
  case when m.prosecdef then 'security definer' else 'security invoker' end as s) marks
cross join lateral (select (jsonb '{"i": "immutable", "s": "stable", "v": "volatile"}') ->> m.volatility as v,
  (jsonb '{"s": "parallel safe", "r": "parallel restricted", "u": "parallel unsafe"}') ->> m.parallel as p,
  case when m.is_definer then 'security definer' else 'security invoker' end as s) wanted
where m.volatility is not null and (marks.v, marks.p, marks.s) <> (wanted.v, wanted.p, wanted.s)
union all
select 'function-owner', null, null, m.signature,
  format('it belongs to %s, and must belong to warden_owner', m.owner), 'sql',
  format('alter function %s owner to warden_owner;', m.signature)
from matched m
where m.nspname = 'warden' and not m.is_filling and m.owner <> 'warden_owner'
  -- The function of the event trigger needs the rights of the migrating role.
  and not exists (select from pg_proc f where f.oid = m.oid and f.prorettype = 'event_trigger'::regtype)
union all
select 'function-owner', null, null, m.signature,
  format('it belongs to %s, which does not own the table of its trigger', m.owner), 'sql',
  format('alter function %s owner to %I;', m.signature, pg_get_userbyid(m.table_owners[1]))
from matched m
where m.is_filling and m.table_owners is not null
  and not exists (select from unnest(m.table_owners) o (oid) where pg_has_role(m.proowner, o.oid, 'usage'))
union all
-- The owner of such a function can change the result of a policy.
select 'function-owner', null, null, m.signature,
  format('it belongs to %s, which neither owns public.organizations nor is a superuser', m.owner), 'sql',
  format('alter function %s owner to %I;', m.signature, pg_get_userbyid(c.relowner))
from matched m, pg_class c
where m.nspname = 'public' and m.is_known and c.oid = to_regclass('public.organizations')
  and not pg_has_role(m.proowner, c.relowner, 'usage')
  and m.proowner <> (select d.datdba from pg_database d where d.datname = current_database())
union all
select 'function-callers', null, null, m.signature,
  format('%I may not execute it, and every policy calls it', r.rolname), 'sql',
  format('grant execute on function %s to %I;', m.signature, r.rolname)
-- Warden's own roles read organisations and memberships, which also have policies.
from matched m
join pg_roles r on r.rolname in ('anon', 'authenticated', 'service_role', 'warden_owner', 'warden_gateway')
where m.signature in ('public.auth_org_id()', 'public.auth_user_id()', 'warden.auth_org_id()', 'warden.auth_user_id()')
  and not has_function_privilege(r.oid, m.oid, 'execute')
union all
-- Supabase Auth calls the hook as this role.
select 'token-hook-caller', null, null, m.signature,
  'supabase_auth_admin may not execute it, and calls it for every token', 'sql',
  format('grant usage on schema public, warden to supabase_auth_admin; '
         'grant execute on function %s to supabase_auth_admin;', m.signature)
from matched m join pg_roles r on r.rolname = 'supabase_auth_admin'
where m.signature in ('public.custom_access_token_hook(jsonb)', 'warden.custom_access_token_hook(jsonb)',
                      'warden.application_token_hook()', 'warden.is_own(oid)', 'warden.default_org_for(uuid)')
  and not has_function_privilege(r.oid, m.oid, 'execute')
union all
-- A function can set anything for its duration, also the role and the claims.
select 'function-marks', null, null, m.signature,
  format('it sets %s while it runs, and must not', string_agg(c.name, ', ' order by c.name)), 'sql',
  string_agg(format('alter function %s reset %s;', m.signature, c.name), E'\n' order by c.name)
from matched m
cross join lateral (select split_part(x, '=', 1) as name from unnest(m.proconfig) x) c
where m.settings is not null and lower(c.name) <> all (m.settings)
group by m.signature
union all
select 'function-marks', null, null, m.signature,
  case when m.proleakproof then 'it is leakproof, and must not be' else 'its result for null arguments differs' end, 'sql',
  format('alter function %s %s;', m.signature,
         concat_ws(' ', case when m.proleakproof then 'not leakproof' end,
                   case when m.proisstrict and not m.is_strict then 'called on null input'
                        when m.is_strict and not m.proisstrict then 'strict' end))
from matched m
where (m.is_known or m.is_filling or m.is_log) and (m.proleakproof or m.proisstrict <> m.is_strict)
union all
select 'function-owner', null, null, m.signature,
  format('it belongs to %s, and every statement that creates or changes an object calls it', m.owner), 'sql',
  format('%salter function %s owner to %I;',
    case when current_setting('is_superuser') = 'on' then '' else E'-- as a superuser:\n' end, m.signature,
    coalesce((select e.evtowner::regrole::name from pg_event_trigger e where e.evtfoid = m.oid limit 1), current_user))
from matched m
where m.nspname = 'warden' and m.prorettype = 'event_trigger'::regtype and not m.is_superusers
  and m.proowner <> (select d.datdba from pg_database d where d.datname = current_database())
  and not pg_has_role(m.proowner, 'warden_owner', 'member')
