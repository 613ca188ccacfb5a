-- Retention: when the current slot is old or large enough, the ring advances by one slot. The next slot contains the
-- oldest part of the log, and is emptied first.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- What the last rotation removed, in one row. A reader of the log finds out from it whether an event is gone that it
-- has not read.
create table if not exists warden.last_rotation (
  singleton    boolean primary key default true check (singleton),
  -- Number of rotations so far.
  number       bigint not null default 0,
  -- Epoch of the values below; see warden.epoch().
  epoch        text,
  -- A snapshot that shows all rows which the rotation removed.
  snapshot     pg_snapshot,
  -- Highest id of the removed events.
  removed_id   bigint,
  -- Removed transactions that the snapshot of the rotation before does not show: each wrote to the slot while it was
  -- the current one, and committed much later. Null if that snapshot is not known.
  removed_late xid8[]
);
insert into warden.last_rotation default values on conflict do nothing;

-- When each slot was last closed. A slot without a row was never closed, or by a former version.
create table if not exists warden.closed_slots (
  -- As in warden.events.
  -- squawk-ignore prefer-bigint-over-smallint
  slot      smallint    primary key,
  closed_at timestamptz not null
);

-- Removes the rows of a slot, and makes it the current one. `over_share` names organisations beyond their share, if
-- warden.move_events() has moved the events of all others: then only what it left counts as removed from the others.
-- Returns 'rotated', 'rotated by share', 'late' (rows that the move has not seen were committed), or 'blocked'.
create or replace function warden.truncate_slot(next_slot int, over_share uuid[]) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  slot constant int := (select last_value from warden.events_slot);
  partition constant text := pg_catalog.format('warden.events_%s', next_slot);
  -- Snapshot of the rotation before.
  former constant pg_snapshot := (
    select r.snapshot from warden.last_rotation r join warden.log_state s on s.epoch = r.epoch
    where r.singleton and s.singleton);
  following constant bigint := (select r.number + 1 from warden.last_rotation r where r.singleton);
  moved record;
  highest xid8;
  highest_id bigint;
  late xid8[];
  is_late boolean;
  org uuid;
  org_highest xid8;
  by_share boolean := false;
