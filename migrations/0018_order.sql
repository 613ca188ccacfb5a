-- Order of a transaction's events: the clock, the times of rows, and sorting.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Order. A statement trigger fires after the nested statements of its statement's row triggers, so these log first.
-- Each event therefore carries the step of its change, and the outermost statement sorts what was logged within it.
-- docs/design/order.md explains why this order is exact. The state is in settings that end with the transaction. A
-- <mark> such as insert7 is one operation on one watch, <stamp> is the start time of the transaction:
--   warden.clock   ''                                   no statement on a watched table is open, and none was disturbed
--                  '<stamp> only <mark>/<depth>/'       one statement is open, and nothing else has happened: the clock
--                                                       is 2^20 + 1
--                  '<stamp> <clock>'                    and ' <mark>/<depth>/' for each statement whose rows change at
--                                                       this clock, or ' <mark>,' while the noted row may be inserted
--                  The clock is 2^20 * ticks + the number of open statements. It ticks when a statement on a watched
--                  table begins, and when a row is noted.
--   warden.<mark>  state of the innermost open statement, unless warden.clock contains it:
--                  '<stamp> <clock>/<depth>'                           no row is noted: all rows changed at this clock
--                  'noted,/<stamp> <clock>/<depth> <id> <row>'         the latest note is of this row
--                  'noted+/<stamp> <clock>/<depth> <id> <row>'         the same, and the row was inserted
--   warden.<mark>_done   '1' if the row of the latest note was inserted
--   warden.<mark>_outer  the former values of warden.<mark>, innermost first, each followed by ';'
--   warden.unsorted      '<stamp> <id>': events after this id may need sorting when the outermost statement ends
-- Any session may set these settings. A value that is not of this transaction counts as none.

-- Times of single rows: when something happened between the rows of one statement. Empty outside of transactions.
create unlogged table if not exists warden.row_steps (
  xid       xid8   not null,
  -- The clock at the statement's first note.
  statement bigint not null,
  -- Number of the row among the noted rows of its statement.
  row       bigint not null,
  clock     bigint not null,
  primary key (xid, statement, row)
);

-- Runs before each statement on a watched table: the clock ticks, and the statement is open. A `set search_path` would
-- cost as much as everything else, so every name is qualified. In each transaction an expression of PL/pgSQL is
-- initialised once, which costs more than its evaluation. So the usual case, the first statement, evaluates two.
create or replace function warden.begin_statement() returns trigger
language plpgsql as $$
declare
  mark pg_catalog.text;
  stamp pg_catalog.text;
  depth pg_catalog.int4;
  time pg_catalog.int8;
  parts pg_catalog.text[];
begin
  if pg_catalog.current_setting('warden.clock', true) operator(pg_catalog.<>) ''::pg_catalog.text then
    mark := tg_argv[0];
    stamp := pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex');
    -- In the conditions of row triggers, the depth is one lower than in a trigger function.
    depth := pg_catalog.pg_trigger_depth() operator(pg_catalog.-) 1;
    parts := pg_catalog.regexp_match(
      pg_catalog.current_setting('warden.clock', true),
      '^([0-9a-f]{16}) (?:only ([a-z]+[0-9]+)/([0-9]{1,9})/$|([0-9]{1,18}))');
    time := 1048577;
    if parts[1] operator(pg_catalog.=) stamp then
      time := time operator(pg_catalog.+) coalesce(parts[4]::pg_catalog.int8, time);
      if parts[2] is not null then
        parts[1] := pg_catalog.set_config(
          pg_catalog.concat('warden.', parts[2]), pg_catalog.concat(stamp, ' 1048577/', parts[3]), true);
      end if;
    end if;
    if pg_catalog.current_setting(pg_catalog.concat('warden.', mark), true) operator(pg_catalog.<>) ''::pg_catalog.text
    then
      parts[1] := pg_catalog.set_config(
        pg_catalog.concat('warden.', mark, '_outer'),
        pg_catalog.concat(
          case when pg_catalog.current_setting(pg_catalog.concat('warden.', mark, '_done'), true)
                    operator(pg_catalog.=) '1'::pg_catalog.text
               then pg_catalog.replace(pg_catalog.current_setting(pg_catalog.concat('warden.', mark), true), ',', '+')
               else pg_catalog.current_setting(pg_catalog.concat('warden.', mark), true) end, ';',
          pg_catalog.current_setting(pg_catalog.concat('warden.', mark, '_outer'), true)),
        true);
      parts[1] := pg_catalog.set_config(pg_catalog.concat('warden.', mark, '_done'), '', true);
    end if;
    parts[1] := pg_catalog.set_config(
      pg_catalog.concat('warden.', mark), pg_catalog.concat(stamp, ' ', time, '/', depth), true);
    parts[1] := pg_catalog.set_config(
      'warden.clock', pg_catalog.concat(stamp, ' ', time, ' ', mark, '/', depth, '/'), true);
  else
    mark := pg_catalog.set_config(
      'warden.clock',
      pg_catalog.concat(
        pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex'), ' only ', tg_argv[0], '/',
        pg_catalog.pg_trigger_depth() operator(pg_catalog.-) 1, '/'),
      true);
  end if;
  return new;
