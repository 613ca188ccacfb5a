-- Order of a transaction's events: the clock, the times of rows, and sorting.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Order. A statement trigger fires after the nested statements of its statement's row triggers, so these log first.
-- Each event therefore carries the step of its change, and the outermost statement sorts what was logged within it.
-- docs/design/order.md explains why this order is exact. The state is in settings that end with the transaction:
--   warden.clock  '<transaction> <clock>'. The clock is 2^20 * ticks + the number of open statements. It ticks when a
--                 statement on a watched table begins, and when a row is noted.
--   <mark>        state of the innermost open statement of one operation on one watch:
--                   '<transaction> <clock>/<depth>'              no row is noted: all rows changed at this clock
--                   'noted,/<transaction> <clock>/<depth> <id> <row>'  the latest note is of this row
--                   'noted+/<transaction> <clock>/<depth> <id> <row>'  the same, and the row was inserted
--   <mark>_outer  the former values of <mark>, innermost first, each followed by ';'
--   warden.sorted '<transaction> <id>': events of this transaction up to this id are sorted
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
-- initialised once, which costs more than its evaluation, so there is one only.
create or replace function warden.begin_statement() returns trigger
language plpgsql as $$
declare
  state pg_catalog.text;
begin
  state := pg_catalog.set_config(
    tg_argv[0],
    case when pg_catalog.current_setting(tg_argv[0], true) operator(pg_catalog.<>) ''::pg_catalog.text
           and pg_catalog.set_config(
             tg_argv[0] operator(pg_catalog.||) '_outer'::pg_catalog.text,
             pg_catalog.concat(
               pg_catalog.current_setting(tg_argv[0], true), ';',
               pg_catalog.current_setting(tg_argv[0] operator(pg_catalog.||) '_outer'::pg_catalog.text, true)),
             true) is null
         then null
         else pg_catalog.set_config(
           'warden.clock',
           (pg_catalog.date_part('epoch', pg_catalog.now())
             operator(pg_catalog.*) '1e6'::pg_catalog.float8)::pg_catalog.int8::pg_catalog.text
           operator(pg_catalog.||) ' '::pg_catalog.text operator(pg_catalog.||)
           (1048577::pg_catalog.int8 operator(pg_catalog.+) case
              when pg_catalog.split_part(pg_catalog.current_setting('warden.clock', true), ' ', 1)
                   operator(pg_catalog.=)
                   (pg_catalog.date_part('epoch', pg_catalog.now())
                     operator(pg_catalog.*) '1e6'::pg_catalog.float8)::pg_catalog.int8::pg_catalog.text
              then pg_catalog.split_part(pg_catalog.current_setting('warden.clock', true), ' ', 2)::pg_catalog.int8
              else 0::pg_catalog.int8 end)::pg_catalog.text,
           true) end
    -- In the conditions of row triggers, the depth is one lower than in a trigger function.
    operator(pg_catalog.||) '/'::pg_catalog.text
    operator(pg_catalog.||) (pg_catalog.pg_trigger_depth() operator(pg_catalog.-) 1)::pg_catalog.text,
    true);
  return null;
end
$$;

-- Runs before the change of a row if something happened since its statement began: notes the row's own time.
create or replace function warden.note_row() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  mark constant text := tg_argv[0];
  state constant text := pg_catalog.current_setting(mark, true);
  clock constant text := pg_catalog.current_setting('warden.clock', true);
  parts constant text[] := pg_catalog.regexp_match(
    state, '^(?:noted([,+])/)?([0-9]{1,18}) ([0-9]{1,18})/([0-9]{1,9})(?: ([0-9]{1,18}) ([0-9]{1,18}))?$');
  time bigint;
  first bigint;
  number bigint := 0;
begin
  -- No statement of this operation is open: a row that moves to another partition is also deleted and inserted.
  if parts is null or clock !~ '^[0-9]{1,18} [0-9]{1,18}$' or pg_catalog.split_part(clock, ' ', 1) <> parts[2] then
    return case when tg_op = 'DELETE' then old else new end;
  end if;
  time := pg_catalog.split_part(clock, ' ', 2)::bigint;
  if parts[1] is null then
    if (time - parts[3]::bigint) % 1048577 = 0 and parts[4]::int = pg_catalog.pg_trigger_depth() - 1 then
      -- Only other parts of the same query began, such as the update of INSERT ... ON CONFLICT.
      perform pg_catalog.set_config(mark, clock || '/' || parts[4], true);
      return case when tg_op = 'DELETE' then old else new end;
    end if;
    if tg_op <> 'UPDATE' and warden.is_row_moving(tg_relid, mark, parts[3]::bigint) then
      return case when tg_op = 'DELETE' then old else new end;
    end if;
    first := time;
  else
    first := parts[5]::bigint;
    -- An insert that met a conflict changes no row, so its number is free. Updates and deletions lock the row first.
    number := parts[6]::bigint + case when parts[1] = '+' or tg_op <> 'INSERT' then 1 else 0 end;
  end if;
  time := time + 1048576;
  insert into warden.row_steps values (pg_catalog.pg_current_xact_id(), first, number, time)
  on conflict on constraint row_steps_pkey do update set clock = excluded.clock;
  perform pg_catalog.set_config('warden.clock', parts[2] || ' ' || time::text, true);
  perform pg_catalog.set_config(
    mark, pg_catalog.format('noted,/%s %s/%s %s %s', parts[2], parts[3], parts[4], first, number), true);
  return case when tg_op = 'DELETE' then old else new end;
