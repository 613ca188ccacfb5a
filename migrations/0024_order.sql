-- Order of a transaction's events: the clock, the times of rows, and sorting.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Order. A statement trigger fires after the nested statements of its statement's row triggers, so these log first.
-- Each event therefore carries the step of its change, and the outermost statement sorts what was logged within it.
-- docs/design/order.md explains why this order is exact. The state is in settings that end with the transaction. A
-- <mark> such as insert_7 is one operation on one watch, <stamp> is the start time of the transaction:
--   warden.order   ''                                   no statement on a watched table is open
--                  '<stamp> only <mark>/<depth>/'       one statement is open, and nothing else has happened: the clock
--                                                       is 2^20 + 1
--                  '<stamp> <clock>'                    and ' <mark>/<depth>/' for each statement whose rows change at
--                                                       this clock, or ' <mark>,' while the noted row may be inserted
--                  The clock is 2^20 * ticks + the number of open statements. It ticks when a statement on a watched
--                  table begins, and when a row is noted.
--   warden.<mark>  state of the innermost open statement, unless warden.order contains it:
--                  '<stamp> <clock> <depth>'                  no row is noted: all rows changed at this clock
--                  '<stamp> <clock> <depth> <clocks>'         from the first noted row on, all rows are noted: their
--                                                             clocks, newest first, each followed by ',', or by 'm,' if
--                                                             the row moves to another partition
--                  '<stamp> <clock> <depth> <clocks> <id>'    older ones are in warden.row_notes
--   warden.<mark>_done   '1' if the row of the latest note was inserted
--   warden.<mark>_outer  the former values of warden.<mark> and warden.<mark>_done, innermost first: '<state>/<done>;'
--   warden.row_<depth>   the partition and place of the row that an update changes. Then 'deleted' and 'inserted', if
--                        the row moves to another partition. '' from the end of the query on, or 'logged ,<watch>,...':
--                        the watches whose rows warden.log_moves() has logged in this query
--   warden.moved_<watch>_<depth>
--                        'on' if a query at this depth moves rows of this watch, and '<operation> <id>/<event>' for
--                        each of its log functions that was called before the one of updates: the last row in
--                        warden.moved_rows then, and the last event. 'logged' if warden.log_moves() has logged some,
--                        and in
--   warden.logged_<watch>_<depth>
--                        their '<images>;<images>': the old and the new rows
--   warden.unsorted      '<stamp> <id> <slot> <highest> <late>': events after this id, from this slot on, were logged
--                        within the outermost statement. The highest step, and the lowest one that was logged late,
--                        which is '' if they are sorted
-- Any session may set these settings. A value that is not of this transaction counts as none. Regular expressions would
-- check the others, but with captures one match takes some 60 us.

-- Notes of rows of statements that note many rows. Empty outside of transactions.
create unlogged table if not exists warden.row_notes (
  xid       xid8   not null,
  -- The clock at the statement's first note.
  statement bigint not null,
  -- The time of a row.
  clock     bigint not null,
  -- The row moves to another partition.
  moved     boolean not null default false,
  primary key (xid, statement, clock)
);
alter table warden.row_notes add column if not exists moved boolean not null default false;

-- Runs before each statement on a watched table: the clock ticks, and the statement is open. Every name is qualified,
-- because it has no search_path of its own. In each transaction an expression of PL/pgSQL is initialised once, which
-- costs more than its evaluation. So the usual case, the first statement, evaluates two.
create or replace function warden.begin_statement() returns trigger
language plpgsql as $$
declare
  mark pg_catalog.text;
  stamp pg_catalog.text;
  depth pg_catalog.int4;
  time pg_catalog.int8;
  parts pg_catalog.text[];
