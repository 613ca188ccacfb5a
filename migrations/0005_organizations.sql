-- Organisations (the tenants) and memberships. If the application already has these tables, Warden uses them, provided
-- that they fit. Both are part of the core: publishing and revocation check that an organisation exists, and the token
-- hook and the backfill read memberships.
--
-- The application may be using these tables. Other sessions queue behind a lock request that waits, so it waits for a
-- short time only.
set local lock_timeout = '200ms';
set local statement_timeout = '5min';
do $do$
declare
  unfit text;
  is_new boolean := to_regclass('public.organization_members') is null;
begin
  if to_regclass('public.organizations') is null then
    create table public.organizations (
      id         uuid primary key default gen_random_uuid(),
      name       text not null check (length(name) between 1 and 200),
      created_at timestamptz not null default now(),
      updated_at timestamptz not null default now()
    );
    -- warden.is_public_empty() knows Warden's own tables by the end of this comment.
    comment on table public.organizations is 'The tenants (created by Warden)';
    -- Supabase grants every right on new tables to requests by default. Without a policy row-level security lets no
    -- row through; 0011_protect_organizations.sql and `warden migrate --enforce` add the policies.
    revoke all on public.organizations from anon, authenticated;
    alter table public.organizations enable row level security;
  end if;

  if is_new then
    create table public.organization_members (
      org_id     uuid not null,
      -- The user's id at the identity provider (auth.users on Supabase). No foreign key, because Warden does not own
      -- that table.
      user_id    uuid not null,
      role       text not null default 'member' check (role in ('owner', 'admin', 'member')),
      -- Whether this membership, of several, determines the org_id in the user's tokens.
      is_primary boolean not null default false,
      created_at timestamptz not null default now(),
      primary key (org_id, user_id)
    );
    create index organization_members_user on public.organization_members (user_id);
    create unique index organization_members_one_primary
      on public.organization_members (user_id) where is_primary;
    comment on table public.organization_members is 'Memberships of users in organisations (created by Warden)';
    revoke all on public.organization_members from anon, authenticated;
    alter table public.organization_members enable row level security;
  end if;

  select format('public.%s %s', w.name, case
      when c.relkind <> 'r' then 'is not an ordinary table'
      when not pg_has_role(current_user, c.relowner, 'usage') then
        format('belongs to %s, and %s is not a member of that role', c.relowner::regrole, current_user)
      when a.attname is null then format('has no column "%s"', w.column_name)
      when a.atttypid <> 'uuid'::regtype then
        format('has a column "%s" of type %s, and must be uuid', w.column_name, a.atttypid::regtype)
    end) into unfit
  from (values ('organizations', 'id'), ('organization_members', 'org_id'), ('organization_members', 'user_id'))
         w (name, column_name)
  join pg_class c on c.oid = to_regclass('public.' || w.name)
  left join pg_attribute a on a.attrelid = c.oid and a.attname = w.column_name and not a.attisdropped
  where c.relkind <> 'r' or not pg_has_role(current_user, c.relowner, 'usage')
     or a.attname is null or a.atttypid <> 'uuid'::regtype
  limit 1;
  if unfit is not null then
    raise exception '%', unfit
      using hint = 'Warden needs organizations (id uuid, unique) and organization_members (org_id uuid, user_id uuid), '
                   'owned by the migrating role: change them, or rename them so that Warden creates its own.';
  end if;
  if not exists (
    select from pg_index i
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] and a.attname = 'id'
    where i.indrelid = 'public.organizations'::regclass and i.indisunique and i.indisvalid
      and i.indimmediate and i.indnkeyatts = 1 and i.indpred is null
  ) then
    raise exception 'public.organizations (id) is not unique'
      using hint = 'Every tenant table gets a foreign key to it: '
                   'alter table public.organizations add primary key (id);';
  end if;
  if is_new then
    alter table public.organization_members add constraint organization_members_org_id_fkey
      foreign key (org_id) references public.organizations (id) on delete cascade;
  end if;
end
$do$;

-- The organisation of rows without a parent or a membership, such as data older than organisations.
create function warden.default_organization() returns uuid
language sql immutable parallel safe set search_path = '' as $$
  select 'a0000000-0000-0000-0000-000000000001'::uuid
$$;
alter function warden.default_organization() owner to warden_owner;
revoke execute on function warden.default_organization() from public;

do $do$
declare
  names text := case when exists (
    select from pg_attribute where attrelid = 'public.organizations'::regclass and attname = 'name'
      and atttypid in ('text'::regtype, 'varchar'::regtype)) then 'name' end;
begin
  if not exists (select from public.organizations where id = warden.default_organization()) then
    execute format('insert into public.organizations (id%s) values (%L%s)', ', ' || names,
                   warden.default_organization(),
                   case when names is not null then ', ''Default organization''' else '' end);
  end if;
exception when integrity_constraint_violation or raise_exception then
  raise exception 'the default organisation cannot be inserted: %', sqlerrm
    using hint = format('Insert it with the other columns that public.organizations needs, then run the migration '
                        'again: insert into public.organizations (id, ...) values (%L, ...);',
                        warden.default_organization());
