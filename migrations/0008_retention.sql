-- Retention: the ring goes on by one slot when the present one is old or large enough. What the next
-- slot holds is the oldest of the log, and is emptied first.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Goes on by one slot where the present one is older than slot_age or larger than slot_bytes. Tells what it
-- did: 'rotated', 'not due', 'busy' (another node is at it), or 'blocked' (a transaction still writes to
-- the slot that is to be emptied: rows are kept longer, and nobody waits for it).
create function warden.rotate_events(slot_age interval, slot_bytes bigint) returns text
language plpgsql volatile security definer set search_path = '' as $$
declare
  present int := (select last_value from warden.events_slot);
  next int := (present + 1) % 8;
  highest xid8;
begin
  -- 'WARE': next to the doorbell's key. One node at a time.
  if not pg_catalog.pg_try_advisory_xact_lock(1463898693) then
    return 'busy';
  end if;
  if (select s.rotated_at from warden.log_state s) > pg_catalog.clock_timestamp() - slot_age
     and pg_catalog.pg_total_relation_size(pg_catalog.format('warden.events_%s', present)::regclass) < slot_bytes then
    return 'not due';
  end if;
  begin
    -- Who reads or writes the log queues behind a TRUNCATE that waits: no longer than this.
    set local lock_timeout = '50ms';
    execute pg_catalog.format('lock table warden.events_%s in access exclusive mode', next);
    execute pg_catalog.format('select max(xid) from warden.events_%s', next) into highest;
    execute pg_catalog.format('truncate warden.events_%s', next);
  exception when lock_not_available then
    return 'blocked';
  end;
  update warden.log_state s
    set truncated_xid = greatest(s.truncated_xid, coalesce(highest, '0')), rotated_at = pg_catalog.clock_timestamp();
  -- At once for everybody, also before the commit: a writer who comes in that moment waits for it.
  perform pg_catalog.setval('warden.events_slot', next, true);
  return 'rotated';
end
$$;

-- Whether something that a reader at a snapshot with this xmin has not seen may be gone.
create function warden.is_truncated(snapshot_xmin xid8) returns boolean
language sql volatile security definer set search_path = '' as $$
  select snapshot_xmin <= s.truncated_xid from warden.log_state s
$$;

grant execute on function warden.rotate_events(interval, bigint), warden.is_truncated(xid8) to warden_gateway;
reset role;
