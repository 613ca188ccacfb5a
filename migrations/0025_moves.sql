-- Rows that move between partitions: their store, and how log functions log them.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Rows that move between partitions. An UPDATE gives them to the log function of updates. MERGE gives them to those of
-- deletions and insertions, and calls these only if it has such actions. So row triggers of the partitions store both
-- halves of each move here, and the log function of updates logs the pairs that it was not given. Empty outside of
-- transactions.
create unlogged table if not exists warden.moved_rows (
  xid       xid8    not null default pg_catalog.pg_current_xact_id(),
  watch     bigint  not null,
  -- In the conditions of triggers, where the statement was called.
  depth     bigint  not null,
  id        bigint  not null,
  -- The new row, which follows its old row. It is missing if a trigger dropped it, or if its partition has no triggers
  -- of the watch. Then the next row that the query inserts may be taken for it.
  is_new    boolean not null,
  org_id    uuid,
  subject   text,
  key       jsonb   not null,
  -- Without its largest columns if the row is too large for an event.
  document  jsonb,
  truncated boolean not null default false,
  image     text    not null,
  -- The log function of updates was given the row, so it logs the row like others.
  in_update boolean not null default false,
  -- The log function of deletions has logged the old row.
  logged    boolean not null default false,
  -- The time of the row, if its statement noted it.
  clock     bigint,
  primary key (xid, watch, depth, id)
);
-- The table of the former version lacks this column.
alter table warden.moved_rows add column if not exists truncated boolean not null default false;
-- No identity: pg_dump from 15 on writes that of an unlogged table in a form that PostgreSQL 14 cannot read.
-- Only Warden inserts here, and the sequence below is its default.
-- squawk-ignore ban-alter-identity
alter table warden.moved_rows alter column id drop identity if exists;
create sequence if not exists warden.moved_rows_id_seq owned by warden.moved_rows.id;
alter table warden.moved_rows alter column id set default pg_catalog.nextval('warden.moved_rows_id_seq');

