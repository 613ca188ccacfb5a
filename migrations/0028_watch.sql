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

-- Makes the topics of these watches resync, unless this transaction has just done so: an ALTER TABLE may rewrite a
-- thousand partitions. The setting warden.resync_<watch> is '<stamp> <id>': the transaction, and the event.
create or replace function warden.resync_watches(watches bigint[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  stamp constant text := pg_catalog.encode(pg_catalog.timestamptz_send(pg_catalog.now()), 'hex');
  me constant xid8 := pg_catalog.pg_current_xact_id();
  w record;
  parts text[];
  last_event bigint;
begin
  for w in select min(t.id) as id, t.topic from warden.watches t where t.id = any (watches) group by t.topic order by 1 loop
    parts := pg_catalog.string_to_array(pg_catalog.current_setting('warden.resync_' || w.id, true), ' ');
    last_event := case when parts[1] = stamp then parts[2]::bigint end;
    -- `is true` keeps the planner from the index by transaction, which may have written many events.
    continue when exists (
        select from warden.events e
        where e.id = last_event and (e.xid = me) is true and e.topic = w.topic and e.event = 'warden.resync')
      and not exists (
        select from warden.events e where e.id > last_event and (e.xid = me) is true and e.topic = w.topic);
    insert into warden.events (topic, event, data) values (w.topic, 'warden.resync', '{"reason": "changed"}')
    returning id into last_event;
    perform pg_catalog.set_config('warden.resync_' || w.id, pg_catalog.concat(stamp, ' ', last_event), true);
  end loop;
end
$$;

-- Notes of which columns and labels the documents of a watch consist now. If rows have other documents than before,
-- the topic resyncs. So does that of an empty table: a replay evaluates filters on earlier events as if they had the
-- present columns. The oids of a restored table say nothing about the former documents.
create or replace function warden.follow_documents(w warden.watches) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  former constant warden.watches := (select t from warden.watches t where t.id = w.id);
  shape_now constant text := warden.document_shape(w);
  labels constant jsonb := warden.enum_labels(w);
begin
  if former.document_shape = shape_now and former.enum_labels = labels then
    return;
  end if;
  update warden.watches t set document_shape = shape_now, enum_labels = labels where t.id = w.id;
  if former.relation_id = w.relation::oid
     and (former.document_shape <> shape_now
          -- A new label is in no row yet.
          or exists (select from pg_catalog.jsonb_each(former.enum_labels) l
                     where labels ? l.key and labels -> l.key <> l.value)) then
    perform warden.resync_watches(array[w.id]);
  end if;
end
$$;

-- Notes of which members the table of a watch consists now. If some have gone, their rows have gone without an event.
create or replace function warden.follow_members(w warden.watches) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  former constant warden.watches := (select t from warden.watches t where t.id = w.id);
  present constant oid[] := array(select t::oid from warden.tree(w.relation) t order by 1);
begin
  if former.members = present then
    return;
  end if;
  update warden.watches t set members = present where t.id = w.id;
  if former.relation_id = w.relation::oid and not former.members <@ present then
    perform warden.resync_watches(array[w.id]);
  end if;
end
$$;

-- The partitions and children of a watched table that lack the trigger that keeps their org_id from changing. A
-- partitioned table that is not registered has none itself: its partitions would inherit it, and a table that was
-- watched before, and so has a trigger of that name, could not become one of them. PostgreSQL would reject ATTACH
-- PARTITION. With `repair`, also the table itself, and triggers that are disabled or call another function.
create or replace function warden.unguarded_members(w warden.watches, repair boolean default false) returns setof regclass
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if w.org_column <> 'org_id' or warden.whole(w.relation) is not null then
    return;
  end if;
  return query
    select t from warden.tree(w.relation) t join pg_catalog.pg_class c on c.oid = t
    where c.relkind = 'r' and (repair or t <> w.relation)
      and not exists (select from pg_catalog.pg_trigger g
                      where g.tgrelid = t and g.tgname = 'warden_org_id_immutable' and (not repair or warden.is_guard(g.oid)));
end
$$;

-- Creates these triggers.
create or replace function warden.guard_members(w warden.watches, repair boolean default false) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- A former version created one on the whole.
  if warden.whole(w.relation) is null and exists (
       select from pg_catalog.pg_trigger g join pg_catalog.pg_class c on c.oid = g.tgrelid
       where g.tgrelid = w.relation and c.relkind = 'p' and g.tgname = 'warden_org_id_immutable' and g.tgparentid = 0) then
    execute pg_catalog.format('drop trigger warden_org_id_immutable on %s', w.relation);
  end if;
  perform warden.create_row_trigger(
    array(select warden.unguarded_members(w, repair)), 'warden_org_id_immutable', 'update',
    'old.org_id is distinct from new.org_id', warden.callee('prevent_org_id_change'));
end
$$;

-- The members of a watch whose log triggers ask for rows although a foreign table may be written, or do not although
-- none may.
create or replace function warden.members_with_wrong_rows(w warden.watches) returns setof regclass
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  is_any_foreign constant boolean := warden.has_foreign_member(w.relation);
begin
  return query
    select t from warden.tree(w.relation) t
    join pg_catalog.pg_trigger g on g.tgrelid = t and g.tgname = 'warden_log_insert'
    where g.tgfoid = pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || w.id))
      and (g.tgnewtable is null) <> (is_any_foreign and warden.has_foreign_member(t));
end
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
  fn text;
  member regclass;
  is_nested boolean;
