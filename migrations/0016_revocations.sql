-- Revocation: sessions that must end, and tokens that are no longer valid, before they expire. The gateways keep this
-- table in memory, and load changed rows after a control event in the log.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

create table if not exists warden.revocations (
  id         bigint generated always as identity primary key,
  -- An entry applies to a token whose claims equal every value that is not null. The types are text, because the claims
  -- `session_id` and `sub` are strings, and an identity provider may put anything there.
  session_id text check (octet_length(session_id) between 1 and 256),
  user_id    text check (octet_length(user_id) between 1 and 256),
  org_id     uuid,
  issuer     text check (issuer <> ''),
  -- Tokens issued up to the end of this second are rejected, and so are tokens without `iat`.
  revoked_at timestamptz not null,
  -- By then every token from before revoked_at has expired, so the entry can be deleted.
  expires_at timestamptz not null,
  -- While true, every token is rejected, whenever it was issued. Such an entry is not deleted.
  suspended  boolean     not null default false,
  reason     text        not null default '' check (octet_length(reason) <= 500),
  created_by text        not null default session_user,
  -- The `sub` of the back end's token for a request through HTTP; null for a call in SQL.
  requested_by text check (octet_length(requested_by) between 1 and 256),
  -- The transaction that added or changed the row. With it a gateway loads only what its last snapshot lacks.
  xid        xid8        not null,
  constraint revocations_subject check (
    num_nonnulls(session_id, user_id) = 1 or (num_nonnulls(session_id, user_id) = 0 and org_id is not null)),
  constraint revocations_suspended check (
    not suspended or (org_id is not null and num_nonnulls(session_id, user_id, issuer) = 0))
);
-- One entry per subject: revoking again updates its time. (A claim is never empty, so '' represents null.)
create unique index if not exists revocations_once on warden.revocations
  (coalesce(session_id, ''), coalesce(user_id, ''), coalesce(org_id, '00000000-0000-0000-0000-000000000000'),
   coalesce(issuer, ''));
create index if not exists revocations_expires_at on warden.revocations (expires_at);
-- For counting an organisation's entries, which warden.revoke_within() limits.
create index if not exists revocations_org on warden.revocations (org_id) where org_id is not null;

create index if not exists revocations_xid on warden.revocations (xid);

create or replace function warden.stamp_revocation() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.xid := pg_catalog.pg_current_xact_id();
  return new;
end
$$;
create or replace trigger stamp_revocation before insert or update on warden.revocations
  for each row execute function warden.stamp_revocation();

-- Notifies the gateways, in the same transaction. Clients never get this event. Its name is the trigger's argument.
create or replace function warden.revocations_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
begin
  insert into warden.events (topic, event, data) values ('org', tg_argv[0], '{}');
  return null;
end
$$;
create or replace trigger revocations_changed
  after insert or update of revoked_at, expires_at, suspended, reason, created_by, requested_by on warden.revocations
  for each statement execute function warden.revocations_changed('warden.revoked');
-- A row that loses its key counts as removed, too.
create or replace trigger revocations_removed
  after delete or truncate or update of id, session_id, user_id, org_id, issuer on warden.revocations
  for each statement execute function warden.revocations_changed('warden.unrevoked');

-- Shared by warden.revoke() and warden.revoke_within(). No other caller has the right to execute it.
create or replace function warden.add_revocation(
  session_id text, user_id text, org_id uuid, reason text, max_token_age interval, issuer text, requested_by text
) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
declare
  -- Gateways keep all entries in memory.
  entries_max constant int := 100000;
  -- Of these, entries that back ends cannot take through HTTP, so that operators can always revoke and suspend.
  entries_of_operators constant int := 10000;
  -- An organisation's back ends may add an entry while its entries are fewer than this part of those that are left for
  -- back ends. So the more others have taken, the less one gets, and some are always left.
  part_of_org constant int := 8;
  instant constant timestamptz := pg_catalog.clock_timestamp();
  total int;
  own int;
  revoked bigint;
