-- Keys with which the gateways seal cursors. A gateway accepts a cursor only if a gateway of this database sealed it.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

create table if not exists warden.cursor_keys (
  id          bigint      primary key,
  -- For AES-256.
  key         bytea       not null constraint cursor_keys_key check (octet_length(key) = 32),
  -- Keys of another epoch are never used: its cursors are not valid here. So a restored copy has keys of its own.
  epoch       text        not null,
  created_at  timestamptz not null default clock_timestamp(),
  -- Set once no gateway uses the key any more: the snapshots of all cursors that were sealed with it begin at or below
  -- this transaction id.
  retired_xid xid8
);

-- Creates a key if the newest one is a day old, and deletes the keys whose cursors are too old for the log. Nodes may
-- call it at the same time: only one of them can insert the next id.
create or replace function warden.rotate_cursor_keys() returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  -- The first byte of a cursor is the low byte of its key's id. A key that is still needed is never deleted. At this
  -- number no new one is created.
  keys_max constant int := 64;
  current_epoch constant text := warden.epoch();
  newest warden.cursor_keys;
begin
  select k.* into newest from warden.cursor_keys k order by k.id desc limit 1;
  if newest.epoch is distinct from current_epoch
     or (newest.created_at < pg_catalog.clock_timestamp() - interval '1 day'
         and (select count(*) from warden.cursor_keys) < keys_max) then
    -- Each UUID has 122 random bits from the source that PostgreSQL uses for keys.
    insert into warden.cursor_keys (id, key, epoch)
    values (coalesce(newest.id, 0) + 1,
            pg_catalog.sha256(pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
                              || pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
                              || pg_catalog.uuid_send(pg_catalog.gen_random_uuid())),
            current_epoch)
    on conflict (id) do nothing;
  end if;
  -- Every node loads the keys each minute, so 10 minutes after a key came into use no node uses the former one.
  update warden.cursor_keys k set retired_xid = pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
    where k.retired_xid is null and exists (
      select from warden.cursor_keys n
      where n.id > k.id and n.created_at < pg_catalog.clock_timestamp() - interval '20 minutes');
  delete from warden.cursor_keys k where k.epoch <> current_epoch or warden.is_truncated(k.retired_xid);
end
$$;

-- All keys that are valid now, after a rotation if one is due. Cursors are sealed with the current one. A new key
-- becomes current 10 minutes after its creation, so that every node knows it before a client presents its cursors.
create or replace function warden.load_cursor_keys() returns table (id bigint, key bytea, is_current boolean)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform warden.rotate_cursor_keys();
  return query
    select k.id, k.key,
           k.id = coalesce(
             (select max(n.id) from warden.cursor_keys n
              where n.created_at < pg_catalog.clock_timestamp() - interval '10 minutes'),
             (select min(n.id) from warden.cursor_keys n))
    from warden.cursor_keys k
    order by k.id;
end
$$;

grant execute on function warden.load_cursor_keys() to warden_gateway;
reset role;