end
$$;

-- The clock of this transaction. Null if no statement on a watched table is open, and nothing has disturbed an earlier
-- one.
create or replace function warden.clock_time() returns bigint
language sql stable set search_path = '' as $$
  select case when c ~ '^[0-9a-f]{16} (only|[0-9]{1,18})( |$)'
               and pg_catalog.starts_with(c, pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex'))
              then coalesce(nullif(pg_catalog.split_part(c, ' ', 2), 'only'), '1048577')::bigint end
  from pg_catalog.current_setting('warden.clock', true) c
$$;

-- Sets the clock. The rows of these statements change at it: ' update7/0/'.
create or replace function warden.set_clock(clock bigint, rows text default '') returns void
language plpgsql set search_path = '' as $$
declare
  stamp constant text := pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex');
  alone constant text[] := pg_catalog.regexp_match(
    pg_catalog.current_setting('warden.clock', true), '^([0-9a-f]{16}) only ([a-z]+[0-9]+)/([0-9]{1,9})/$');
begin
  -- The only open statement needs a state of its own from now on.
  if alone[1] = stamp then
    perform pg_catalog.set_config('warden.' || alone[2], stamp || ' 1048577/' || alone[3], true);
  end if;
  perform pg_catalog.set_config('warden.clock', stamp || ' ' || clock::text || rows, true);
end
$$;

-- Runs before the change of a row if something happened since its statement began: notes the row's own time.
create or replace function warden.note_row() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  mark constant text := tg_argv[0];
  -- If this statement is the only open one, its state is in warden.clock. An action of a foreign key may change its row
  -- again before anything else happens.
  alone constant text[] := pg_catalog.regexp_match(
    pg_catalog.current_setting('warden.clock', true), '^([0-9a-f]{16}) only ([a-z]+[0-9]+)/([0-9]{1,9})/$');
  state constant text := case when alone[2] = mark then alone[1] || ' 1048577/' || alone[3]
                              else pg_catalog.current_setting('warden.' || mark, true) end;
  parts constant text[] := pg_catalog.regexp_match(
    state, '^(?:noted([,+])/)?([0-9a-f]{16}) ([0-9]{1,18})/([0-9]{1,9})(?: ([0-9]{1,18}) ([0-9]{1,18}))?$');
  time bigint := warden.clock_time();
  first bigint;
  number bigint := 0;
begin
  -- No statement of this operation is open: a row that moves to another partition is also deleted and inserted.
  if parts is null or time is null
     or parts[2] <> pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex') then
    return case when tg_op = 'DELETE' then old else new end;
  end if;
  if parts[1] is null then
    if (time - parts[3]::bigint) % 1048577 = 0 and parts[4]::int = pg_catalog.pg_trigger_depth() - 1 then
      -- Only other parts of the same query began, such as the update of INSERT ... ON CONFLICT.
      perform pg_catalog.set_config('warden.' || mark, parts[2] || ' ' || time::text || '/' || parts[4], true),
              pg_catalog.set_config(
                'warden.clock',
                pg_catalog.current_setting('warden.clock', true) || ' ' || mark || '/' || parts[4] || '/', true);
      return case when tg_op = 'DELETE' then old else new end;
    end if;
    if tg_op <> 'UPDATE' and warden.is_row_moving(tg_relid, mark, parts[3]::bigint) then
      return case when tg_op = 'DELETE' then old else new end;
    end if;
    first := time;
  else
    first := parts[5]::bigint;
    -- An insert that met a conflict changes no row, so its number is free. Updates and deletions lock the row first.
    number := parts[6]::bigint + case
      when parts[1] = '+' or tg_op <> 'INSERT' or pg_catalog.current_setting('warden.' || mark || '_done', true) = '1'
      then 1 else 0 end;
  end if;
  time := time + 1048576;
  insert into warden.row_steps values (pg_catalog.pg_current_xact_id(), first, number, time)
  on conflict on constraint row_steps_pkey do update set clock = excluded.clock;
  perform warden.set_clock(time, case when tg_op = 'INSERT' then ' ' || mark || ',' else '' end),
          pg_catalog.set_config(
            'warden.' || mark, pg_catalog.format('noted,/%s %s/%s %s %s', parts[2], parts[3], parts[4], first, number),
            true);
  if tg_op = 'INSERT' then
    perform pg_catalog.set_config('warden.' || mark || '_done', '', true);
  end if;
  return case when tg_op = 'DELETE' then old else new end;
end
$$;

-- Whether the innermost open statement on a partitioned table is an update, which began after this clock: then a row
-- that is deleted or inserted moves between partitions.
create or replace function warden.is_row_moving(relation regclass, mark text, began bigint) returns boolean
language sql stable set search_path = '' as $$
  select coalesce((select c.relispartition from pg_catalog.pg_class c where c.oid = relation), false)
     and coalesce(pg_catalog.substring(
           pg_catalog.current_setting('warden.' || pg_catalog.regexp_replace(mark, '^[a-z]+', 'update'), true),
           '^(?:noted[,+]/)?[0-9a-f]{16} ([0-9]{1,18})/')::bigint > began, false)
$$;

-- Remembers that events are logged within a statement, from the present end of the log.
create or replace function warden.expect_unsorted() returns void
language plpgsql set search_path = '' as $$
declare
  stamp constant text := pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex');
begin
  if pg_catalog.starts_with(pg_catalog.current_setting('warden.unsorted', true), stamp) is not true then
    perform pg_catalog.set_config(
      'warden.unsorted',
      stamp || ' ' || coalesce(pg_catalog.pg_sequence_last_value('warden.events_id_seq'), 0)::text, true);
  end if;
end
$$;

-- The step of a published event: after what happened before it in this transaction. Null if no statement on a watched
-- table is open, because then nothing is sorted.
create or replace function warden.publish_step() returns bigint
language plpgsql set search_path = '' as $$
declare
  time constant bigint := warden.clock_time();
begin
  if time % 1048576 > 0 then
    perform warden.expect_unsorted(), warden.set_clock(time + 1048576);
    return 4 * (time / 1048576) + 3;
  end if;
  return null;
end
$$;

-- The clock at which the rows of the innermost statement with this mark changed. If rows were noted: `noted` identifies
-- the notes, and `first` added to the number of changed rows is the number of rows before the notes. All are null if
-- the statement is not open. Without a mark, nothing happens within the statement, but it may itself be within one.
create or replace function warden.statement_clock(mark text, out clock bigint, out noted bigint, out first bigint)
language plpgsql set search_path = '' as $$
declare
  state text;
  parts text[];
begin
  if mark is null then
    clock := warden.publish_step() / 4 * 1048576;
    return;
  end if;
  if warden.clock_time() is null then
    return;
  end if;
  -- The only open statement gets a state of its own.
  if pg_catalog.split_part(pg_catalog.current_setting('warden.clock', true), ' ', 2) = 'only' then
    perform warden.set_clock(1048577);
  end if;
  perform warden.expect_unsorted();
  state := pg_catalog.current_setting('warden.' || mark, true);
  parts := pg_catalog.regexp_match(
    state, '^(?:noted([,+])/)?([0-9a-f]{16}) ([0-9]{1,18})/([0-9]{1,9})(?: ([0-9]{1,18}) ([0-9]{1,18}))?$');
  if parts[2] = pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex') then
    clock := parts[3]::bigint;
    if parts[1] is null then
      -- It began within an action of a foreign key. Several actions share this statement, and each may have changed the
      -- same row. So rows are numbered, although none was noted.
      if parts[4]::int <> pg_catalog.pg_trigger_depth() - 1 then
        noted := 0;
        first := 0;
      end if;
      return;
    end if;
    noted := parts[5]::bigint;
    first := case when mark ~ '^insert' and parts[1] = ','
                   and pg_catalog.current_setting('warden.' || mark || '_done', true) is distinct from '1'
                  then 0 else -1 end - parts[6]::bigint;
  end if;
end
$$;

-- Ends a statement on a watched table. The outermost one sorts what was logged within it. `noted` identifies the
-- statement's notes.
create or replace function warden.end_statement(mark text, noted bigint) returns void
language plpgsql set search_path = '' as $$
declare
  state constant text := pg_catalog.current_setting('warden.' || mark, true);
  outer_states constant text := pg_catalog.current_setting('warden.' || mark || '_outer', true);
  unsorted constant text := pg_catalog.current_setting('warden.unsorted', true);
  stamp constant text := pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex');
  time bigint := warden.clock_time();
begin
  if noted is not null then
    delete from warden.row_steps s where s.xid = pg_catalog.pg_current_xact_id() and s.statement = noted;
    perform pg_catalog.set_config('warden.' || mark || '_done', '', true);
  end if;
  -- Without a state, the statement did not begin: somebody disabled a trigger.
  if time is null or state is null or state = '' then
    return;
  end if;
  if outer_states <> '' then
    perform pg_catalog.set_config('warden.' || mark, pg_catalog.split_part(outer_states, ';', 1), true),
            pg_catalog.set_config(
              'warden.' || mark || '_outer',
              pg_catalog.substr(outer_states, pg_catalog.strpos(outer_states, ';') + 1), true);
  else
    perform pg_catalog.set_config('warden.' || mark, '', true);
  end if;
  if time % 1048576 > 0 then
    time := time - 1;
    perform pg_catalog.set_config('warden.clock', stamp || ' ' || time::text, true);
  end if;
  if time % 1048576 = 0 and unsorted <> '' then
    perform pg_catalog.set_config('warden.unsorted', '', true);
    if pg_catalog.starts_with(unsorted, stamp) and unsorted ~ ' [0-9]{1,18}$'
       -- Otherwise nothing happened within this statement.
       and pg_catalog.split_part(state, '/', 1) is distinct from stamp || ' ' || (time + 1)::text then
      perform warden.sort_events(pg_catalog.split_part(unsorted, ' ', 2)::bigint);
    end if;
  end if;
end
$$;

-- Gives new ids to those events of this transaction after this id that were logged before an event of an earlier step.
-- Nobody else sees them before the commit. They are read by their ids: a long transaction may have logged many more.
-- The former version took the transaction. Only functions of this schema call it.
-- squawk-ignore ban-drop-function
drop function if exists warden.sort_events(text);
create or replace function warden.sort_events(last_sorted bigint) returns void
language plpgsql set search_path = '' as $$
declare
  me constant xid8 := pg_catalog.pg_current_xact_id();
  last_id constant bigint := pg_catalog.pg_sequence_last_value('warden.events_id_seq');
  last_step bigint;
begin
  -- Events without a step stay behind the event before them. `is true` keeps the planner from the index by transaction.
  select min(s.step) filter (where s.step < s.highest) into last_step
  from (select e.step, max(e.step) over (order by e.id) as highest
        from warden.events e where e.id > last_sorted and e.id <= last_id and (e.xid = me) is true) s;
  if last_step is null then
    return;
  end if;
  with late as (
    delete from warden.events e using (
      select e.id, max(e.step) over (order by e.id) as highest, e.step
      from warden.events e where e.id > last_sorted and e.id <= last_id and (e.xid = me) is true) s
    where e.id > last_sorted and e.id <= last_id and (e.xid = me) is true and e.id = s.id
      and coalesce(s.step, s.highest) > last_step
    returning e.*, coalesce(s.step, s.highest) as place
  )
  insert into warden.events
    (xid, org_id, topic, event, subject, data, old, truncated, at, ring, needs_claim, slot, step)
  -- The doorbell was rung when they were logged.
  select l.xid, l.org_id, l.topic, l.event, l.subject, l.data, l.old, l.truncated, l.at, false, l.needs_claim, l.slot,
         l.step
  from late l order by l.place, l.id;
end
$$;

reset role;