begin
  if num_nonnulls(add_revocation.session_id, add_revocation.user_id) > 1
     or num_nonnulls(add_revocation.session_id, add_revocation.user_id, add_revocation.org_id) = 0 then
    raise exception 'warden.revoke: pass one of session_id, user_id and org_id'
      using errcode = '22023',
            hint = 'org_id may accompany session_id or user_id: it limits the revocation to that organisation.';
  end if;
  if '' in (add_revocation.session_id, add_revocation.user_id, add_revocation.issuer)
     or pg_catalog.octet_length(coalesce(add_revocation.session_id, add_revocation.user_id)) > 256 then
    raise exception 'warden.revoke: session_id, user_id and issuer must not be empty, and have at most 256 bytes'
      using errcode = '22023';
  end if;
  -- It stands for every organisation in the index revocations_once. The gateways accept no token that names it.
  if add_revocation.org_id = '00000000-0000-0000-0000-000000000000' then
    raise exception 'warden.revoke: org_id % is no organisation', add_revocation.org_id
      using errcode = '22023', hint = 'Omit org_id to revoke a session or a user in every organisation.';
  end if;
  if pg_catalog.octet_length(add_revocation.reason) > 500 then
    raise exception 'warden.revoke: the reason has % bytes, at most 500 are allowed',
        pg_catalog.octet_length(add_revocation.reason)
      using errcode = '22023';
  end if;
  if add_revocation.max_token_age is null or add_revocation.max_token_age < interval '1 second'
     or add_revocation.max_token_age > interval '10 years' then
    raise exception 'warden.revoke: max_token_age % is not between one second and ten years',
        add_revocation.max_token_age
      using errcode = '22023', hint = 'It is the longest validity of your tokens.';
  end if;
  -- A separate statement, so a lock on organizations does not delay revocations of sessions and users.
  if num_nonnulls(add_revocation.session_id, add_revocation.user_id) = 0 then
    if not exists (select from public.organizations o where o.id = add_revocation.org_id) then
      raise exception 'warden.revoke: organisation % does not exist', add_revocation.org_id
        using errcode = '22023', hint = 'Tokens of a deleted organisation are rejected without a revocation.';
    end if;
  end if;
  -- Repeating an entry adds none, so it succeeds at any limit.
  if not exists (select from warden.revocations r
                 where (coalesce(r.session_id, ''), coalesce(r.user_id, ''),
                        coalesce(r.org_id, '00000000-0000-0000-0000-000000000000'), coalesce(r.issuer, ''))
                     = (coalesce(add_revocation.session_id, ''), coalesce(add_revocation.user_id, ''),
                        coalesce(add_revocation.org_id, '00000000-0000-0000-0000-000000000000'),
                        coalesce(add_revocation.issuer, ''))) then
    total := (select count(*) from (select from warden.revocations r limit entries_max) r);
    if add_revocation.requested_by is not null then
      own := (select count(*) from warden.revocations r where r.org_id = add_revocation.org_id);
      if own >= (entries_max - entries_of_operators - total) / part_of_org then
        raise exception 'warden.revoke_within: this organisation has % revocations, which is the limit', own
          using errcode = '54000', hint = 'Revoke users or the organisation instead of each session.';
      end if;
    end if;
    if total >= entries_max then
      raise exception 'warden.revoke: there are % revocations, which is the limit', entries_max
        using errcode = '54000',
              hint = 'Revoke users or organisations instead of each session, or remove entries that no longer matter: '
                     'select warden.unrevoke(id).';
    end if;
  end if;
  insert into warden.revocations as r
    (session_id, user_id, org_id, issuer, revoked_at, expires_at, reason, requested_by)
  values (add_revocation.session_id, add_revocation.user_id, add_revocation.org_id, add_revocation.issuer,
          instant, instant + add_revocation.max_token_age,
          coalesce(add_revocation.reason, ''), add_revocation.requested_by)
  on conflict ((coalesce(r.session_id, '')), (coalesce(r.user_id, '')),
               (coalesce(r.org_id, '00000000-0000-0000-0000-000000000000')), (coalesce(r.issuer, ''))) do update
    set revoked_at = greatest(r.revoked_at, excluded.revoked_at),
        expires_at = greatest(r.expires_at, excluded.expires_at),
        reason = excluded.reason, created_by = excluded.created_by, requested_by = excluded.requested_by
  returning r.id into revoked;
  return revoked;
end
$$;

-- Revokes a session, a user or an organisation, and returns the entry's id. With org_id as well, a session or user is
-- revoked within that organisation only; with issuer, only tokens of that issuer. Invalid arguments give an error with
-- SQLSTATE 22023.
--   session_id     the claim `session_id` of the tokens
--   user_id        the claim `sub`
--   org_id         the claim `app_metadata.org_id`
--   reason         a text for people, at most 500 bytes
--   max_token_age  the longest validity of your tokens; the entry is kept for that long
--   issuer         the claim `iss`; needed if several issuers use the same ids for different users
-- It revokes tokens that were issued before the call, or in the same second. Call it last in a transaction: a login
-- between the call and the commit counts as a login after the call.
create or replace function warden.revoke(
  session_id text default null, user_id text default null, org_id uuid default null,
  reason text default '', max_token_age interval default '7 days', issuer text default null
) returns bigint
language sql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
  select warden.add_revocation(revoke.session_id, revoke.user_id, revoke.org_id, revoke.reason,
                               revoke.max_token_age, revoke.issuer, null)
$$;

-- Revokes within one organisation, for a back end whose token the gateway has verified. It is the gateway's role only
-- way to revoke: it cannot reach beyond org_id, suspend an organisation, or remove an entry.
create or replace function warden.revoke_within(
  org_id uuid, requested_by text, session_id text default null, user_id text default null,
  reason text default '', max_token_age interval default '7 days', issuer text default null
) returns table (id bigint, revoked_at timestamptz, expires_at timestamptz)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
declare
  revoked bigint;
