-- Watches follow their tables: after DDL, warden.refresh_watches() brings them in line.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Brings the watches in line with their tables: after columns or partitions have changed, after a table was dropped,
-- and after a restore. It does nothing for a watch that fits. An event trigger calls it after DDL, and so does
-- `warden migrate`, whose plan names new members itself.
-- The former version had no argument new_members. No client of the database calls it.
-- squawk-ignore ban-drop-function
drop function if exists warden.refresh_watches(boolean);
create or replace function warden.refresh_watches(
  all_functions boolean default false, new_members boolean default true
) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '5s' set jit = off as $$
declare
  w warden.watches;
  present warden.watches;
  stray record;
  -- Triggers of the application do not change here.
  trigger_words text[];
  separated regclass[] := '{}';
begin
  for w in select t.* from warden.watches t
           where not exists (select from pg_catalog.pg_class c where c.oid = t.relation) loop
    delete from warden.watches t where t.id = w.id;
    execute pg_catalog.format('drop function if exists warden.%I() cascade', 'log ' || w.id);
  end loop;
  for w in select t.* from warden.watches t order by t.id loop
    -- Partitions that were detached stop emitting.
    for stray in
      select g.tgname, g.tgrelid::regclass as relation from pg_catalog.pg_trigger g
      where g.tgfoid = pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || w.id))
        and g.tgname !~ '^warden_note_'
        and not exists (select from warden.tree(w.relation) t where t = g.tgrelid)
    loop
      execute pg_catalog.format('drop trigger %I on %s', stray.tgname, stray.relation);
      if stray.tgname = 'warden_log_insert' then
        perform warden.drop_order_triggers(stray.relation, w.id);
        perform warden.resync_watches(array[w.id]);
        separated := separated || stray.relation;
      end if;
    end loop;
    -- Tables that were watched before they were attached.
    perform warden.restore_watch(t) from warden.watches t
    where t.id in (select warden.watch_of(r) from pg_catalog.unnest(separated) r);
    separated := '{}';
    present := warden.current_watch(w);
    perform warden.follow_documents(present);
    perform warden.follow_members(w);
    continue when present.key_columns is null or present.org_column is null or present.omit_columns is null;
    if all_functions or w.shape is distinct from warden.shape(warden.relations_of_document(w.relation))
       or w.relation_id is distinct from w.relation::oid then
      trigger_words := coalesce(trigger_words, warden.trigger_words());
      perform warden.install_watch(present, trigger_words);
    elsif new_members then
      perform warden.add_watched_members(w.relation);
    end if;
  end loop;
  -- Functions of former versions, which were named after tables.
  for stray in
    select p.oid::regprocedure as function from pg_catalog.pg_proc p
    where p.pronamespace = 'warden'::regnamespace and p.proname like 'log %'
      and not exists (select from warden.watches t where p.proname = 'log ' || t.id)
      and not exists (select from pg_catalog.pg_trigger g where g.tgfoid = p.oid)
  loop
    execute pg_catalog.format('drop function %s', stray.function);
  end loop;
  -- Without an event trigger, nobody has noticed new triggers and foreign keys.
  if trigger_words is null then
    perform warden.complete_log_triggers();
  else
    perform warden.add_order_triggers(trigger_words);
  end if;
end
$$;

