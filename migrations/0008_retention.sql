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

-- Advances the ring if the current slot is older than slot_age or larger than slot_bytes. Returns 'rotated', 'not due',
-- 'busy' (another node is rotating), or 'blocked' (a transaction still uses the slot to be emptied: its rows are kept
-- longer, and no one waits).
create or replace function warden.rotate_events(slot_age interval, slot_bytes bigint) returns text
language plpgsql volatile security definer set search_path = '' set enable_seqscan = off set jit = off as $$
declare
  slot int;
  next_slot int;
  highest xid8;
  highest_id bigint;
  -- Snapshot of the rotation before.
  former pg_snapshot;
  late xid8[];
begin
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
  if (select s.rotated_at from warden.log_state s) > pg_catalog.clock_timestamp() - slot_age
     and pg_catalog.pg_total_relation_size(pg_catalog.format('warden.events_%s', slot)::regclass) < slot_bytes then
    return 'not due';
  end if;
  begin
    -- Readers and writers of the log queue behind a waiting lock request: for this long at most.
    set local lock_timeout = '50ms';
    execute pg_catalog.format('lock table warden.events_%s in access exclusive mode', next_slot);
    -- PostgreSQL 14 has no max(xid8).
    execute pg_catalog.format('select xid from warden.events_%s order by xid desc limit 1', next_slot) into highest;
    execute pg_catalog.format('select max(id) from warden.events_%s', next_slot) into highest_id;
    select r.snapshot into former from warden.last_rotation r join warden.log_state s on s.epoch = r.epoch
      where r.singleton and s.singleton;
    if former is not null then
      execute pg_catalog.format(
          'select array(select distinct xid from warden.events_%s where xid >= $1 or xid = any ($2))', next_slot)
        into late using pg_catalog.pg_snapshot_xmax(former), array(select pg_catalog.pg_snapshot_xip(former));
    end if;
    execute pg_catalog.format('truncate warden.events_%s', next_slot);
  exception when lock_not_available then
    return 'blocked';
  end;
  update warden.log_state s
    set truncated_xid = greatest(s.truncated_xid, coalesce(highest, '0')), rotated_at = pg_catalog.clock_timestamp();
  -- This snapshot is taken while the emptied slot is locked, so it shows all rows that were removed.
  update warden.last_rotation r
    set (number, epoch, snapshot, removed_id, removed_late)
      = (select r.number + 1, s.epoch, pg_catalog.pg_current_snapshot(), highest_id, late
         from warden.log_state s where s.singleton)
    where r.singleton;
  -- setval() takes effect at once, before the commit: a writer that uses the new slot waits for the commit.
  perform pg_catalog.setval('warden.events_slot', next_slot, true);
  return 'rotated';
end
$$;

-- Whether retention may have removed events that a reader with this snapshot xmin has not seen.
create or replace function warden.is_truncated(snapshot_xmin xid8) returns boolean
language sql volatile security definer set search_path = '' as $$
  select snapshot_xmin <= s.truncated_xid from warden.log_state s
$$;

-- Whether a rotation removed an event that a point does not cover. The point is given by its snapshot, by its highest
-- id, and by the number of the last rotation that its snapshot shows.
--
-- Rows that the snapshot of rotation n shows are covered by every point that shows rotation n. So if only one rotation
-- followed, it can have removed no other uncovered rows than late ones, and the answer is exact. Otherwise the answer
-- is that of warden.is_truncated(), which may be a false yes.
create or replace function warden.is_truncated_since(rotation bigint, snapshot pg_snapshot, max_id bigint)
returns boolean
language sql volatile security definer set search_path = '' as $$
  select case
    when r.number = is_truncated_since.rotation then false
    when r.number = is_truncated_since.rotation + 1 and r.removed_late is not null then
      coalesce(r.removed_id > is_truncated_since.max_id, false)
      or exists (select from unnest(r.removed_late) x
                 where not pg_catalog.pg_visible_in_snapshot(x, is_truncated_since.snapshot))
    else pg_catalog.pg_snapshot_xmin(is_truncated_since.snapshot) <= s.truncated_xid
  end
  from warden.last_rotation r, warden.log_state s
  where r.singleton and s.singleton
$$;

grant execute on function warden.rotate_events(interval, bigint), warden.is_truncated(xid8),
  warden.is_truncated_since(bigint, pg_snapshot, bigint) to warden_gateway;
grant select (singleton, number) on warden.last_rotation to warden_gateway;
reset role;
