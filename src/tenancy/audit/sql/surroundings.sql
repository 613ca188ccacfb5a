-- Objects beside the registered tables through which requests, or other ordinary roles, may reach rows of other
-- organisations. (Sequences, queues and foreign tables are for back ends, so only requests are asked about there.)
with recursive requests as (
  select 0::oid as oid, 'PUBLIC' as name
  union all
  select r.oid, r.rolname::text from pg_roles r where r.rolname in ('anon', 'authenticated')
), ordinary as (
  select q.oid, q.name, true as is_request from requests q
  union all
  -- The rule all-data-role reports the others: no grant on the object gives them their rights.
  select o.oid, o.name, false from warden.ordinary_roles() o
  where o.oid not in (select q.oid from requests q)
    and not pg_has_role(o.oid, 'pg_read_all_data', 'usage') and not pg_has_role(o.oid, 'pg_write_all_data', 'usage')
), registered as (
  select c.oid, c.relname, c.relowner, c.relforcerowsecurity, c.relkind, format('%I.%I', n.nspname, c.relname) as full_name
  from warden.tenant_tables t
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind in ('r', 'p')
  where t.scope <> 'user'
), passing as (
  -- The registered tables, and views through which an exempt function reads them without row-level security: a view of
  -- an exempt owner, a view that reads with the rights of its caller, or a copy.
  select g.oid, g.relname, g.oid as root from registered g
  union
  select v.oid, v.relname, p.root
  from passing p
  join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = p.oid
  join pg_rewrite w on w.oid = d.objid
  join pg_class v on v.oid = w.ev_class and v.oid <> p.oid and v.relkind in ('v', 'm')
  join pg_roles o on o.oid = v.relowner
  where v.relkind = 'm' or o.rolsuper or o.rolbypassrls or exists (
    select from pg_options_to_table(v.reloptions) x
    where x.option_name = 'security_invoker' and x.option_value in ('true', 'on', '1', 'yes'))
), foreign_tables as (
  -- A view reads a foreign table with the user mapping of the view's owner.
  select c.oid, c.relname, format('%I.%I', n.nspname, c.relname) as full_name, c.relkind, c.relowner, c.oid as root
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind = 'f'
  union
  select v.oid, v.relname, format('%I.%I', n.nspname, v.relname), v.relkind, v.relowner, f.root
  from foreign_tables f
  join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = f.oid
  join pg_rewrite w on w.oid = d.objid
  join pg_class v on v.oid = w.ev_class and v.oid <> f.oid and v.relkind in ('v', 'm')
  join pg_namespace n on n.oid = v.relnamespace
), connectors as (
  -- Functions of dblink that open a connection or use one.
  select p.oid, p.proname, p.proowner from pg_proc p
  join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
  join pg_extension e on e.oid = d.refobjid and e.extname = 'dblink'
  where p.proname ~ '^dblink(|_connect|_connect_u|_open|_fetch|_exec|_send_query|_get_result)$'
), routines as materialized (
  select p.oid, p.oid::regprocedure::text as signature, lower(p.proname) as lower_name, p.proowner, o.rolname as owner, l.lanname,
    o.rolsuper or o.rolbypassrls as is_exempt, p.prosecdef, p.prorettype in ('trigger'::regtype, 'event_trigger'::regtype) as is_trigger,
    lower(coalesce(nullif(p.prosrc, ''), pg_get_function_sqlbody(p.oid), '')) as body,
    g.names, g.takers
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  join pg_language l on l.oid = p.prolang
  join pg_roles o on o.oid = p.proowner
  -- The roles that may execute the function, and those from which the remedies revoke it.
  cross join lateral (
    select string_agg(distinct q.name, ' and ' order by q.name) as names,
      'public, anon, authenticated'
        || coalesce(string_agg(distinct ', ' || quote_ident(q.name), '') filter (where not q.is_request), '')
        || case when bool_or(a.grantor <> p.proowner or a.is_grantable) then ' cascade' else '' end as takers
    from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    join ordinary q on q.oid = a.grantee and q.oid <> p.proowner
    where p.prosecdef) g
  where p.prokind in ('f', 'p') and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
    and not exists (select from pg_depend d
                    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
    and case when n.nspname = 'public' and p.proname in ('auth_org_id', 'auth_user_id', 'prevent_org_id_change', 'custom_access_token_hook')
             then not warden.is_own(p.oid) else true end
), named as (
  -- Names by which a function reaches a registered table: its own, that of a view, that of another such function.
  select lower(p.relname) as lower_name, format('(^|[^a-z0-9_$])%s($|[^a-z0-9_$])', lower(regexp_replace(p.relname, '([^a-zA-Z0-9_])', '\\\1', 'g')))
      as pattern, p.root, case p.oid when g.oid then '' else p.relname || ', a view of ' end || g.full_name as label
  from passing p join registered g on g.oid = p.root
  union
  select r.lower_name, format('(^|[^a-z0-9_$])%s"?\s*\(', regexp_replace(r.lower_name, '([^a-z0-9_])', '\\\1', 'g')), n.root,
    format('%s, a function that names %s', r.signature, g.full_name)
  from named n join routines r on not r.is_trigger
    and case when strpos(r.body, n.lower_name) > 0 then r.body ~ n.pattern else false end
  join registered g on g.oid = n.root
), building (oid) as (
  -- Functions that may run any statement, and those that call one with the same rights.
  select r.oid from routines r where warden.builds_statements(r.lanname, r.body)
  union
  select r.oid
  from building b join routines c on c.oid = b.oid and not c.is_trigger and (c.is_exempt or not c.prosecdef)
  join routines r on case when strpos(r.body, c.lower_name) > 0
    then r.body ~ format('(^|[^a-z0-9_$])%s"?\s*\(', regexp_replace(c.lower_name, '([^a-z0-9_])', '\\\1', 'g')) else false end
), needed as materialized (
  select n.class, n.object, n.used_by, n.is_policy from warden.needed_objects() n
), definers as (
  -- A regular expression for each pair of a function and a name would be slow.
  select r.oid, r.signature, r.proowner, r.owner, r.is_trigger, r.names, r.takers, coalesce('names ' || string_agg(distinct n.label, ', ' order by n.label),
                                                                        'runs statements that it builds') as does,
    min(u.used_by) as used_by, coalesce(bool_or(u.is_policy), false) as is_policy,
    bool_or(warden.runs_any_statement(r.lanname, r.body)) as runs_any_statement
  from routines r
  left join needed u on u.class = 'pg_proc'::regclass and u.object = r.oid
  left join (named n join registered g on g.oid = n.root)
    on case when strpos(r.body, n.lower_name) > 0 then r.body ~ n.pattern else false end
    and (r.is_exempt or not g.relforcerowsecurity and pg_has_role(r.proowner, g.relowner, 'usage'))
  where r.prosecdef and (n.root is not null
    or r.is_exempt and r.oid in (select b.oid from building b))
  group by r.oid, r.signature, r.proowner, r.owner, r.is_trigger, r.names, r.takers
), writable as (
  -- Tables and views to which ordinary roles may write, with triggers or rules.
  select c.oid, c.relkind, c.relowner, format('%I.%I', n.nspname, c.relname) as full_name, w.names
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  cross join lateral (
    select array_to_string((array_agg(q.name order by q.name))[:3], ' and ')
        || case when count(*) > 3 then format(' and %s more', count(*) - 3) else '' end as names
    from ordinary q
    where q.oid <> 0 and not pg_has_role(q.oid, c.relowner, 'usage')
      and (has_any_column_privilege(q.oid, c.oid, 'insert, update') or has_table_privilege(q.oid, c.oid, 'delete'))) w
  where c.relkind in ('r', 'p', 'v') and n.nspname not in ('warden', 'pg_catalog', 'information_schema') and w.names is not null
    and (exists (select from pg_trigger g join definers f on f.is_trigger and f.oid = g.tgfoid where g.tgrelid = c.oid)
      or exists (select from pg_rewrite r where r.ev_class = c.oid and r.ev_type <> '1'))
), unregistered as (
  -- Those that no policy of Warden limits.
  select c.* from writable c
  where not exists (select from registered g cross join lateral warden.tree(g.oid) m (oid) where m.oid = c.oid)
), sequences as (
  select c.oid, c.relowner, format('%I.%I', n.nspname, c.relname) as full_name, g.full_name as "table",
    (select string_agg(distinct q.name, ' and ') from requests q, aclexplode(c.relacl) a where a.grantee = q.oid) as names,
    (select array_agg(distinct a.privilege_type) from requests q, aclexplode(c.relacl) a where a.grantee = q.oid) as rights
  from registered g
  join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = g.oid and d.classid = 'pg_class'::regclass
    and d.deptype in ('a', 'i')
  join pg_class c on c.oid = d.objid and c.relkind = 'S'
  join pg_namespace n on n.oid = c.relnamespace
), queues as (
  select n.oid, n.nspname, n.nspowner,
    (select string_agg(q.rolname, ' and ' order by q.rolname) from pg_roles q
     where q.rolname in ('anon', 'authenticated') and has_schema_privilege(q.oid, n.oid, 'usage')
       and exists (select from pg_class c where c.relnamespace = n.oid and c.relkind in ('r', 'p') and not c.relrowsecurity
                     and has_table_privilege(q.oid, c.oid, 'select, insert, update, delete'))) as names
  from pg_namespace n
  where n.nspname in ('pgmq', 'pgmq_public', 'graphile_worker', 'cron', 'pgboss', 'net', 'river', 'que', 'oban')
), library_tables as (
  -- Tables that libraries create in the application's schema: queues, sessions, tokens. A common name counts only with
  -- a library's columns.
  select c.relowner, format('%I.%I', n.nspname, c.relname) as full_name,
    (select string_agg(q.rolname, ' and ' order by q.rolname) from pg_roles q
     where q.rolname in ('anon', 'authenticated') and has_schema_privilege(q.oid, n.oid, 'usage')
       and has_table_privilege(q.oid, c.oid, 'select, insert, update, delete')) as names
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
    and n.nspname !~ '^(pg|supabase)_' and n.nspname not in ('information_schema', 'warden', 'auth')
  cross join lateral (
    select array_agg(a.attname::text) as names from pg_attribute a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) k
  where c.relkind in ('r', 'p') and not c.relispartition and not c.relrowsecurity
    and (c.relname ~ '^(oban|que|good|solid_queue|procrastinate|delayed|queue_classic|river|gue|neoq|fang|apalis)_jobs?$'
      or c.relname ~ '^(solid_queue|qrtz|django_q|good_job|river)_\w+$'
      or c.relname in ('job_batches', 'messenger_messages', 'celery_taskmeta', 'django_celery_results_taskresult',
                       'django_session', 'password_resets', 'password_reset_tokens', 'personal_access_tokens',
                       'oauth_access_tokens', 'oauth_refresh_tokens', 'refresh_tokens', 'verification_tokens',
                       'verification_token', 'authtoken_token', 'knox_authtoken')
      or c.relname ~ '^(failed_)?jobs$' and k.names && '{payload,handler,args,arguments}'
      or c.relname ~ '^(user_)?sessions?$' and k.names && '{sess,session_data,session_token,"sessionToken",payload,token,refresh_token}')
    and not exists (select from warden.tenant_tables t where t.schema_name = n.nspname and t.table_name = c.relname)
), publications as (
  select t.pubname, p.puballtables, p.pubowner, string_agg(g.full_name, ', ' order by g.full_name) as tables,
    max((to_jsonb(p) ->> 'oid')) as id
  from pg_publication_tables t
  join pg_publication p on p.pubname = t.pubname
  join registered g on g.full_name = format('%I.%I', t.schemaname, t.tablename)
  where to_jsonb(t) ->> 'rowfilter' is null
  group by t.pubname, p.puballtables, p.pubowner
)
select 'definer-function' as rule, null::text as severity, null::text as "table", f.signature as object,
  format('%s may execute it; it runs as %s, who is exempt from row-level security, and %s', f.names, f.owner, f.does) as cause,
  'decide' as remedy_kind,
  -- Statements of requests that use it without naming it need EXECUTE. With the rights of its caller, it would be
  -- subject to the policy that calls it.
  json_build_object('question', coalesce(f.used_by || ' uses it: ' || case when f.is_policy
      then 'leave it its rights. Do its statements name the organisation or the user of the claims?'
      else 'does it return or change rows of one organisation only?' end,
      'does it return or change rows of one organisation only?'), 'choices', json_build_array(
    -- With the rights of its callers, a function that runs any statement would still let them act as another
    -- organisation.
    case when not f.is_policy and not f.runs_any_statement then
      json_build_array('it should run with the rights of its caller', 'sql', format('%salter routine %s security invoker;',
        case when pg_has_role(f.proowner, 'usage') then '' else format(E'-- as %I:\n', f.owner) end, f.signature)) end,
    case when f.used_by is null then json_build_array('no request needs it', 'sql', format(
      '%srevoke execute on routine %s from %s;',
      case when pg_has_role(f.proowner, 'usage') then '' else format(E'-- as %I:\n', f.owner) end,
      f.signature, f.takers)) end))::text as remedy
from definers f
where f.names is not null and not f.is_trigger
union all
-- A policy limits the row that a request writes to a registered table, but not the rows that a trigger then reads or
-- writes.
select 'definer-function', null, null, f.signature,
  format('%s may write to %s, whose trigger calls it; it runs as %s, who is exempt from row-level security, and %s',
         u.names, u.full_name, f.owner, f.does), 'decide',
  json_build_object('question', 'does it return or change rows of one organisation only?', 'choices', json_build_array(
    json_build_array('it should run with the rights of its caller', 'sql', format('%salter routine %s security invoker;',
      case when pg_has_role(f.proowner, 'usage') then '' else format(E'-- as %I:\n', f.owner) end, f.signature)),
    json_build_array('no request needs to write there', 'sql', format(
      '%srevoke insert, update, delete on %s from %s;',
      case when pg_has_role(u.relowner, 'usage') then '' else format(E'-- as %s:\n', u.relowner::regrole) end, u.full_name, (select string_agg(x.grantee, ', ' order by x.grantee)
          || case when bool_or(x.is_passed_on) then ' cascade' else '' end from warden.grantees(u.oid) x)))))::text
from definers f
join pg_trigger g on g.tgfoid = f.oid and not g.tgisinternal and g.tgenabled <> 'D' and g.tgparentid = 0
join writable u on u.oid = g.tgrelid
where f.is_trigger
group by f.signature, f.proowner, f.owner, f.does, u.oid, u.names, u.full_name, u.relowner
union all
select 'sequence-right', null, s."table", s.full_name,
  format('%s may %s sequence %s, which all organisations share%s', s.names, replace(lower(array_to_string(s.rights, ', ')), 'usage', 'use'),
         s.full_name, case when 'UPDATE' = any (s.rights) then ': a request can make inserts of others fail'
                           else ': its values reveal how many rows others insert' end),
  'decide',
  json_build_object('question', 'what do requests need it for?', 'choices', json_build_array(
    case when s.rights <> array['USAGE'] then json_build_array('to insert rows', 'sql', format(
      E'revoke all on sequence %1$s from public, anon, authenticated;\ngrant usage on sequence %1$s to authenticated;\n'
      'select warden.accept_finding(''sequence-right'', %2$L, ''requests insert rows'');',
      s.full_name, s."table" || '.' || s.full_name)) end,
    json_build_array('nothing', 'sql', format('revoke all on sequence %s from public, anon, authenticated;', s.full_name))
  ))::text
from sequences s where s.names is not null
union all
-- A rule's action reads and writes with the rights of the table's owner.
select 'rewrite-rule', case when not o.rolsuper and not o.rolbypassrls and g.relforcerowsecurity then 'notice' end,
  g.full_name, w.rulename, format('the actions of rule "%s" run with the rights of %s%s', w.rulename, o.rolname,
    case when o.rolsuper or o.rolbypassrls or not g.relforcerowsecurity
         then ', who is exempt from row-level security' else '' end),
  'decide',
  json_build_object('question', 'do its actions stay within the organisation?', 'choices', json_build_array(
    json_build_array('the rule is not needed', 'sql', format('drop rule %I on %s;', w.rulename, g.full_name))))::text
from registered g
-- DO INSTEAD NOTHING has no actions.
join pg_rewrite w on w.ev_class = g.oid and pg_get_ruledef(w.oid) !~ ' DO INSTEAD NOTHING;$'
join pg_roles o on o.oid = g.relowner
union all
select 'rewrite-rule', null, u.full_name, w.rulename,
  format('%s may write to the table; the actions of rule "%s" reach %s with the rights of %s, who is exempt from row-level security',
         u.names, w.rulename, string_agg(distinct g.full_name, ', ' order by g.full_name), o.rolname), 'decide',
  json_build_object('question', 'do its actions stay within the organisation?', 'choices', json_build_array(
    json_build_array('the rule is not needed', 'sql', format('drop rule %I on %s;', w.rulename, u.full_name)),
    json_build_array('no request needs to write there', 'sql',
      format('revoke insert, update, delete on %s from %s;', u.full_name, (select string_agg(x.grantee, ', ' order by x.grantee)
          || case when bool_or(x.is_passed_on) then ' cascade' else '' end from warden.grantees(u.oid) x)))))::text
from unregistered u
join pg_rewrite w on w.ev_class = u.oid and w.ev_type <> '1'
join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
join registered g on g.oid = d.refobjid
join pg_roles o on o.oid = u.relowner and (o.rolsuper or o.rolbypassrls)
where u.relkind <> 'v'
group by u.oid, u.full_name, u.names, w.rulename, o.rolname
union all
select 'foreign-data', null, t.full_name, t.relname, format(
    case when t.relkind = 'f' then '%1$s may read the foreign table, and no policy of this database protects its rows'
         else '%1$s may read it; it reads %2$s with the user mapping of %3$s, and no policy of this database protects the rows'
    end, r.names, string_agg(distinct w.oid::regclass::text, ' and '), t.relowner::regrole), 'decide',
  json_build_object('question', 'does its server protect its rows?', 'choices', json_build_array(
    json_build_array('no request needs it', 'sql', format(
      '%srevoke all on %s from public, anon, authenticated;',
      case when pg_has_role(t.relowner, 'usage') then '' else format(E'-- as %s:\n', t.relowner::regrole) end,
      t.full_name))))::text
from foreign_tables t
join pg_class w on w.oid = t.root
cross join lateral (select string_agg(q.rolname, ' and ' order by q.rolname) as names from pg_roles q
                    where q.rolname in ('anon', 'authenticated') and has_any_column_privilege(q.oid, t.oid, 'select')) r
where r.names is not null
group by t.oid, t.full_name, t.relname, t.relkind, t.relowner, r.names
union all
-- Whatever role the function runs as, the other server knows only the user of the mapping or of the connection string.
select 'foreign-data', null, null, f.signature, format(
    '%s may execute it; it connects to another database as %s: it names %s', f.names, f.owner,
    string_agg(distinct n.name, ' and ')), 'decide',
  json_build_object('question', 'does it return or change rows of one organisation only?', 'choices', json_build_array(
    json_build_array('no request needs it', 'sql', format(
      '%srevoke execute on routine %s from %s;',
      case when pg_has_role(f.proowner, 'usage') then '' else format(E'-- as %I:\n', f.owner) end, f.signature, f.takers))))::text
from routines f
join (select t.relname as name from foreign_tables t union select c.proname from connectors c) n
  on case when strpos(f.body, lower(n.name)) > 0 then
       f.body ~ format('(^|[^a-z0-9_$])%s($|[^a-z0-9_$])', lower(regexp_replace(n.name, '([^a-zA-Z0-9_])', '\\\1', 'g')))
     else false end
where f.names is not null and not f.is_trigger
group by f.oid, f.signature, f.proowner, f.owner, f.names, f.takers
union all
-- Functions that PostgreSQL, or the script of their extension, grants to no ordinary role: they read files of the
-- server, connect as another user, or control the server.
select 'server-function', null, null, p.oid::regprocedure::text, format(
    '%s may execute it, and PostgreSQL grants it to no ordinary role: no policy limits what it reads or does',
    string_agg(q.name, ' and ' order by q.name)), 'decide',
  json_build_object('question', 'do requests need it?', 'choices', json_build_array(
    json_build_array('no', 'sql', format('%srevoke execute on function %s from public, anon, authenticated;',
      case when pg_has_role(p.proowner, 'usage') then '' else format(E'-- as %s:\n', p.proowner::regrole) end,
      p.oid::regprocedure))))::text
from pg_init_privs i
join pg_proc p on p.oid = i.objoid
cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
join requests q on q.oid = a.grantee
where i.classoid = 'pg_proc'::regclass and i.objsubid = 0
  and not exists (select from aclexplode(i.initprivs) x where x.grantee in (0, q.oid))
group by p.oid, p.proowner
union all
select 'server-function', null, null, p.oid::regprocedure::text, format(
    '%s may execute it; it is written in %s, whose functions act with the rights of the server''s process',
    string_agg(q.name, ' and ' order by q.name), l.lanname), 'decide',
  json_build_object('question', 'does it return or change rows of one organisation only?', 'choices', json_build_array(
    json_build_array('no request needs it', 'sql', format(
      '%srevoke execute on routine %s from public, anon, authenticated;',
      case when pg_has_role(p.proowner, 'usage') then '' else format(E'-- as %s:\n', p.proowner::regrole) end,
      p.oid::regprocedure))))::text
from pg_proc p
join pg_language l on l.oid = p.prolang and not l.lanpltrusted
join pg_namespace n on n.oid = p.pronamespace and n.nspname not in ('pg_catalog', 'information_schema')
cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
join requests q on q.oid = a.grantee
where p.prokind in ('f', 'p') and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
  -- Functions of extensions, and those that PostgreSQL creates for a range type.
  and not exists (select from pg_depend d
                  where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype in ('e', 'i'))
group by p.oid, p.proowner, l.lanname
union all
select 'server-function', null, null, 'dblink', format(
    '%s may execute functions of dblink: with a password, or the user mapping of a server, a request connects as another user',
    string_agg(distinct q.name, ' and ')), 'decide',
  json_build_object('question', 'do requests connect to other databases?', 'choices', json_build_array(
    json_build_array('no', 'sql', string_agg(distinct format(
      '%srevoke execute on function %s from public, anon, authenticated;',
      case when pg_has_role(c.proowner, 'usage') then '' else format(E'-- as %s:\n', c.proowner::regrole) end,
      c.oid::regprocedure), E'\n'))))::text
from connectors c
join pg_proc p on p.oid = c.oid
cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
join requests q on q.oid = a.grantee
where exists (select from pg_roles r where r.rolname in ('anon', 'authenticated')
                and has_schema_privilege(r.oid, p.pronamespace, 'usage'))
  and not exists (select from pg_init_privs i where i.classoid = 'pg_proc'::regclass and i.objoid = p.oid)
having count(*) > 0
union all
select 'foreign-data', null, null, u.srvname, format(
    'the user mapping of %s on server %s gives requests the rights of another server''s user',
    case u.umuser when 0 then 'PUBLIC' else u.usename end, u.srvname), 'decide',
  json_build_object('question', 'do requests need it?', 'choices', json_build_array(
    json_build_array('no', 'sql', format('drop user mapping for %s server %I;',
      case u.umuser when 0 then 'public' else quote_ident(u.usename) end, u.srvname))))::text
from pg_user_mappings u
where u.umuser = 0 or exists (select from requests q where q.oid <> 0 and pg_has_role(q.oid, u.umuser, 'member'))
union all
select 'queue-table', null, null, q.nspname, format(
    '%s may use tables of schema %s, which contain data of every organisation', q.names, q.nspname), 'decide',
  json_build_object('question', 'do requests need the schema?', 'choices', json_build_array(
    json_build_array('no', 'sql', format('%srevoke usage on schema %I from public, anon, authenticated;',
      case when pg_has_role(q.nspowner, 'usage') then '' else format(E'-- as %s:\n', q.nspowner::regrole) end,
      q.nspname))))::text
from queues q where q.names is not null
union all
select 'queue-table', null, null, q.full_name, format(
    '%s may use it: it has the name of a library''s queue, or of sessions or tokens, of every organisation', q.names), 'decide',
  json_build_object('question', 'do requests need the table?', 'choices', json_build_array(
    json_build_array('no', 'sql', format('%srevoke all on %s from public, anon, authenticated;',
      case when pg_has_role(q.relowner, 'usage') then '' else format(E'-- as %s:\n', q.relowner::regrole) end,
      q.full_name))))::text
from library_tables q where q.names is not null
union all
select 'publication', null, null, p.pubname, format(
    'it replicates rows of every organisation: %s', case when p.puballtables then 'all tables' else p.tables end), 'decide',
  json_build_object('question', 'may its subscribers read every organisation?', 'choices', json_build_array(
    json_build_array('no', 'sql', case
      when p.puballtables then format('%sdrop publication %I;',
        case when pg_has_role(p.pubowner, 'usage') then '' else format(E'-- as %s:\n', p.pubowner::regrole) end, p.pubname)
      else format('%salter publication %I drop table %s;',
        case when pg_has_role(p.pubowner, 'usage') then '' else format(E'-- as %s:\n', p.pubowner::regrole) end, p.pubname,
        p.tables) end)))::text
from publications p
union all
select 'event-trigger', null, null, e.evtname, format(
    '%s can change it or its function, which runs with the rights of each role that changes the schema',
    string_agg(distinct o.rolname, ' and ')), 'decide',
  json_build_object('question', 'is that role trusted like the owner of the tables?', 'choices', json_build_array(
    json_build_array('no', 'sql', format('%salter event trigger %I disable;',
      case when pg_has_role(e.evtowner, 'usage') then '' else format(E'-- as %s:\n', e.evtowner::regrole) end, e.evtname))))::text
from pg_event_trigger e
join pg_proc p on p.oid = e.evtfoid
join pg_roles o on o.oid in (e.evtowner, p.proowner)
where e.evtenabled <> 'D' and not o.rolsuper and o.rolname !~ '^supabase_'
  and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  and not exists (select from registered g where pg_has_role(o.oid, g.relowner, 'usage'))
  -- The rule function-owner reports who owns Warden's functions.
  and not (p.pronamespace = to_regnamespace('warden') and o.oid <> e.evtowner)
group by e.oid, e.evtname, e.evtowner
union all
-- Every request of a role reads what the role owns, whatever organisation created it.
select 'large-object', null, null, 'large objects', format('requests may read %s of them: they belong to no organisation',
    count(*)), 'decide',
  json_build_object('question', 'may every organisation read them?', 'choices', json_build_array(
    json_build_array('no', 'sql', E'do $$ declare l record; begin\n'
      '  for l in select oid as id, pg_get_userbyid(lomowner) as owner from pg_largeobject_metadata loop\n'
      '    execute format(''revoke all on large object %s from public, anon, authenticated'', l.id);\n'
      '    if l.owner in (''anon'', ''authenticated'') then\n'
      '      execute format(''alter large object %s owner to %I'', l.id, current_user);\n'
      '    end if;\n  end loop;\nend $$;')))::text
from pg_largeobject_metadata l
where exists (select from aclexplode(l.lomacl) a join requests q on q.oid = a.grantee)
   or exists (select from requests q where q.oid = l.lomowner)
having count(*) > 0
union all
select 'storage-policy', null, format('%I.%I', n.nspname, c.relname), p.polname, format(
    'policy %I grants files to %s without naming the organisation', p.polname,
    (select string_agg(q.name, ' and ' order by q.name) from requests q where q.oid = any (p.polroles))), 'decide',
  json_build_object('question', 'where are the files of an organisation?', 'choices', json_build_array(
    case when c.relname = 'objects' then json_build_array(
      'in a folder named by the id of the organisation', 'sql', format(
      E'create policy warden_org on %I.%I as restrictive to public\n'
      '  using (split_part(name, ''/'', 1) = (select %s())::text)\n'
      '  with check (split_part(name, ''/'', 1) = (select %s())::text);', n.nspname, c.relname,
      warden.callee('auth_org_id'), warden.callee('auth_org_id'))) end))::text
from pg_class c
join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'storage'
join pg_policy p on p.polrelid = c.oid and p.polpermissive
where c.relname in ('objects', 'buckets')
  and exists (select from requests q where q.oid = any (p.polroles))
  and concat(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) !~ 'auth_org_id|org_id'
  and not exists (select from pg_policy w where w.polrelid = c.oid and w.polname = 'warden_org' and not w.polpermissive)