begin
  if pg_catalog.current_setting('warden.order', true) operator(pg_catalog.<>) ''::pg_catalog.text then
    mark := tg_argv[0];
    stamp := pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex');
    -- In the conditions of row triggers, the depth is one lower than in a trigger function.
    depth := pg_catalog.pg_trigger_depth() operator(pg_catalog.-) 1;
    parts := pg_catalog.string_to_array(pg_catalog.current_setting('warden.order', true), ' ');
    time := 1048577;
    if parts[1] operator(pg_catalog.=) stamp then
      if parts[2] operator(pg_catalog.=) 'only'::pg_catalog.text then
        -- The other statement needs a state of its own from now on.
        parts[1] := pg_catalog.set_config(
          pg_catalog.concat('warden.', pg_catalog.split_part(parts[3], '/', 1)),
          pg_catalog.concat(stamp, ' 1048577 ', pg_catalog.split_part(parts[3], '/', 2)), true);
        time := 2097154;
      else
        time := time operator(pg_catalog.+) parts[2]::pg_catalog.int8;
      end if;
    end if;
    if pg_catalog.current_setting(pg_catalog.concat('warden.', mark), true) operator(pg_catalog.<>) ''::pg_catalog.text
    then
      parts[1] := pg_catalog.set_config(
        pg_catalog.concat('warden.', mark, '_outer'),
        pg_catalog.concat(
          pg_catalog.current_setting(pg_catalog.concat('warden.', mark), true), '/',
          pg_catalog.current_setting(pg_catalog.concat('warden.', mark, '_done'), true), ';',
          pg_catalog.current_setting(pg_catalog.concat('warden.', mark, '_outer'), true)),
        true);
      parts[1] := pg_catalog.set_config(pg_catalog.concat('warden.', mark, '_done'), '', true);
    end if;
    parts[1] := pg_catalog.set_config(
      pg_catalog.concat('warden.', mark), pg_catalog.concat(stamp, ' ', time, ' ', depth), true);
    parts[1] := pg_catalog.set_config(
      'warden.order', pg_catalog.concat(stamp, ' ', time, ' ', mark, '/', depth, '/'), true);
  else
    mark := pg_catalog.set_config(
      'warden.order',
      pg_catalog.concat(
        pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex'), ' only ', tg_argv[0], '/',
        pg_catalog.pg_trigger_depth() operator(pg_catalog.-) 1, '/'),
      true);
  end if;
  return new;
end
$$;

-- The parts of warden.order in this transaction: the stamp, the clock, and names. Null if no statement on a watched
-- table is open. If one was alone, it gets a state of its own.
create or replace function warden.open_order() returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  stamp constant text := pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex');
  parts constant text[] := pg_catalog.string_to_array(pg_catalog.current_setting('warden.order', true), ' ');
begin
  if parts[1] is distinct from stamp then
    return null;
  end if;
  if parts[2] <> 'only' then
    return parts;
  end if;
  perform pg_catalog.set_config(
    'warden.' || pg_catalog.split_part(parts[3], '/', 1),
    stamp || ' 1048577 ' || pg_catalog.split_part(parts[3], '/', 2), true);
  return array[stamp, '1048577'];
end
$$;

-- Runs before the change of a row if something happened since its statement began: notes the row's own time.
create or replace function warden.note_row() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  mark constant text := tg_argv[0];
  stamp constant text := pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex');
  -- In the conditions of row triggers, the depth is one lower than in a trigger function.
  depth constant int := pg_catalog.pg_trigger_depth() - 1;
  clock text[] := pg_catalog.string_to_array(pg_catalog.current_setting('warden.order', true), ' ');
  state text[];
  time bigint;
  ignored text;
begin
  -- An action of a foreign key may change a row of the only open statement.
  if clock[2] = 'only' then
    clock := warden.open_order();
  end if;
  state := pg_catalog.string_to_array(pg_catalog.current_setting('warden.' || mark, true), ' ');
  if tg_op <> 'UPDATE' and pg_catalog.current_setting('warden.row_' || depth, true) in ('deleted', 'inserted') then
    -- A row that an update moves to another partition. The update has noted it.
    if tg_op = 'DELETE' then
      ignored := warden.mark_note(pg_catalog.replace(mark, 'delete', 'update'), stamp);
    end if;
  elsif clock[1] = stamp and state[1] = stamp then
    time := clock[2]::bigint;
    if state[3]::int = depth then
      if state[4] is null and (time - state[2]::bigint) % 1048577 = 0 then
        -- Only other parts of the same query began, such as the update of INSERT ... ON CONFLICT.
        ignored := pg_catalog.set_config('warden.' || mark, pg_catalog.concat(stamp, ' ', time, ' ', depth), true);
        ignored := pg_catalog.set_config(
          'warden.order',
          pg_catalog.concat(pg_catalog.current_setting('warden.order', true), ' ', mark, '/', depth, '/'), true);
        time := null;
      end if;
    end if;
    if time is not null then
      time := time + 1048576;
      if tg_op = 'INSERT' then
        -- An insert that met a conflict changed no row. Updates and deletions lock the row first.
        if state[4] is not null and pg_catalog.current_setting('warden.' || mark || '_done', true) is distinct from '1'
        then
          state[4] := pg_catalog.substr(state[4], pg_catalog.strpos(state[4], ',') + 1);
        end if;
        ignored := pg_catalog.set_config('warden.' || mark || '_done', '', true);
      end if;
      if pg_catalog.length(state[4]) > 1000 then
        state[5] := coalesce(state[5], time::text);
        insert into warden.row_notes (xid, statement, clock, moved)
        select pg_catalog.pg_current_xact_id(), state[5]::bigint, pg_catalog.rtrim(c, 'm')::bigint, c like '%m'
        from pg_catalog.unnest(pg_catalog.string_to_array(pg_catalog.rtrim(state[4], ','), ',')) c;
        state[4] := '';
      end if;
      ignored := pg_catalog.set_config(
        'warden.' || mark,
        pg_catalog.concat(stamp, ' ', state[2], ' ', state[3], ' ', time, ',', state[4], ' ' || state[5]), true);
      ignored := pg_catalog.set_config(
        'warden.order', pg_catalog.concat(stamp, ' ', time, case when tg_op = 'INSERT' then ' ' || mark || ',' end),
        true);
    end if;
  end if;
  if tg_op = 'DELETE' then
    return old;
  end if;
  return new;
