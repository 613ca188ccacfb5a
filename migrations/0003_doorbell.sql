-- The doorbell: wakes the readers of the log. It carries no data and may be lost: readers also poll.
--
-- A NOTIFY in every transaction would serialise all commits of the database, because PostgreSQL
-- holds one lock from before such a commit until after it. So the bell is coalesced: of the
-- transactions that are at their commit in the same moment, the one that gets the advisory lock
-- rings. The others were at their own commit while the lock was held, so when the ring is heard they
-- have either committed, and the read finds them, or stand as in progress in the reader's snapshot,
-- and it looks again.
set local role warden_owner;

create function warden.ring() returns trigger
language plpgsql set search_path = '' as $$
begin
  -- Nothing here may fail or hold up the transaction, so the bell stays silent
  --   in PREPARE TRANSACTION, where NOTIFY is an error, and where the lock would be held until
  --   COMMIT PREPARED (hence before the lock is tried; a false match costs only latency);
  --   when the queue of notifications fills up, because a full one fails commits.
  if pg_catalog.current_query() ~* '\mprepare(\s|/\*.*\*/|--[^\n]*\n)+transaction\M' then
    return null;
  end if;
  -- The key is 'WARD' in ASCII; advisory locks are per database. A stranger who holds it makes
  -- readers wait for their next poll, no more.
  if pg_catalog.pg_try_advisory_xact_lock(1463898692)
     and pg_catalog.pg_notification_queue_usage() < 0.5 then
    perform pg_catalog.pg_notify('warden', '');
  end if;
  return null;
end
$$;

-- Deferred, so that it runs at commit. One row per statement carries `ring`: queued for each of
-- 200,000 rows the trigger would cost 135 ms at commit instead of 5.
create constraint trigger ring after insert on warden.events
  deferrable initially deferred
  for each row when (new.ring)
  execute function warden.ring();
reset role;
