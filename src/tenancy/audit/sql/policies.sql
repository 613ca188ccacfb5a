-- Permissive policies of the application that do not do what they seem to do. Where row-level security was on before
-- Warden, the application's policies decide, and none is reported.
with policies as (
  select p.polname::text as name, format('%I.%I', t.schema_name, t.table_name) as full_name,
    warden.access_mode(c.oid) as mode,
    md5(p.polname) <> all (warden.policies_without_effect(c.oid)) as is_later,
    format('policy %I grants %s to %s%s', p.polname,
      case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
                    else 'all commands' end,
      (select string_agg(case u.role when 0 then 'PUBLIC' else u.role::regrole::text end, ', ' order by u.role)
       from unnest(p.polroles) u (role)),
      ' where ' || coalesce(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid), 'true')
    ) as grants
  from warden.tenant_tables t
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
  join pg_policy p on p.polrelid = c.oid and p.polpermissive
  where not (warden.is_own_policy(p.oid) and p.polname in (
      select w.name from warden.tenant_policies(c.oid, t.scope, t.user_column, t.is_read_only) w))
    -- Warden's own policies on organisations and memberships.
    and not (t.schema_name = 'public' and p.polcmd = 'r'
      and (t.table_name, p.polname) in (
        ('organizations', 'warden_exists'), ('organization_members', 'warden_default_org'))
      and p.polroles <@ array(select r.oid from pg_roles r where r.rolname in ('warden_owner', 'warden_gateway')))
)
-- A policy that came after the enforcement is meant to have an effect.
select 'other-policy' as rule, case when p.mode <> 'own' and p.is_later then 'finding' else 'notice' end as severity, p.full_name as "table", p.name as object,
  format(case p.mode
    when 'own' then '%s, within the organisation: Warden created this table, and its policies are not the only ones'
    else '%s, and has no effect: row-level security was off before Warden, so the grants alone decide which rows of the '
      'organisation a role sees' end,
    p.grants) as cause,
  'decide' as remedy_kind,
  case p.mode
    when 'own' then json_build_object('question', 'is this grant within the organisation on purpose?',
                                      'choices', json_build_array())
    else json_build_object('question', 'should the policies decide which rows of the organisation a role sees?',
      'choices', json_build_array(json_build_array('yes', 'sql', format('select warden.use_policies(%L);', p.full_name))))
    end::text as remedy
from policies p
where p.mode <> 'policies'