end
$do$;

-- The organisation of the request, from the verified claims that PostgREST (or another server) sets for the
-- transaction. Only app_metadata counts, because users can write their user_metadata. Anything but a UUID string in
-- that one place gives null, and a policy that compares with null lets no row through. auth_user_id() does the same for
-- the user, with the claim sub.
--
-- The functions test the claim before they cast it, because an EXCEPTION block fails inside a parallel plan. Below
-- PostgreSQL 16 they cannot test whether the claims are JSON at all: there invalid JSON is an error, which lets no row
-- through either.
do $do$
declare
  guard text := case when current_setting('server_version_num')::int >= 160000
                     then $$ and pg_catalog.pg_input_is_valid(s.raw, 'jsonb')$$ else '' end;
  fn record;
begin
  for fn in values ('auth_org_id', '{app_metadata,org_id}'), ('auth_user_id', '{sub}') loop
    execute format($fn$
      create or replace function public.%I() returns uuid
      language sql stable parallel safe set search_path = '' as $body$
        select case
          when pg_catalog.jsonb_typeof(c.claim) = 'string'
           and c.claim #>> '{}' ~ '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$'
          then (c.claim #>> '{}')::uuid end
        from (select pg_catalog.current_setting('request.jwt.claims', true) as raw) s,
        lateral (select case when s.raw <> ''%s
                             then s.raw::jsonb #> %L end as claim) c
      $body$
    $fn$, fn.column1, guard, fn.column2);
    -- Every role to which a policy may apply. PUBLIC alone would do, but it may have lost the right.
    execute format('grant execute on function public.%I() to public, anon, authenticated, service_role, '
                   'warden_owner, warden_gateway', fn.column1);
  end loop;
end
$do$;

-- The gateway and warden.publish() check whether an organisation exists.
grant select (id) on public.organizations to warden_gateway, warden_owner;
-- This policy has an effect only if row-level security is enabled.
create policy warden_exists on public.organizations for select to warden_gateway, warden_owner using (true);

-- The organisation of a user: the primary membership, else the oldest, else null. The fill trigger, the backfill and
-- tokens all use this rule. It bypasses row-level security, so only named roles may call it. The executor runs with
-- row_security off, under which the policy that lets warden_owner read memberships would be an error.
do $do$
declare
  has_columns name[] := array(select attname from pg_attribute
                              where attrelid = 'public.organization_members'::regclass and not attisdropped
                                and attname in ('is_primary', 'created_at'));
  columns text := array_to_string(array['org_id', 'user_id'] || has_columns::text[], ', ');
begin
  execute format($fn$
    create function warden.default_org_for(user_id uuid) returns uuid
    language sql stable security definer set search_path = '' set row_security = on as $body$
      select m.org_id from public.organization_members m where m.user_id = default_org_for.user_id
      order by %s%s m.org_id limit 1
    $body$
  $fn$, case when 'is_primary' = any (has_columns) then 'm.is_primary desc nulls last,' else '' end,
        case when 'created_at' = any (has_columns) then ' m.created_at,' else '' end);
  execute format('grant select (%s) on public.organization_members to warden_owner', columns);
end
$do$;
alter function warden.default_org_for(uuid) owner to warden_owner;
revoke execute on function warden.default_org_for(uuid) from public;
create policy warden_default_org on public.organization_members for select to warden_owner using (true);

-- Supabase Auth calls this before it issues a token, at sign-in and at every refresh, with {user_id, claims,
-- authentication_method}, and signs the claims that it returns. It writes the organisation of the user's present
-- membership into app_metadata, so the claim is never older than the token. A user without a membership gets a token
-- without org_id, whatever the claim was before: this ends the access of a removed member. All other claims are
-- unchanged, and claims that are not an object are returned as they are.
create or replace function public.custom_access_token_hook(event jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  app_metadata jsonb := event #> '{claims,app_metadata}';
  org uuid;
begin
  if jsonb_typeof(event -> 'claims') is distinct from 'object' then
    return event;
  end if;
  if event ->> 'user_id' ~ '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$' then
    org := warden.default_org_for((event ->> 'user_id')::uuid);
  end if;
  if jsonb_typeof(app_metadata) is distinct from 'object' then
    app_metadata := '{}';
  end if;
  app_metadata := app_metadata - 'org_id';
  if org is not null then
    app_metadata := app_metadata || jsonb_build_object('org_id', org);
  end if;
  return jsonb_set(event, '{claims,app_metadata}', app_metadata);
end
$$;
revoke execute on function public.custom_access_token_hook(jsonb) from public, anon, authenticated, service_role;

-- Only Supabase has this role.
do $do$
begin
  if exists (select from pg_roles where rolname = 'supabase_auth_admin') then
    grant usage on schema public, warden to supabase_auth_admin;
    grant execute on function public.custom_access_token_hook(jsonb) to supabase_auth_admin;
    grant execute on function warden.default_org_for(uuid) to supabase_auth_admin;
  end if;
end
$do$;