-- An SQL expression for the image of the row with this alias: rows of a statement with the same image are the same. It
-- contains no document if that has virtual columns, because those of a half may be computable while those of a whole
-- statement are not.
create or replace function warden.image_expression(w warden.watches, alias text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $fn$
  select pg_catalog.format($sql$(
    select pg_catalog.concat(pg_catalog.hashtextextended(i.text collate pg_catalog."C", 0), '/',
                             pg_catalog.hashtextextended(i.text collate pg_catalog."C", 1))
    from (select pg_catalog.concat(%1$s.%2$I, ' ', j.key, ' ', case when %3$s then j.doc end) as text
          from (select %4$s as key, %5$s as doc offset 0) j) i)$sql$,
    alias, w.org_column, warden.document_fits_expression('j.doc'), warden.key_expression(w, alias),
    case when warden.has_virtual_columns(w) then 'null::pg_catalog.jsonb' else warden.document_expression(w, alias) end)
$fn$;

-- The statement that stores one half of a move.
create or replace function warden.half_statement(w warden.watches, is_new boolean, half text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $fn$
  select pg_catalog.format($sql$
    insert into warden.moved_rows (watch, depth, is_new, org_id, subject, key, document, truncated, image)
    select %1$s, pg_catalog.pg_trigger_depth() - 1, %2$L, n.%3$I, %4$s, d.key, coalesce(d.doc, %10$s), d.doc is null,
           pg_catalog.concat(pg_catalog.hashtextextended(i.text collate pg_catalog."C", 0), '/',
                             pg_catalog.hashtextextended(i.text collate pg_catalog."C", 1))
    from %5$s n
    cross join lateral (select j.key, case when %6$s then j.doc end as doc
                        from (select %7$s as key, %8$s as doc offset 0) j offset 0) d
    -- As in warden.image_expression().
    cross join lateral (select pg_catalog.concat(n.%3$I, ' ', d.key, ' '%9$s) as text offset 0) i$sql$,
    w.id, is_new, w.org_column, warden.entity_topic_expression(w, 'n'), warden.filled_rows(w, half),
    warden.document_fits_expression('j.doc'), warden.key_expression(w, 'n'), warden.document_expression(w, 'n'),
    case when warden.has_virtual_columns(w) then '' else ', d.doc' end, warden.kept_expression(w, 'n'))
$fn$;

-- The statement that notes which rows the log function of updates was given. Its memory is that of the rows that moved:
-- a hash join finds their keys among the rows of the statement, and only these have images.
create or replace function warden.given_statement(w warden.watches) returns text
language sql stable set search_path = pg_catalog, pg_temp as $fn$
  select pg_catalog.format($sql$
    update warden.moved_rows m set in_update = true
    where m.xid = pg_catalog.pg_current_xact_id() and m.watch = %1$s and m.depth = pg_catalog.pg_trigger_depth() - 1
      and m.id = any (array(%2$s))$sql$,
    w.id, string_agg(pg_catalog.format($sql$
        select j.id
        -- A full join cannot become a nested loop, whose time would be the product of both numbers of rows.
        from (select h.id, h.image, case when h.id is not null then %3$s end as given
              from (select x.* from warden.moved_rows x
                    where x.xid = pg_catalog.pg_current_xact_id() and x.watch = %1$s
                      and x.depth = pg_catalog.pg_trigger_depth() - 1 and x.is_new = %2$L) h
              full join %4$s o on h.key = %5$s offset 0) j
        where j.given = j.image$sql$,
      w.id, r.is_new, warden.image_expression(w, 'o'), warden.filled_rows(w, r.name), warden.key_expression(w, 'o')), ' union all '))
  from (values (false, 'old_rows'), (true, 'new_rows')) r (is_new, name)
$fn$;

-- Removes the notes of moved rows that the log function of updates was not given, and stores their clocks beside them.
-- Returns the others. The last moves were noted, each with an 'm'.
create or replace function warden.place_moves(watch bigint, noted text[]) returns bigint[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  -- The moves, the last one first.
  ids bigint[];
  given boolean[];
begin
  select pg_catalog.array_agg(m.id order by m.id desc), pg_catalog.array_agg(m.in_update order by m.id desc)
    into ids, given
  from warden.moved_rows m
  where m.xid = pg_catalog.pg_current_xact_id() and m.watch = place_moves.watch
    and m.depth = pg_catalog.pg_trigger_depth() - 1 and not m.is_new;
  return (
    with notes as materialized (
      select pg_catalog.rtrim(u.note, 'm')::bigint as clock, u.n,
             case when u.note like '%m' then count(*) filter (where u.note like '%m') over (order by u.n) end as move
      from pg_catalog.unnest(noted) with ordinality u (note, n)
    )
    select pg_catalog.array_agg(n.clock order by n.n) filter (where given[n.move] is not false)
    from notes n
    where given[n.move] is not false or warden.place_move(place_moves.watch, ids[n.move], n.clock)
  );
end
$$;

create or replace function warden.place_move(watch bigint, id bigint, clock bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update warden.moved_rows m set clock = place_move.clock
  where m.xid = pg_catalog.pg_current_xact_id() and m.watch = place_move.watch
    and m.depth = pg_catalog.pg_trigger_depth() - 1 and m.id = place_move.id;
  return true;
end
$$;

-- The images of moved rows that a log function of deletions or insertions leaves out, because that of updates logs
-- them, or has logged them.
create or replace function warden.moves_left_out(watch bigint, operation text) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  here constant int := pg_catalog.pg_trigger_depth() - 1;
  setting constant text := pg_catalog.concat('warden.moved_', watch, '_', here);
  moved constant text := pg_catalog.current_setting(setting, true);
  images text[];
  last_id bigint;
  ignored text;
begin
  with halves as (
    select m.*, lead(m.is_new) over o as is_paired, lag(m.is_new) over o as is_after_new, lead(m.image) over o as new_image
    from warden.moved_rows m
    where m.xid = pg_catalog.pg_current_xact_id() and m.watch = moves_left_out.watch and m.depth = here
    window o as (order by m.id)
  ), dropped as (
    -- A trigger of the new partition dropped the row: its deletion is one like others.
    update warden.moved_rows m set logged = true from halves h
    where operation = 'DELETE' and not h.is_new and h.is_paired is not true
      and m.xid = h.xid and m.watch = h.watch and m.depth = h.depth and m.id = h.id
  ), inserted as (
    -- No move: the log function of updates was given the old row, and was called before this one was inserted.
    delete from warden.moved_rows m using halves h
    where operation = 'INSERT' and h.is_new and h.is_after_new is not false
      and m.xid = h.xid and m.watch = h.watch and m.depth = h.depth and m.id = h.id
  )
  select coalesce(pg_catalog.array_agg(case operation when 'DELETE' then h.image else h.new_image end)
                    filter (where not h.is_new and h.is_paired), '{}'), coalesce(max(h.id), 0)
    into images, last_id from halves h;
  -- The moves that are stored later: this function logs them.
  if pg_catalog.strpos(moved, operation) = 0 and moved <> 'logged' then
    ignored := pg_catalog.set_config(
      setting, pg_catalog.concat(moved, ' ', operation, ' ', last_id, '/',
                                 coalesce(pg_catalog.pg_sequence_last_value('warden.events_id_seq'), 0)), true);
  end if;
  if warden.has_logged_moves(watch, here) then
    images := images || pg_catalog.string_to_array(
      pg_catalog.split_part(pg_catalog.current_setting(pg_catalog.concat('warden.logged_', watch, '_', here)), ';',
                            case operation when 'DELETE' then 1 else 2 end), ',');
  end if;
  return images;
end
$$;

-- Whether warden.log_moves() has logged rows of this watch in the present query.
create or replace function warden.has_logged_moves(watch bigint, depth int) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.strpos(pg_catalog.current_setting('warden.row_' || depth, true), pg_catalog.concat(',', watch, ',')) > 0
$$;

-- Logs the moves that the log function of updates was not given, and forgets all. `clock` is that of the statement.
create or replace function warden.log_moves(
  watch bigint, topic text, prefix text, needs_claim boolean, clock bigint
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  here constant int := pg_catalog.pg_trigger_depth() - 1;
  setting constant text := pg_catalog.concat('warden.moved_', watch, '_', here);
  logged constant text := pg_catalog.concat('warden.logged_', watch, '_', here);
  moved constant text := pg_catalog.current_setting(setting, true);
  -- Moves that were stored after these were logged by the log functions of deletions, or of insertions.
  last_deletion constant bigint := substring(moved from 'DELETE ([0-9]+)')::bigint;
  last_insertion constant bigint := substring(moved from 'INSERT ([0-9]+)')::bigint;
  -- The last event before them.
  last_event constant bigint := substring(moved from 'INSERT [0-9]+/([0-9]+)')::bigint;
  me constant xid8 := pg_catalog.pg_current_xact_id();
  lowest bigint;
  highest bigint;
  old_images text;
  new_images text;
  former text := '';
  state text := 'logged ,';
  ignored text;
begin
  with halves as materialized (
    delete from warden.moved_rows m
    where m.xid = pg_catalog.pg_current_xact_id() and m.watch = log_moves.watch and m.depth = here
    returning m as half
  ), adjacent as (
    select h.half as o, lead(h.half) over (order by (h.half).id) as next from halves h
  ), pairs as materialized (
    select (a.o).id, (a.o).org_id, (a.o).subject, (a.o).key, (a.o).document, (a.o).truncated, (a.o).image,
           (a.o).in_update,
           n.id as new_id, n.org_id as new_org, n.subject as new_subject, n.key as new_key,
           n.document as new_document, n.truncated as is_new_truncated, n.image as new_image,
           n.in_update as is_new_in_update,
           (a.o).logged or (a.o).in_update or coalesce((a.o).id > last_deletion, false) as is_deleted,
           n.in_update or coalesce(n.id > last_insertion, false) and not s.is_same as is_created,
           coalesce(n.id > last_insertion, false) and s.is_same as is_early, s.is_same,
           4 * (coalesce((a.o).clock, log_moves.clock) / 1048576) as step
    from adjacent a left join lateral (select (a.next).*) n on n.is_new
    cross join lateral (
      -- As text, because in jsonb 1.0 equals 1.00.
      select coalesce(n.org_id = (a.o).org_id and n.key::text = (a.o).key::text and not n.in_update, false) as is_same) s
    where not (a.o).is_new and not ((a.o).in_update and n.in_update is not false)
  ), early as (
    -- If the log function of insertions was called before the halves were stored, it has logged a row that existed as
    -- created. Nobody else has seen that. A full join, as in warden.given_statement().
    delete from warden.events e
    where last_event is not null and e.id > last_event and e.xid = me and e.id = any (array(
      select min(j.id)
      from (select x.id, x.org_id, p.id as pair, p.new_org
            from (select p.id, p.new_org, p.new_document as data from pairs p where p.is_early) p
            full join (select x.id, x.org_id, x.data from warden.events x
                       where x.xid = me and x.id > last_event and x.topic = log_moves.topic
                         and x.event = prefix || '.created') x on x.data = p.data
            offset 0) j
      where j.org_id = j.new_org
      group by j.pair))
  ), logged as (
    insert into warden.events (org_id, topic, event, subject, data, old, truncated, needs_claim, ring, step, watch)
    select e.org_id, topic, prefix || e.event, e.subject, e.document, e.old, e.truncated, needs_claim,
           pg_catalog.row_number() over (order by p.id, e.n) = 1, p.step + e.n, log_moves.watch
    from pairs p
    cross join lateral (
      select '.updated', 0, p.new_org, p.new_subject,
             case when t.truncated then warden.shared_columns(p.new_key || p.new_document, p.key || p.document)
                  else p.new_document end,
             t.truncated, warden.changed_columns(p.document, p.new_document)
      from (values (p.truncated or p.is_new_truncated)) t (truncated)
      -- An update that changes no logged column emits no event.
      where p.is_same and not p.is_deleted
        and (t.truncated or row(p.document)::pg_catalog.record operator(pg_catalog.*<>)
                            row(p.new_document)::pg_catalog.record)
      union all
      select '.deleted', 1, p.org_id, p.subject, p.document, p.truncated, null
      where p.org_id is not null and not p.is_same and not p.is_deleted
      union all
      select '.created', 2, p.new_org, p.new_subject, p.new_document, p.is_new_truncated, null
      where p.new_org is not null and not p.is_created and (not p.is_same or p.is_deleted)
    ) e (event, n, org_id, subject, document, truncated, old)
    order by p.id, e.n
    returning step
  )
  select (select min(l.step) from logged l), (select max(l.step) from logged l),
         pg_catalog.string_agg(p.image, ',') filter (where not p.in_update),
         pg_catalog.string_agg(p.new_image, ',') filter (where not p.is_new_in_update)
    into lowest, highest, old_images, new_images from pairs p;
  -- They are logged late, and in any order.
  if lowest is not null then
    ignored := warden.track_steps(lowest, highest);
    ignored := warden.track_steps(lowest, highest);
  end if;
  if pg_catalog.current_setting('warden.row_' || here, true) like 'logged %' then
    state := pg_catalog.current_setting('warden.row_' || here, true);
  end if;
  if warden.has_logged_moves(watch, here) then
    former := pg_catalog.current_setting(logged);
  elsif coalesce(old_images, new_images) is null then
    ignored := pg_catalog.set_config(setting, '', true);
    return;
  else
    ignored := pg_catalog.set_config('warden.row_' || here, pg_catalog.concat(state, watch, ','), true);
  end if;
  ignored := pg_catalog.set_config(setting, 'logged', true);
  ignored := pg_catalog.set_config(
    logged,
    pg_catalog.concat(
      pg_catalog.concat_ws(',', nullif(pg_catalog.split_part(former, ';', 1), ''), old_images), ';',
      pg_catalog.concat_ws(',', nullif(pg_catalog.split_part(former, ';', 2), ''), new_images)),
    true);
end
$$;

-- The parts of a log function that deal with rows that move: its variables, a condition of the usual case, and what it
-- does first, before the statement ends, after that, and when the statement's rows are logged.
create or replace function warden.moves_in_log_function(w warden.watches) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  relations constant regclass[] := warden.relations_of_document(w.relation);
  has_shape constant text := pg_catalog.format('warden.has_shape(array[%s], %L)',
    (select string_agg(pg_catalog.quote_literal(r::oid::text) || '::pg_catalog.regclass', ', ' order by r::oid)
     from unnest(relations) r), warden.shape(relations));
  name constant text := pg_catalog.format('pg_catalog.concat(''warden.moved_%s_'', pg_catalog.pg_trigger_depth() - 1)', w.id);
  setting constant text := pg_catalog.format('coalesce(pg_catalog.current_setting(%s, true), '''')', name);
  row_name constant text := 'pg_catalog.concat(''warden.row_'', pg_catalog.pg_trigger_depth() - 1)';
  -- All rows of the query have changed. What is noted about the last one must not be taken for the next query's, whose
  -- row may be in the same place: if a trigger cancels an update or a deletion, the row has not moved.
  forget_row constant text := pg_catalog.format(
    '(coalesce(pg_catalog.current_setting(%1$s, true), '''') = '''' '
    'or pg_catalog.current_setting(%1$s, true) like ''logged %%'' '
    'or pg_catalog.set_config(%1$s, '''', true) = '''')', row_name);
begin
  return array[
    '
  -- Whether an update has moved rows, and the images of rows that others log.
  is_moving boolean := false;
  images text[];',
    ' and ' || setting || ' = '''' and ' || forget_row,
    pg_catalog.format($body$
    if tg_level = 'ROW' then
      -- One half of a move.
      if not %2$s then
        execute warden.current_half_statement(%1$s, tg_op = 'INSERT') using old, new;
      elsif tg_op = 'DELETE' then%3$s;
      else%4$s;
      end if;
      if %5$s in ('', 'logged') then
        perform pg_catalog.set_config(%6$s, 'on', true);
      end if;
      return null;
    end if;
    perform %7$s;
$body$, w.id, has_shape, warden.half_statement(w, false, '(select old.*)'),
      warden.half_statement(w, true, '(select new.*)'), setting, name, forget_row),
    pg_catalog.format($body$
    if %1$s = 'logged' and not warden.has_logged_moves(%2$s, pg_catalog.pg_trigger_depth() - 1) then
      -- An earlier query moved rows.
      perform pg_catalog.set_config(%6$s, '', true);
    elsif %1$s <> '' then
      if tg_op <> 'UPDATE' then
        images := warden.moves_left_out(%2$s, tg_op);
        if images <> '{}' then
          execute warden.current_rest_statement(%2$s, %5$L, tg_op, null) into changed using clocks, changed, images;
          clocks := warden.end_statement(tg_argv[0], tg_op, changed);
          execute warden.current_rest_statement(%2$s, %5$L, tg_op, clocks[2] is not null) using clocks, changed, images;
          perform warden.sort_events();
          return null;
        end if;
      elsif exists (select from warden.moved_rows m
                    where m.xid = pg_catalog.pg_current_xact_id() and m.watch = %2$s
                      and m.depth = pg_catalog.pg_trigger_depth() - 1) then
        is_moving := true;
        if %3$s then%4$s;
        else
          execute warden.current_given_statement(%2$s);
        end if;
      end if;
    end if;$body$, setting, w.id, has_shape, warden.given_statement(w), w.topic, name),
    $body$
    if is_moving and clocks[1] is null then
      -- The table has no order triggers, but the moves are sorted among the other changes.
      clocks := array[1048576];
      perform warden.track_steps(4, 4);
    end if;$body$,
    pg_catalog.format($body$
    if is_moving then
      perform warden.log_moves(%s, %L, %L, %L, clocks[1]);
    end if;$body$, w.id, w.topic, w.event_prefix, w.visibility is not distinct from 'claim')];
end
$fn$;

-- Statements for a table whose columns have changed since its log function was generated: the one that stores one half
-- of a move ($1 is the old row, $2 the new one), ...
create or replace function warden.current_half_statement(watch bigint, is_new boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  w warden.watches := (select warden.current_watch(t) from warden.watches t where t.id = watch);
begin
  if w.key_columns is null or w.org_column is null then
    return 'select';
  end if;
  if warden.has_virtual_columns(w) then
    w.omit_columns := null;
  end if;
  return warden.half_statement(w, is_new, case when is_new then '(select ($2).*)' else '(select ($1).*)' end);
end
$fn$;

-- ... the one that notes which rows the log function of updates was given, ...
create or replace function warden.current_given_statement(watch bigint) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  w warden.watches := (select warden.current_watch(t) from warden.watches t where t.id = watch);
begin
  if w.key_columns is null or w.org_column is null then
    return 'select';
  end if;
  if warden.has_virtual_columns(w) then
    w.omit_columns := null;
  end if;
  return warden.given_statement(w);
end
$fn$;

-- ... and the one that logs the rows whose images are not among $3, or counts them if `by_row` is null. (The former
-- version had no argument `is_computable`. Only log functions call it.)
-- squawk-ignore ban-drop-function
drop function if exists warden.current_rest_statement(bigint, text, text, boolean);
create or replace function warden.current_rest_statement(
  watch bigint, topic text, operation text, by_row boolean, is_computable boolean default false
) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  w warden.watches := (select warden.current_watch(t) from warden.watches t where t.id = watch);
  rest text := case operation when 'INSERT' then 'new_rows' else 'old_rows' end;
begin
  is_computable := is_computable and w.shape = warden.shape(warden.relations_of_document(w.relation));
  if w.key_columns is not null and w.org_column is not null then
    rest := pg_catalog.format('(select o.* from %s o where %s <> all ($3))', rest, warden.image_expression(w, 'o'));
  end if;
  if by_row is null then
    return 'select count(*) from ' || rest || ' o';
  end if;
  return warden.current_log_statement(watch, topic, operation, by_row, array[rest, rest], is_computable);
end
$fn$;

reset role;
