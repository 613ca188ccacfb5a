-- Organisations (the tenants) and memberships. If the application already has these tables, Warden uses them if the
-- operator names them and they fit. Both are part of the core: publishing and revocation check that an organisation
-- exists, and the token hook and the backfill read memberships.
--
-- The application may be using these tables. Other sessions queue behind a lock request that waits, so it waits for a
-- short time only.
set local lock_timeout = '200ms';
set local statement_timeout = '5min';
set local role warden_owner;

-- Former definitions of the application's objects that an operator told Warden to replace.
create table if not exists warden.replaced_objects (
  name        text not null,
  definition  text not null,
  replaced_at timestamptz not null default now(),
  replaced_by name not null default current_user,
  primary key (name, replaced_at)
);

-- Whether a function is Warden's: its text is that of the original in schema warden, or the one that its comment names
-- by a hash, or that of a version before these comments. A comment alone proves nothing, because CREATE OR REPLACE
-- keeps it: a function that the application has replaced is the application's. Plans call it once for each policy, so
-- it reads the comment itself: obj_description() would take longer than the rest.
create or replace function warden.is_own(function oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select exists (
      select from pg_catalog.pg_proc p
      where p.oid = function and (
        exists (select from pg_catalog.pg_description d
                where d.objoid = p.oid and d.classoid = 'pg_catalog.pg_proc'::regclass and d.objsubid = 0
                  and d.description like '%text ' || pg_catalog.md5(p.prosrc) || ' (created by Warden)')
        or exists (select from pg_catalog.pg_proc w
                   where w.pronamespace = 'warden'::regnamespace and w.proname = p.proname and w.prosrc = p.prosrc)
        or pg_catalog.md5(p.prosrc) in (
          -- auth_org_id() and auth_user_id(), each from PostgreSQL 16 on and before
          'c1ce8ec1ef41e8da60e2a36670d4b943', 'ddaf8c984832b0cabdf3664caa3ef809',
          'dcc596186624cca2fb09e8e6e6813da1', '1e93c3b40cf1d56a504bec4d04927d49',
          -- prevent_org_id_change(), two versions
          '103409cc36a26eb7561839e7fee7a708', 'c7e8b046d1a65764e6e42dea90f7c56a',
          -- custom_access_token_hook(jsonb), two versions
          'fb9cdae8a4ca0fbee9071ed775216519', '8824ea4b7af5aa314ef5fbe60f875d46'))));
end
$$;
revoke execute on function warden.is_own(oid) from public;

-- Name of the function that Warden's policies, defaults and triggers call: the one in schema public if Warden created
-- it. Otherwise the application has a function of that name, and Warden uses its own in schema warden.
create or replace function warden.callee(name text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select case when exists (
      select from pg_catalog.pg_proc p
      where p.pronamespace = 'public'::regnamespace and p.proname = callee.name and warden.is_own(p.oid)
    ) then 'public.' else 'warden.' end || callee.name);
end
$$;
revoke execute on function warden.callee(text) from public;

-- The application's functions that a function of Warden in schema public would replace, or make ambiguous: same name,
-- and callable with the same arguments.
create or replace function warden.occupants(name text) returns setof oid
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p.oid from pg_catalog.pg_proc p
  join pg_catalog.pg_proc w on w.pronamespace = 'warden'::regnamespace and w.proname = occupants.name
  where p.pronamespace = 'public'::regnamespace and p.proname = occupants.name and not warden.is_own(p.oid)
    and w.pronargs between p.pronargs - p.pronargdefaults and p.pronargs
    and (w.pronargs = 0 or p.proargtypes[0] = w.proargtypes[0])
  order by p.oid
$$;
revoke execute on function warden.occupants(text) from public;