-- Tables with log triggers that belong to no watch, as after a restore without data, or of a detached partition. The
-- comment of a log function is the call that created it. `call` is null if it names another table. The members of a
-- table are not listed.
create or replace function warden.lost_watches()
returns table (relation regclass, triggers text, call text, removal text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select o.relation, o.triggers,
    case when pg_catalog.starts_with(o.call, pg_catalog.format('select warden.watch(%L,', o.full_name)) then o.call end,
    o.removal
  from (
    select c.oid::regclass as relation, pg_catalog.format('%I.%I', n.nspname, c.relname) as full_name,
      string_agg(g.tgname, ', ' order by g.tgname) as triggers,
      string_agg(pg_catalog.format('drop trigger %I on %I.%I;', g.tgname, n.nspname, c.relname), E'\n' order by g.tgname)
        as removal,
      max(pg_catalog.obj_description(f.oid, 'pg_proc')) as call
    from pg_catalog.pg_trigger g
    join pg_catalog.pg_proc f on f.oid = g.tgfoid and f.pronamespace = 'warden'::regnamespace
    join pg_catalog.pg_class c on c.oid = g.tgrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where g.tgname ~ '^warden_log_' and not g.tgisinternal
      and not exists (select from warden.watches w cross join lateral warden.tree(w.relation) t (oid)
                      where t.oid = g.tgrelid)
      and not exists (select from pg_catalog.pg_inherits i
                      join pg_catalog.pg_trigger p on p.tgrelid = i.inhparent and p.tgname = g.tgname
                      where i.inhrelid = g.tgrelid)
    group by c.oid, n.nspname, c.relname) o
$$;

-- Whether a watch can log exactly what happens: its columns identify a row and have types that it can use, no other
-- watch has the triggers of a part of its table, no statement on a parent bypasses them, and no part of it is a
-- foreign, unlogged or temporary table.
create or replace function warden.is_exact_watch(w warden.watches) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  present constant warden.watches := warden.current_watch(w);
begin
  return present.key_columns is not null and present.org_column is not null and present.omit_columns is not null
    and warden.is_key(w.relation, present.key_columns, present.org_column)
    and not exists (
      select from warden.tree(w.relation) m (oid)
      join pg_catalog.pg_attribute a on a.attrelid = m.oid and a.attname::text = any (present.key_columns)
      where not a.attnotnull)
    and (w.entity_topic is null or exists (
      select from warden.columns_of(w.relation) c
      join warden.entity_topics t on t.kind = w.entity_topic and t.id_type = warden.entity_id_type(warden.base_type(c.type))
      where c.name = present.entity_topic_column))
    -- Filters of large rows need these.
    and present.filter_columns <@ array(select c.name::text from warden.columns_of(w.relation) c)
    and not exists (select from pg_catalog.pg_inherits i where i.inhrelid = w.relation)
    and not exists (select from warden.tree(w.relation) m join pg_catalog.pg_class c on c.oid = m
                    where c.relkind = 'f' or c.relpersistence <> 'p')
    and not exists (
      select from warden.tree(w.relation) m (oid)
      join pg_catalog.pg_trigger g on g.tgrelid = m.oid and g.tgname = 'warden_log_insert'
      where g.tgfoid is distinct from pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || w.id)));
end
$$;

-- Whether the topic has got a resync for every changed label of an enum, and for every dropped partition or child.
create or replace function warden.has_current_documents(w warden.watches) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return w.members <@ array(select t::oid from warden.tree(w.relation) t)
     and not exists (select from pg_catalog.jsonb_each_text(w.enum_labels) l
                     join pg_catalog.pg_enum e on e.oid = l.key::oid where e.enumlabel <> l.value);
end
$$;

-- The triggers that watched tables and their members lack, or that are disabled or changed.
create or replace function warden.trigger_problems()
returns table (watch bigint, member regclass, name text, problem text)
language sql stable set search_path = pg_catalog, pg_temp set jit = off as $$
  with members as (
    select w.id, w.relation, w.replicated, w.org_column, t.oid, c.relkind, c.relkind = 'r' and c.relispartition as is_partition
    from warden.watches w join pg_catalog.pg_class r on r.oid = w.relation
    cross join lateral warden.tree(w.relation) t (oid)
    join pg_catalog.pg_class c on c.oid = t.oid and c.relkind in ('r', 'p')
  ), nested as materialized (
    select m.*, n.is_nested and not warden.has_foreign_member(m.oid) as is_nested
    from members m
    join (select w.id, warden.has_nested_statements(w.relation, x.words) as is_nested
          from warden.watches w join pg_catalog.pg_class r on r.oid = w.relation
          cross join (select warden.trigger_words() as words offset 0) x offset 0) n on n.id = m.id
  ), wanted as (
    select m.id, m.oid, g.name
    from nested m
    cross join lateral (select warden.last_prefix(m.oid) as prefix) p
    cross join lateral (
      values ('warden_begin_insert'), ('warden_begin_update'), ('warden_begin_delete'),
             ('warden_log_insert'), ('warden_log_update'), ('warden_log_delete'), ('warden_log_truncate'),
             (p.prefix || 'warden_note_insert'), (p.prefix || 'warden_note_update'), (p.prefix || 'warden_note_delete'),
             ('warden_note_inserted')) g (name)
    -- Rows are in partitions only.
    where g.name ~ 'log' or m.is_nested and (m.relkind = 'r' or g.name ~ 'begin')
    union
    select m.id, m.oid, t.name
    from nested m cross join unnest(warden.move_triggers(m.oid, 'log ' || m.id)) t (name)
    where m.is_partition
    union all
    select m.id, m.oid, g.name
    from members m
    join (values ('!warden_apply_row', '{r}'::text[]), ('warden_apply_truncate', '{r,p}')) g (name, kinds)
      on m.relkind::text = any (g.kinds)
    where m.replicated
    union all
    -- For registered tables, the audit's rule `immutability` checks this trigger.
    select m.id, m.oid, 'warden_org_id_immutable'
    from members m
    where m.relkind = 'r' and m.org_column = 'org_id'
      and not exists (select from warden.tenant_tables t join pg_catalog.pg_namespace n on n.nspname = t.schema_name
                      join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
                      where c.oid = m.relation and t.scope = 'org')
  )
  select n.id, n.oid::regclass, n.name, p.problem
  from wanted n
  left join pg_catalog.pg_trigger g on g.tgrelid = n.oid and g.tgname = n.name
  left join pg_catalog.pg_proc f on f.oid = g.tgfoid
  cross join lateral (
    select case
      when g.oid is null then 'is missing'
      when f.proname !~ '^(log |begin_statement$|note_row$|prevent_org_id_change$)' then 'calls another function'
      when g.tgenabled not in (case when n.name ~ 'apply' then 'R' else 'O' end, 'A') then 'is disabled' end) p (problem)
  where p.problem is not null