begin
  -- Under the lock these are only looked up beyond what is found here. The search may pass many rows that were moved.
  -- PostgreSQL 14 has no max(xid8).
  execute pg_catalog.format('select xid from %s order by xid desc limit 1', partition) into highest;
  execute pg_catalog.format('select max(id) from %s', partition) into highest_id;
  -- Readers and writers of the log queue behind a waiting lock request: for this long at most.
  set local lock_timeout = '50ms';
  execute pg_catalog.format('lock table %s in access exclusive mode', partition);
  if over_share is null then
    execute pg_catalog.format(
        'select coalesce((select xid from %1$s where xid > $1 order by xid desc limit 1), $1),
                greatest((select max(id) from %1$s where id > $2), $2)', partition)
      into highest, highest_id using coalesce(highest, '0'), coalesce(highest_id, 0);
    if former is not null then
      execute pg_catalog.format('select array(select distinct xid from %s where xid >= $1 or xid = any ($2))', partition)
        into late using pg_catalog.pg_snapshot_xmax(former), array(select pg_catalog.pg_snapshot_xip(former));
    end if;
  else
    select m.* into strict moved from warden.log_moves m where m.singleton;
    execute pg_catalog.format('select exists (select from %s where xid >= $1 or xid = any ($2))', partition)
      into is_late
      using pg_catalog.pg_snapshot_xmax(moved.snapshot), array(select pg_catalog.pg_snapshot_xip(moved.snapshot));
    if is_late then
      return 'late';
    end if;
    foreach org in array over_share loop
      execute pg_catalog.format('select xid from %s where org_id = $1 order by xid desc limit 1', partition)
        into org_highest using org;
      continue when org_highest is null;
      by_share := true;
      if former is not null then
        execute pg_catalog.format(
            'select array(select distinct xid from %s where org_id = $1 and (xid >= $2 or xid = any ($3)))', partition)
          into late using org, pg_catalog.pg_snapshot_xmax(former), array(select pg_catalog.pg_snapshot_xip(former));
      end if;
      insert into warden.log_floors as f (org_id, truncated_xid, rotation, removed_id, removed_late)
        values (org, org_highest, following, highest_id, late)
        on conflict (org_id) do update
          set truncated_xid = greatest(f.truncated_xid, excluded.truncated_xid), rotation = excluded.rotation,
              removed_id = excluded.removed_id, removed_late = excluded.removed_late;
    end loop;
    -- Of all others only what was too old to be moved.
    highest := moved.dropped_xid;
    late := case when highest is null then '{}' else moved.dropped_late end;
    highest_id := case when highest is not null then highest_id end;
  end if;
  execute pg_catalog.format('truncate %s', partition);
  update warden.log_state s
    set truncated_xid = greatest(s.truncated_xid, coalesce(highest, '0')), rotated_at = pg_catalog.clock_timestamp();
  insert into warden.closed_slots as c (slot, closed_at) values (slot, pg_catalog.clock_timestamp())
    on conflict on constraint closed_slots_pkey do update set closed_at = excluded.closed_at;
  -- This snapshot is taken while the emptied slot is locked, so it shows all rows that were removed.
  update warden.last_rotation r
    set (number, epoch, snapshot, removed_id, removed_late)
      = (select following, s.epoch, pg_catalog.pg_current_snapshot(), highest_id, late
         from warden.log_state s where s.singleton)
    where r.singleton;
  -- Points from before these are too old for all organisations.
  delete from warden.log_floors f using warden.log_state s
    where f.rotation < following and f.truncated_xid <= s.truncated_xid;
  -- setval() takes effect at once, before the commit: a writer that uses the new slot waits for the commit.
  perform pg_catalog.setval('warden.events_slot', next_slot, true);
  return case when by_share then 'rotated by share' else 'rotated' end;
exception when lock_not_available then
  return 'blocked';
end
$$;

-- Advances the ring if the current slot is large enough, or if it is older than slot_age and the next slot contains
-- only events that are older than seven times that. An organisation whose events take more than org_bytes of the log is
-- beyond its share: if the log is full, such organisations lose their oldest events, and the events of all others are
-- moved to the current slot first. Without org_bytes, or if it is the size of the whole log, all lose their oldest
-- events. Returns
--   'rotated';
--   'rotated by share': only organisations beyond their share lost events that were not too old;
--   'moving': more events are to be moved, so this should be called again at once;
--   'not due';
--   'busy': another node is rotating;
--   'blocked': a transaction still uses the slot to be emptied. Its rows are kept longer, and no one waits.
-- The former version knew no shares.
-- squawk-ignore ban-drop-function
drop function if exists warden.rotate_events(interval, bigint);
create or replace function warden.rotate_events(slot_age interval, slot_bytes bigint, org_bytes bigint default null)
returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
  slot int;
  next_slot int;
  log_size bigint;
  slot_size bigint;
  is_due boolean;
  is_old boolean;
  move text;
  result text;
begin
  -- Each statement must see what was committed before it, for example before a lock was granted.
  if pg_catalog.current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'warden.rotate_events() needs the isolation level READ COMMITTED';
  end if;
  -- One node at a time. This is a row lock and not an advisory lock, because any database login can take advisory
  -- locks. No role but the owner has a right that suffices to lock this row: FOR UPDATE and every lock of the
  -- table that conflicts with it need UPDATE, DELETE or TRUNCATE. In READ COMMITTED a row that another rotation
  -- has just updated is locked in its new version.
  perform from warden.last_rotation r where r.singleton for update skip locked;
  if not found then
    return 'busy';
  end if;
  -- Read under the lock: before it, another node may have advanced the ring.
  slot := (select last_value from warden.events_slot);
  next_slot := (slot + 1) % 8;
  slot_size := pg_catalog.pg_total_relation_size(pg_catalog.format('warden.events_%s', slot)::regclass);
  if org_bytes < 8 * slot_bytes then
    log_size := (select sum(pg_catalog.pg_total_relation_size(pg_catalog.format('warden.events_%s', n)::regclass))
                 from pg_catalog.generate_series(0, 7) n);
  end if;
  is_old := coalesce((select c.closed_at <= pg_catalog.clock_timestamp() - 7 * slot_age
                      from warden.closed_slots c where c.slot = next_slot), true);
  is_due := slot_size >= slot_bytes
            or coalesce(log_size >= 8 * slot_bytes and 2 * slot_size >= slot_bytes, false);
  if is_old and (select s.rotated_at from warden.log_state s) <= pg_catalog.clock_timestamp() - slot_age then
    is_due := true;
  elsif log_size is not null and not is_old and 2 * slot_size >= slot_bytes then
    move := warden.move_events(slot, next_slot, 7 * slot_age, 8 * slot_bytes,
                               log_size + greatest(slot_bytes - slot_size, 0), org_bytes);
    if move = 'moving' then
      return move;
    end if;
  end if;
  if not is_due then
    return 'not due';
  end if;
  result := warden.truncate_slot(
    next_slot, case when move = 'moved' then (select m.over_share from warden.log_moves m where m.singleton) end);
  if result = 'late' then
    delete from warden.log_moves;
    return 'moving';
  end if;
  return result;
end
$$;

-- Whether retention may have removed events that a reader with this snapshot xmin has not seen.
create or replace function warden.is_truncated(snapshot_xmin xid8) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select snapshot_xmin <= s.truncated_xid from warden.log_state s
$$;

-- Whether retention may have removed events of any organisation that a reader with this snapshot xmin has not seen.
create or replace function warden.is_truncated_for_any(snapshot_xmin xid8) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select warden.is_truncated(snapshot_xmin)
         or exists (select from warden.log_floors f where snapshot_xmin <= f.truncated_xid)
$$;

-- Why a cursor of this organisation with this snapshot xmin cannot be served: 'too_old' or, if the organisation has
-- lost the events because it was beyond its share, 'log_share'. Null if it can be served.
create or replace function warden.truncation_reason(org_id uuid, snapshot_xmin xid8) returns text
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select case when snapshot_xmin <= f.truncated_xid and f.truncated_xid >= s.truncated_xid then 'log_share'
              when snapshot_xmin <= s.truncated_xid then 'too_old' end
  from warden.log_state s left join warden.log_floors f on f.org_id = truncation_reason.org_id
$$;

-- Whether a rotation removed an event that a point does not cover. The point is given by its snapshot and by its
-- highest id, and `removed_*` are as in warden.last_rotation, of a rotation whose predecessor the point shows.
create or replace function warden.is_beyond(
  removed_id bigint, removed_late xid8[], snapshot pg_snapshot, max_id bigint
) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(removed_id > max_id, false)
         or exists (select from unnest(removed_late) x where not pg_catalog.pg_visible_in_snapshot(x, snapshot))
$$;

-- The organisations of which rotations removed an event that a point does not cover; null stands for all. The point is
-- given by its snapshot, by its highest id, and by the number of the last rotation that its snapshot shows.
--
-- Rows that the snapshot of rotation n shows are covered by every point that shows rotation n. So if only one rotation
-- that removed something followed, it can have removed no other uncovered rows than late ones, and the answer is exact.
-- Otherwise the answer is that of a comparison with the xmin, which may be a false yes.
--
-- The former version had one answer for all organisations.
-- squawk-ignore ban-drop-function
drop function if exists warden.is_truncated_since(bigint, pg_snapshot, bigint);
create or replace function warden.truncated_since(rotation bigint, snapshot pg_snapshot, max_id bigint)
returns setof uuid
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select null::uuid
  from warden.last_rotation r, warden.log_state s
  where r.singleton and s.singleton and case
    when r.number = truncated_since.rotation then false
    when r.number = truncated_since.rotation + 1 and r.removed_late is not null then
      warden.is_beyond(r.removed_id, r.removed_late, truncated_since.snapshot, truncated_since.max_id)
    else pg_catalog.pg_snapshot_xmin(truncated_since.snapshot) <= s.truncated_xid
  end
  union all
  select f.org_id
  from warden.log_floors f
  where f.rotation > truncated_since.rotation and case
    when f.rotation = truncated_since.rotation + 1 and f.removed_late is not null then
      warden.is_beyond(f.removed_id, f.removed_late, truncated_since.snapshot, truncated_since.max_id)
    else pg_catalog.pg_snapshot_xmin(truncated_since.snapshot) <= f.truncated_xid
  end
$$;

grant execute on function warden.rotate_events(interval, bigint, bigint), warden.is_truncated(xid8),
  warden.is_truncated_for_any(xid8), warden.truncation_reason(uuid, xid8),
  warden.truncated_since(bigint, pg_snapshot, bigint) to warden_gateway;
grant select (singleton, number) on warden.last_rotation to warden_gateway;
grant select (org_id, rotation) on warden.log_floors to warden_gateway;
reset role;
