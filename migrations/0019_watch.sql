-- Watched tables: warden.watch() and warden.unwatch().
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Watches a table: every committed insert, update and delete of a row becomes an event <event_prefix>.created, .updated
-- or .deleted. The event reaches the topics <topic> and org, and the entity topic <entity_topic>:<id> if there is one.
--   entity_column        identifies the row: a uuid, integer or text column that is unique by itself and not null
--   omit_columns         columns that never leave the database
--   org_column           the organisation; a row without one emits no event
--   entity_topic         kind of the entity whose topic the events reach, e.g. 'invoice' for invoice:<id>
--   entity_topic_column  column with that entity's id: uuid, integer or text. By default entity_column, because the row
--                        is the entity; for invoice lines, for example, 'invoice_id'. A row without an id, or with a
--                        string that warden.is_entity_id() rejects, reaches no entity topic.
--   visibility           who may receive the events if `authenticated` may SELECT less than they show:
--                        'organisation' (all members, on purpose), or 'claim' (only tokens whose claim
--                        app_metadata.warden_topics names the topic). Without it such a table is an error.
--   as_text              columns that events send as strings. JavaScript reads JSON numbers as doubles, which are exact
--                        up to 2^53 only: pass bigint and numeric columns that may exceed it.
-- The caller must own the table and be a member of warden_owner. Call it again to change an argument. Triggers of a
-- partitioned table do not fire for a statement on a partition, so each partition gets its own triggers. A new
-- partition gets them from the event trigger of 0015_partitions.sql, or from warden.protect_members().
-- Former versions had fewer arguments. No client of the database calls it: operators do.
-- squawk-ignore ban-drop-function
drop function if exists warden.watch(regclass, text, text, name, text[], name, text, name);
-- squawk-ignore ban-drop-function
drop function if exists warden.watch(regclass, text, text, name, text[], name, text, name, text);
create or replace function warden.watch(
  relation regclass, topic text, event_prefix text,
  entity_column name default 'id', omit_columns text[] default '{}', org_column name default 'org_id',
  entity_topic text default null, entity_topic_column name default null, visibility text default null,
  as_text text[] default '{}'
) returns void
language plpgsql set search_path = '' as $$
declare
  w warden.watches;
  fn text;
  part regclass;
  col record;
  entity_id_type text;
  narrower text;
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
  if entity_topic is null and entity_topic_column is not null then
    raise exception 'warden.watch: entity_topic_column "%" is given without an entity_topic', entity_topic_column
      using hint = 'Also pass the kind of entity, e.g. entity_topic => ''invoice'' for topics invoice:<id>.';
  end if;
  if entity_topic !~ '^[a-z][a-z0-9_]{0,62}$' or entity_topic = 'org' then
    raise exception 'warden.watch: entity topic "%" is not valid', entity_topic
      using hint = 'Use lower-case letters, digits and _, starting with a letter; not org.';
  end if;
  if entity_topic is not null and entity_topic_column is null then
    entity_topic_column := entity_column;
  end if;
  for col in
    select c.name, c.use, a.atttypid::regtype as type, a.attname is null as missing
    from (values (entity_column, 'entity_column'), (org_column, 'org_column'),
                 (entity_topic_column, 'entity_topic_column')) c(name, use)
    left join pg_catalog.pg_attribute a
      on a.attrelid = watch.relation and a.attname = c.name and a.attnum > 0 and not a.attisdropped
    where c.name is not null
  loop
    if col.missing then
      raise exception 'warden.watch: % has no column "%" (given as %)', watch.relation, col.name, col.use;
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
          union all select u, 'as_text' from unnest(as_text) u) o (name, use)
    where not exists (select from pg_catalog.pg_attribute a where a.attrelid = watch.relation
                        and a.attname = o.name and a.attnum > 0 and not a.attisdropped)
  loop
    raise exception 'warden.watch: % has no column "%" (given in %)', watch.relation, col.name, col.use;
  end loop;
  -- Every update pairs old and new rows by the entity column. So it must be unique, not null, and comparable without a
  -- search_path; otherwise writes of the application would fail.
  if not exists (
    select from pg_catalog.pg_index i join pg_catalog.pg_attribute a
      on a.attrelid = i.indrelid and a.attnum = any (i.indkey) and a.attname = entity_column
    where i.indrelid = watch.relation and i.indisunique and i.indisvalid and i.indpred is null and a.attnotnull
      -- A unique index of a partitioned table also contains the partition key.
      and (i.indnkeyatts = 1 or (select relkind from pg_catalog.pg_class where oid = watch.relation) = 'p')
  ) then
    raise exception 'warden.watch: column "%" of % is not unique by itself, or may be null',
        entity_column, watch.relation
      using hint = 'The entity column identifies a row: pass a primary key of one column.';
  end if;
  if warden.entity_id_type((select a.atttypid from pg_catalog.pg_attribute a
                            where a.attrelid = watch.relation and a.attname = entity_column)) is null then
    raise exception 'warden.watch: column "%" of % is neither a uuid, an integer nor text',
      entity_column, watch.relation;
  end if;

  -- The entity column is always sent, even if it is omitted from the rows.
  narrower := warden.narrower_than_organization(
    watch.relation, array_remove(watch.omit_columns, entity_column::text), org_column);
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
  w := row(watch.relation, watch.topic, watch.event_prefix, watch.entity_column, watch.omit_columns,
           watch.org_column, watch.entity_topic, watch.entity_topic_column, watch.visibility, watch.as_text);
  insert into warden.watches values (w.*)
  on conflict on constraint watches_pkey do update
    set (topic, event_prefix, entity_column, omit_columns, org_column, entity_topic, entity_topic_column, visibility,
         as_text)
      = (excluded.topic, excluded.event_prefix, excluded.entity_column, excluded.omit_columns,
         excluded.org_column, excluded.entity_topic, excluded.entity_topic_column, excluded.visibility,
         excluded.as_text);
  fn := warden.watch_function(w);

  for part in
    with recursive tree as (
      select watch.relation::oid as oid
      union all
      select i.inhrelid from pg_catalog.pg_inherits i join tree t on i.inhparent = t.oid
    )
    select t.oid from tree t join pg_catalog.pg_class c on c.oid = t.oid where c.relkind in ('r', 'p')
  loop
    perform warden.create_log_triggers(part, fn);
  end loop;

  if org_column = 'org_id' then
    perform warden.guard_org_id(watch.relation);
  end if;
