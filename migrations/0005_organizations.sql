-- The tenants, and who belongs to them.
create table public.organizations (
  id         uuid primary key default gen_random_uuid(),
  name       text not null check (length(name) between 1 and 200),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

-- Where rows belong of which nothing better is known: data from the time before organisations.
insert into public.organizations (id, name)
values ('a0000000-0000-0000-0000-000000000001', 'Default organization');

create table public.organization_members (
  org_id     uuid not null references public.organizations (id) on delete cascade,
  -- The user in the identity provider (auth.users on Supabase); not ours to reference.
  user_id    uuid not null,
  role       text not null default 'member' check (role in ('owner', 'admin', 'member')),
  -- Of several memberships the one that gives the user's tokens their org_id.
  is_primary boolean not null default false,
  created_at timestamptz not null default now(),
  primary key (org_id, user_id)
);
create index organization_members_user on public.organization_members (user_id);
create unique index organization_members_one_primary
  on public.organization_members (user_id) where is_primary;

-- The organisation of the request, from the verified claims that PostgREST (or Warden) sets for the
-- transaction. Only app_metadata counts: user_metadata is the user's own to write. Everything that
-- is not a UUID string in its one place gives NULL, and a policy that compares with NULL lets
-- nothing through.
--
-- It looks before it casts, because an EXCEPTION block fails inside a parallel plan. Claims that are
-- no JSON at all cannot be looked at that way below PostgreSQL 16: there they fail closed, with
-- an error.
do $do$
declare
  guard text := case when current_setting('server_version_num')::int >= 160000
                     then $$ and pg_catalog.pg_input_is_valid(s.raw, 'jsonb')$$ else '' end;
begin
  execute format($fn$
    create function public.auth_org_id() returns uuid
    language sql stable parallel safe set search_path = '' as $body$
      select case
        when pg_catalog.jsonb_typeof(c.claim) = 'string'
         and c.claim #>> '{}' ~ '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$'
        then (c.claim #>> '{}')::uuid end
      from (select pg_catalog.current_setting('request.jwt.claims', true) as raw) s,
      lateral (select case when s.raw <> ''%s
                           then s.raw::jsonb #> '{app_metadata,org_id}' end as claim) c
    $body$
  $fn$, guard);
end
$do$;

-- Whether an organisation exists: asked by the gateway, and by warden.publish().
grant select (id) on public.organizations to warden_gateway, warden_owner;
