-- The functions and triggers that write the changes of a watched table to the log.
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

-- The statement that logs one operation on a watched table. Statement triggers with transition tables cost one
-- INSERT ... SELECT per bulk statement. `variables` are the clock, and for a statement with notes their id and the
-- number of rows before them. If rows have times of their own (`by_row`), they are numbered: transition tables keep the
-- order of changes.
create or replace function warden.log_statement(
  w warden.watches, operation text, by_row boolean, variables text[]
) returns text
language plpgsql stable set search_path = '' as $fn$
declare
  body text;
  numbered constant text := '(select r.*, pg_catalog.row_number() over () as "warden row" from %s r)';
  new_rows constant text := case when by_row then pg_catalog.format(numbered, 'new_rows') else 'new_rows' end;
  old_rows constant text := case when by_row then pg_catalog.format(numbered, 'old_rows') else 'old_rows' end;
  -- At one step, updates precede deletions, and deletions precede creations.
  step constant text := case when by_row then pg_catalog.format(
    '4 * (coalesce((select s.clock from warden.row_steps s where s.xid = pg_catalog.pg_current_xact_id() '
    'and s.statement = %2$s and s.row = %%s."warden row" - 1 - %3$s), %1$s) / 1048576)', variables[1], variables[2],
    variables[3]) else pg_catalog.format('4 * (%s / 1048576)', variables[1]) end;
begin
  -- `offset 0` keeps the planner from computing the document once for each place that uses it.
  -- Rows are compared by their binary image (*<>), because json and a few other types have no equality.
  -- Rows are written n.* and o.*, because n alone is a column if the table has one of that name.
  body := case operation when 'INSERT' then $body$
    insert into warden.events (org_id, topic, event, subject, data, truncated, needs_claim, ring, step)
    select n.%1$I, %2$L, %3$L, %4$s,
           case when d.fits then d.doc else pg_catalog.jsonb_build_object(%5$L, n.%5$I%15$s) end,
           not d.fits, %11$L::boolean, pg_catalog.row_number() over () = 1, %18$s + 2
    from %16$s n
    cross join lateral (select j.doc, %12$s as fits from (select %6$s as doc offset 0) j) d
    where n.%1$I is not null
$body$ when 'DELETE' then $body$
    insert into warden.events (org_id, topic, event, subject, data, truncated, needs_claim, ring, step)
    select o.%1$I, %2$L, %9$L, %8$s,
           case when d.fits then d.doc else pg_catalog.jsonb_build_object(%5$L, o.%5$I%15$s) end,
           not d.fits, %11$L::boolean, pg_catalog.row_number() over () = 1, %19$s + 1
    from %17$s o
    cross join lateral (select j.doc, %12$s as fits from (select %7$s as doc offset 0) j) d
    where o.%1$I is not null
$body$ else $body$
    -- Old and new rows are paired by entity and organisation, so no organisation sees another's row. If either
    -- changed, the update is logged as a deletion and a creation.
    insert into warden.events (org_id, topic, event, subject, data, old, truncated, needs_claim, ring, step)
    select coalesce(n.%1$I, o.%1$I), %2$L,
           case when o.%5$I is null then %3$L when n.%5$I is null then %9$L else %10$L end,
           coalesce(%4$s, %8$s),
           case when d.fits then coalesce(d.new_doc, d.old_doc)
                else pg_catalog.jsonb_build_object(%5$L, coalesce(n.%5$I, o.%5$I)%15$s) end,
           case when d.fits and d.new_doc is not null and d.old_doc is not null then
             (select pg_catalog.jsonb_object_agg(e.key, e.value) from pg_catalog.jsonb_each(d.old_doc) e
              where d.new_doc -> e.key is distinct from e.value) end,
           not d.fits, %11$L::boolean, pg_catalog.row_number() over () = 1,
           case when o.%5$I is null then %18$s + 2 when n.%5$I is null then %19$s + 1 else %18$s end
    from %17$s o full join %16$s n on n.%5$I = o.%5$I and n.%1$I = o.%1$I%20$s
    cross join lateral (
      select j.*, (n.%5$I is null or %13$s) and (o.%5$I is null or %14$s) as fits
      from (select case when n.%5$I is not null then %6$s end as new_doc,
                   case when o.%5$I is not null then %7$s end as old_doc offset 0) j) d
    where coalesce(n.%1$I, o.%1$I) is not null
      -- An update that changes no logged column emits no event.
      and case when d.new_doc is not null and d.old_doc is not null then d.new_doc <> d.old_doc
               when n.%5$I is null or o.%5$I is null then true
               else n.* operator(pg_catalog.*<>) o.* end