end
$$;

-- Watches the organisations, so that gateways learn that one was created or deleted. If clients may not SELECT all of
-- their organisation's row, its events contain the id alone, which each client knows from its token.
create or replace function warden.watch_organizations() returns void
language plpgsql set search_path = '' as $$
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
language plpgsql set search_path = '' as $$
declare
  fn oid;
  trig record;
begin
  for trig in
    with recursive tree as (
      select unwatch.relation::oid as oid
      union all
      select i.inhrelid from pg_catalog.pg_inherits i join tree t on i.inhparent = t.oid
    )
    select g.tgname, g.tgrelid::regclass as rel, g.tgfoid
    from pg_catalog.pg_trigger g join tree t on g.tgrelid = t.oid
    where g.tgname in ('warden_log_insert', 'warden_log_update', 'warden_log_delete', 'warden_log_truncate')
  loop
    execute pg_catalog.format('drop trigger %I on %s', trig.tgname, trig.rel);
    fn := trig.tgfoid;
  end loop;
  if fn is not null then
    execute pg_catalog.format('drop function %s', fn::regprocedure);
  end if;
  delete from warden.watches w where w.relation = unwatch.relation;
end
$$;

-- The trigger functions of watched tables may stem from an earlier version.
do $$
declare
  w warden.watches;
begin
  for w in select t.* from warden.watches t join pg_class c on c.oid = t.relation loop
    perform warden.watch_function(w);
  end loop;
end
$$;
reset role;

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
