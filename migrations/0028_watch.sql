-- Watched tables: warden.watch() and warden.unwatch().
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The members of a watched table that have the log triggers of another watch although they belong to this one: they
-- were part of that one's table before.
create or replace function warden.members_of_others(w warden.watches) returns setof regclass
language sql stable set search_path = pg_catalog, pg_temp as $$
  select m.oid::regclass
  from warden.tree(w.relation) with ordinality m (oid, n)
  join pg_catalog.pg_trigger g on g.tgrelid = m.oid and g.tgname = 'warden_log_insert'
  where g.tgfoid is distinct from pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || w.id))
    and warden.watch_of(m.oid) = w.id
  order by m.n
$$;

-- Makes the topics of these watches resync.
create or replace function warden.resync_watches(watches bigint[]) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  insert into warden.events (topic, event, data)
  select distinct w.topic, 'warden.resync', '{"reason": "changed"}'::jsonb from warden.watches w
  where w.id = any (watches)
$$;

-- Generates the log function of a watch for the columns that its table has now, and gives every member of the table
-- its triggers. `trigger_words` is what warden.trigger_words() returns.
-- The former version had no argument `trigger_words`. No client of the database calls it.
-- squawk-ignore ban-drop-function
drop function if exists warden.install_watch(warden.watches);
create or replace function warden.install_watch(
  w warden.watches, trigger_words text[] default warden.trigger_words()
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  former constant warden.watches := (select t from warden.watches t where t.id = w.id);
  fn text;
  member regclass;
  is_nested boolean;
begin
  w.relation_id := w.relation;
  w.column_numbers := warden.column_numbers(w);
  w.shape := warden.shape(warden.relations_of_document(w.relation));
  w.key_types := (select string_agg(pg_catalog.format_type(warden.base_type(c.type), null), ', ' order by c.number)
                  from warden.columns_of(w.relation) c where c.name::text = any (w.key_columns));
  update warden.watches t
  set (key_columns, omit_columns, org_column, entity_topic_column, as_text, filter_columns, relation_id,
       column_numbers, shape, key_types)
    = (w.key_columns, w.omit_columns, w.org_column,
       -- If that column was dropped, the audit reports it.
       coalesce(w.entity_topic_column, t.entity_topic_column), w.as_text, w.filter_columns, w.relation_id,
       w.column_numbers, w.shape, w.key_types)
  where t.id = w.id;
  -- Clients know the rows by their former keys.
  if former.relation_id = w.relation_id and former.key_columns = w.key_columns and former.key_types <> w.key_types then
    perform warden.resync_watches(array[w.id]);
  end if;
  fn := warden.watch_function(w);
  is_nested := warden.has_nested_statements(w.relation, trigger_words);
  -- A watched table that became part of this one: from now on, its topic has no events of these rows.
  perform warden.resync_watches(array(
    select x.id from warden.watches x, warden.members_of_others(w) m
    join pg_catalog.pg_trigger g on g.tgrelid = m and g.tgname = 'warden_log_insert'
    where g.tgfoid = pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || x.id))));
  for member in select warden.members_of_others(w) loop
    perform warden.drop_order_triggers(member);
  end loop;
  for member in
    select t from warden.tree(w.relation) t join pg_catalog.pg_class c on c.oid = t
    where c.relkind in ('r', 'p')
      -- Creating a trigger waits for writers.
      and ((select count(*) from pg_catalog.pg_trigger g
            where g.tgrelid = t and g.tgname like 'warden\_log\_%'
              and g.tgfoid = pg_catalog.format('warden.%I()', fn)::regprocedure) < 4
           or is_nested
              and not exists (select from pg_catalog.pg_trigger g
                              where g.tgrelid = t and g.tgname = 'warden_begin_insert'))
      and warden.watch_of(t) = w.id
  loop
    perform warden.create_log_triggers(member, fn, is_nested);
  end loop;
  for member in
    select t from warden.tree(w.relation) t join pg_catalog.pg_class c on c.oid = t
    where c.relkind in ('r', 'p')
      and case when w.replicated then (
                 select count(*) from pg_catalog.pg_trigger g
                 where g.tgrelid = t and g.tgname in ('!warden_apply_row', 'warden_apply_truncate')
                   and g.tgfoid = pg_catalog.format('warden.%I()', fn)::regprocedure and g.tgenabled in ('R', 'A')
               ) < case c.relkind when 'r' then 2 else 1 end
               else exists (select from pg_catalog.pg_trigger g
                            where g.tgrelid = t and g.tgname = 'warden_apply_truncate') end
      and warden.watch_of(t) = w.id
  loop
    perform warden.set_apply_triggers(member, fn, w.replicated);
  end loop;
