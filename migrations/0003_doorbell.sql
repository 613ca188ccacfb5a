-- The doorbell: wakes the readers of the log. It carries no data and may be lost: readers also poll.
--
-- A NOTIFY in every transaction would serialise all commits of the database, because PostgreSQL
-- holds one lock from before such a commit until after it. So the bell is coalesced: of the
-- transactions that are at their commit in the same moment, the one that gets the advisory lock
-- rings. The others were at their own commit while the lock was held, so when the ring is heard they
-- have either committed, and the read finds them, or have begun and not ended, and the reader looks
-- again: they stand in its snapshot's list, or lie beyond its xmax, which is only the highest transaction
-- that has ended.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- This runs at every commit that wrote an event, so it has no `set search_path` of its own, which costs
-- as much as the rest: everything in it is qualified instead, and it has its caller's rights alone.
create function warden.ring() returns trigger
language plpgsql as $$
begin
  -- Nothing here may fail or hold up a transaction, so the bell stays silent, which costs no more than
  -- the readers' next poll,
  --   within a transaction, where SET CONSTRAINTS ALL IMMEDIATE makes it run before the commit: the lock
  --   would be held until then, and PREPARE TRANSACTION would fail after a NOTIFY. A statement that
  --   writes is a commit only where it is the transaction's first (autocommit);
  --   in PREPARE TRANSACTION itself, for the same reasons;
  --   after statements of great length, which are not looked through for those words: that takes long,
  --   and fails beyond 256 MB;
  --   when the queue of notifications fills up, because a full one fails commits.
  if pg_catalog.octet_length(pg_catalog.current_query()) operator(pg_catalog.>) 65536 then
    return null;
  end if;
  if pg_catalog.now() operator(pg_catalog.<>) pg_catalog.statement_timestamp()
     and pg_catalog.current_query() operator(pg_catalog.~*)
         '^\s*(insert|update|delete|merge|with|select|copy|set|truncate|execute)\M' then
    return null;
  end if;
  if pg_catalog.strpos(pg_catalog.lower(pg_catalog.current_query()), 'prepare') operator(pg_catalog.>) 0
     and pg_catalog.current_query() operator(pg_catalog.~*) '\mprepare(\s|/\*.*\*/|--[^\n]*\n)+transaction\M' then
    return null;
  end if;
  -- The key is 'WARD' in ASCII; advisory locks are per database. Readers under load hold it, shared: then
  -- nobody rings, and they look by themselves. A stranger who holds it makes them wait for their next
  -- poll, no more.
  if pg_catalog.pg_try_advisory_xact_lock(1463898692)
     and pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 0.5::pg_catalog.float8 then
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
