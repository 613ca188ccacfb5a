-- Publishing on behalf of back ends that have no database connection: the gateway's role publishes within the
-- organisation of a verified token, and no event twice under the same idempotency key.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Idempotency keys that were used, each with the answer of its request. A foreign key to organizations would make a
-- TRUNCATE of the application fail, so warden.forget_idempotency_keys() deletes the rows of deleted organisations.
create table if not exists warden.idempotency_keys (
  org_id      uuid        not null,
  -- See warden.incarnations: a key of a deleted organisation is not known to a new one with the same id.
  incarnation bigint      not null,
  -- SHA-256 of the key.
  key         bytea       not null constraint idempotency_keys_key check (octet_length(key) = 32),
  -- SHA-256 of the events that were published under it.
  content     bytea       not null constraint idempotency_keys_content check (octet_length(content) = 32),
  ids         bigint[]    not null default '{}',
  xid         xid8        not null default pg_current_xact_id(),
  -- Epoch of xid; see warden.epoch().
  epoch       text        not null,
  created_at  timestamptz not null default clock_timestamp(),
  primary key (org_id, incarnation, key)
);
create index if not exists idempotency_keys_created_at on warden.idempotency_keys (created_at);

-- The time for which a key is known.
create or replace function warden.idempotency_window() returns interval
language sql immutable set search_path = pg_catalog, pg_temp as $$ select interval '24 hours' $$;

