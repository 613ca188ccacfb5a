-- The function that writes the changes of one watched table to the log.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The SQL expressions of which the statements of a watch consist: topics, documents, keys, the conditions that pair and
-- compare rows, a name that no column of the table has, and the documents of rows that are too large. A log function
-- has nine or twelve statements, so it computes these once.
create or replace function warden.log_expressions(w warden.watches) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array[
    warden.entity_topic_expression(w, 'n'), warden.entity_topic_expression(w, 'o'),
    warden.document_expression(w, 'n'), warden.document_expression(w, 'o'),
    warden.key_expression(w, 'n'), warden.key_expression(w, 'o'),
    warden.same_key_expression(w, 'n', 'o'), warden.differs_expression(w, 'n', 'o'),
    (select pg_catalog.quote_ident(min(c.name collate "C"))
     from (select 'warden row' || case when i > 0 then i::text else '' end
           from pg_catalog.generate_series(0, 1600) i) c (name)
     where c.name not in (select a.attname from pg_catalog.pg_attribute a
                          where a.attrelid in (select t from warden.tree(w.relation) t))),
    warden.kept_expression(w, 'n'), warden.kept_expression(w, 'o')]
$$;

-- An SQL expression for one row of an update of which one row at least is too large for an event: null if the row with
-- this alias is missing. A row that fits has all of its columns.
create or replace function warden.kept_half(w warden.watches, alias text, document text, key text, kept text)
returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.format('case when %1$s.%2$I is null then null when %3$s then %4$s || %5$s else %6$s end',
    alias, w.key_columns[1], warden.document_fits_expression(document), document, key, kept)
$$;

-- The statement that logs one operation on a watched table. Statement triggers with transition tables cost one
-- INSERT ... SELECT per bulk statement. `variables` are what warden.end_statement() returns, and the number of rows. If
-- rows have times of their own (`by_row`), they are numbered: transition tables keep the order of changes. `rows` are
-- the new and the old rows.
--
-- Few rows are too large for an event. To initialise the expressions of their documents would cost each statement, so a
-- log function has a statement of its own for them. `part` is 'whole': the rows that fit are logged, and the setting
-- warden.truncated becomes '1' if there are others. Or it is 'truncated': those are logged. Or 'all': both.
-- The former versions had fewer arguments. No client of the database calls them.
-- squawk-ignore ban-drop-function
drop function if exists warden.log_statement(warden.watches, text, boolean, text[]),
                        warden.log_statement(warden.watches, text, boolean, text[], text[]),
                        warden.log_statement(warden.watches, text, boolean, text[], text[], text[]);
create or replace function warden.log_statement(
  w warden.watches, operation text, by_row boolean, variables text[], expressions text[],
  rows text[] default '{new_rows,old_rows}', part text default 'all'
) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  body text;
  number constant text := expressions[9];
  numbered constant text := '(select r.*, pg_catalog.row_number() over () as ' || number || ' from %s r)';
  new_rows constant text := case when by_row then pg_catalog.format(numbered, warden.filled_rows(w, rows[1]))
                                  else warden.filled_rows(w, rows[1]) end;
  old_rows constant text := case when by_row then pg_catalog.format(numbered, warden.filled_rows(w, rows[2]))
                                  else warden.filled_rows(w, rows[2]) end;
  without_number constant text := case when by_row then
    ' - ' || pg_catalog.quote_literal((pg_catalog.parse_ident(number))[1]) || '::pg_catalog.text' else '' end;
  -- At one step, updates precede deletions, and deletions precede creations.
  step constant text := case when by_row then pg_catalog.format(
    '4 * (coalesce((%1$s)[%2$s + 2 - %%s.%3$s], (%1$s)[1]) / 1048576)', variables[1], variables[2], number)
    else pg_catalog.format('4 * ((%s)[1] / 1048576)', variables[1]) end;
  -- What the columns `data` and `old` contain, and for updates a join with the documents of rows that are too large.
  data text := 'd.doc';
  former text := '';
  kept text := '';