end
$$;

-- Watches a table: every committed insert, update and delete of a row becomes an event <event_prefix>.created, .updated
-- or .deleted. The event reaches the topics <topic> and org, and the entity topic <entity_topic>:<id> if there is one.
--   key_columns          identify the row within its organisation: columns that are not null, and unique together. By
--                        default the primary key without org_column
--   entity_column        the same for a key of one column
--   omit_columns         columns that never leave the database
--   org_column           the organisation; a row without one emits no event
--   entity_topic         kind of the entity whose topic the events reach, e.g. 'invoice' for invoice:<id>
--   entity_topic_column  column with that entity's id: uuid, integer or text. By default the key, if that is one
--                        column; for invoice lines, for example, 'invoice_id'. A row without an id, or with a
--                        string that warden.is_entity_id() rejects, reaches no entity topic.
--   visibility           who may receive the events if `authenticated` may SELECT less than they show:
--                        'organisation' (all members, on purpose), or 'claim' (only tokens whose claim
--                        app_metadata.warden_topics names the topic). Without it such a table is an error.
--   as_text              columns that events send as strings. JavaScript reads JSON numbers as doubles, which are exact
--                        up to 2^53 only: pass bigint and numeric columns that may exceed it.
--   replicated           whether rows that logical replication applies emit events as well. Its workers fire no
--                        statement triggers, so this logs row by row.
--   filter_columns       columns that the events of rows above 64 KiB keep, if they have at most 8 KiB each. Such an
--                        event always has the key, and otherwise the smallest columns only. Name columns of filters.
-- The caller must own the table and be a member of warden_owner. Call it again to change an argument. Triggers of a
-- partitioned table do not fire for a statement on a partition, so each partition gets its own triggers. A new
-- partition gets them from the event trigger of 0019_partitions.sql, or from warden.protect_members().
-- Former versions had fewer arguments. No client of the database calls it: operators do.
-- squawk-ignore ban-drop-function
drop function if exists warden.watch(regclass, text, text, name, text[], name, text, name);
-- squawk-ignore ban-drop-function
drop function if exists warden.watch(regclass, text, text, name, text[], name, text, name, text);
-- squawk-ignore ban-drop-function
drop function if exists warden.watch(regclass, text, text, name, text[], name, text, name, text, text[]);
-- squawk-ignore ban-drop-function
drop function if exists warden.watch(regclass, text, text, name, text[], name, text, name, text, text[], text[],
                                     boolean);
create or replace function warden.watch(
  relation regclass, topic text, event_prefix text,
  entity_column name default null, omit_columns text[] default '{}', org_column name default 'org_id',
  entity_topic text default null, entity_topic_column name default null, visibility text default null,
  as_text text[] default '{}', key_columns text[] default null, replicated boolean default false,
  filter_columns text[] default '{}'
) returns void
language plpgsql set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  w warden.watches;
  col record;
  entity_id_type text;
  narrower text;
  other regclass;
  deferred record;
  trigger_words text[];