$$;

-- The watched tables that no longer fit their watch: dropped tables, changed columns, partitions that were attached or
-- detached since the log function was generated, watches that cannot be exact, and triggers that are missing or
-- disabled. Gateways call it once a minute, and warn.
create or replace function warden.unfit_watches() returns setof text
language sql stable security definer set search_path = pg_catalog, pg_temp set jit = off as $$
  with problems as materialized (select p.watch from warden.trigger_problems() p where p.name <> 'warden_org_id_immutable')
  select case when c.oid is null then pg_catalog.format('a dropped table (topic %s)', w.topic)
              else pg_catalog.format('%I.%I', n.nspname, c.relname) end
  from warden.watches w
  left join pg_catalog.pg_class c on c.oid = w.relation
  left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  cross join lateral (select pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || w.id)) as fn) f
  where c.oid is null or f.fn is null
     or w.relation_id is distinct from c.oid
     or w.shape is distinct from warden.shape(warden.relations_of_document(w.relation))
     or not warden.has_current_documents(w)
     or not warden.is_exact_watch(w)
     or w.id in (select p.watch from problems p)
     or exists (select from pg_catalog.pg_trigger g
                where g.tgfoid = f.fn and not exists (select from warden.tree(w.relation) t where t = g.tgrelid))
  order by 1
$$;
grant execute on function warden.unfit_watches() to warden_gateway;
reset role;

-- The log functions may stem from an earlier version, and watched tables may have got triggers since.
select warden.refresh_watches(true);

-- Only log functions of former versions called these, and they have just been replaced.
-- squawk-ignore ban-drop-function
drop function if exists warden.clock_time(), warden.set_clock(bigint, text), warden.is_row_moving(regclass, text, bigint),
  warden.expect_unsorted(), warden.statement_clock(text), warden.end_statement(text, bigint), warden.sort_events(text),
  warden.sort_events(bigint), warden.forget_note(text, text), warden.match_moves(bigint, text[]),
  warden.current_images_statement(bigint);
-- squawk-ignore ban-drop-table
drop table if exists warden.row_steps;

-- A gateway learns from the log that an organisation was created or deleted. Writers queue behind a lock request that
-- waits, so it waits for a short time only.
set local lock_timeout = '200ms';
do $do$
begin
  if not exists (select from warden.watches w where w.relation = 'public.organizations'::regclass) then
    perform warden.watch_organizations();
  end if;
end
$do$;
set local lock_timeout = '5s';