end
$$;

-- Whether the innermost open statement on a partitioned table is an update, which began after this clock: then a row
-- that is deleted or inserted moves between partitions.
create or replace function warden.is_row_moving(relation regclass, mark text, began bigint) returns boolean
language sql stable set search_path = '' as $$
  select coalesce((select c.relispartition from pg_catalog.pg_class c where c.oid = relation), false)
     and coalesce(pg_catalog.substring(
           pg_catalog.current_setting(pg_catalog.regexp_replace(mark, '(insert|delete)$', 'update'), true),
           '^(?:noted[,+]/)?[0-9]{1,18} ([0-9]{1,18})/')::bigint > began, false)
$$;

-- The step of a published event: after what happened before it in this transaction. Null if no statement on a watched
-- table is open, because then nothing is sorted.
create or replace function warden.publish_step() returns bigint
language plpgsql set search_path = '' as $$
declare
  clock constant text := pg_catalog.current_setting('warden.clock', true);
  time bigint;
begin
  if clock ~ '^[0-9]{1,18} [0-9]{1,18}$' then
    time := pg_catalog.split_part(clock, ' ', 2)::bigint;
    if time % 1048576 > 0 then
      perform pg_catalog.set_config(
        'warden.clock', pg_catalog.split_part(clock, ' ', 1) || ' ' || (time + 1048576)::text, true);
      return 4 * (time / 1048576) + 3;
    end if;
  end if;
  return null;
end
$$;

-- Ends a statement on a watched table. The outermost one sorts the events of its transaction if others were logged
-- within it. `noted` identifies the statement's notes.
create or replace function warden.end_statement(mark text, noted bigint) returns void
language plpgsql set search_path = '' as $$
declare
  state constant text := pg_catalog.current_setting(mark, true);
  outer_states constant text := pg_catalog.current_setting(mark || '_outer', true);
  clock text := pg_catalog.current_setting('warden.clock', true);
  is_quiet constant boolean := pg_catalog.split_part(state, '/', 1) = clock;
  time bigint := pg_catalog.split_part(clock, ' ', 2);
begin
  if noted is not null then
    delete from warden.row_steps s where s.xid = pg_catalog.pg_current_xact_id() and s.statement = noted;
  end if;
  if outer_states <> '' then
    perform pg_catalog.set_config(mark, pg_catalog.split_part(outer_states, ';', 1), true),
            pg_catalog.set_config(
              mark || '_outer', pg_catalog.substr(outer_states, pg_catalog.strpos(outer_states, ';') + 1), true);
  else
    clock := pg_catalog.set_config(mark, '', true);
  end if;
  clock := pg_catalog.split_part(pg_catalog.current_setting('warden.clock', true), ' ', 1);
  if time % 1048576 > 0 then
    time := time - 1;
    perform pg_catalog.set_config('warden.clock', clock || ' ' || time::text, true);
  end if;
  if time % 1048576 = 0 and not is_quiet then
    perform warden.sort_events(clock);
  end if;
end
$$;

-- Gives new ids to those events of this transaction that were logged before an event of an earlier step. Nobody else
-- sees them before the commit. Each event is read by one call only, because the next one begins after it.
create or replace function warden.sort_events(transaction text) returns void
language plpgsql set search_path = '' as $$
declare
  me constant xid8 := pg_catalog.pg_current_xact_id();
  sorted constant text := pg_catalog.current_setting('warden.sorted', true);
  last_id bigint := 0;
  last_step bigint;
  last_sorted bigint;
begin
  if sorted ~ '^[0-9]{1,18} [0-9]{1,18}$' and pg_catalog.split_part(sorted, ' ', 1) = transaction then
    last_id := pg_catalog.split_part(sorted, ' ', 2)::bigint;
  end if;
  -- Events without a step stay behind the event before them.
  select min(s.step) filter (where s.step < s.highest), max(s.id) into last_step, last_sorted
  from (select e.id, e.step, max(e.step) over (order by e.id) as highest
        from warden.events e where e.xid = me and e.id > last_id) s;
  if last_step is not null then
    with late as (
      delete from warden.events e using (
        select e.id, max(e.step) over (order by e.id) as highest, e.step
        from warden.events e where e.xid = me and e.id > last_id) s
      where e.xid = me and e.id = s.id and coalesce(s.step, s.highest) > last_step
      returning e.*, coalesce(s.step, s.highest) as place
    )
    insert into warden.events
      (xid, org_id, topic, event, subject, data, old, truncated, at, ring, needs_claim, slot, step)
    -- The doorbell was rung when they were logged.
    select l.xid, l.org_id, l.topic, l.event, l.subject, l.data, l.old, l.truncated, l.at, false, l.needs_claim, l.slot,
           l.step
    from late l order by l.place, l.id;
    select max(e.id) into last_sorted from warden.events e where e.xid = me and e.id > last_sorted;
  end if;
  if last_sorted is not null then
    perform pg_catalog.set_config('warden.sorted', transaction || ' ' || last_sorted::text, true);
  end if;
end
$$;

reset role;
