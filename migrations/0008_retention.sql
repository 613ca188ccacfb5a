-- Retention: when the current slot is old or large enough, the ring advances by one slot. The next slot contains the
-- oldest part of the log, and is emptied first.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Advances the ring if the current slot is older than slot_age or larger than slot_bytes. Returns 'rotated', 'not due',
-- 'busy' (another node is rotating), or 'blocked' (a transaction still uses the slot to be emptied: its rows are kept
-- longer, and no one waits).
create function warden.rotate_events(slot_age interval, slot_bytes bigint) returns text
language plpgsql volatile security definer set search_path = '' as $$
declare
  slot int := (select last_value from warden.events_slot);
  next_slot int := (slot + 1) % 8;
  highest xid8;
begin
  -- 'WARE', next to the doorbell's key: one node at a time.
  if not pg_catalog.pg_try_advisory_xact_lock(1463898693) then
    return 'busy';
  end if;
  if (select s.rotated_at from warden.log_state s) > pg_catalog.clock_timestamp() - slot_age
     and pg_catalog.pg_total_relation_size(pg_catalog.format('warden.events_%s', slot)::regclass) < slot_bytes then
    return 'not due';
  end if;
  begin
    -- Readers and writers of the log queue behind a waiting lock request: for this long at most.
    set local lock_timeout = '50ms';
    execute pg_catalog.format('lock table warden.events_%s in access exclusive mode', next_slot);
    execute pg_catalog.format('select max(xid) from warden.events_%s', next_slot) into highest;
    execute pg_catalog.format('truncate warden.events_%s', next_slot);
  exception when lock_not_available then
    return 'blocked';
  end;
  update warden.log_state s
    set truncated_xid = greatest(s.truncated_xid, coalesce(highest, '0')), rotated_at = pg_catalog.clock_timestamp();
  -- setval() takes effect at once, before the commit: a writer that uses the new slot waits for the commit.
  perform pg_catalog.setval('warden.events_slot', next_slot, true);
  return 'rotated';
end
$$;

-- Whether retention may have removed events that a reader with this snapshot xmin has not seen.
create function warden.is_truncated(snapshot_xmin xid8) returns boolean
language sql volatile security definer set search_path = '' as $$
  select snapshot_xmin <= s.truncated_xid from warden.log_state s
$$;

grant execute on function warden.rotate_events(interval, bigint), warden.is_truncated(xid8) to warden_gateway;
reset role;