begin
  if operation = 'UPDATE' then
    data := 'coalesce(d.new_doc, d.old_doc)';
    former := 'case when d.new_doc is not null and d.old_doc is not null then
             (select pg_catalog.jsonb_object_agg(e.key, e.value) from pg_catalog.jsonb_each(d.old_doc) e
              where row(d.new_doc -> e.key)::pg_catalog.record operator(pg_catalog.*<>) row(e.value)::pg_catalog.record)
             end';
    if part <> 'whole' then
      data := 'case when d.fits then ' || data
        || ' else coalesce(warden.shared_columns(k.new_doc, k.old_doc), k.new_doc, k.old_doc) end';
      former := 'case when d.fits then ' || former || ' else warden.changed_columns(k.old_doc, k.new_doc) end';
      kept := pg_catalog.format('
    left join lateral (select %s as new_doc, %s as old_doc where not d.fits offset 0) k on true',
        warden.kept_half(w, 'n', 'd.new_doc', expressions[5], expressions[10]),
        warden.kept_half(w, 'o', 'd.old_doc', expressions[6], expressions[11]));
    end if;
  elsif part <> 'whole' then
    data := pg_catalog.format('case when d.fits then d.doc else %s end',
                              expressions[case operation when 'INSERT' then 10 else 11 end]);
  end if;
  -- `offset 0` keeps the planner from computing the document once for each place that uses it.
  -- Rows are written n.* and o.*, because n alone is a column if the table has one of that name.
  body := case operation when 'INSERT' then $body$
    insert into warden.events (org_id, topic, event, subject, data, truncated, needs_claim, ring, step, watch)
    select n.%1$I, %2$L, %3$L, %4$s,
           %15$s, not d.fits, %11$L::boolean, pg_catalog.row_number() over () = 1, %18$s + 2, %24$s
    from %16$s n
    cross join lateral (select j.doc, %12$s as fits from (select %6$s as doc offset 0) j) d
    where n.%1$I is not null%25$s
$body$ when 'DELETE' then $body$
    insert into warden.events (org_id, topic, event, subject, data, truncated, needs_claim, ring, step, watch)
    select o.%1$I, %2$L, %9$L, %8$s,
           %15$s, not d.fits, %11$L::boolean, pg_catalog.row_number() over () = 1, %19$s + 1, %24$s
    from %17$s o
    cross join lateral (select j.doc, %12$s as fits from (select %7$s as doc offset 0) j) d
    where o.%1$I is not null%25$s
$body$ else $body$
    -- Old and new rows are paired by key and organisation, so no organisation sees another's row. If one of these
    -- columns changed, the update is logged as a deletion and a creation.
    insert into warden.events (org_id, topic, event, subject, data, old, truncated, needs_claim, ring, step, watch)
    select coalesce(n.%1$I, o.%1$I), %2$L,
           case when o.%5$I is null then %3$L when n.%5$I is null then %9$L else %10$L end,
           coalesce(%4$s, %8$s),
           %15$s,
           %21$s,
           not d.fits, %11$L::boolean, pg_catalog.row_number() over () = 1,
           case when o.%5$I is null then %18$s + 2 when n.%5$I is null then %19$s + 1 else %18$s end, %24$s
    from %17$s o full join %16$s n on %22$s%20$s
    cross join lateral (
      select j.*, (n.%5$I is null or %13$s) and (o.%5$I is null or %14$s) as fits
      from (select case when n.%5$I is not null then %6$s end as new_doc,
                   case when o.%5$I is not null then %7$s end as old_doc offset 0) j) d%26$s
    where coalesce(n.%1$I, o.%1$I) is not null%25$s
      -- Of a table whose key may be null by now, or of such a child. The audit reports it.
      and (n.%5$I is not null or o.%5$I is not null)
      -- An update that changes no logged column emits no event. Documents are compared by their binary image, because
      -- in jsonb 1.0 equals 1.00.
      and case when d.new_doc is not null and d.old_doc is not null
               then row(d.new_doc)::pg_catalog.record operator(pg_catalog.*<>) row(d.old_doc)::pg_catalog.record
               when n.%5$I is null or o.%5$I is null then true
               else %23$s end