-- Takes the idempotency keys of events, and returns those that this transaction is the first to use. A caller with a
-- key that another transaction is using waits until that transaction ends. Keys are taken in order, so callers with the
-- same keys do not deadlock.
create or replace function warden.take_idempotency_keys(org_id uuid, incarnation bigint, keys bytea[], contents bytea[])
returns bytea[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  -- The keys of an organisation are divided into 256 buckets by the first byte of their hash, and each has a limit. To
  -- count one bucket is cheap, and a counter of all keys would make an organisation's callers wait for each other.
  bucket_keys_max constant int := 1000;
  taken bytea[];
  full_bucket record;
begin
  with first_use as (
    select distinct on (k.key) k.key, k.content
    from unnest(keys, contents) with ordinality k(key, content, n) order by k.key, k.n),
  used as (
    insert into warden.idempotency_keys as u (org_id, incarnation, key, content, epoch)
    select take_idempotency_keys.org_id, take_idempotency_keys.incarnation, f.key, f.content, warden.epoch()
    from first_use f order by f.key
    -- An expired key is as good as none.
    on conflict on constraint idempotency_keys_pkey do update
      set content = excluded.content, ids = '{}', xid = excluded.xid, epoch = excluded.epoch,
          created_at = excluded.created_at
      where u.created_at < pg_catalog.clock_timestamp() - warden.idempotency_window()
    returning u.key)
  select pg_catalog.array_agg(u.key) into taken from used u;
  select bucket.lower, bucket.upper into full_bucket
  from (
    select distinct pg_catalog.substr(t.key, 1, 1) as lower,
           case pg_catalog.get_byte(t.key, 0) when 255 then pg_catalog.decode(pg_catalog.repeat('ff', 33), 'hex')
             else pg_catalog.set_byte(pg_catalog.decode('00', 'hex'), 0, pg_catalog.get_byte(t.key, 0) + 1) end as upper
    from unnest(taken) t(key)) bucket
  where (select count(*) from (
    select from warden.idempotency_keys u
    where u.org_id = take_idempotency_keys.org_id and u.incarnation = take_idempotency_keys.incarnation
      and u.key >= bucket.lower and u.key < bucket.upper
    limit bucket_keys_max + 1) u) > bucket_keys_max
  limit 1;
  if full_bucket.lower is not null then
    raise exception 'warden.publish_within: this organisation has too many idempotency keys'
      using errcode = '54000', hint = 'Publish more events with each key, or without a key.',
            -- Seconds until a key of the bucket expires.
            detail = (
              select pg_catalog.ceil(extract(epoch from
                       min(u.created_at) + warden.idempotency_window() - pg_catalog.clock_timestamp()))::text
              from warden.idempotency_keys u
              where u.org_id = take_idempotency_keys.org_id and u.incarnation = take_idempotency_keys.incarnation
                and u.key >= full_bucket.lower and u.key < full_bucket.upper);
  end if;
  return coalesce(taken, '{}');
end
$$;

-- An event in the result of warden.publish_within().
create or replace function warden.published_event(used warden.idempotency_keys, id bigint) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when used.xid = pg_catalog.pg_current_xact_id_if_assigned()
    then pg_catalog.jsonb_build_object('id', published_event.id)
    else pg_catalog.jsonb_build_object('id', published_event.id, 'xid', used.xid::text::bigint, 'epoch', used.epoch) end
$$;

-- Publishes the events whose keys were not used before, and returns an object for each event, in their order.
create or replace function warden.publish_once(
  org_id uuid, incarnation bigint, events jsonb, keys bytea[], is_one_key boolean
) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  -- A repeated request has another trace context.
  contents constant bytea[] := case when is_one_key then
      array[pg_catalog.sha256(pg_catalog.convert_to(
        (select jsonb_agg(e.value - 'traceparent' order by e.ordinality)
         from pg_catalog.jsonb_array_elements(events) with ordinality e)::text, 'UTF8'))]
    else
      array(select pg_catalog.sha256(pg_catalog.convert_to((e.value - 'traceparent')::text, 'UTF8'))
            from pg_catalog.jsonb_array_elements(events) with ordinality e order by e.ordinality)
    end;
  taken constant bytea[] := warden.take_idempotency_keys(org_id, incarnation, keys, contents);
  reused int[];
  answer jsonb;
begin
  -- This statement also shows what the transactions have committed for which the function above waited.
  reused := array(
    select k.n - 1 from unnest(keys, contents) with ordinality k(key, content, n)
    join warden.idempotency_keys u on (u.org_id, u.incarnation, u.key)
                                    = (publish_once.org_id, publish_once.incarnation, k.key)
    where u.content <> k.content order by k.n);
  if pg_catalog.cardinality(reused) > 0 then
    raise exception 'warden.publish_within: an idempotency key was used for other events'
      using errcode = '23505', detail = pg_catalog.array_to_json(reused)::text;
  end if;
  if is_one_key then
    if pg_catalog.cardinality(taken) > 0 then
      update warden.idempotency_keys u
        set ids = array(select p.id from warden.add_published(publish_once.org_id, events) p order by p.index)
        where (u.org_id, u.incarnation, u.key) = (publish_once.org_id, publish_once.incarnation, keys[1]);
    end if;
    select jsonb_agg(warden.published_event(u, i.id) order by i.n) into answer
    from warden.idempotency_keys u, unnest(u.ids) with ordinality i(id, n)
    where (u.org_id, u.incarnation, u.key) = (publish_once.org_id, publish_once.incarnation, keys[1]);
  else
    with fresh as (
      select f.key, pg_catalog.row_number() over (order by f.n) - 1 as index, events -> (f.n - 1)::int as event
      from (select k.key, min(k.n) as n from unnest(keys) with ordinality k(key, n)
            where k.key = any (taken) group by k.key) f),
    published as (
      select p.index, p.id
      from warden.add_published(publish_once.org_id, (select jsonb_agg(f.event order by f.index) from fresh f)) p)
    update warden.idempotency_keys u set ids = array[p.id]
      from fresh f join published p using (index)
      where (u.org_id, u.incarnation, u.key) = (publish_once.org_id, publish_once.incarnation, f.key);
    select jsonb_agg(warden.published_event(u, u.ids[1]) order by k.n) into answer
    from unnest(keys) with ordinality k(key, n)
    join warden.idempotency_keys u on (u.org_id, u.incarnation, u.key)
                                    = (publish_once.org_id, publish_once.incarnation, k.key);
  end if;
  if pg_catalog.jsonb_array_length(answer) is distinct from pg_catalog.jsonb_array_length(events) then
    raise exception 'warden.publish_within: an idempotency key expired during the call' using errcode = '40001';
  end if;
  return answer;
end
$$;

-- The function of the former version.
-- squawk-ignore ban-drop-function
drop function if exists warden.publish_within(uuid, jsonb, bytea[], boolean);

-- Publishes events within one organisation, for a back end whose token the gateway has verified. It is the only way to
-- publish for the gateway's role. Either all events are published or none.
--   events      an array as for warden.publish_all()
--   keys        SHA-256 of idempotency keys: one for all events, or one for each event; null for none
--   check_only  whether to publish nothing, but list the problems
--   traceparent trace context of the events without their own
-- The result is {"problems": [{"index", "message", "hint"}]} if an event is not valid. Otherwise it has
--   events       an object for each event, in their order: {"id"}, and for an event that was published before under its
--                key also its transaction: {"id", "xid", "epoch"}
--   xid, epoch   this transaction, and the epoch of the log
--   snapshot     a snapshot of the log, which need not show the events of this transaction
--   max_id       the highest id in the log, with the events of this transaction
--   incarnation  the incarnation of the organisation
-- A key that was used for other events gives an error with SQLSTATE 23505, and their indexes as detail. Too many keys
-- give 54000, and the seconds to wait as detail.
create or replace function warden.publish_within(
  org_id uuid, events jsonb, keys bytea[] default null, check_only boolean default false, traceparent text default null
) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
declare
  event_count constant int := pg_catalog.jsonb_array_length(publish_within.events);
  problems constant jsonb := (
    select jsonb_agg(to_jsonb(p) order by p.index) from warden.publish_problems(publish_within.events) p);
  life bigint;
  answer jsonb;
begin
  if problems is not null or publish_within.check_only then
    return pg_catalog.jsonb_build_object('problems', coalesce(problems, '[]'));
  end if;
  if event_count = 0 or pg_catalog.cardinality(publish_within.keys) not in (1, event_count) then
    raise exception 'warden.publish_within: % events with % keys',
        event_count, pg_catalog.cardinality(publish_within.keys)
      using errcode = '22023';
  end if;
  perform warden.expect_organization(publish_within.org_id, 'warden.publish_within');
  if publish_within.traceparent is not null then
    perform pg_catalog.set_config('warden.traceparent', publish_within.traceparent, true);
  end if;
  life := coalesce((select max(i.value) from warden.incarnations i
                    where i.org_id in (publish_within.org_id, '00000000-0000-0000-0000-000000000000')), 0);
  if publish_within.keys is null then
    select jsonb_agg(pg_catalog.jsonb_build_object('id', p.id) order by p.index) into answer
    from warden.add_published(publish_within.org_id, publish_within.events) p;
  else
    answer := warden.publish_once(publish_within.org_id, life, publish_within.events, publish_within.keys,
                                  pg_catalog.cardinality(publish_within.keys) < event_count);
  end if;
  return (
    select pg_catalog.jsonb_build_object(
      'events', answer, 'xid', pg_catalog.pg_current_xact_id()::text::bigint,
      'epoch', (select s.epoch from warden.log_state s where s.singleton),
      'snapshot', pg_catalog.pg_current_snapshot()::text, 'incarnation', life,
      'max_id', coalesce((select max(e.id) from warden.events e), 0)));
end
$$;

-- Deletes keys that are no longer known, and those of deleted organisations. Returns their number, at most rows_max.
-- The gateways call it periodically, until it returns less.
create or replace function warden.forget_idempotency_keys(rows_max int) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  expired bigint;
  orphaned bigint;
begin
  -- Rows that another node is deleting are skipped.
  delete from warden.idempotency_keys u where u.ctid = any (array(
    select k.ctid from warden.idempotency_keys k
    where k.created_at < pg_catalog.clock_timestamp() - warden.idempotency_window()
    order by k.created_at limit rows_max for update skip locked));
  get diagnostics expired = row_count;
  delete from warden.idempotency_keys u where u.ctid = any (array(
    select k.ctid from warden.incarnations i
    join warden.idempotency_keys k on k.org_id = i.org_id and k.incarnation < i.value
    limit rows_max - expired for update of k skip locked));
  get diagnostics orphaned = row_count;
  return expired + orphaned;
end
$$;

grant execute on function warden.publish_within(uuid, jsonb, bytea[], boolean, text),
  warden.forget_idempotency_keys(int) to warden_gateway;
reset role;