$body$ end;
  return pg_catalog.format(body,
    w.org_column, w.topic, w.event_prefix || '.created',
    warden.entity_topic_expression(w, 'n'),
    w.entity_column,
    warden.document_expression(w, 'n') || case when by_row then ' - ''warden row''' else '' end,
    warden.document_expression(w, 'o') || case when by_row then ' - ''warden row''' else '' end,
    warden.entity_topic_expression(w, 'o'),
    w.event_prefix || '.deleted', w.event_prefix || '.updated',
    w.visibility is not distinct from 'claim', warden.document_fits_expression('j.doc'),
    warden.document_fits_expression('j.new_doc'), warden.document_fits_expression('j.old_doc'),
    case when w.entity_column::text = any (w.as_text) then '::pg_catalog.text' else '' end,
    new_rows, old_rows, pg_catalog.format(step, 'n'), pg_catalog.format(step, 'o'),
    case when by_row then ' and n."warden row" = o."warden row"' else '' end);
end
$fn$;

-- The body of a watched table's log function. With one function per table, PostgreSQL plans each statement once, and
-- columns need no lookup. If the columns have changed since the function was generated, the statement is generated each
-- time, until warden.refresh_watches() runs.
create or replace function warden.log_function_body(w warden.watches) returns text
language plpgsql stable set search_path = '' as $fn$
declare
  relations constant regclass[] := warden.relations_of_document(w.relation);
  variables constant text[] := '{time,noted,unnoted}';
begin
  return pg_catalog.format($body$
declare
  -- The clock of the rows, and if some were noted: the id of the notes, and the number of rows before them.
  time bigint;
  noted bigint;
  unnoted bigint;
  state text;
begin
  if tg_relid <> %1$s and not warden.is_watched_by(tg_relid, %2$s) then
    -- A partition that was detached.
    if tg_nargs > 0 then
      perform warden.end_statement(tg_argv[0], null);
    end if;
    return null;
  end if;
  if tg_nargs > 0 then
    state := pg_catalog.current_setting(tg_argv[0], true);
    if state ~~ 'noted%%' then
      time := pg_catalog.split_part(pg_catalog.split_part(state, '/', 2), ' ', 2);
      noted := pg_catalog.split_part(state, ' ', 3);
      unnoted := case when tg_op = 'INSERT' and state ~~ 'noted,%%' then 0 else -1 end
                 - pg_catalog.split_part(state, ' ', 4)::bigint;
      if tg_op = 'INSERT' then
        unnoted := unnoted + (select count(*) from new_rows);
      elsif tg_op = 'DELETE' then
        unnoted := unnoted + (select count(*) from old_rows);
      else
        -- If a trigger of another partition dropped a row that was moved, rows cannot be paired by their numbers.
        unnoted := (select unnoted + o.n
                    from (select count(*) from old_rows) o (n), (select count(*) from new_rows) n (n) where o.n = n.n);
      end if;
    else
      time := nullif(pg_catalog.split_part(pg_catalog.split_part(state, '/', 1), ' ', 2), '');
    end if;
  elsif pg_catalog.current_setting('warden.clock', true) <> '' then
    -- Nothing happens within this statement, but it may itself be within one.
    time := warden.publish_step() / 4 * 1048576;
  end if;
  if tg_op = 'TRUNCATE' then
    -- TRUNCATE has no transition rows: subscribers of the topic must read the table again.
    insert into warden.events (topic, event, data)
    values (%3$L, 'warden.resync', '{"reason": "truncated"}');
  elsif not warden.has_shape(array[%4$s], %5$L) then
    execute warden.current_log_statement(%2$s, %3$L, tg_op, unnoted is not null) using time, noted, unnoted;
  elsif unnoted is not null then
    if tg_op = 'INSERT' then%9$s;
    elsif tg_op = 'DELETE' then%10$s;
    else%11$s;
    end if;
  elsif tg_op = 'INSERT' then%6$s;
  elsif tg_op = 'DELETE' then%7$s;
  else%8$s;
  end if;
  if tg_nargs > 0
     -- The usual case: no other statement is open, and nothing was logged within this one.
     and (time %% 1048576 = 1
          and pg_catalog.starts_with(state, pg_catalog.current_setting('warden.clock', true) || '/')
          and pg_catalog.set_config(
                'warden.clock', pg_catalog.split_part(state, ' ', 1) || ' ' || (time - 1)::text, true)
              || pg_catalog.set_config(tg_argv[0], '', true) <> '') is not true
  then
    perform warden.end_statement(tg_argv[0], noted);
  end if;
  return null;
end
$body$,
    w.relation::oid, w.id, w.topic,
    (select string_agg(pg_catalog.quote_literal(r::oid::text) || '::pg_catalog.regclass', ', ' order by r::oid)
     from unnest(relations) r),
    warden.shape(relations),
    warden.log_statement(w, 'INSERT', false, variables), warden.log_statement(w, 'DELETE', false, variables),
    warden.log_statement(w, 'UPDATE', false, variables), warden.log_statement(w, 'INSERT', true, variables),
    warden.log_statement(w, 'DELETE', true, variables), warden.log_statement(w, 'UPDATE', true, variables));