-- Creates public.<name> as a copy of warden.<name>, with the same callers. If the application has a function of that
-- name, it stays, unless the setting warden.replace (names separated by commas) names it. Its definition is recorded
-- then, and a token hook is renamed, because Warden's hook calls it first.
create or replace function warden.create_public_function(name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  own pg_catalog.pg_proc;
  former record;
  signature text;
  grantee text;
begin
  select p.* into strict own from pg_catalog.pg_proc p
  where p.pronamespace = 'warden'::regnamespace and p.proname = create_public_function.name;
  signature := pg_catalog.format('public.%I(%s)', name, pg_catalog.oidvectortypes(own.proargtypes));
  if exists (select from warden.occupants(name)) and 'public.' || name <> all (
       pg_catalog.string_to_array(pg_catalog.current_setting('warden.replace', true), ',') || '{}'::text[]) then
    return;
  end if;
  for former in
    select p.oid::regprocedure as signature, p.prokind = 'f' and p.proargtypes = own.proargtypes as is_alike,
      p.prorettype = own.prorettype and p.proretset = own.proretset as returns_alike,
      case when p.prokind = 'a' then pg_catalog.format('aggregate %s', p.oid::regprocedure)
           else pg_catalog.pg_get_functiondef(p.oid) end as definition
    from warden.occupants(name) o (oid) join pg_catalog.pg_proc p on p.oid = o.oid
  loop
    insert into warden.replaced_objects (name, definition) values (former.signature::text, former.definition);
    if not former.is_alike or not former.returns_alike then
      execute pg_catalog.format('drop routine %s', former.signature);
    elsif name = 'custom_access_token_hook' then
      execute pg_catalog.format('alter function %s rename to custom_access_token_hook_before_warden',
                                former.signature);
    end if;
  end loop;
  execute pg_catalog.replace(pg_catalog.pg_get_functiondef(own.oid), 'FUNCTION warden.', 'FUNCTION public.');
  execute pg_catalog.format('comment on function %s is %L', signature,
                            pg_catalog.format('Copy of warden.%s, text %s (created by Warden)', name,
                                              pg_catalog.md5(own.prosrc)));
  -- Default privileges may have granted it to anybody.
  for grantee in
    select distinct case a.grantee when 0 then 'public'
                                   else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end
    from pg_catalog.pg_proc p, pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
    where p.oid = signature::regprocedure and a.grantee <> p.proowner
  loop
    execute pg_catalog.format('revoke execute on function %s from %s', signature, grantee);
  end loop;
  for grantee in
    select distinct case a.grantee when 0 then 'public'
                                   else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end
    from pg_catalog.aclexplode(own.proacl) a where a.grantee <> own.proowner
  loop
    execute pg_catalog.format('grant execute on function %s to %s', signature, grantee);
  end loop;
end
$$;
revoke execute on function warden.create_public_function(text) from public;
reset role;

do $do$
declare
  unfit text;
  is_new boolean := to_regclass('public.organization_members') is null;
  created regclass[] := '{}';
  granted record;
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
    -- Without a policy row-level security lets no row through. 0015_protect_organizations.sql and
    -- `warden migrate --enforce` add the policies.
    created := created || 'public.organizations'::regclass;
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
    created := created || 'public.organization_members'::regclass;
    alter table public.organization_members enable row level security;
  end if;

  -- Default privileges, such as Supabase's, may have granted anything to anybody.
  for granted in
    select distinct c.oid::regclass as relation,
      case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
    from pg_class c, aclexplode(c.relacl) a where c.oid = any (created) and a.grantee <> c.relowner
  loop
    execute format('revoke all on %s from %s', granted.relation, granted.grantee);
  end loop;

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
set local role warden_owner;
create or replace function warden.default_organization() returns uuid
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
  select 'a0000000-0000-0000-0000-000000000001'::uuid
$$;
revoke execute on function warden.default_organization() from public;
reset role;

-- The gateway and warden.publish() check whether an organisation exists.
grant select (id) on public.organizations to warden_gateway, warden_owner;
do $do$
begin
  -- The policy has an effect only if row-level security is enabled.
  if not exists (select from pg_policy
                 where polrelid = 'public.organizations'::regclass and polname = 'warden_exists') then
    create policy warden_exists on public.organizations for select to warden_gateway, warden_owner using (true);
  end if;
end
$do$;

-- Inserts the default organisation, unless it exists. An application's own organizations gets it only once an operator
-- chose it for rows, because the application's triggers see the new row, and its columns may need values. The executor
-- runs with row_security off, under which the policy for warden_owner would be an error.
set local role warden_owner;
create or replace function warden.create_default_organization() returns void
language plpgsql set search_path = pg_catalog, pg_temp set row_security = on as $create$
declare
  names text := case when exists (
    select from pg_catalog.pg_attribute where attrelid = 'public.organizations'::regclass and attname = 'name'
      and atttypid in ('text'::regtype, 'varchar'::regtype)) then ', name' else '' end;
  caller text := pg_catalog.current_setting('role');
  is_there boolean;
begin
  -- Row-level security, once it is forced, hides the row from the owner of the table.
  perform pg_catalog.set_config('role', 'warden_owner', true);
  is_there := exists (select from public.organizations where id = warden.default_organization());
  perform pg_catalog.set_config('role', caller, true);
  if not is_there then
    execute pg_catalog.format('insert into public.organizations (id%s) values (%L%s)', names, warden.default_organization(),
                              case when names <> '' then ', ''Default organization''' else '' end);
  end if;
exception when integrity_constraint_violation or data_exception or raise_exception then
  raise exception 'the default organisation cannot be inserted: %', sqlerrm
    using hint = pg_catalog.format('Insert it with the other columns that public.organizations needs, then run the '
                                   'command again: insert into public.organizations (id, ...) values (%L, ...);',
                                   warden.default_organization());
end
$create$;
revoke execute on function warden.create_default_organization() from public;
reset role;
do $do$
begin
  if coalesce(obj_description('public.organizations'::regclass, 'pg_class') like '%(created by Warden)', false) then
    perform warden.create_default_organization();
  end if;
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
--
-- They exist in schema warden, and as copies in schema public for statements of the application. Warden's policies call
-- the ones that warden.callee() names.
set local role warden_owner;
-- This function creates them. The audit prints its call if one of them returns a wrong result.
create or replace function warden.create_claim_functions() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $create$
declare
  guard text := case when pg_catalog.current_setting('server_version_num')::int >= 160000
                     then $$ and pg_catalog.pg_input_is_valid(s.raw, 'jsonb')$$ else '' end;
  fn record;
begin
  for fn in values ('auth_org_id', '{app_metadata,org_id}'), ('auth_user_id', '{sub}') loop
    execute pg_catalog.format($fn$
      create or replace function warden.%I() returns uuid
      language sql stable parallel safe set search_path = pg_catalog, pg_temp as $body$
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
    execute pg_catalog.format('grant execute on function warden.%I() to public, anon, authenticated, service_role, '
                   'warden_owner, warden_gateway', fn.column1);
  end loop;
end
$create$;
select warden.create_claim_functions();
reset role;
select warden.create_public_function('auth_org_id'), warden.create_public_function('auth_user_id');

-- The organisation of a user: the primary membership, else the oldest, else null. The fill trigger, the backfill and
-- tokens all use this rule. It bypasses row-level security, so only named roles may call it. The executor runs with
-- row_security off, under which the policy that lets warden_owner read memberships would be an error.
-- This function creates it. The audit prints its call if the token hook returns a wrong organisation.
set local role warden_owner;
create or replace function warden.create_default_org_for() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $create$
declare
  columns name[] := array(select a.attname from pg_catalog.pg_attribute a
                          where a.attrelid = 'public.organization_members'::regclass and not a.attisdropped
                            and a.attname in ('is_primary', 'created_at'));
begin
  execute pg_catalog.format($fn$
    create or replace function warden.default_org_for(user_id uuid) returns uuid
    language sql stable security definer set search_path = pg_catalog, pg_temp set row_security = on as $body$
      select m.org_id from public.organization_members m where m.user_id = default_org_for.user_id
      order by %s%s m.org_id limit 1
    $body$
  $fn$, case when 'is_primary' = any (columns) then 'm.is_primary desc nulls last,' else '' end,
        case when 'created_at' = any (columns) then ' m.created_at,' else '' end);
  revoke execute on function warden.default_org_for(uuid) from public;
end
$create$;
revoke execute on function warden.create_default_org_for() from public;
reset role;
do $do$
begin
  execute (
    select format('grant select (%s) on public.organization_members to warden_owner',
                  string_agg(quote_ident(a.attname), ', '))
    from pg_attribute a
    where a.attrelid = 'public.organization_members'::regclass and not a.attisdropped
      and a.attname in ('org_id', 'user_id', 'is_primary', 'created_at'));
end
$do$;
-- Created by its owner, because default privileges of the migrating role could grant it to any role.
set local role warden_owner;
select warden.create_default_org_for();
reset role;
do $do$
begin
  if not exists (select from pg_policy
                 where polrelid = 'public.organization_members'::regclass and polname = 'warden_default_org') then
    create policy warden_default_org on public.organization_members for select to warden_owner using (true);
  end if;
end
$do$;

set local role warden_owner;

-- The application's own token hook, which Warden's calls first, or null. It is public.custom_access_token_hook(jsonb)
-- if the application keeps that name. Otherwise Warden renamed it. Its result may contain any claim, such as the role
-- of the token, so it must belong to a role that could change Warden's own functions in schema public.
create or replace function warden.application_token_hook() returns regprocedure
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  hook record;
begin
  select p.oid::regprocedure as signature, pg_catalog.pg_get_userbyid(p.proowner) as owner,
    r.rolsuper or p.proowner in (d.datdba, c.relowner)
      or pg_catalog.pg_has_role(p.proowner, c.relowner, 'usage')
      or not s.rolsuper and pg_catalog.pg_has_role(c.relowner, p.proowner, 'usage') as is_trusted into hook
  from pg_catalog.pg_proc p
  join pg_catalog.pg_roles r on r.oid = p.proowner
  join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
  join pg_catalog.pg_class c on c.oid = 'public.organizations'::regclass
  join pg_catalog.pg_roles s on s.oid = c.relowner
  where p.pronamespace = 'public'::regnamespace and p.prokind = 'f' and not p.proretset
    and p.proname in ('custom_access_token_hook', 'custom_access_token_hook_before_warden')
    and p.pronargs = 1 and p.proargtypes[0] = 'jsonb'::regtype and p.prorettype = 'jsonb'::regtype
    and not warden.is_own(p.oid)
  order by p.proname limit 1;
  if hook.is_trusted is false then
    raise exception 'warden: the token hook % belongs to %, which may not decide about claims',
        hook.signature, hook.owner
      using errcode = '42501',
            hint = 'Give it to the owner of public.organizations, or drop it.';
  end if;
  return hook.signature;
end
$$;
revoke execute on function warden.application_token_hook() from public;

-- Supabase Auth calls this before it issues a token, at sign-in and at every refresh, with {user_id, claims,
-- authentication_method}, and signs the claims that it returns. It writes the organisation of the user's present
-- membership into app_metadata, so the claim is never older than the token. A user without a membership gets a token
-- without org_id, whatever the claim was before: this ends the access of a removed member. All other claims are
-- unchanged, and claims that are not an object are returned as they are.
--
-- If the application has a hook of its own, it runs first, and org_id is set in its result. If it fails, or returns
-- something that is not an object, no token is issued.
create or replace function warden.custom_access_token_hook(event jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  user_id text := event ->> 'user_id';
  hook regprocedure := warden.application_token_hook();
  app_metadata jsonb;
  org uuid;
begin
  if hook is not null then
    execute pg_catalog.format('select %s($1)', hook::oid::regproc) into event using event;
    if pg_catalog.jsonb_typeof(event) is distinct from 'object' then
      raise exception 'warden: the token hook % returned %, and must return an object', hook,
          coalesce(pg_catalog.jsonb_typeof(event), 'null')
        using errcode = '22023';
    end if;
  end if;
  if jsonb_typeof(event -> 'claims') is distinct from 'object' then
    return event;
  end if;
  if user_id ~ '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$' then
    org := warden.default_org_for(user_id::uuid);
  end if;
  app_metadata := event #> '{claims,app_metadata}';
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
revoke execute on function warden.custom_access_token_hook(jsonb) from public;

-- Only Supabase has this role.
do $do$
begin
  if exists (select from pg_roles where rolname = 'supabase_auth_admin') then
    grant usage on schema warden to supabase_auth_admin;
    grant execute on function warden.custom_access_token_hook(jsonb), warden.application_token_hook(),
      warden.is_own(oid), warden.default_org_for(uuid) to supabase_auth_admin;
  end if;
end
$do$;
reset role;
do $do$
begin
  if exists (select from pg_roles where rolname = 'supabase_auth_admin') then
    grant usage on schema public to supabase_auth_admin;
  end if;
end
$do$;
select warden.create_public_function('custom_access_token_hook');
