-- The event log: the truth from which every gateway reads. It is a ring of eight fixed partitions,
-- so that retention needs no DDL beyond a TRUNCATE of the slot that comes next.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The slot that is written now is the sequence's last value: read by the column default below for
-- a fraction of what a look-up in a control table costs, and moved by setval().
create sequence warden.events_slot as smallint minvalue 0 maxvalue 7 start 0;
select setval('warden.events_slot', 0, true);

create table warden.events (
  -- Orders events within one read. It is no cursor: numbers commit out of order. CACHE stays 1,
  -- because after a crash only values beyond the last committed one may be handed out again.
  id        bigint generated always as identity (cache 1),
  -- What the cursor is made of: a snapshot tells whether this transaction was visible.
  xid       xid8        not null default pg_current_xact_id(),
  -- The tenant. Null: a control event for every organisation. No foreign key: its key-share lock
  -- on one row would make all writers of one organisation meet.
  org_id    uuid,
  topic     text        not null,
  event     text        not null,
  -- The topic of the one entity that the event is about, such as call:<uuid>. The event reaches it beside `topic`.
  -- It is the whole topic, not the id alone: a reader needs no other table to know the kind, rows keep theirs when a
  -- table is watched differently later, and a replay compares it with the topics that clients join.
  subject   text,
  -- The row after the change (before it, for a deletion), or what was published.
  data      jsonb       not null,
  -- For an update: the columns that changed, with their former values.
  old       jsonb,
  -- True where the row was too large and data holds only its entity column.
  truncated boolean     not null default false,
  at        timestamptz not null default clock_timestamp(),
  -- True on one row per statement: the one that rings the doorbell.
  ring      boolean     not null default true,
  -- There are eight.
  -- squawk-ignore prefer-bigint-over-smallint
  slot      smallint    not null default pg_sequence_last_value('warden.events_slot')::smallint,
  constraint events_org_or_control check (org_id is not null or event like 'warden.%')
) partition by list (slot);

do $$
begin
  for n in 0..7 loop
    execute format('create table warden.events_%s partition of warden.events for values in (%s)', n, n);
  end loop;
end
$$;

-- The reader's three look-ups: transactions after the snapshot, transactions that were in progress
-- in it, and ids beyond the highest that it covers.
create index events_id on warden.events (id);
create index events_xid on warden.events (xid);
-- The same three look-ups for one organisation, for its clients that come back: what that costs must not
-- depend on the others.
create index events_org on warden.events (org_id, xid, id);

-- One row about the log itself.
create table warden.log_state (
  singleton boolean primary key default true check (singleton),
  -- The epoch in which the rows of the log were written; see warden.epoch().
  epoch     text,
  -- What retention has removed: cursors whose snapshot does not lie wholly after it can't be served.
  truncated_xid xid8        not null default '0',
  -- When the present slot became the one that is written.
  rotated_at    timestamptz not null default now()
);
insert into warden.log_state default values;

-- The epoch names one history of one database: system identifier, timeline, database oid. After a
-- failover or a restore it is another, and cursors of the old one mean nothing.
-- (pg_control_checkpoint() would still show the old timeline just after a promotion.)
create function warden.epoch() returns text
language sql volatile security definer set search_path = '' as $$
  select pg_catalog.format('%s.%s.%s',
    (select system_identifier from pg_catalog.pg_control_system()),
    pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8),
    (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()))
$$;

-- Called by the reader on every connection, before it reads. In a new epoch, rows that a restore
-- brought along may carry transaction ids of the future, which would look new for ever: they are
-- removed. Rows that a running transaction writes now are not visible here, so they stay.
create function warden.begin_epoch() returns text
language plpgsql volatile security definer set search_path = '' as $$
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
      -- Cursors of the former epoch are refused as such; its transaction ids mean nothing in this one.
      update warden.log_state set epoch = present, truncated_xid = '0';
    end if;
  end if;
  return present;
end
$$;

grant select on warden.events to warden_gateway;
grant execute on function warden.epoch(), warden.begin_epoch() to warden_gateway;
reset role;