begin
  if num_nulls(revoke_within.org_id, revoke_within.requested_by) > 0 then
    raise exception 'warden.revoke_within: org_id and requested_by are required' using errcode = '22023';
  end if;
  revoked := warden.add_revocation(
    revoke_within.session_id, revoke_within.user_id, revoke_within.org_id, revoke_within.reason,
    revoke_within.max_token_age, revoke_within.issuer, revoke_within.requested_by);
  return query select r.id, r.revoked_at, r.expires_at from warden.revocations r where r.id = revoked;
end
$$;

-- Removes a revocation, and returns whether it existed. Sessions that it closed stay closed, and a suspended
-- organisation stays suspended.
create or replace function warden.unrevoke(id bigint) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
  with gone as (delete from warden.revocations r where r.id = unrevoke.id and not r.suspended returning 1)
  select exists (select from gone)
$$;

-- Suspends an organisation: its sessions are closed, and until warden.resume() all its tokens are rejected.
create or replace function warden.suspend(org_id uuid, reason text default '', max_token_age interval default '7 days')
returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
declare
  revoked bigint := warden.revoke(org_id => suspend.org_id, reason => suspend.reason,
                                  max_token_age => suspend.max_token_age);
begin
  update warden.revocations r set suspended = true where r.id = revoked;
  return revoked;
end
$$;

-- Ends a suspension, and returns whether there was one. Tokens issued before the suspension stay rejected.
create or replace function warden.resume(org_id uuid) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
  with resumed as (
    update warden.revocations r set suspended = false
    where r.org_id = resume.org_id and r.suspended returning 1)
  select exists (select from resumed)
$$;

-- Deletes expired entries, and returns their number. The gateways call it periodically.
create or replace function warden.forget_revocations() returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
declare
  forgotten bigint := 0;
begin
  -- A DELETE of no rows would still notify the gateways.
  if exists (select from warden.revocations r where r.expires_at < pg_catalog.now() and not r.suspended) then
    delete from warden.revocations r where r.expires_at < pg_catalog.now() and not r.suspended;
    get diagnostics forgotten = row_count;
  end if;
  return forgotten;
end
$$;

-- Replaces the entries of each organisation that no longer exists by a single one, and returns the number of entries
-- that this deleted. The gateways call it periodically. The entries cannot just be deleted: if an organisation is
-- created with the same id, its former tokens must stay rejected until they have expired. The remaining entry rejects
-- every token of the organisation that one of the entries rejected, for as long as any of them did. It rejects other
-- tokens from before as well, which is right for an organisation that was deleted meanwhile. A suspension stays.
create or replace function warden.merge_revocations() returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on set jit = off
set lock_timeout = '50ms' as $$
declare
  gone record;
  merged bigint := 0;
  deleted bigint;
begin
  for gone in
    select r.org_id as id, max(r.revoked_at) as revoked_at, max(r.expires_at) as expires_at
    from warden.revocations r
    where r.org_id is not null and not exists (select from public.organizations o where o.id = r.org_id)
    group by r.org_id
    having count(*) > 1
  loop
    insert into warden.revocations as r (org_id, revoked_at, expires_at, reason)
    values (gone.id, gone.revoked_at, gone.expires_at, 'organisation deleted')
    on conflict ((coalesce(r.session_id, '')), (coalesce(r.user_id, '')),
                 (coalesce(r.org_id, '00000000-0000-0000-0000-000000000000')), (coalesce(r.issuer, ''))) do update
      set revoked_at = greatest(r.revoked_at, excluded.revoked_at),
          expires_at = greatest(r.expires_at, excluded.expires_at);
    -- An entry that is added meanwhile is newer, and stays.
    delete from warden.revocations r
    where r.org_id = gone.id and num_nonnulls(r.session_id, r.user_id, r.issuer) > 0
      and r.revoked_at <= gone.revoked_at and r.expires_at <= gone.expires_at;
    get diagnostics deleted = row_count;
    merged := merged + deleted;
  end loop;
  return merged;
end
$$;

grant select (id, session_id, user_id, org_id, issuer, revoked_at, expires_at, suspended, created_by, requested_by, xid)
  on warden.revocations to warden_gateway;
grant execute on function warden.forget_revocations(), warden.merge_revocations() to warden_gateway;
grant execute on function warden.revoke_within(uuid, text, text, text, text, interval, text) to warden_gateway;

do $$
declare
  backend text;
begin
  -- service_role is the back ends' role on Supabase.
  for backend in select rolname from pg_roles where rolname in ('warden_publisher', 'service_role') loop
    execute format('grant usage on schema warden to %I', backend);
    execute format('grant execute on function warden.revoke(text, text, uuid, text, interval, text), '
                   'warden.unrevoke(bigint), warden.suspend(uuid, text, interval), warden.resume(uuid) to %I', backend);
  end loop;
end
$$;
reset role;
