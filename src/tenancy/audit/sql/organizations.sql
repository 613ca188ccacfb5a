-- The default organisation, and users with several memberships of which none is primary.
select 'default-organization' as rule, null::text as severity, 'public.organizations' as "table",
  d.id::text as object,
  'the default organisation is missing: rows without a parent or a membership cannot be filled' as cause,
  'sql' as remedy_kind,
  format('insert into public.organizations (id, name) values (%L, ''Default organization'');', d.id) as remedy
from (values ('a0000000-0000-0000-0000-000000000001'::uuid)) d (id)
where not exists (select from public.organizations o where o.id = d.id)
union all
(select 'several-memberships', null, 'public.organization_members', m.user_id::text,
   format('the user is a member of %s organisations, and none is primary: tokens and rows get the oldest%s%s', count(*),
     case when bool_or(j.row ? 'created_at') then ' membership''s' else ', by id' end,
     case when count(*) over () > 20 then format(' (%s such users; 20 are listed)', count(*) over ()) else '' end),
   'decide',
   case when bool_or(j.row ? 'is_primary') then format(
       'update public.organization_members set is_primary = true where user_id = %L and org_id = ''<one of %s>'';',
       m.user_id, string_agg(m.org_id::text, ', ' order by m.org_id))
     else 'alter table public.organization_members add column is_primary boolean not null default false; '
          'then set it for one membership' end
 from public.organization_members m
 cross join lateral (select to_jsonb(m) as row) j
 group by m.user_id
 having count(*) > 1 and not coalesce(bool_or((j.row ->> 'is_primary')::boolean), false)
 order by m.user_id limit 20)