begin
  perform warden.follow_documents(w);
  perform warden.follow_members(w);
  w.relation_id := w.relation;
  w.column_numbers := warden.column_numbers(w);
  w.column_list := array(select c.name::text from warden.columns_of(w.relation) c);
  w.shape := warden.shape(warden.relations_of_document(w.relation));
  update warden.watches t
  set (key_columns, omit_columns, org_column, entity_topic_column, as_text, filter_columns, relation_id,
       column_numbers, column_list, shape)
    = (w.key_columns, w.omit_columns, w.org_column,
       -- If that column was dropped, the audit reports it.
       coalesce(w.entity_topic_column, t.entity_topic_column), w.as_text, w.filter_columns, w.relation_id,
       w.column_numbers, w.column_list, w.shape)
  where t.id = w.id;
  fn := warden.watch_function(w);
  is_nested := warden.has_nested_statements(w.relation, trigger_words);
  -- A watched table that became part of this one: from now on, its topic has no events of these rows.
  perform warden.resync_watches(array(
    select x.id from warden.watches x, warden.members_of_others(w) m
    join pg_catalog.pg_trigger g on g.tgrelid = m and g.tgname = 'warden_log_insert'
    where g.tgfoid = pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || x.id))));
  for member in select warden.members_of_others(w) union select warden.members_with_wrong_rows(w) loop
    perform warden.drop_order_triggers(member);
  end loop;
  for member in
    select t from warden.tree(w.relation) t join pg_catalog.pg_class c on c.oid = t
    where c.relkind in ('r', 'p')
      -- Creating a trigger waits for writers.
      and ((select count(*) from pg_catalog.pg_trigger g
            where g.tgrelid = t and g.tgname ~ '^warden_log_'
              and g.tgfoid = pg_catalog.format('warden.%I()', fn)::regprocedure) < 4
           or t in (select warden.members_with_wrong_rows(w))
           or is_nested and not warden.has_foreign_member(t)
              and not exists (select from pg_catalog.pg_trigger g
                              where g.tgrelid = t and g.tgname = 'warden_begin_insert'))
      and warden.watch_of(t) = w.id
  loop
    perform warden.create_log_triggers(member, fn, is_nested);
  end loop;
  perform warden.guard_members(w);
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

-- What is wrong with a table as a watched table, or as a part of one. Null if nothing is.
create or replace function warden.unwatchable_member(member regclass) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select case
      when c.relkind = 'f' then
        pg_catalog.format('%s is a foreign table, whose rows PostgreSQL does not give to statement triggers', member)
      when c.relpersistence = 'u' then
        pg_catalog.format('%s is unlogged: after a crash of the server it is empty, and no client would be notified', member)
      when c.relpersistence = 't' then
        pg_catalog.format('%s is temporary: other sessions do not see its rows', member) end
    from pg_catalog.pg_class c where c.oid = member);
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
--                        app_metadata.warden_topics or warden_filters names the topic). Without it such a table
--                        is an error.
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
  select t into other from warden.tree(watch.relation) t where warden.unwatchable_member(t) is not null
  order by t <> watch.relation, t::oid limit 1;
  if other is not null then
    raise exception 'warden.watch: %', warden.unwatchable_member(other)
      using errcode = '22023', hint = pg_catalog.format((
        select case
            when c.relkind = 'f' then 'Detach %s (alter table ... detach partition, or alter foreign table ... no inherit), '
                                      'and read its rows separately.'
            when c.relpersistence = 'u' then 'Make it a logged table: alter table %s set logged;'
            else 'Create a permanent table instead of %s.' end
        from pg_catalog.pg_class c where c.oid = other), other);
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
              'visibility => ''claim'': only tokens whose claim app_metadata.warden_topics or warden_filters names "%s".', topic);
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
    if warden.whole(watch.relation) is not null then
      perform warden.guard_org_id(watch.relation);
    else
      perform warden.guard_members(w, repair => true);
    end if;
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

-- Stops watching a table. Its topics remain, and so does the immutability of its org_id if the table is registered.
create or replace function warden.unwatch(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  watch bigint;
  other warden.watches;
  trig record;
begin
  delete from warden.watches w where w.relation = unwatch.relation returning w.id into watch;
  if watch is not null then
    perform warden.drop_order_triggers(unwatch.relation, watch);
    -- With its triggers.
    execute pg_catalog.format('drop function if exists warden.%I() cascade', 'log ' || watch);
    for trig in
      select g.tgname, m as relation from warden.tree(unwatch.relation) m join pg_catalog.pg_trigger g on g.tgrelid = m
      where g.tgname = 'warden_org_id_immutable' and g.tgparentid = 0
        and warden.whole(m) is null and warden.watch_of(m) is null
    loop
      execute pg_catalog.format('drop trigger %I on %s', trig.tgname, trig.relation);
    end loop;
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

-- Makes the clients of a watched table read it again, after its rows have changed without an event: while triggers were
-- disabled, or by an ALTER TABLE in a database without event triggers.
create or replace function warden.resync(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  watch constant bigint := (select w.id from warden.watches w where w.relation = resync.relation);
begin
  if watch is null then
    raise exception 'warden.resync: % is not watched', relation
      using errcode = '22023', hint = 'Pass a watched table: select relation from warden.watches;';
  end if;
  perform warden.resync_watches(array[watch]);
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
    where g.tgrelid = add_watched_members.relation and g.tgname ~ '^warden_log_' and warden.watch_of(m) = w.id
    union
    select warden.members_of_others(w)
    union
    select warden.members_with_wrong_rows(w));
begin
  if missing = '{}' and not exists (select from warden.unguarded_members(w)) then
    return;
  end if;
  w := warden.current_watch(w);
  if w.key_columns is null or w.org_column is null or w.omit_columns is null then
    return;
  end if;
  perform warden.install_watch(w);
  if exists (select from unnest(missing) m where pg_catalog.pg_relation_size(m) > 0) then
    perform warden.resync_watches(array[w.id]);
  end if;
end
$$;

reset role;