$body$ end;
  return pg_catalog.format(body,
    w.org_column, w.topic, w.event_prefix || '.created',
    expressions[1],
    w.key_columns[1],
    expressions[3] || without_number,
    expressions[4] || without_number,
    expressions[2],
    w.event_prefix || '.deleted', w.event_prefix || '.updated',
    w.visibility is not distinct from 'claim', warden.document_fits_expression('j.doc'),
    warden.document_fits_expression('j.new_doc'), warden.document_fits_expression('j.old_doc'),
    data,
    new_rows, old_rows, pg_catalog.format(step, 'n'), pg_catalog.format(step, 'o'),
    case when by_row then pg_catalog.format(' and n.%1$s = o.%1$s', number) else '' end,
    former, expressions[7], expressions[8], w.id,
    case part when 'whole' then ' and (d.fits or pg_catalog.set_config(''warden.truncated'', ''1'', true) = '''')'
              when 'truncated' then ' and not d.fits' else '' end,
    kept);
end
$fn$;

-- The body of a watched table's log function. With one function per table, PostgreSQL plans each statement once, and
-- columns need no lookup. If the columns have changed since the function was generated, the statement is generated each
-- time, until warden.refresh_watches() runs.
create or replace function warden.log_function_body(w warden.watches) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  relations constant regclass[] := warden.relations_of_document(w.relation);
  shape constant text := warden.shape(relations);
  relation_list constant text := (
    select string_agg(pg_catalog.quote_literal(r::oid::text) || '::pg_catalog.regclass', ', ' order by r::oid)
    from unnest(relations) r);
  expressions constant text[] := warden.log_expressions(w);
  variables constant text[] := '{clocks,changed}';
  row constant text[] := array['(select new.*)', '(select old.*)'];
  -- Only rows of a partitioned table move.
  is_partitioned constant boolean := (select c.relkind = 'p' from pg_catalog.pg_class c where c.oid = w.relation);
  moves text[] := '{"","","","","",""}';
begin
  if is_partitioned then
    moves := warden.moves_in_log_function(w);
  end if;
  return pg_catalog.format($body$
declare
  -- What warden.end_statement() returns, and the number of rows.
  clocks bigint[];
  changed bigint;%13$s
begin%12$s
  -- In each transaction, an expression is initialised once, and that is the cost of this function. So the usual cases
  -- evaluate few: no statement on a table with order triggers is open, or this one alone, and nothing happened in it.
  if tg_nargs = 0 and tg_relid = %1$s and tg_op <> 'TRUNCATE' and warden.has_shape(array[%4$s], %5$L)
     and coalesce(pg_catalog.current_setting('warden.order', true), '') = ''%14$s then
    null;
  elsif tg_nargs > 0 and tg_relid = %1$s and warden.has_shape(array[%4$s], %5$L)%14$s
        and pg_catalog.current_setting('warden.order', true) = pg_catalog.concat(
              pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex'), ' only ', tg_argv[0], '/',
              pg_catalog.pg_trigger_depth() - 1, '/')
        and pg_catalog.set_config('warden.order', '', true) = '' then
    null;
  else
%15$s    if tg_relid <> %1$s and not warden.is_watched_by(tg_relid, %2$s) then
      -- A partition that was detached.
      delete from warden.moved_rows m where m.xid = pg_catalog.pg_current_xact_id() and m.watch = %2$s;
      perform warden.end_statement(tg_argv[0], tg_op, 0);
      return null;
    elsif tg_op = 'TRUNCATE' then
      -- TRUNCATE has no transition rows: subscribers of the topic must read the table again.
      insert into warden.events (topic, event, data)
      values (%3$L, 'warden.resync', '{"reason": "truncated"}');
      return null;
    elsif tg_argv[0] = 'without rows' then
      -- A foreign table is a partition or child of this table.
      perform warden.resync_watches(array[%2$s]);
      return null;
    end if;%16$s
    if tg_nargs = 0
       or pg_catalog.current_setting('warden.' || tg_argv[0], true) like '%% ' || (pg_catalog.pg_trigger_depth() - 1) then
      -- No row was noted.
      null;
    elsif tg_op = 'INSERT' then
      changed := (select count(*) from new_rows);
    elsif tg_op = 'DELETE' then
      changed := (select count(*) from old_rows);
    else
      -- If a trigger of another partition dropped a row that was moved, rows cannot be paired by their numbers.
      changed := (select o.n from (select count(*) from old_rows) o (n), (select count(*) from new_rows) n (n)
                  where o.n = n.n);
    end if;
    clocks := warden.end_statement(tg_argv[0], tg_op, changed);%17$s
    if not warden.has_shape(array[%4$s], %5$L) then
      execute warden.current_log_statement(%2$s, %3$L, tg_op, clocks[2] is not null) using clocks, changed;
    elsif clocks[2] is not null then
      if tg_op = 'INSERT' then%9$s;
      elsif tg_op = 'DELETE' then%10$s;
      else%11$s;
      end if;
      if pg_catalog.current_setting('warden.truncated', true) = '1' then
        perform pg_catalog.set_config('warden.truncated', '', true);
        execute warden.current_log_statement(%2$s, %3$L, tg_op, true, is_computable => true, part => 'truncated')
          using clocks, changed;
      end if;
    end if;
    if clocks[2] is not null or not warden.has_shape(array[%4$s], %5$L) then%18$s
      perform warden.sort_events();
      return null;
    end if;
  end if;
  if tg_op = 'INSERT' then%6$s;
  elsif tg_op = 'DELETE' then%7$s;
  else%8$s;
  end if;
  if pg_catalog.current_setting('warden.truncated', true) = '1' then
    perform pg_catalog.set_config('warden.truncated', '', true);
    if tg_op = 'INSERT' then%19$s;
    elsif tg_op = 'DELETE' then%20$s;
    else%21$s;
    end if;
  end if;
  if clocks is not null then%18$s
    perform warden.sort_events();
  end if;
  -- Ignored. It is no expression.
  return new;
end
$body$,
    w.relation::oid, w.id, w.topic, relation_list, shape,
    warden.log_statement(w, 'INSERT', false, variables, expressions, part => 'whole'),
    warden.log_statement(w, 'DELETE', false, variables, expressions, part => 'whole'),
    warden.log_statement(w, 'UPDATE', false, variables, expressions, part => 'whole'),
    warden.log_statement(w, 'INSERT', true, variables, expressions, part => 'whole'),
    warden.log_statement(w, 'DELETE', true, variables, expressions, part => 'whole'),
    warden.log_statement(w, 'UPDATE', true, variables, expressions, part => 'whole'),
    case when not w.replicated then '' else pg_catalog.format($body$
  if pg_catalog.current_setting('session_replication_role') = 'replica' then
    -- A row that logical replication applies, or a TRUNCATE.
    if tg_relid <> %8$s and not warden.is_watched_by(tg_relid, %1$s) then
      return null;
    end if;
    if pg_catalog.current_setting('warden.order', true) <> '' then
      clocks := array[warden.publish_step() / 4 * 1048576];
    end if;
    if tg_op = 'TRUNCATE' then
      insert into warden.events (topic, event, data)
      values (%2$L, 'warden.resync', '{"reason": "truncated"}');
    elsif not warden.has_shape(array[%3$s], %4$L) then
      execute warden.current_log_statement(%1$s, %2$L, tg_op, false, array['(select ($3).*)', '(select ($4).*)'])
        using clocks, changed, new, old;
    elsif tg_op = 'INSERT' then%5$s;
    elsif tg_op = 'DELETE' then%6$s;
    else%7$s;
    end if;
    perform warden.ring_replicated();
    return null;
  end if;
$body$,
      w.id, w.topic, relation_list, shape, warden.log_statement(w, 'INSERT', false, variables, expressions, row),
      warden.log_statement(w, 'DELETE', false, variables, expressions, row),
      warden.log_statement(w, 'UPDATE', false, variables, expressions, row), w.relation::oid) end,
    moves[1], moves[2], moves[3], moves[4], moves[5], moves[6],
    warden.log_statement(w, 'INSERT', false, variables, expressions, part => 'truncated'),
    warden.log_statement(w, 'DELETE', false, variables, expressions, part => 'truncated'),
    warden.log_statement(w, 'UPDATE', false, variables, expressions, part => 'truncated'));
end
$fn$;

-- The statement that logs one operation on a watched table with the columns that it has now. If nobody knows which
-- columns hold the key and the organisation, the topic resyncs: they were dropped, or a restore without data has
-- lost the watch.
-- Virtual columns are computed if `is_computable`: somebody has tried it. Otherwise the rows are logged as truncated.
-- The former versions had fewer arguments. No client of the database calls them.
-- squawk-ignore ban-drop-function
drop function if exists warden.current_log_statement(bigint, text, text, boolean),
                        warden.current_log_statement(bigint, text, text, boolean, text[]),
                        warden.current_log_statement(bigint, text, text, boolean, text[], boolean);
create or replace function warden.current_log_statement(
  watch bigint, topic text, operation text, by_row boolean, rows text[] default '{new_rows,old_rows}',
  is_computable boolean default false, part text default 'all'
) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  w warden.watches := (select warden.current_watch(t) from warden.watches t where t.id = watch);
begin
  if w.key_columns is null or w.org_column is null then
    return pg_catalog.format(
      'insert into warden.events (topic, event, data) values (%L, ''warden.resync'', ''{"reason": "changed"}'')', topic);
  end if;
  if not is_computable and warden.has_virtual_columns(w) then
    w.omit_columns := null;
  end if;
  return warden.log_statement(w, operation, by_row, '{$1::bigint[],$2::bigint}', warden.log_expressions(w), rows, part);
end
$fn$;

-- The call of warden.watch() with the arguments of a watch. Null if the table was dropped.
create or replace function warden.watch_call(w warden.watches) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.format('select warden.watch(%L, %L, %L, key_columns => %L',
                           pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), w.topic,
                           w.event_prefix, w.key_columns)
    || case when w.entity_topic is not null then
         pg_catalog.format(', entity_topic => %L, entity_topic_column => %L', w.entity_topic, w.entity_topic_column)
       else '' end
    || case when w.omit_columns <> '{}' then pg_catalog.format(', omit_columns => %L', w.omit_columns) else '' end
    || case when w.org_column <> 'org_id' then pg_catalog.format(', org_column => %L', w.org_column) else '' end
    || case when w.visibility is not null then pg_catalog.format(', visibility => %L', w.visibility) else '' end
    || case when w.as_text <> '{}' then pg_catalog.format(', as_text => %L', w.as_text) else '' end
    || case when w.replicated then ', replicated => true' else '' end
    || case when w.filter_columns <> '{}' then pg_catalog.format(', filter_columns => %L', w.filter_columns) else '' end
    || ');'
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = w.relation
$$;

-- Creates the trigger function of a watched table, and returns its name.
create or replace function warden.watch_function(w warden.watches) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $fn$
declare
  fn constant text := 'log ' || w.id;
begin
  execute pg_catalog.format(
    'create or replace function warden.%I() returns trigger language plpgsql security definer '
    'set search_path = pg_catalog, pg_temp%s as %L', fn, warden.document_settings(w),
    warden.with_virtual_columns(w, warden.log_function_body(w)));
  execute pg_catalog.format('alter function warden.%I() owner to warden_owner', fn);
  perform warden.close_function(pg_catalog.format('warden.%I()', fn)::regprocedure);
  -- A restore without data loses warden.watches. Then the audit finds the arguments here.
  execute pg_catalog.format('comment on function warden.%I() is %L', fn, warden.watch_call(w));
  return fn;
end
$fn$;

reset role;
