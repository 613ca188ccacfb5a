-- The default organisation, and users of whom nobody said which of their organisations is meant.
select 'default-organization' as rule, null::text as severity, 'public.organizations' as "table",
  d.id::text as object, 'the default organisation is missing: rows of which nothing better is known can''t be filled' as cause,
  'sql' as run, format('insert into public.organizations (id, name) values (%L, ''Default organization'');', d.id) as mend
from (values ('a0000000-0000-0000-0000-000000000001'::uuid)) d (id)
where not exists (select from public.organizations o where o.id = d.id)
union all
(select 'several-memberships', null, 'public.organization_members', m.user_id::text,
   format('it is a member of %s organisations, and none is primary: its tokens and rows are given the oldest%s%s', count(*),
     case when bool_or(j.row ? 'created_at') then ' membership''s' else ', by id' end,
     case when count(*) over () > 20 then format(' (%s such users; 20 are listed)', count(*) over ()) else '' end),
   'decide',
   case when bool_or(j.row ? 'is_primary') then format(
       'update public.organization_members set is_primary = true where user_id = %L and org_id = ''<one of %s>'';',
       m.user_id, string_agg(m.org_id::text, ', ' order by m.org_id))
     else 'alter table public.organization_members add column is_primary boolean not null default false; then say which' end
 from public.organization_members m
 cross join lateral (select to_jsonb(m) as row) j
 group by m.user_id
 having count(*) > 1 and not coalesce(bool_or((j.row ->> 'is_primary')::boolean), false)
 order by m.user_id limit 20)
