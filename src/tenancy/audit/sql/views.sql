-- Views that show ordinary roles the rows of registered tables without row-level security: their owner is exempt from
-- it, or they store a copy. A view may read the table through other views. A view with security_invoker reads with the
-- rights of the session's role, whatever view is above it; a copy through such a view is made with the rights of its
-- owner.
with recursive registered as (
  select c.oid, c.relowner, c.relforcerowsecurity, format('%I.%I', t.schema_name, t.table_name) as full_name
  from warden.tenant_tables t
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind in ('r', 'p')
), views as (
  select v.oid, v.relkind, v.relowner, v.relname, format('%I.%I', n.nspname, v.relname) as full_name, o.rolname as owner,
    o.rolsuper or o.rolbypassrls as is_exempt,
    v.relkind = 'v' and exists (
      select from pg_options_to_table(v.reloptions) x
      where x.option_name = 'security_invoker' and x.option_value in ('true', 'on', '1', 'yes')) as is_invoker
  from pg_class v
  join pg_namespace n on n.oid = v.relnamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
  join pg_roles o on o.oid = v.relowner
  where v.relkind in ('v', 'm')
), reads as (
  select distinct w.ev_class as view, d.refobjid as source
  from pg_rewrite w
  join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
    and d.refobjid <> w.ev_class
  where w.ev_class in (select oid from views)
), exposing as (
  -- Upwards from the table. Through a view that is subject to policies, only a copy can still expose rows.
  select g.oid as source, g.oid as root, null::oid as view, false as is_bound
  from registered g
  union
  select v.oid, e.root, case when x.exposes then v.oid end, not x.exposes
  from exposing e
  join reads r on r.source = e.source
  join views v on v.oid = r.view
  join registered g on g.oid = e.root
  cross join lateral (select v.relkind = 'm' or not v.is_invoker and not e.is_bound
    and (v.is_exempt or not g.relforcerowsecurity and pg_has_role(v.relowner, g.relowner, 'usage')) as exposes) x
), above as (
  -- Upwards from each such view, to find those that ordinary roles may read.
  select distinct e.view as view, e.view as top from exposing e where e.view is not null
  union
  select a.view, r.view from above a join reads r on r.source = a.top join views v on v.oid = r.view and not v.is_invoker
), read_by as (
  -- Rights to write are enough: an exempt owner's view changes rows of every organisation.
  select a.view, array_to_string((array_agg(distinct q.name order by q.name))[:3], ' and ')
      || case when count(distinct q.name) > 3 then format(' and %s more', count(distinct q.name) - 3) else '' end as names,
    bool_or(pg_has_role(q.oid, v.relowner, 'usage')) as has_owner
  from above a join views v on v.oid = a.top join warden.ordinary_roles() q on q.oid <> v.relowner
    -- The rule all-data-role reports the others: no grant on the view gives them their rights.
    and not pg_has_role(q.oid, 'pg_read_all_data', 'usage') and not pg_has_role(q.oid, 'pg_write_all_data', 'usage')
    and (has_any_column_privilege(q.oid, a.top, 'select')
      or v.relkind = 'v' and pg_relation_is_updatable(a.top, true) & 28 <> 0
        and (has_any_column_privilege(q.oid, a.top, 'insert, update') or has_table_privilege(q.oid, a.top, 'delete')))
  group by a.view
), needed as (
  -- A policy reads the view, or one above it.
  select a.view, min(n.used_by) as used_by
  from above a join warden.needed_objects() n on n.class = 'pg_class'::regclass and n.object = a.top and n.is_policy
  group by a.view
)
select 'bypassing-view' as rule, null::text as severity, v.full_name as "table", v.relname::text as object,
  format(case v.relkind
      when 'm' then 'it stores rows of %2$s, without row-level security, and %1$s may read it'
      else 'it shows %1$s every row of %2$s that its owner %3$s sees, without row-level security' end,
    b.names, string_agg(distinct g.full_name, ', ' order by g.full_name), v.owner) as cause,
  'decide' as remedy_kind,
  json_build_object('question', coalesce(
      n.used_by || ' uses it: leave it its rights. Does it name the organisation or the user of the claims?',
      'what may a request read through it?'), 'choices', json_build_array(
    case when n.used_by is null and v.relkind = 'v' and current_setting('server_version_num')::int >= 150000 then
      json_build_array('rows of its own organisation', 'sql', format('%salter view %s set (security_invoker = true);',
        case when pg_has_role(v.relowner, 'usage') then '' else format(E'-- as %I:\n', v.owner) end, v.full_name)) end,
    -- Nothing takes the right away from a member of the owner.
    case when n.used_by is null and not b.has_owner then json_build_array('nothing', 'sql', (
      select format('%srevoke all on %s from %s%s;',
        case when pg_has_role(v.relowner, 'usage') then '' else format(E'-- as %I:\n', v.owner) end,
        string_agg(distinct t.full_name, ', '), coalesce(string_agg(distinct x.grantee, ', '), 'public'),
        case when bool_or(x.is_passed_on) then ' cascade' end)
      from above a join views t on t.oid = a.top left join lateral warden.grantees(t.oid) x on true
      where a.view = v.oid)) end))::text as remedy
from exposing e
join views v on v.oid = e.view and not v.is_invoker
join registered g on g.oid = e.root
join read_by b on b.view = v.oid
left join needed n on n.view = v.oid
group by n.used_by, v.oid, v.relkind, v.relowner, v.relname, v.full_name, v.owner, b.names, b.has_owner
