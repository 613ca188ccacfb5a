-- The functions and triggers that write the changes of a watched table to the log.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The body of a watched table's log function. With one function per table, PostgreSQL plans each statement once, and
-- columns need no lookup. Statement triggers with transition tables cost one INSERT ... SELECT per bulk statement.
create or replace function warden.log_function_body(w warden.watches) returns text
language plpgsql stable set search_path = '' as $fn$
declare
  body text;
begin
  -- `offset 0` keeps the planner from computing the document once for each place that uses it.
  -- Rows are compared by their binary image (*<>), because json and a few other types have no equality.
  -- Rows are written n.* and o.*, because n alone is a column if the table has one of that name.
  body := $body$
begin
  if tg_op = 'INSERT' then
    insert into warden.events (org_id, topic, event, subject, data, truncated, needs_claim, ring)
    select n.%1$I, %2$L, %3$L, %4$s,
           case when d.fits then d.doc else pg_catalog.jsonb_build_object(%5$L, n.%5$I) end,
           not d.fits, %11$L::boolean, pg_catalog.row_number() over () = 1
    from new_rows n
    cross join lateral (select j.doc, %12$s as fits from (select %6$s as doc offset 0) j) d
    where n.%1$I is not null;
  elsif tg_op = 'DELETE' then
    insert into warden.events (org_id, topic, event, subject, data, truncated, needs_claim, ring)
    select o.%1$I, %2$L, %9$L, %8$s,
           case when d.fits then d.doc else pg_catalog.jsonb_build_object(%5$L, o.%5$I) end,
           not d.fits, %11$L::boolean, pg_catalog.row_number() over () = 1
    from old_rows o
    cross join lateral (select j.doc, %12$s as fits from (select %7$s as doc offset 0) j) d
    where o.%1$I is not null;
  elsif tg_op = 'UPDATE' then
    -- Old and new rows are paired by entity and organisation, so no organisation sees another's row. If either
    -- changed, the update is logged as a deletion and a creation.
    insert into warden.events (org_id, topic, event, subject, data, old, truncated, needs_claim, ring)
    select coalesce(n.%1$I, o.%1$I), %2$L,
           case when o.%5$I is null then %3$L when n.%5$I is null then %9$L else %10$L end,
           coalesce(%4$s, %8$s),
           case when d.fits then coalesce(d.new_doc, d.old_doc)
                else pg_catalog.jsonb_build_object(%5$L, coalesce(n.%5$I, o.%5$I)) end,
           case when d.fits and d.new_doc is not null and d.old_doc is not null then
             (select pg_catalog.jsonb_object_agg(e.key, e.value) from pg_catalog.jsonb_each(d.old_doc) e
              where d.new_doc -> e.key is distinct from e.value) end,
           not d.fits, %11$L::boolean, pg_catalog.row_number() over () = 1
    from old_rows o full join new_rows n on n.%5$I = o.%5$I and n.%1$I = o.%1$I
    cross join lateral (
      select j.*, (n.%5$I is null or %13$s) and (o.%5$I is null or %14$s) as fits
      from (select case when n.%5$I is not null then %6$s end as new_doc,
                   case when o.%5$I is not null then %7$s end as old_doc offset 0) j) d
    where coalesce(n.%1$I, o.%1$I) is not null
      -- An update that changes no logged column emits no event.
      and case when d.new_doc is not null and d.old_doc is not null then d.new_doc <> d.old_doc
               when n.%5$I is null or o.%5$I is null then true
               else n.* operator(pg_catalog.*<>) o.* end;
  else
    -- TRUNCATE has no transition rows: subscribers of the topic must read the table again.
    insert into warden.events (topic, event, data)
    values (%2$L, 'warden.resync', '{"reason": "truncated"}');
  end if;
  return null;
end
$body$;
  return pg_catalog.format(body,
    w.org_column, w.topic, w.event_prefix || '.created',
    warden.entity_topic_expression(w, 'n'),
    w.entity_column, warden.document_expression(w, 'n'), warden.document_expression(w, 'o'),
    warden.entity_topic_expression(w, 'o'),
    w.event_prefix || '.deleted', w.event_prefix || '.updated',
    w.visibility is not distinct from 'claim', warden.document_fits_expression('j.doc'),
    warden.document_fits_expression('j.new_doc'), warden.document_fits_expression('j.old_doc'));
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
  relation_name text := (select pg_catalog.format('%s.%s', n.nspname, c.relname)
                         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                         where c.oid = w.relation);
  fn text := 'log ' || relation_name;
begin
  if pg_catalog.octet_length(fn) > 63 then
    fn := pg_catalog.left(fn, 40) || ' ' || pg_catalog.left(pg_catalog.md5(relation_name), 8);
  end if;
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

-- Creates the triggers of a watched table, or of one of its members, which call this function.
create or replace function warden.create_log_triggers(relation regclass, fn text) returns void
language plpgsql set search_path = '' as $$
begin
  execute pg_catalog.format('create or replace trigger warden_log_insert after insert on %s '
    'referencing new table as new_rows for each statement execute function warden.%I()', relation, fn);
  execute pg_catalog.format('create or replace trigger warden_log_update after update on %s '
    'referencing old table as old_rows new table as new_rows '
    'for each statement execute function warden.%I()', relation, fn);
  execute pg_catalog.format('create or replace trigger warden_log_delete after delete on %s '
    'referencing old table as old_rows for each statement execute function warden.%I()', relation, fn);
  execute pg_catalog.format('create or replace trigger warden_log_truncate after truncate on %s '
    'for each statement execute function warden.%I()', relation, fn);
end
$$;

reset role;
