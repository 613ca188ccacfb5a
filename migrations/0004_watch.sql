-- Watched tables: their changes become events.

set local lock_timeout = '5s';
set local statement_timeout = '5min';
-- An organisation's rows stay its own. (SQLSTATE 23514 as for a check constraint, so that clients
-- treat it as what it is: data that the schema refuses.) What has no organisation yet may get one.
create or replace function public.prevent_org_id_change() returns trigger
language plpgsql set search_path = '' as $$
begin
  if old.org_id is null then
    return new;
  end if;
  raise exception 'org_id of %.% cannot be changed (from % to %)',
      tg_table_schema, tg_table_name, old.org_id, new.org_id
    using errcode = 'check_violation',
          hint = 'Rows do not move between organisations: insert a new row in the other one.';
end
$$;

set local role warden_owner;

-- The topics that a socket may join, besides call:<uuid>. Those of watched tables are added by
-- warden.watch(), others by warden.declare_topic() before something is published to them.
create table warden.topics (
  name text primary key,
  -- No topic names an organisation: which one a socket belongs to comes from its token alone.
  constraint topics_name check (name ~ '^[a-z][a-z0-9_]{0,62}$')
);
-- Everything that happens in the organisation.
insert into warden.topics values ('org');

create function warden.declare_topic(name text) returns void
language sql set search_path = '' as $$
  insert into warden.topics values (declare_topic.name) on conflict do nothing
$$;

-- Tells the gateways, which hold the topics in memory, to read them again.
create function warden.topics_changed() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into warden.events (topic, event, data) values ('org', 'warden.topics', '{}');
  return null;
end
$$;
create trigger topics_changed after insert or update or delete or truncate on warden.topics
  for each statement execute function warden.topics_changed();

-- What warden.watch() was told, one row a table.
create table warden.watches (
  relation      regclass primary key,
  topic         text   not null references warden.topics,
  event_prefix  text   not null,
  entity_column name   not null,
  call_column   name,
  omit_columns  text[] not null,
  org_column    name   not null
);

-- A function per watched table, so that its statements are planned once and its columns are names,
-- not lookups. Statement triggers with transition tables: a bulk statement costs one insert-select.
create function warden.watch_function(w warden.watches) returns text
language plpgsql set search_path = '' as $fn$
declare
  relation_name text := (select pg_catalog.format('%s.%s', n.nspname, c.relname)
                         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                         where c.oid = w.relation);
  fn text := 'log ' || relation_name;
  -- Documents beyond this size are logged as their entity column alone.
  event_bytes_max constant int := 65536;
  -- Rows beyond this size are not even made into documents.
  row_bytes_max constant int := 1048576;
  body text;
begin
  if pg_catalog.octet_length(fn) > 63 then
    fn := pg_catalog.left(fn, 40) || ' ' || pg_catalog.left(pg_catalog.md5(relation_name), 8);
  end if;
  -- The size of the row is looked at first, because to_jsonb fails beyond 256 MB, which a compressed
  -- column of a few megabytes can unfold to; and then that of the document, without omitted
  -- columns: as jsonb, where a number may take a thousandth of its digits, and as text. `offset 0` keeps the planner from computing
  -- the document once for every place in which it is used. Rows are compared by their image
  -- (*<>), because json and a few other types have no equality. A row is n.* and o.*, because n alone
  -- would be a column of that name, where the table has one.
  body := $body$
