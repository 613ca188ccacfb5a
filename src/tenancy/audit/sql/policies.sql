-- Permissive policies of the application. Only the restrictive policy warden_org limits them to the organisation, so an
-- operator should know about them.
select 'other-policy' as rule, null::text as severity, format('%I.%I', t.schema_name, t.table_name) as "table",
  p.polname::text as object,
  format('policy %I grants %s to %s%s: only warden_org limits it to the organisation', p.polname,
    case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
                  else 'all commands' end,
    (select string_agg(case u.role when 0 then 'PUBLIC' else u.role::regrole::text end, ', ' order by u.role)
     from unnest(p.polroles) u (role)),
    ' where ' || coalesce(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid), 'true')
  ) as cause,
  'decide' as remedy_kind,
  json_build_object('question', 'is this grant within the organisation on purpose?', 'choices', json_build_array())::text
    as remedy
from warden.tenant_tables t
join pg_namespace n on n.nspname = t.schema_name
join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
join pg_policy p on p.polrelid = c.oid and p.polpermissive
where p.polname <> all (case when t.is_read_only then array['warden_select']
                        else array['warden_select', 'warden_insert', 'warden_update', 'warden_delete'] end)
  -- Warden's own policies on organisations and memberships.
  and not (t.schema_name = 'public' and p.polcmd = 'r'
    and (t.table_name, p.polname) in (
      ('organizations', 'warden_exists'), ('organization_members', 'warden_default_org'))
    and p.polroles <@ array(select r.oid from pg_roles r where r.rolname in ('warden_owner', 'warden_gateway')))
