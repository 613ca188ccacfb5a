-- The default organisation, and users with several memberships of which none is primary.
select 'default-organization' as rule, null::text as severity, 'public.organizations' as "table",
  d.id::text as object,
  'the default organisation is missing: rows without a parent or a membership cannot be filled' as cause,
  'sql' as remedy_kind,
  case when exists (select from pg_attribute a where a.attrelid = to_regclass('public.organizations')
                      and a.attname = 'name' and a.atttypid in ('text'::regtype, 'varchar'::regtype))
       then format('insert into public.organizations (id, name) values (%L, ''Default organization'');', d.id)
       else format('insert into public.organizations (id) values (%L);', d.id) end as remedy
from (values ('a0000000-0000-0000-0000-000000000001'::uuid)) d (id)
where not exists (select from public.organizations o where o.id = d.id)
  and exists (select from warden.tenant_tables t where t.uses_default_organization or t.fills_rest_with_default or t.origin = 'platform')
union all
(select 'several-memberships', null, 'public.organization_members', m.user_id::text,
   format('the user is a member of %s organisations, and none is primary: tokens and rows get the oldest%s%s', count(*),
     case when bool_or(j.row ? 'created_at') then ' membership''s' else ', by id' end,
     case when count(*) over () > 20 then format(' (%s such users; 20 are listed)', count(*) over ()) else '' end),
   'decide',
   json_build_object('question', 'which organisation do the user''s tokens name?', 'choices',
     json_agg(json_build_array(m.org_id::text, 'sql', concat(
       case when not j.row ? 'is_primary' then
         E'alter table public.organization_members add column is_primary boolean not null default false;\n' end,
       format('update public.organization_members set is_primary = true where user_id = %L and org_id = %L;',
              m.user_id, m.org_id))) order by m.org_id))::text
 from public.organization_members m
 cross join lateral (select to_jsonb(m) as row) j
 group by m.user_id
 having count(*) > 1 and not coalesce(bool_or((j.row ->> 'is_primary')::boolean), false)
 order by m.user_id limit 20)