begin
  if tg_op = 'INSERT' then
    insert into warden.events (org_id, topic, event, subject, data, truncated, ring)
    select n.%1$I, %2$L, %3$L, %4$s,
           case when d.fits then d.doc else pg_catalog.jsonb_build_object(%5$L, n.%5$I) end,
           not d.fits, pg_catalog.row_number() over () = 1
    from new_rows n
    cross join lateral (select j.doc, j.doc is not null and pg_catalog.pg_column_size(j.doc) <= %7$s
             and pg_catalog.octet_length(j.doc::text) <= %7$s as fits
      from (select case when pg_catalog.pg_column_size(n.*) <= %11$s
                        then pg_catalog.to_jsonb(n.*) - %6$L::text[] end as doc offset 0) j) d
    where n.%1$I is not null;
  elsif tg_op = 'DELETE' then
    insert into warden.events (org_id, topic, event, subject, data, truncated, ring)
    select o.%1$I, %2$L, %9$L, %8$s,
           case when d.fits then d.doc else pg_catalog.jsonb_build_object(%5$L, o.%5$I) end,
           not d.fits, pg_catalog.row_number() over () = 1
    from old_rows o
    cross join lateral (select j.doc, j.doc is not null and pg_catalog.pg_column_size(j.doc) <= %7$s
             and pg_catalog.octet_length(j.doc::text) <= %7$s as fits
      from (select case when pg_catalog.pg_column_size(o.*) <= %11$s
                        then pg_catalog.to_jsonb(o.*) - %6$L::text[] end as doc offset 0) j) d
    where o.%1$I is not null;
  elsif tg_op = 'UPDATE' then
    -- Old and new are paired by the entity within its organisation: never may one organisation be shown
    -- another's row. What changed either is a deletion and a creation.
    insert into warden.events (org_id, topic, event, subject, data, old, truncated, ring)
    select coalesce(n.%1$I, o.%1$I), %2$L,
           case when o.%5$I is null then %3$L when n.%5$I is null then %9$L else %10$L end,
           coalesce(%4$s, %8$s),
           case when d.fits then coalesce(d.new_doc, d.old_doc)
                else pg_catalog.jsonb_build_object(%5$L, coalesce(n.%5$I, o.%5$I)) end,
           case when d.fits and d.new_doc is not null and d.old_doc is not null then
             (select pg_catalog.jsonb_object_agg(e.key, e.value) from pg_catalog.jsonb_each(d.old_doc) e
              where d.new_doc -> e.key is distinct from e.value) end,
           not d.fits, pg_catalog.row_number() over () = 1
    from old_rows o full join new_rows n on n.%5$I = o.%5$I and n.%1$I = o.%1$I
    cross join lateral (
      select j.*, (n.%5$I is null or (j.new_doc is not null and pg_catalog.pg_column_size(j.new_doc) <= %7$s
                                    and pg_catalog.octet_length(j.new_doc::text) <= %7$s))
              and (o.%5$I is null or (j.old_doc is not null and pg_catalog.pg_column_size(j.old_doc) <= %7$s
                                    and pg_catalog.octet_length(j.old_doc::text) <= %7$s)) as fits
      from (select case when n.%5$I is not null and pg_catalog.pg_column_size(n.*) <= %11$s
                        then pg_catalog.to_jsonb(n.*) - %6$L::text[] end as new_doc,
                   case when o.%5$I is not null and pg_catalog.pg_column_size(o.*) <= %11$s
                        then pg_catalog.to_jsonb(o.*) - %6$L::text[] end as old_doc offset 0) j) d
    where coalesce(n.%1$I, o.%1$I) is not null
      -- An update that changes nothing that is shown emits nothing.
      and case when d.new_doc is not null and d.old_doc is not null then d.new_doc <> d.old_doc
               when n.%5$I is null or o.%5$I is null then true
               else n.* operator(pg_catalog.*<>) o.* end;
  else
    -- TRUNCATE has no rows to tell of: whoever follows the topic reads the table anew.
    insert into warden.events (topic, event, data)
    values (%2$L, 'warden.resync', '{"reason": "truncated"}');
  end if;
  return null;
