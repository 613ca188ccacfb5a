-- The event log, from which every gateway reads. It is a ring of eight fixed partitions, so retention needs no DDL
-- except a TRUNCATE of the next slot.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The current slot is the sequence's last value. The column default below reads it for a fraction of the cost of a
-- lookup in a control table, and setval() advances it.
create sequence if not exists warden.events_slot as smallint minvalue 0 maxvalue 7 start 0;

create table if not exists warden.events (
  -- Orders events within one read. It is not a cursor, because numbers commit out of order. CACHE must stay 1: after a
  -- crash, PostgreSQL may hand out again only values above the last committed one.
  id        bigint generated always as identity (cache 1),
  -- A cursor is a snapshot, and a snapshot determines whether this transaction was visible.
  xid       xid8        not null default pg_current_xact_id(),
  -- The tenant; null in a control event for every organisation. No foreign key, because its key-share lock on one row
  -- would make all writers of an organisation contend.
  org_id    uuid,
  topic     text        not null,
  event     text        not null,
  -- The topic of the one entity that the event is about, such as call:<uuid>. The event reaches it beside `topic`.
  -- It is the whole topic, not the id alone: a reader needs no other table to know the kind, rows keep theirs when a
  -- table is watched differently later, and a replay compares it with the topics that clients join.
  subject   text,
  -- The row after the change, the row before a deletion, or the published data.
  data      jsonb       not null,
  -- For an update: the changed columns with their former values.
  old       jsonb,
  -- True if the row was too large, so data and old lack columns; see warden.kept_document().
  truncated boolean     not null default false,
  at        timestamptz not null default clock_timestamp(),
  -- True in one row per statement, which rings the doorbell.
  ring      boolean     not null default true,
  -- Whether only tokens that name `topic` in their claim may receive the event; see warden.watch(). The row carries
  -- this itself, so that it does not depend on what a gateway knows about the topic when it reads the row.
  needs_claim boolean   not null default false,
  -- Values 0 to 7. A sequence has no last value before its first use, so after a restore of the schema alone.
  -- squawk-ignore prefer-bigint-over-smallint
  slot      smallint    not null default coalesce(pg_sequence_last_value('warden.events_slot'), 0)::smallint,
  -- Orders the events of one transaction: 4 * ticks of its clock, + 1 for a deletion, + 2 for a creation.
  step      bigint,
  -- Trace context of the publisher; see warden.trace_context().
  traceparent text,
  -- The watch that logged the row; null for a published event. So a reader tells the rows of a watched table from
  -- events that a back end publishes to the table's topic. -1 if a former version logged the event, which did not say.
  watch     bigint,
  constraint events_org_or_control check (org_id is not null or event like 'warden.%')
) partition by list (slot);

-- Writers of the application wait while the log is locked, so it is locked only if something is missing.
set local lock_timeout = '200ms';
-- A log of the former version lacks these columns.
do $$
begin
  if not exists (select from pg_attribute where attrelid = 'warden.events'::regclass and attname = 'needs_claim') then
    alter table warden.events add column needs_claim boolean not null default false;
  end if;
  if not exists (select from pg_attribute where attrelid = 'warden.events'::regclass and attname = 'step') then
    alter table warden.events add column step bigint;
  end if;
  if not exists (select from pg_attribute where attrelid = 'warden.events'::regclass and attname = 'traceparent') then
    alter table warden.events add column traceparent text;
  end if;
  if not exists (select from pg_attribute where attrelid = 'warden.events'::regclass and attname = 'watch') then
    alter table warden.events
      -- The default lasts until the log functions know the column. It is a constant, so no row is rewritten.
      -- squawk-ignore adding-field-with-default
      add column watch bigint default -1;
  end if;
end
$$;
do $$
begin
  for n in 0..7 loop
    if to_regclass(format('warden.events_%s', n)) is null then
      execute format('create table warden.events_%s partition of warden.events for values in (%s)', n, n);
    end if;
    -- In a database with a publication for all tables, rows cannot be deleted without one.
    if (select relreplident <> 'f' from pg_class where oid = format('warden.events_%s', n)::regclass) then
      execute format('alter table warden.events_%s replica identity full', n);
    end if;
  end loop;
  if not exists (select from pg_attrdef d join pg_attribute a on (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
                 where d.adrelid = 'warden.events'::regclass and a.attname = 'slot'
                   and pg_get_expr(d.adbin, d.adrelid) ilike 'coalesce(%') then
    alter table warden.events
      alter column slot set default coalesce(pg_sequence_last_value('warden.events_slot'), 0)::smallint;
  end if;
  -- For the reader's three lookups: transactions after the snapshot, transactions in progress in the snapshot, and ids
  -- above the highest that it covers.
  if to_regclass('warden.events_id') is null then
    execute 'create index events_id on warden.events (id)';
  end if;
  if to_regclass('warden.events_xid') is null then
    execute 'create index events_xid on warden.events (xid)';
  end if;
  -- For the same lookups within one organisation, when its clients reconnect. Their cost must not depend on other
  -- organisations.
  if to_regclass('warden.events_org') is null then
    execute 'create index events_org on warden.events (org_id, xid, id)';
  end if;
end
$$;

-- State of the log, in one row.
create table if not exists warden.log_state (
  singleton boolean primary key default true check (singleton),
  -- Epoch in which the rows of the log were written; see warden.epoch().
  epoch     text,
  -- Highest transaction id that retention has removed. A cursor cannot be served unless its whole snapshot is later.
  truncated_xid xid8        not null default '0',
  -- When the current slot became current.
  rotated_at    timestamptz not null default now()
);
insert into warden.log_state default values on conflict do nothing;

-- What retention has removed only of organisations that had taken more than their share of the log. Written by
-- warden.rotate_events().
create table if not exists warden.log_floors (
  org_id        uuid   primary key,
  -- Highest transaction id of the organisation's events that was removed.
  truncated_xid xid8   not null,
  -- Number of the last rotation that removed some, and what it removed, as in warden.last_rotation.
  rotation      bigint not null,
  removed_id    bigint not null,
  removed_late  xid8[]
);

-- The epoch identifies one history of one database: system identifier, timeline, database oid. A failover or a restore
-- starts another epoch, and cursors of the former one become invalid. (Just after a promotion, pg_control_checkpoint()
-- still shows the old timeline.)
create or replace function warden.epoch() returns text
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.format('%s.%s.%s',
    (select system_identifier from pg_catalog.pg_control_system()),
    pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8),
    (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()))
$$;

-- The reader calls this on every connection, before it reads. After a restore, rows of the former epoch may carry
-- transaction ids that are still in the future. Such rows would look new forever, so they are deleted. Rows that a
-- running transaction writes now are not visible here, so they are kept.
create or replace function warden.begin_epoch() returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  known text;
  present text := warden.epoch();
begin
  select s.epoch into known from warden.log_state s;
  if known is distinct from present then
    select s.epoch into known from warden.log_state s for update;
    if known is distinct from present then
      delete from warden.events
      where xid >= pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot());
      -- The gateway rejects cursors of the former epoch, and its transaction ids are meaningless in this one.
      update warden.log_state set epoch = present, truncated_xid = '0';
      delete from warden.log_floors;
    end if;
  end if;
  return present;
end
$$;

grant select on warden.events to warden_gateway;
grant execute on function warden.epoch(), warden.begin_epoch() to warden_gateway;
reset role;