end
$fn$;

-- The statement that logs one operation on a watched table with the columns that it has now. If nobody knows which
-- columns hold the entity and the organisation, the topic resyncs: they were dropped, or a restore without data has
-- lost the watch.
create or replace function warden.current_log_statement(watch bigint, topic text, operation text, by_row boolean)
returns text
language plpgsql stable set search_path = '' as $fn$
declare
  w warden.watches := (select warden.current_watch(t) from warden.watches t where t.id = watch);
begin
  if w.entity_column is null or w.org_column is null then
    return pg_catalog.format(
      'insert into warden.events (topic, event, data) values (%L, ''warden.resync'', ''{"reason": "changed"}'')', topic);
  end if;
  return warden.log_statement(w, operation, by_row, '{$1::bigint,$2::bigint,$3::bigint}');
end
$fn$;

-- The call of warden.watch() with the arguments of a watch. Null if the table was dropped.
create or replace function warden.watch_call(w warden.watches) returns text
language sql stable set search_path = '' as $$
  select pg_catalog.format('select warden.watch(%L, %L, %L, entity_column => %L',
                           pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), w.topic,
                           w.event_prefix, w.entity_column)
    || case when w.entity_topic is not null then
         pg_catalog.format(', entity_topic => %L, entity_topic_column => %L', w.entity_topic, w.entity_topic_column)
       else '' end
    || case when w.omit_columns <> '{}' then pg_catalog.format(', omit_columns => %L', w.omit_columns) else '' end
    || case when w.org_column <> 'org_id' then pg_catalog.format(', org_column => %L', w.org_column) else '' end
    || case when w.visibility is not null then pg_catalog.format(', visibility => %L', w.visibility) else '' end
    || case when w.as_text <> '{}' then pg_catalog.format(', as_text => %L', w.as_text) else '' end || ');'
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = w.relation
$$;

-- Creates the trigger function of a watched table, and returns its name.
create or replace function warden.watch_function(w warden.watches) returns text
language plpgsql set search_path = '' as $fn$
declare
  fn constant text := 'log ' || w.id;