end
$body$;
  body := pg_catalog.format(body,
    w.org_column, w.topic, w.event_prefix || '.created',
    case when w.call_column is null then 'null::uuid' else pg_catalog.format('n.%I', w.call_column) end,
    w.entity_column, w.omit_columns, event_bytes_max,
    case when w.call_column is null then 'null::uuid' else pg_catalog.format('o.%I', w.call_column) end,
    w.event_prefix || '.deleted', w.event_prefix || '.updated', row_bytes_max);
  execute pg_catalog.format(
    'create or replace function warden.%I() returns trigger language plpgsql security definer '
    'set search_path = '''' as %L', fn, body);
  execute pg_catalog.format('alter function warden.%I() owner to warden_owner', fn);
  execute pg_catalog.format('revoke execute on function warden.%I() from public', fn);
  return fn;
end
$fn$;

-- Whether a trigger is a guard as warden.guard_org_id() makes it, and enabled.
create function warden.is_guard(guard oid) returns boolean
language sql stable set search_path = '' as $$
  select g.tgenabled in ('O', 'A') and pg_catalog.pg_get_triggerdef(g.oid) = pg_catalog.format(
    'CREATE TRIGGER warden_org_id_immutable BEFORE UPDATE ON %s FOR EACH ROW '
    'WHEN ((old.org_id IS DISTINCT FROM new.org_id)) EXECUTE FUNCTION public.prevent_org_id_change()', g.tgrelid::regclass)
  from pg_catalog.pg_trigger g where g.oid = guard
$$;

-- Keeps a table's org_id from changing. (Row triggers, unlike statement triggers, come to the partitions
-- by themselves.) Only where something is missing does it take a lock, which blocks writers for that moment.
create function warden.guard_org_id(relation regclass) returns void
language plpgsql set search_path = '' as $$
begin
  if exists (select from pg_catalog.pg_trigger g
             where g.tgrelid = relation and g.tgname = 'warden_org_id_immutable' and warden.is_guard(g.oid)) then
    return;
  end if;
  execute pg_catalog.format('create or replace trigger warden_org_id_immutable before update on %s '
    'for each row when (old.org_id is distinct from new.org_id) '
    'execute function public.prevent_org_id_change()', relation);
  execute pg_catalog.format('alter table %s enable trigger warden_org_id_immutable', relation);
end
$$;

-- Takes the guard away again.
create function warden.unguard_org_id(relation regclass) returns void
language plpgsql set search_path = '' as $$
begin
  if exists (select from pg_catalog.pg_trigger g
             where g.tgrelid = relation and g.tgname = 'warden_org_id_immutable') then
    execute pg_catalog.format('drop trigger warden_org_id_immutable on %s', relation);
  end if;
end
$$;

-- Watches a table: every committed insert, update and delete of a row becomes an event
-- <event_prefix>.created, .updated or .deleted on <topic>, on org, and, where call_column names a
-- call, on call:<uuid>.
--   entity_column  names the row: a uuid, a whole number or a text; unique by itself, and not null
--   call_column    the uuid column that names the call, if there is one
--   omit_columns   columns that never leave the database
--   org_column     the tenant; not null once the table is org-scoped
-- Call it as a role that owns the table and is a member of warden_owner. It can be called again, to
-- change what it was told, or after partitions were added: triggers of a partitioned table do not
-- fire for a statement that names a partition, so each partition has its own.
create function warden.watch(
  relation regclass, topic text, event_prefix text,
  entity_column name default 'id', call_column name default null,
  omit_columns text[] default '{}', org_column name default 'org_id'
) returns void
language plpgsql set search_path = '' as $$
declare
  w warden.watches;
  fn text;
  part regclass;
  col record;
begin
  if (select relkind from pg_catalog.pg_class where oid = watch.relation) not in ('r', 'p') then
    raise exception 'warden.watch: % is not a table', watch.relation
      using hint = 'Views and foreign tables have no row changes to watch: name the table behind.';
  end if;
  if event_prefix !~ '^[a-z][a-z0-9_]{0,62}$' or event_prefix in ('warden', 'phx') then
    raise exception 'warden.watch: event prefix "%" is not valid', event_prefix
      using hint = 'Lower-case letters, digits and _, beginning with a letter; not warden or phx.';
  end if;
  for col in
    select c.name, c.use, a.atttypid::regtype::text as type, a.attname is null as missing
    from (values (entity_column, 'entity_column'), (call_column, 'call_column'), (org_column, 'org_column')) c(name, use)
    left join pg_catalog.pg_attribute a
      on a.attrelid = watch.relation and a.attname = c.name and a.attnum > 0 and not a.attisdropped
    where c.name is not null
  loop
    if col.missing then
      raise exception 'warden.watch: % has no column "%" (given as %)', watch.relation, col.name, col.use;
    end if;
    if col.use <> 'entity_column' and col.type <> 'uuid' then
      raise exception 'warden.watch: column "%" of % is %, and a % must be uuid',
        col.name, watch.relation, col.type, col.use;
    end if;
  end loop;
  -- A misspelt name would let out what was meant to stay.
  for col in
    select o.name from unnest(omit_columns) o(name)
    where not exists (select from pg_catalog.pg_attribute a where a.attrelid = watch.relation
                        and a.attname = o.name and a.attnum > 0 and not a.attisdropped)
  loop
    raise exception 'warden.watch: % has no column "%" (given in omit_columns)', watch.relation, col.name;
  end loop;
  -- Rows are paired by it, in every update of a writer who knows nothing of this: so it must be there,
  -- must be one, and must be comparable without a search_path.
  if not exists (
    select from pg_catalog.pg_index i join pg_catalog.pg_attribute a
      on a.attrelid = i.indrelid and a.attnum = any (i.indkey) and a.attname = entity_column
    where i.indrelid = watch.relation and i.indisunique and i.indisvalid and i.indpred is null and a.attnotnull
      -- The unique indexes of a partitioned table contain its partition key as well.
      and (i.indnkeyatts = 1 or (select relkind from pg_catalog.pg_class where oid = watch.relation) = 'p')
  ) then
    raise exception 'warden.watch: column "%" of % is not unique by itself, or may be null', entity_column, watch.relation
      using hint = 'The entity column tells rows apart: name the primary key, and have it be one column.';
  end if;
  if (select a.atttypid from pg_catalog.pg_attribute a
      where a.attrelid = watch.relation and a.attname = entity_column)
     not in ('uuid'::regtype, 'bigint'::regtype, 'integer'::regtype, 'smallint'::regtype,
             'text'::regtype, 'character varying'::regtype) then
    raise exception 'warden.watch: column "%" of % is neither a uuid, a whole number nor a text', entity_column, watch.relation;
  end if;

  perform warden.declare_topic(topic);
  w := row(watch.relation, watch.topic, watch.event_prefix, watch.entity_column, watch.call_column,
           watch.omit_columns, watch.org_column);
  insert into warden.watches values (w.*)
  on conflict on constraint watches_pkey do update
    set (topic, event_prefix, entity_column, call_column, omit_columns, org_column)
      = (excluded.topic, excluded.event_prefix, excluded.entity_column, excluded.call_column,
         excluded.omit_columns, excluded.org_column);
  fn := warden.watch_function(w);

  for part in
    with recursive tree as (
      select watch.relation::oid as oid
      union all
      select i.inhrelid from pg_catalog.pg_inherits i join tree t on i.inhparent = t.oid
    )
    select t.oid from tree t join pg_catalog.pg_class c on c.oid = t.oid where c.relkind in ('r', 'p')
  loop
    execute pg_catalog.format('create or replace trigger warden_log_insert after insert on %s '
      'referencing new table as new_rows for each statement execute function warden.%I()', part, fn);
    execute pg_catalog.format('create or replace trigger warden_log_update after update on %s '
      'referencing old table as old_rows new table as new_rows for each statement execute function warden.%I()', part, fn);
    execute pg_catalog.format('create or replace trigger warden_log_delete after delete on %s '
      'referencing old table as old_rows for each statement execute function warden.%I()', part, fn);
    execute pg_catalog.format('create or replace trigger warden_log_truncate after truncate on %s '
      'for each statement execute function warden.%I()', part, fn);
  end loop;

  if org_column = 'org_id' then
    perform warden.guard_org_id(watch.relation);
  end if;
end
$$;

-- Stops watching a table. Its topic and its immutable org_id stay.
create function warden.unwatch(relation regclass) returns void
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

grant select on warden.topics to warden_gateway;
reset role;