end
$$;

-- Marks the latest note of the innermost statement with this mark: the row moves to another partition.
create or replace function warden.mark_note(mark text, stamp text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  state text[] := pg_catalog.string_to_array(pg_catalog.current_setting('warden.' || mark, true), ' ');
begin
  if state[1] = stamp and state[4] <> '' then
    state[4] := overlay(state[4] placing 'm,' from pg_catalog.strpos(state[4], ',') for 1);
    return pg_catalog.set_config('warden.' || mark, pg_catalog.array_to_string(state, ' '), true);
  end if;
  return null;
end
$$;

-- Remembers that events with these steps are logged within a statement, and returns warden.unsorted. The first call
-- finds the present end of the log.
create or replace function warden.track_steps(lowest bigint, highest bigint) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  stamp constant text := pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex');
  parts constant text[] := pg_catalog.string_to_array(pg_catalog.current_setting('warden.unsorted', true), ' ');
begin
  if parts[1] = stamp then
    return pg_catalog.set_config(
      'warden.unsorted',
      pg_catalog.concat(
        stamp, ' ', parts[2], ' ', parts[3], ' ', greatest(parts[4]::bigint, highest), ' ',
        case when lowest < parts[4]::bigint then least(nullif(parts[5], '')::bigint, lowest)::text else parts[5] end),
      true);
  end if;
  return pg_catalog.set_config(
    'warden.unsorted',
    pg_catalog.concat(
      stamp, ' ', coalesce(pg_catalog.pg_sequence_last_value('warden.events_id_seq'), 0), ' ',
      coalesce(pg_catalog.pg_sequence_last_value('warden.events_slot'), 0), ' ', highest, ' '),
    true);
end
$$;

-- The step of a published event: after what happened before it in this transaction. Null if no statement on a watched
-- table is open, because then nothing is sorted.
create or replace function warden.publish_step() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  parts text[];
  time bigint;
begin
  if pg_catalog.current_setting('warden.order', true) <> '' then
    parts := warden.open_order();
    if parts is not null then
      time := parts[2]::bigint + 1048576;
      parts[3] := pg_catalog.set_config('warden.order', parts[1] || ' ' || time, true);
      time := 4 * (time / 1048576) - 1;
      parts[3] := warden.track_steps(time, time);
    end if;
  end if;
  return time;
end
$$;

-- Ends the innermost statement with this mark. Returns the clock at which its rows changed, and then the clocks of its
-- last rows, last row first, if these were noted, and if there are several. Null if the statement is not open.
-- `changed` is the number of rows. It matters only if some were noted, or if the statement began at another depth.
-- Without a mark, nothing happens within the statement, but it may itself be within one.
create or replace function warden.end_statement(mark text, operation text, changed bigint) returns bigint[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  clock bigint;
  notes bigint[];
  noted text[];
  parts text[];
  state text[];
  outer_states text;
  time bigint;
begin
  if mark is null then
    return array[warden.publish_step() / 4 * 1048576];
  end if;
  parts := warden.open_order();
  state := pg_catalog.string_to_array(pg_catalog.current_setting('warden.' || mark, true), ' ');
  -- Otherwise the statement did not begin: somebody disabled a trigger.
  if parts is null or state[1] is distinct from parts[1] then
    return null;
  end if;
  clock := state[2]::bigint;
  if state[4] is not null then
    noted := pg_catalog.string_to_array(pg_catalog.rtrim(state[4], ','), ',');
    if operation = 'INSERT' and pg_catalog.current_setting('warden.' || mark || '_done', true) is distinct from '1' then
      noted := noted[2:];
    end if;
    if state[5] is not null then
      with older as (
        delete from warden.row_notes n
        where n.xid = pg_catalog.pg_current_xact_id() and n.statement = state[5]::bigint
        returning n.clock, n.moved
      )
      select noted || pg_catalog.array_agg(o.clock || case when o.moved then 'm' else '' end order by o.clock desc)
        into noted from older o;
    end if;
    if operation = 'UPDATE' and (state[5] is not null or pg_catalog.strpos(state[4], 'm') > 0) then
      notes := warden.place_moves(pg_catalog.split_part(mark, '_', 2)::bigint, noted);
    else
      notes := noted::bigint[];
    end if;
    -- Most statements change one row.
    if changed = 1 and notes[2] is null then
      clock := coalesce(notes[1], clock);
      notes := null;
    end if;
  elsif state[3]::int <> pg_catalog.pg_trigger_depth() - 1 and changed > 1 then
    -- It began within an action of a foreign key. Several actions share this statement, and each may have changed the
    -- same row. So rows are numbered, although none was noted.
    notes := array[clock];
  end if;
  -- If a trigger of another partition dropped a row that was moved, rows cannot be numbered.
  if changed is null then
    notes := null;
  end if;

  outer_states := pg_catalog.current_setting('warden.' || mark || '_outer', true);
  if outer_states <> '' then
    state := pg_catalog.string_to_array(pg_catalog.split_part(outer_states, ';', 1), '/');
    parts[3] := pg_catalog.set_config('warden.' || mark, state[1], true);
    parts[3] := pg_catalog.set_config('warden.' || mark || '_done', state[2], true);
    parts[3] := pg_catalog.set_config(
      'warden.' || mark || '_outer', pg_catalog.substr(outer_states, pg_catalog.strpos(outer_states, ';') + 1), true);
  else
    parts[3] := pg_catalog.set_config('warden.' || mark, '', true);
    parts[3] := pg_catalog.set_config('warden.' || mark || '_done', '', true);
  end if;

  -- At one step, updates precede deletions, and deletions precede creations. An update of the key is both.
  time := 4 * (clock / 1048576) + case operation when 'INSERT' then 2 when 'DELETE' then 1 else 0 end;
  parts[3] := warden.track_steps(
    case when changed <= pg_catalog.cardinality(notes) then 4 * (notes[changed] / 1048576) else time end,
    case when notes[1] > clock then 4 * (notes[1] / 1048576) + 2 when operation = 'UPDATE' then time + 2 else time end);
  -- Updates with numbers are joined in any order.
  if operation = 'UPDATE' and notes is not null then
    parts[3] := warden.track_steps(time, time);
  end if;
  time := parts[2]::bigint - 1;
  parts[3] := pg_catalog.set_config(
    'warden.order', case when time % 1048576 > 0 then parts[1] || ' ' || time else '' end, true);
  return clock || notes;
end
$$;

-- Sorts what was logged within the outermost statement, if that has ended: events of a higher step than the lowest one
-- that was logged late get new ids. Nobody else sees them before the commit. They are read by their ids and slots: a
-- long transaction may have logged many more. Events without a step stay behind the event before them. A generic plan
-- opens one partition of the log as well, and PostgreSQL would plan the statement at each call.
create or replace function warden.sort_events() returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  me constant xid8 := pg_catalog.pg_current_xact_id();
  parts constant text[] := pg_catalog.string_to_array(pg_catalog.current_setting('warden.unsorted', true), ' ');
  last_sorted constant bigint := parts[2]::bigint;
  last_step constant bigint := nullif(parts[5], '')::bigint;
  last_id bigint;
  slots smallint[];
  ignored text;
begin
  if pg_catalog.current_setting('warden.order', true) <> '' then
    return;
  end if;
  ignored := pg_catalog.set_config('warden.unsorted', '', true);
  if last_step is null or parts[1] <> pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex') then
    return;
  end if;
  last_id := pg_catalog.pg_sequence_last_value('warden.events_id_seq');
  slots := array[parts[3]];
  -- The log has turned to the next slot meanwhile.
  if slots[1] <> coalesce(pg_catalog.pg_sequence_last_value('warden.events_slot'), 0) then
    slots := '{0,1,2,3,4,5,6,7}';
  end if;
  -- `is true` keeps the planner from the index by transaction.
  with late as (
    delete from warden.events e
    where e.id > last_sorted and e.id <= last_id and e.slot = any (slots) and (e.xid = me) is true
      and (e.step > last_step) is not false
    returning e.*
  )
  insert into warden.events
    (xid, org_id, topic, event, subject, data, old, truncated, at, ring, needs_claim, slot, step, traceparent,
     watch)
  -- The doorbell was rung when they were logged.
  select l.xid, l.org_id, l.topic, l.event, l.subject, l.data, l.old, l.truncated, l.at, false, l.needs_claim, l.slot,
         l.step, l.traceparent, l.watch
  from (select x.*, coalesce(x.step, max(x.step) over (order by x.id)) as place from late x) l
  order by l.place nulls first, l.id;
end
$$;

reset role;
