-- The share of one organisation in the log. If the log is full, an organisation beyond its share loses its oldest
-- events, and no other does. Space of the log is only freed by a TRUNCATE of a slot, so the events of all others are
-- moved out of the oldest slot first.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Estimated bytes of the log by organisation, with their part of the indexes; null stands for control events. At most
-- this many blocks of each slot are read. Only rows that this statement sees are counted.
create or replace function warden.log_usage(blocks_max int default 512) returns table (org_id uuid, bytes bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  -- Bytes of a row beside its documents: the other columns, and the entries of three indexes.
  row_bytes constant int := 250;
  blocks bigint;
  percent float8;
  samples text[];
begin
  for n in 0..7 loop
    blocks := pg_catalog.pg_relation_size(pg_catalog.format('warden.events_%s', n)::regclass)
              / pg_catalog.current_setting('block_size')::bigint;
    percent := least(100, 100.0 * blocks_max / greatest(blocks, 1));
    samples := samples || pg_catalog.format(
      'select e.org_id, (100 / %2$s::float8)
                        * (%3$s + pg_catalog.pg_column_size(e.data) + coalesce(pg_catalog.pg_column_size(e.old), 0)) as bytes
       from warden.events_%1$s e tablesample system (%2$s)', n, percent, row_bytes);
  end loop;
  return query execute
    'select s.org_id, sum(s.bytes)::bigint from (' || pg_catalog.array_to_string(samples, ' union all ')
    || ') s group by s.org_id';
end
$$;

-- The pass over the oldest slot that moves events out of it: one row while there is one. It is valid until the next
-- rotation.
create table if not exists warden.log_moves (
  singleton    boolean     primary key default true check (singleton),
  -- Number of the last rotation, and epoch.
  rotation     bigint      not null,
  epoch        text,
  -- The slot, and its file: a statement that rewrites the table reorders its rows.
  -- squawk-ignore prefer-bigint-over-smallint
  slot         smallint    not null,
  file         oid         not null,
  -- The organisations whose events stay.
  over_share   uuid[]      not null,
  -- Taken before the first row was read. So the pass moves every row that it shows, and other rows are late.
  snapshot     pg_snapshot not null,
  next_block   bigint      not null default 0,
  started_at   timestamptz not null default clock_timestamp(),
  -- Of events that were too old to be moved: highest transaction id, and the transactions that the snapshot of the last
  -- rotation does not show. Null if there are none, or if that snapshot is not known.
  dropped_xid  xid8,
  dropped_late xid8[]
);

-- Begins a pass over a slot. Returns false if the events of all organisations should be removed: the log is full, and
-- no organisation is beyond its share, or the others alone need the whole log.
create or replace function warden.begin_move(slot int, is_full boolean, log_bytes bigint, org_bytes bigint)
returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  over_share uuid[] := '{}';
  kept bigint;
begin
  delete from warden.log_moves;
  if is_full then
    select array_agg(u.org_id) filter (where u.org_id is not null and u.bytes > org_bytes),
           sum(u.bytes) filter (where u.org_id is null or u.bytes <= org_bytes)
      into over_share, kept from warden.log_usage() u;
    if over_share is null or kept > log_bytes then
      return false;
    end if;
  end if;
  insert into warden.log_moves (rotation, epoch, slot, file, over_share, snapshot)
  select r.number, s.epoch, begin_move.slot,
         pg_catalog.pg_relation_filenode(pg_catalog.format('warden.events_%s', begin_move.slot)::regclass), over_share,
         pg_catalog.pg_current_snapshot()
  from warden.last_rotation r, warden.log_state s where r.singleton and s.singleton;
  return true;
end
$$;

-- Moves the next events of the oldest slot to the current one. The caller has locked the row of warden.last_rotation.
-- Returns 'moving'; 'moved' if every event of the slot was moved that has to be kept; or null if all organisations
-- should lose the events of the slot. `needed` is the size of the log once the current slot is full.
create or replace function warden.move_events(
  slot int, next_slot int, keep interval, log_bytes bigint, needed bigint, org_bytes bigint
) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  blocks_at_once constant int := 1024;
  -- A pass that takes longer than this ends if the log is larger than this factor allows, so that its size stays
  -- bounded.
  hard_factor constant int := 2;
  pass_time_max constant interval := '5 minutes';
  partition constant text := pg_catalog.format('warden.events_%s', next_slot);
  oldest constant timestamptz := pg_catalog.clock_timestamp() - keep;
  former constant pg_snapshot := (
    select r.snapshot from warden.last_rotation r join warden.log_state s on s.epoch = r.epoch
    where r.singleton and s.singleton);
  pass warden.log_moves;
  range text;
  dropped xid8[];
begin
  for attempt in 1..2 loop
    select m.* into pass
    from warden.log_moves m, warden.last_rotation r, warden.log_state s
    where m.singleton and r.singleton and s.singleton and m.rotation = r.number and m.epoch is not distinct from s.epoch
      and m.slot = next_slot and m.file = pg_catalog.pg_relation_filenode(partition::regclass);
    exit when found;
    if not warden.begin_move(next_slot, needed >= log_bytes, log_bytes, org_bytes) then
      return null;
    end if;
  end loop;
  if pass.next_block * pg_catalog.current_setting('block_size')::bigint
     >= pg_catalog.pg_relation_size(partition::regclass) then
    return 'moved';
  end if;
  if needed > hard_factor * log_bytes and pass.started_at < pg_catalog.clock_timestamp() - pass_time_max then
    return null;
  end if;
  range := pg_catalog.format(
    $sql$slot = %s and ctid >= '(%s,0)' and ctid < '(%s,0)' and (org_id is null or org_id <> all ($1))$sql$,
    next_slot, pass.next_block, pass.next_block + blocks_at_once);
  -- PostgreSQL 14 has no max(xid8).
  execute pg_catalog.format('select array_agg(distinct xid order by xid desc) from %s where %s and at < $2',
                            partition, range)
    into dropped using pass.over_share, oldest;
  -- The doorbell was rung when the events were logged.
  execute pg_catalog.format('update warden.events set slot = %s, ring = false where %s and at >= $2', slot, range)
    using pass.over_share, oldest;
  update warden.log_moves m
    set next_block = pass.next_block + blocks_at_once,
        dropped_xid = greatest(m.dropped_xid, dropped[1]),
        dropped_late = case when former is not null then m.dropped_late || array(
          select x from unnest(dropped) x where not pg_catalog.pg_visible_in_snapshot(x, former)) end
    where m.singleton;
  return 'moving';
end
$$;

reset role;
