-- The doorbell wakes the readers of the log. It carries no data and may be lost, because readers also poll.
--
-- A NOTIFY in every transaction would serialise all commits of the database, because PostgreSQL holds one lock from
-- before such a commit until after it. So the doorbell is coalesced: of the transactions that commit at the same time,
-- the one that gets the advisory lock rings. The others were committing while the lock was held. When the ring arrives,
-- each of them has either committed, so the read finds it, or is still in progress, so the reader polls again. (It is
-- in the snapshot's list, or above the snapshot's xmax, which is only the highest transaction that has ended.)
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- This runs at every commit that wrote an event. A `set search_path` would cost as much as everything else, so the
-- function has none: every name in it is qualified, and it runs with its caller's rights. It contains no backslash: the
-- caller's settings decide what that means in a string.
create or replace function warden.ring() returns trigger
language plpgsql as $$
begin
  -- Nothing here may fail or delay a transaction. So in four cases the doorbell stays silent, and readers find the
  -- events with their next poll:
  --   within a transaction, if SET CONSTRAINTS ALL IMMEDIATE makes this run before the commit. The lock would be held
  --   until the commit, and PREPARE TRANSACTION fails after a NOTIFY. A writing statement is itself the commit only if
  --   it is the transaction's first one (autocommit);
  --   in PREPARE TRANSACTION itself, for the same reasons;
  --   after a very long statement, because searching it for these words takes long, and fails above 256 MB;
  --   if the notification queue is half full, because a full queue makes commits fail.
  if pg_catalog.octet_length(pg_catalog.current_query()) operator(pg_catalog.>) 65536 then
    return null;
  end if;
  if pg_catalog.now() operator(pg_catalog.<>) pg_catalog.statement_timestamp()
     and pg_catalog.current_query() operator(pg_catalog.~*)
         '^[[:space:]]*(insert|update|delete|merge|with|select|copy|set|truncate|execute)[[:>:]]' then
    return null;
  end if;
  if pg_catalog.strpos(pg_catalog.lower(pg_catalog.current_query()), 'prepare') operator(pg_catalog.>) 0
     and pg_catalog.current_query() operator(pg_catalog.~*) '[[:<:]]prepare([[:space:]]|/[*].*[*]/|--.*)+transaction[[:>:]]' then
    return null;
  end if;
  -- The key is 'WARD' in ASCII. Advisory locks are per database. Readers under load hold it in shared mode: then no
  -- transaction rings, and the readers poll. Another session that holds it only delays readers until their next poll.
  if pg_catalog.pg_try_advisory_xact_lock(1463898692)
     and pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 0.5::pg_catalog.float8 then
    perform pg_catalog.pg_notify('warden', '');
  end if;
  return null;
end
$$;

-- Rings for rows that logical replication applies. Its workers fire no ordinary triggers, and run with rights under
-- which deferred ones fail. They commit one after the other, so a NOTIFY in each transaction serialises nothing.
-- They have no query: a session that loads data in the same mode may still prepare its transaction, which fails
-- after a NOTIFY. So do workers of subscriptions with two_phase. In these cases readers find the events with their
-- next poll.
create or replace function warden.ring_replicated() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  transaction constant text := pg_catalog.pg_current_xact_id()::text;
begin
  if pg_catalog.current_query() is not null or pg_catalog.current_setting('warden.rung', true) = transaction then
    return;
  end if;
  perform pg_catalog.set_config('warden.rung', transaction, true);
  if pg_catalog.current_setting('server_version_num')::int >= 150000 then
    if exists (select from pg_catalog.pg_subscription s where s.subtwophasestate <> 'd') then
      return;
    end if;
  end if;
  if pg_catalog.pg_notification_queue_usage() < 0.5 then
    perform pg_catalog.pg_notify('warden', '');
  end if;
end
$$;

-- Deferred, so that it runs at commit. Only one row per statement has `ring`: queued for each of 200,000 rows, the
-- trigger would cost 135 ms at commit instead of 5 ms.
set local lock_timeout = '200ms';
do $$
begin
  if not exists (select from pg_trigger where tgrelid = 'warden.events'::regclass and tgname = 'ring') then
    create constraint trigger ring after insert on warden.events
      deferrable initially deferred
      for each row when (new.ring)
      execute function warden.ring();
  end if;
end
$$;
reset role;