-- A superuser may create event triggers; so may the owner of a managed database, if the provider allows it. The
-- functions belong to the migrating role, whose rights they need. They never make a statement fail. Without them, the
-- log functions generate their statements each time after DDL, until `warden migrate` runs.
do $do$
begin
  execute $fn$
    create or replace function warden.refresh_watches_after_ddl() returns event_trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off as $body$
    begin
      -- The statements of this function call it again.
      if coalesce(pg_catalog.current_setting('warden.is_refreshing', true), '') = 'on' then
        return;
      end if;
      -- Most statements concern no watched table, and a refresh takes milliseconds. (Each subquery is for one table.
      -- For EXISTS, all inheritance and all triggers would be read.)
      if (case
        when tg_event = 'sql_drop' then exists (
          select from pg_catalog.pg_event_trigger_dropped_objects() d
          where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            and case when d.objsubid = 0 then exists (
                       select from warden.watches w where d.objid = any (w.members) and d.objid <> w.relation::oid)
                     -- A column of a table or of a composite type. These statements also end with the other event.
                     else tg_tag !~ '^(ALTER (TABLE|TYPE)|DROP (TYPE|DOMAIN|SCHEMA|EXTENSION|OWNED))$' end)
        when tg_tag = 'DROP TABLE' then exists (
          select from warden.watches w
          where not exists (select from pg_catalog.pg_class c where c.oid = w.relation::oid))
        when tg_tag ~ '^(CREATE|ALTER) .*(TABLE|VIEW|SCHEMA)$' then exists (
          select from pg_catalog.pg_event_trigger_ddl_commands() c
          -- Not the log's own partitions: a refresh may write to them, and then they cannot be altered further.
          where c.schema_name is distinct from 'warden'
            and ((select true from warden.watches w where c.objid = w.relation::oid or c.objid = any (w.members) limit 1)
                 or (select true from pg_catalog.pg_inherits i where i.inhrelid = c.objid limit 1)
                 or (select true from pg_catalog.pg_trigger g
                     where g.tgrelid = c.objid and g.tgname = 'warden_log_insert')
                 -- A column of another table may have the type of its rows.
                 or (select true from pg_catalog.pg_class r
                     join pg_catalog.pg_type t on t.oid = r.reltype
                     join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass
                                                and d.refobjid in (t.oid, t.typarray)
                     where r.oid = c.objid and d.deptype = 'n'
                       and d.classid in ('pg_catalog.pg_class'::pg_catalog.regclass,
                                         'pg_catalog.pg_type'::pg_catalog.regclass) limit 1)))
        else true end)
      then
        perform pg_catalog.set_config('warden.is_refreshing', 'on', true);
        perform warden.refresh_watches();
        perform pg_catalog.set_config('warden.is_refreshing', '', true);
      end if;
    exception when others then
      raise warning 'Warden could not refresh the watches of changed tables: %', sqlerrm
        using hint = 'Run "warden migrate", or: select warden.refresh_watches();';
    end
    $body$
  $fn$;
  perform warden.close_function('warden.refresh_watches_after_ddl()');
  -- A statement may give the rows other values in columns of the same type.
  execute $fn$
    create or replace function warden.resync_rewritten_table() returns event_trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off as $body$
    declare
      rewritten constant regclass := pg_catalog.pg_event_trigger_table_rewrite_oid();
    begin
      -- 2 is a new value, 4 another type. Other reasons keep the values: a table becomes logged or unlogged, or gets
      -- another access method.
      if pg_catalog.pg_event_trigger_table_rewrite_reason() & 6 <> 0
         and pg_catalog.pg_relation_size(rewritten) > 0 then
        perform warden.resync_watches(array[warden.watch_of(rewritten)]);
      end if;
    exception when others then
      raise warning 'Warden could not notify the clients of changed rows: %', sqlerrm
        using hint = 'Run: select warden.resync(''<table>'');';
    end
    $body$
  $fn$;
  perform warden.close_function('warden.resync_rewritten_table()');
  if exists (select from pg_event_trigger where evtname = 'warden_refresh_watches'
             and not 'CREATE VIEW' = any (evttags)) then
    drop event trigger warden_refresh_watches;
  end if;
  if not exists (select from pg_event_trigger where evtname = 'warden_refresh_watches') then
    create event trigger warden_refresh_watches on ddl_command_end
      -- CREATE SCHEMA may create partitions, and CREATE OR REPLACE VIEW may add columns.
      when tag in ('CREATE TABLE', 'ALTER TABLE', 'CREATE SCHEMA', 'ALTER TYPE', 'CREATE VIEW', 'ALTER VIEW',
                   'ALTER MATERIALIZED VIEW', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'DROP TABLE', 'DROP TYPE', 'DROP DOMAIN',
                   'DROP SCHEMA', 'DROP EXTENSION', 'DROP OWNED')
      execute function warden.refresh_watches_after_ddl();
  end if;
  -- Partitions and children that are dropped, and columns that go with a function, a collation and the like.
  if not exists (select from pg_event_trigger where evtname = 'warden_refresh_watches_drop') then
    create event trigger warden_refresh_watches_drop on sql_drop execute function warden.refresh_watches_after_ddl();
  end if;
  if not exists (select from pg_event_trigger where evtname = 'warden_resync_rewritten') then
    create event trigger warden_resync_rewritten on table_rewrite execute function warden.resync_rewritten_table();
  end if;
exception when insufficient_privilege then
  raise notice 'this role may not create event triggers: after you change the columns or partitions of a watched table, '
               'run "warden migrate", or: select warden.refresh_watches();';
end
$do$;
