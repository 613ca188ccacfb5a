-- A project tracker that already has organizations and organization_members, with columns and roles of its own, and an
-- org_id on its main table.
--! tables: public.organizations, public.organization_members, public.projects, public.milestones
--! watch: 'public.projects', 'projects', 'project'
--! watch: 'public.milestones', 'milestones', 'milestone'
--! write: insert into projects (org_id, name) values ('{org}', 'project {n}')
--! write: insert into milestones (project_id, title)
--!   select id, 'milestone {n}' from projects order by name desc limit 1
--! write: update projects set name = name || '.' where number % 3 = {n} % 3
--! write: update milestones set title = 'changed {n}' where number % 3 = {n} % 3
--! write: delete from milestones where number % 5 = {n} % 5
--! write: delete from projects where number % 13 = {n} % 13
--! check: select * from milestones m join projects p on p.id = m.project_id where m.org_id <> p.org_id
--! check: select * from projects p where p.name like '%-b' and p.org_id <> '0b000000-0000-4000-8000-00000000000b'
create table organizations (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  slug text unique,
  plan text not null default 'free' check (plan in ('free', 'team')),
  settings jsonb not null default '{}'
);
create table organization_members (
  id bigint generated always as identity primary key,
  org_id uuid not null references organizations on delete cascade,
  user_id uuid not null references auth.users on delete cascade,
  role text not null default 'viewer',
  invited_at timestamptz,
  unique (org_id, user_id)
);
revoke all on organizations, organization_members from anon, authenticated;
grant select on organizations, organization_members to authenticated;
create table projects (
  id uuid primary key default gen_random_uuid(),
  number bigint generated always as identity,
  org_id uuid not null references organizations on delete cascade,
  name text not null
);
create table milestones (
  id uuid primary key default gen_random_uuid(),
  number bigint generated always as identity,
  project_id uuid not null references projects on delete cascade,
  title text not null
);
insert into organizations (id, name, slug) values
  ('0a000000-0000-4000-8000-00000000000a', 'A', 'a'), ('0b000000-0000-4000-8000-00000000000b', 'B', 'b');
insert into organization_members (org_id, user_id, role)
select case when email like '%@a.example' then '0a000000-0000-4000-8000-00000000000a'::uuid
            else '0b000000-0000-4000-8000-00000000000b' end, id, 'admin' from auth.users;
insert into projects (org_id, name)
select o.id, 'project ' || n || '-' || o.slug from organizations o, generate_series(1, 10) n where o.slug in ('a', 'b');
insert into milestones (project_id, title) select id, 'first' from projects;