begin
  if visibility not in ('organisation', 'claim') then
    raise exception 'warden.watch: visibility "%" is not valid', visibility
      using hint = 'Pass ''organisation'' or ''claim''.';
  end if;
  if (select relkind from pg_catalog.pg_class where oid = watch.relation) not in ('r', 'p') then
    raise exception 'warden.watch: % is not a table', watch.relation
      using hint = 'Views and foreign tables have no row triggers: watch the underlying table.';
  end if;
  if event_prefix !~ '^[a-z][a-z0-9_]{0,62}$' or event_prefix in ('warden', 'phx') then
    raise exception 'warden.watch: event prefix "%" is not valid', event_prefix
      using hint = 'Use lower-case letters, digits and _, starting with a letter; not warden or phx.';
  end if;
  if topic !~ '^[a-z][a-z0-9_]{0,62}$' then
    raise exception 'warden.watch: topic "%" is not valid', topic
      using hint = 'Use up to 63 lower-case letters, digits and _, starting with a letter.';
  end if;
  if warden.is_reserved_topic(topic) then
    raise exception 'warden.watch: the topic "%" is reserved: the gateway has a route /v1/%', topic, topic
      using errcode = '22023', hint = 'Choose another name, such as the name of the table.';
  end if;
  select t.relation into other from warden.watches t join pg_catalog.pg_class c on c.oid = t.relation
  where t.topic = watch.topic and t.relation <> watch.relation limit 1;
  if other is not null then
    raise exception 'warden.watch: the topic "%" is that of another table, %', topic, other
      using errcode = '22023',
            hint = 'Choose another topic: the rows of a watched table are read at GET /v1/<topic>. '
                   'Events of several tables can reach one entity topic, and all of them reach "org".';
  end if;
  -- A statement that names a parent fires the triggers of the parent only.
  select i.inhparent into other from pg_catalog.pg_inherits i where i.inhrelid = watch.relation
  order by i.inhseqno limit 1;
  if other is not null then
    raise exception 'warden.watch: % is a partition or child of %, and statements that name that table would emit no events',
        watch.relation, other
      using errcode = '22023', hint = pg_catalog.format('Watch the table at the top: %s.', warden.topmost(watch.relation));
  end if;
  -- A table has the log triggers of one watch only. A watch that exists may be changed if it is the one.
  select o.relation into other
  from warden.watches o join pg_catalog.pg_class c on c.oid = o.relation
  where o.relation <> watch.relation
    and exists (select from warden.tree(o.relation) t where t in (select warden.tree(watch.relation)))
    and not exists (select from warden.watches t where t.relation = watch.relation and t.id = warden.watch_of(watch.relation))
  order by o.id limit 1;
  if other is not null then
    raise exception 'warden.watch: % %', watch.relation, case
        when other in (select warden.tree(watch.relation)) then
          pg_catalog.format('has the partition or child %s, which is watched', other)
        else pg_catalog.format('and %s, which is watched, have a child in common', other) end
      using errcode = '22023',
            hint = pg_catalog.format('The rows of a table are events of one topic. Keep that watch, or end it first: '
                                     'select warden.unwatch(%L);', other);
  end if;
  if entity_topic is null and entity_topic_column is not null then
    raise exception 'warden.watch: entity_topic_column "%" is given without an entity_topic', entity_topic_column
      using hint = 'Also pass the kind of entity, e.g. entity_topic => ''invoice'' for topics invoice:<id>.';
  end if;
  if entity_topic !~ '^[a-z][a-z0-9_]{0,62}$' or entity_topic = 'org' then
    raise exception 'warden.watch: entity topic "%" is not valid', entity_topic
      using hint = 'Use lower-case letters, digits and _, starting with a letter; not org.';
  end if;
  if entity_column is not null and key_columns is not null then
    raise exception 'warden.watch: entity_column and key_columns are both given'
      using hint = 'key_columns is enough: key_columns => ''{id}'' is the same as entity_column => ''id''.';
  end if;
  key_columns := case when entity_column is not null then array[entity_column::text]
                      else coalesce(key_columns, warden.default_key(watch.relation, org_column)) end;
  if cardinality(key_columns) is distinct from (select count(distinct u) from unnest(key_columns) u)
     or cardinality(key_columns) = 0 then
    raise exception 'warden.watch: key_columns "%" is not valid', key_columns
      using hint = 'Name each column of the key once.';
  end if;
  if entity_topic is not null and entity_topic_column is null then
    if cardinality(key_columns) <> 1 then
      raise exception 'warden.watch: entity topic "%" needs a column: the key of % has several',
          entity_topic, watch.relation
        using hint = pg_catalog.format('Pass entity_topic_column => ''...'', the column with the id in %s:<id>.',
                                       entity_topic);
    end if;
    entity_topic_column := key_columns[1];
  end if;
  for col in
    select c.name, c.use, a.atttypid::regtype as type, a.attname is null as missing
    from (values (org_column::text, 'org_column'), (entity_topic_column::text, 'entity_topic_column')
          union all
          select u, case when u = entity_column then 'entity_column' else 'key_columns' end
          from unnest(key_columns) u) c(name, use)
    left join pg_catalog.pg_attribute a
      on a.attrelid = watch.relation and a.attname = c.name and a.attnum > 0 and not a.attisdropped
    where c.name is not null
  loop
    if col.missing then
      raise exception 'warden.watch: % has no column "%" (given as %)', watch.relation, col.name, col.use;
    end if;
    if exists (select from warden.virtual_columns(watch.relation) v where v.name = col.name) then
      raise exception 'warden.watch: column "%" of % is a virtual generated column, which cannot be %',
          col.name, watch.relation, col.use
        using hint = 'Make it a stored one: generated always as (...) stored.';
    end if;
    if col.use = 'org_column' and col.type <> 'uuid'::regtype then
      raise exception 'warden.watch: column "%" of % is of type %: org_column must be a uuid',
        col.name, watch.relation, col.type;
    end if;
    if col.use = 'entity_topic_column' then
      entity_id_type := warden.entity_id_type(col.type);
      if entity_id_type is null then
        raise exception
          'warden.watch: column "%" of % is of type %: entity_topic_column must be a uuid, an integer or text',
          col.name, watch.relation, col.type;
      end if;
    end if;
  end loop;
  -- With a misspelt name, the column that should be omitted would leave the database.
  for col in
    select o.name, o.use
    from (select u, 'omit_columns' from unnest(omit_columns) u
          union all select u, 'as_text' from unnest(as_text) u
          union all select u, 'filter_columns' from unnest(filter_columns) u) o (name, use)
    where not exists (select from pg_catalog.pg_attribute a where a.attrelid = watch.relation
                        and a.attname = o.name and a.attnum > 0 and not a.attisdropped)
  loop
    raise exception 'warden.watch: % has no column "%" (given in %)', watch.relation, col.name, col.use;
  end loop;
  for col in
    select v.name, v.problem from warden.virtual_columns(watch.relation) v
    where v.problem is not null and v.name::text <> all (omit_columns)
  loop
    raise exception 'warden.watch: the virtual column "%" of % cannot be computed in events: its expression uses %',
        col.name, watch.relation, col.problem
      using hint = 'Make it a stored one: generated always as (...) stored. Or omit it: omit_columns => ''{...}''.';
  end loop;
  if filter_columns && omit_columns then
    raise exception 'warden.watch: column "%" is in filter_columns and in omit_columns',
        (select min(u) from unnest(filter_columns) u where u = any (omit_columns))
      using hint = 'A column that never leaves the database cannot be filtered on: name it once.';
  end if;
  -- Every update pairs old and new rows by the key. So it must be unique, not null, and comparable without a
  -- search_path; otherwise writes of the application would fail.
  for col in
    select k.name, a.atttypid::regtype as type
    from unnest(key_columns) k (name)
    join pg_catalog.pg_attribute a on a.attrelid = watch.relation and a.attname = k.name
    where not warden.is_key_type(a.atttypid)
  loop
    raise exception 'warden.watch: column "%" of % is of type %, which cannot be part of a key',
        col.name, watch.relation, col.type
      using hint = 'Pass key_columns => ''{...}'' with columns of PostgreSQL''s own types of single values.';
  end loop;
  deferred := warden.deferrable_key(watch.relation, key_columns, org_column);
  if deferred.name is not null then
    raise exception 'warden.watch: the constraint % is DEFERRABLE: within a transaction, several rows may have the same key (%)',
        deferred.name, array_to_string(key_columns, ', ')
      using hint = pg_catalog.format('Create a constraint that is not deferrable: %s Or pass other columns as key_columns.',
                                     deferred.remedy);
  end if;
  if not warden.is_key(watch.relation, key_columns, org_column) then
    raise exception 'warden.watch: column% "%" of % % not unique by %, or may be null',
        case when cardinality(key_columns) > 1 then 's' else '' end, array_to_string(key_columns, '", "'), watch.relation,
        case when cardinality(key_columns) > 1 then 'are' else 'is' end,
        case when cardinality(key_columns) > 1 then 'themselves' else 'itself' end
      using hint = 'The key identifies a row: pass as key_columns the columns of the primary key, or of a unique index.';
  end if;

  -- The key is always sent, even if its columns are omitted from the rows.
  narrower := warden.narrower_than_organization(
    watch.relation, array(select unnest(watch.omit_columns) except select unnest(watch.key_columns)), org_column);
  if visibility is null and narrower is not null then
    raise exception 'warden.watch: clients would receive more of % than they may SELECT: %', watch.relation, narrower
      using errcode = '42501',
            hint = pg_catalog.format(
              'Decide who receives it. visibility => ''organisation'': every member of the organisation, on purpose. '
              'visibility => ''claim'': only tokens whose claim app_metadata.warden_topics names "%s".', topic);
  end if;

  perform warden.declare_topic(topic);
  if entity_topic is not null then
    perform warden.declare_entity_topic(entity_topic, entity_id_type);
  end if;
  -- An insert that meets a conflict would take an id.
  if not exists (select from warden.watches t where t.relation = watch.relation) then
    insert into warden.watches (relation, topic, event_prefix, key_columns, omit_columns, org_column)
    values (watch.relation, watch.topic, watch.event_prefix, watch.key_columns, '{}', watch.org_column);
    -- A restore without data leaves log functions behind whose watches, and the last id, are lost.
    while pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || (
            select t.id from warden.watches t where t.relation = watch.relation))) is not null loop
      update warden.watches t set id = default where t.relation = watch.relation;
    end loop;
  end if;
  update warden.watches t
  set (topic, event_prefix, key_columns, omit_columns, org_column, entity_topic, entity_topic_column, visibility,
       as_text, replicated, filter_columns)
    = (watch.topic, watch.event_prefix, watch.key_columns, watch.omit_columns, watch.org_column, watch.entity_topic,
       watch.entity_topic_column, watch.visibility, watch.as_text, watch.replicated, watch.filter_columns)
  where t.relation = watch.relation
  returning * into w;
  trigger_words := warden.trigger_words();
  perform warden.install_watch(w, trigger_words);
  -- The triggers of other watched tables may write to this one.
  begin
    perform warden.add_order_triggers(trigger_words);
  exception when insufficient_privilege then
    raise notice 'warden.watch: the events of other watched tables may come in the wrong order: %', sqlerrm
      using hint = 'Run "warden migrate", or "warden audit", which names the tables.';
  end;
  if not replicated and warden.is_subscribed(watch.relation) then
    raise notice 'warden.watch: rows that logical replication applies to % emit no events', watch.relation
      using hint = 'If they should, pass replicated => true.';
  end if;

  if org_column = 'org_id' then
    perform warden.guard_org_id(watch.relation);
  end if;
