-- Tables that may belong to organisations or users, and are not registered. The remedy registers the tables first from
-- which the rows inherit, so that no row gets the default organisation while a foreign key says better.
with recursive candidates as materialized (
  select c.*, t.relname, format('%I.%I', n.nspname, t.relname) as full_name,
    format('select warden.adopt_table(%L%s%s%s);', format('%I.%I', n.nspname, t.relname),
      case when c.user_column is not null then format(', user_column => %L', c.user_column) else '' end,
      case when c.parent is not null and c.parent_column <> 'org_id' then format(', parent => %L, parent_column => %L, parent_key => %L',
        format('%I.%I', pn.nspname, p.relname), c.parent_column, c.parent_key) else '' end,
      concat(case when o.may_move then ', is_immutable => false' end,
             case when c.parent is null and c.user_column is null and c.reference is null
               then ', uses_default_organization => true' end)) as adoption,
    o.objects,
    not t.relrowsecurity and exists (
      select from pg_roles g where g.rolname in ('anon', 'authenticated')
        and has_any_column_privilege(g.oid, t.oid, 'select')) as is_open
  from warden.tenant_candidates() c
  join pg_class t on t.oid = c.relation join pg_namespace n on n.oid = t.relnamespace
  left join pg_class p on p.oid = c.parent left join pg_namespace pn on pn.oid = p.relnamespace
  -- What Warden created on it before a restore without data lost the registry.
  cross join lateral (
    select string_agg(x.object, ', ' order by x.object) as objects,
      coalesce(bool_or(x.object ~ '_(fill|require)_org_id') and not bool_or(x.object ~ '_immutable'), false) as may_move
    from (select format('trigger %I', g.tgname) as object from pg_trigger g
          where g.tgrelid = c.relation and not g.tgisinternal and g.tgname like 'warden\_%'
          union all
          select format('policy %I', p.polname) from pg_policy p
          where p.polrelid = c.relation and warden.is_own_policy(p.oid)) x) o
), adoptions as (
  select c.relation, 0 as height, coalesce(c.parent, c.reference) as parent, c.adoption from candidates c
  union all
  select a.relation, a.height + 1, coalesce(c.parent, c.reference), c.adoption from adoptions a join candidates c on c.relation = a.parent
), run as (
  -- A table that is adopted late is enforced at once if the database isolates organisations already.
  select case when exists (select from pg_policy p where p.polrelid = to_regclass('public.organizations')
                             and p.polname = 'warden_org')
              then 'warden migrate --enforce' else 'warden migrate' end as command
)
select 'unregistered-table' as rule, null::text as severity, c.full_name as "table", c.relname::text as object,
  format('it is not registered as a table of organisations or of users (%s)%s', c.reason,
    format('; it has objects of Warden, as after a restore without data: ' || c.objects)) as cause,
  'decide' as remedy_kind,
  json_build_object('question', 'whose are its rows?', 'choices', json_build_array(
    json_build_array(case when c.parent is null and c.user_column is null and c.reference is null
        then 'all that have no org_id belong to the default organisation'
        else 'each belongs to an organisation' end, 'sql', format(E'%s\n$ %s', (
      select string_agg(a.adoption, E'\n' order by a.height desc) from adoptions a where a.relation = c.relation),
      run.command)),
    case when c.user_column is not null then json_build_array(case
        -- No policy lets a row of another user through.
        when c.is_open then 'each belongs to a user, and no other may read or write it: a write for another user fails, also by a trigger '
                            'that runs with the rights of the writer'
        else 'each belongs to a user' end, 'sql', concat(
      format('select warden.leave_to_user(%L, %L);', c.full_name, c.user_column),
      case when c.is_open then format(E'\nselect warden.protect(%L);', c.full_name) end)) end))::text as remedy
from candidates c, run