begin
  execute pg_catalog.format(
    'create or replace function warden.%I() returns trigger language plpgsql security definer '
    'set search_path = ''''%s as %L', fn, warden.document_settings(w), warden.log_function_body(w));
  execute pg_catalog.format('alter function warden.%I() owner to warden_owner', fn);
  perform warden.close_function(pg_catalog.format('warden.%I()', fn)::regprocedure);
  -- A restore without data loses warden.watches. Then the audit finds the arguments here.
  execute pg_catalog.format('comment on function warden.%I() is %L', fn, warden.watch_call(w));
  return fn;
end
$fn$;

-- Whether other statements may change a watched table within one statement on it: the application's triggers, or
-- actions of foreign keys between tables with triggers. Most tables have none, and then one trigger is enough.
create or replace function warden.has_nested_statements(relation regclass) returns boolean
language sql stable set search_path = '' as $$
  with recursive up as (
    select relation::oid as oid
    union
    select i.inhparent from pg_catalog.pg_inherits i join up on i.inhrelid = up.oid
  ), tree as (
    select oid from up
    union
    select i.inhrelid from pg_catalog.pg_inherits i join tree t on i.inhparent = t.oid
  ), triggers as (
    select g.tgrelid from pg_catalog.pg_trigger g
    where not g.tgisinternal and g.tgname !~ '^~?warden_'
  )
  select exists (select from triggers g where g.tgrelid in (select t.oid from tree t))
      or exists (select from pg_catalog.pg_constraint f
                 where f.contype = 'f' and f.conrelid in (select t.oid from tree t)
                   and (f.confdeltype in ('c', 'n', 'd') or f.confupdtype in ('c', 'n', 'd'))
                   and (f.confrelid in (select t.oid from tree t)
                        or f.confrelid in (select g.tgrelid from triggers g)
                        -- The parent's rows may in turn be changed by an action.
                        or exists (select from pg_catalog.pg_constraint p
                                   where p.contype = 'f' and p.conrelid = f.confrelid
                                     and p.confrelid in (select g.tgrelid from triggers g))))
$$;

-- Creates the triggers of a watched table, or of one of its members, which call this function.
create or replace function warden.create_log_triggers(relation regclass, fn text) returns void
language plpgsql set search_path = '' as $$
declare
  operation text;
  mark text;
  is_nested constant boolean := warden.has_nested_statements(relation);
  is_table constant boolean := is_nested and (select c.relkind = 'r' from pg_catalog.pg_class c where c.oid = relation);
begin
  execute pg_catalog.format('create or replace trigger warden_log_truncate after truncate on %s '
    'for each statement execute function warden.%I()', relation, fn);
  foreach operation in array array['insert', 'update', 'delete'] loop
    -- Name of a setting, the same one for all members.
    mark := 'warden.' || pg_catalog.replace(fn, ' ', '_') || '_' || operation;
    if is_nested then
      execute pg_catalog.format('create or replace trigger warden_begin_%1$s before %1$s on %2$s '
      'for each statement execute function warden.begin_statement(%3$L)', operation, relation, mark);
    end if;
    execute pg_catalog.format('create or replace trigger warden_log_%1$s after %1$s on %2$s referencing%3$s%4$s '
      'for each statement execute function warden.%5$I(%6$s)', operation, relation,
      case when operation <> 'insert' then ' old table as old_rows' end,
      case when operation <> 'delete' then ' new table as new_rows' end, fn,
      case when is_nested then pg_catalog.quote_literal(mark) else '' end);
    -- The last of the BEFORE ROW triggers, so that what the application's triggers do comes before the row. It is
    -- called only if something happened since the statement began.
    if is_table then
      execute pg_catalog.format('create or replace trigger "~warden_note_%1$s" before %1$s on %2$s for each row '
        'when ((pg_catalog.current_setting(''warden.clock'', true) || ''/'' || pg_catalog.pg_trigger_depth()::text) '
        'is distinct from pg_catalog.current_setting(%3$L, true)) '
        'execute function warden.note_row(%3$L)', operation, relation, mark);
    end if;
  end loop;
  -- Its condition notes that the latest insert met no conflict. It is always false, so the function is never called.
  if is_table then
    mark := 'warden.' || pg_catalog.replace(fn, ' ', '_') || '_insert';
    execute pg_catalog.format('create or replace trigger warden_note_inserted after insert on %1$s for each row '
      'when (pg_catalog.starts_with(pg_catalog.current_setting(%2$L, true), ''noted,'') and '
      'pg_catalog.set_config(%2$L, pg_catalog.replace(pg_catalog.current_setting(%2$L, true), '','', ''+''), true) '
      'is null) '
      'execute function warden.note_row(%2$L)', relation, mark);
  end if;
end
$$;

-- Gives watched tables the triggers that keep the order, if they need them by now. The caller must own the tables.
create or replace function warden.complete_log_triggers() returns void
language plpgsql set search_path = '' as $$
declare
  member record;
begin
  for member in
    select m.oid::regclass as relation, f.proname
    from pg_catalog.pg_trigger g join pg_catalog.pg_class m on m.oid = g.tgrelid
    join pg_catalog.pg_proc f on f.oid = g.tgfoid and f.pronamespace = 'warden'::regnamespace
    where g.tgname = 'warden_log_insert' and warden.has_nested_statements(m.oid)
      and not exists (select from pg_catalog.pg_trigger b
                      where b.tgrelid = m.oid and b.tgname = 'warden_begin_insert')
  loop
    perform warden.create_log_triggers(member.relation, member.proname);
  end loop;
end
$$;

-- Removes the triggers that keep the order from a table and its members.
create or replace function warden.drop_order_triggers(relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  trig record;
begin
  for trig in
    select g.tgname, g.tgrelid::regclass as relation
    from warden.tree(drop_order_triggers.relation) m (oid) join pg_catalog.pg_trigger g on g.tgrelid = m.oid
    where not g.tgisinternal and g.tgname ~ '^(warden_begin_|warden_note_|~warden_note_)'
  loop
    execute pg_catalog.format('drop trigger %I on %s', trig.tgname, trig.relation);
  end loop;
end
$$;

reset role;