end
$$;

-- Watches the organisations, so that gateways learn that one was created or deleted. If clients may not SELECT all of
-- their organisation's row, its events contain the id alone, which each client knows from its token.
create or replace function warden.watch_organizations() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  former warden.watches := (select w from warden.watches w where w.relation = 'public.organizations'::regclass);
  omitted text[] := coalesce(former.omit_columns, '{}');
  visibility text := former.visibility;
begin
  if visibility is null and warden.narrower_than_organization('public.organizations', omitted, 'id') is not null then
    visibility := 'organisation';
    omitted := array(select a.attname::text from pg_catalog.pg_attribute a
                     where a.attrelid = 'public.organizations'::regclass and a.attnum > 0 and not a.attisdropped
                       and a.attname <> 'id' order by a.attnum);
  end if;
  perform warden.watch('public.organizations', 'org', 'org', omit_columns => omitted, org_column => 'id',
                       visibility => visibility);
end
$$;

-- Stops watching a table. Its topics, and the immutability of its org_id, remain.
create or replace function warden.unwatch(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  watch bigint;
  other warden.watches;
begin
  delete from warden.watches w where w.relation = unwatch.relation returning w.id into watch;
  if watch is not null then
    perform warden.drop_order_triggers(unwatch.relation, watch);
    -- With its triggers.
    execute pg_catalog.format('drop function if exists warden.%I() cascade', 'log ' || watch);
    -- Watched tables that were part of this one, or have a child in common with it.
    for other in
      select w.* from warden.watches w
      where exists (select from warden.members_without_trigger(w.relation, 'warden_log_insert') m
                    where m in (select warden.tree(unwatch.relation)))
      order by w.id
    loop
      perform warden.restore_watch(other);
    end loop;
  end if;
end
$$;

-- Gives a watched table its log triggers again, after those of another watch were dropped.
create or replace function warden.restore_watch(w warden.watches) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  w := warden.current_watch(w);
  if w.key_columns is not null and w.org_column is not null and w.omit_columns is not null then
    perform warden.install_watch(w);
    perform warden.resync_watches(array[w.id]);
  end if;
end
$$;

-- Gives new partitions and children of a watched table its triggers. If one has rows already, these appear in the table
-- without an event, so the topic resyncs.
create or replace function warden.add_watched_members(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  w warden.watches := (select t from warden.watches t where t.relation = add_watched_members.relation);
  missing constant regclass[] := array(
    select m from pg_catalog.pg_trigger g, warden.members_without_trigger(add_watched_members.relation, g.tgname) m
    where g.tgrelid = add_watched_members.relation and g.tgname like 'warden\_log\_%' and warden.watch_of(m) = w.id
    union
    select warden.members_of_others(w));
begin
  if missing = '{}' then
    return;
  end if;
  w := warden.current_watch(w);
  if w.key_columns is null or w.org_column is null or w.omit_columns is null then
    return;
  end if;
  perform warden.install_watch(w);
  if exists (select from unnest(missing) m where pg_catalog.pg_relation_size(m) > 0) then
    insert into warden.events (topic, event, data) values (w.topic, 'warden.resync', '{"reason": "changed"}');
  end if;
end
$$;

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
    where g.tgname like 'warden\_log\_%' and not g.tgisinternal
      and not exists (select from warden.watches w cross join lateral warden.tree(w.relation) t (oid)
                      where t.oid = g.tgrelid)
      and not exists (select from pg_catalog.pg_inherits i
                      join pg_catalog.pg_trigger p on p.tgrelid = i.inhparent and p.tgname = g.tgname
                      where i.inhrelid = g.tgrelid)
    group by c.oid, n.nspname, c.relname) o
$$;

-- Whether a watch can log exactly what happens: its columns identify a row and have types that it can use, no other
-- watch has the triggers of a part of its table, and no statement on a parent bypasses them.
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
    and not exists (select from pg_catalog.pg_inherits i where i.inhrelid = w.relation)
    and not exists (
      select from warden.tree(w.relation) m (oid)
      join pg_catalog.pg_trigger g on g.tgrelid = m.oid and g.tgname = 'warden_log_insert'
      where g.tgfoid is distinct from pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || w.id)));
end
$$;

-- The watched tables that no longer fit their watch: dropped tables, changed columns, partitions that were attached or
-- detached since the log function was generated, and watches that cannot be exact. Gateways call it once a minute, and
-- warn.
create or replace function warden.unfit_watches() returns setof text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select case when c.oid is null then pg_catalog.format('a dropped table (topic %s)', w.topic)
              else pg_catalog.format('%I.%I', n.nspname, c.relname) end
  from warden.watches w
  left join pg_catalog.pg_class c on c.oid = w.relation
  left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  cross join lateral (select pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || w.id)) as fn) f
  where c.oid is null or f.fn is null
     or w.relation_id is distinct from c.oid
     or w.shape is distinct from warden.shape(warden.relations_of_document(w.relation))
     or not warden.is_exact_watch(w)
     or exists (select from warden.members_without_trigger(w.relation, 'warden_log_insert'))
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
