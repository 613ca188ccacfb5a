-- Watched tables: their changes become events. Also the topics that clients may join.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Topics that a socket may join by name. warden.watch() adds the topics of watched tables. warden.declare_topic() adds
-- others, before anything is published to them.
create table if not exists warden.topics (
  name text primary key,
  -- No topic names an organisation: a socket's organisation comes from its token only.
  constraint topics_name check (name ~ '^[a-z][a-z0-9_]{0,62}$')
);
-- All events of the organisation.
do $$
begin
  -- An insert without a row would still notify the gateways, and take a number of the log in a plan.
  if not exists (select from warden.topics where name = 'org') then
    insert into warden.topics values ('org');
  end if;
end
$$;

create or replace function warden.declare_topic(name text) returns void
language sql set search_path = '' as $$
  insert into warden.topics values (declare_topic.name) on conflict do nothing
$$;

-- Kinds of entities that have topics of their own: with the kind `call`, a socket may join call:<uuid>. warden.watch()
-- adds the kinds of watched tables. warden.declare_entity_topic() adds others, before anything is published to them.
create table if not exists warden.entity_topics (
  kind    text primary key,
  -- Type of the ids. Each id has one spelling; see warden.is_entity_id().
  id_type text not null,
  constraint entity_topics_kind check (kind ~ '^[a-z][a-z0-9_]{0,62}$' and kind <> 'org'),
  constraint entity_topics_id_type check (id_type in ('uuid', 'integer', 'text'))
);

-- Declares a kind of entities. Repeating the call has no effect. Another id type is an error.
create or replace function warden.declare_entity_topic(kind text, id_type text) returns void
language plpgsql set search_path = '' as $$
declare
  declared text;
begin
  insert into warden.entity_topics values (declare_entity_topic.kind, declare_entity_topic.id_type)
  on conflict do nothing;
  select t.id_type into declared from warden.entity_topics t where t.kind = declare_entity_topic.kind;
  if declared <> declare_entity_topic.id_type then
    raise exception 'ids of the entity topic "%" are of type %, not %',
        declare_entity_topic.kind, declared, declare_entity_topic.id_type
      using errcode = '22023', hint = 'Choose another kind: clients of this one rely on the spelling of its ids.';
  end if;
end
$$;

-- Whether an id has the one spelling of its type: a uuid or an integer as PostgreSQL prints it, or 1 to 64 ASCII
-- letters, digits and . _ ~ - for text. (JSON, URLs and topics reserve none of these characters.)
create or replace function warden.is_entity_id(id_type text, id text) returns boolean
language sql immutable set search_path = '' as $$
  select pg_catalog.octet_length(id) <= 64 and case id_type
    when 'uuid' then id collate "C" ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
    when 'integer' then case when id collate "C" ~ '^(0|-?[1-9][0-9]{0,18})$'
                             then id::numeric between -9223372036854775808 and 9223372036854775807 else false end
    when 'text' then id collate "C" ~ '^[A-Za-z0-9._~-]+$'
    else false
  end
$$;

-- Makes the gateways reload their in-memory copy of the topics.
create or replace function warden.topics_changed() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into warden.events (topic, event, data) values ('org', 'warden.topics', '{}');
  return null;
end
$$;
create or replace trigger topics_changed after insert or update or delete or truncate on warden.topics
  for each statement execute function warden.topics_changed();
create or replace trigger topics_changed after insert or update or delete or truncate on warden.entity_topics
  for each statement execute function warden.topics_changed();

-- Arguments of warden.watch(), one row per table.
create table if not exists warden.watches (
  relation      regclass primary key,
  topic         text   not null references warden.topics,
  event_prefix  text   not null,
  entity_column name   not null,
  omit_columns  text[] not null,
  org_column    name   not null,
  -- Kind of the entity topic that the table's events reach, and the column with the entity's id.
  entity_topic        text references warden.entity_topics,
  entity_topic_column name,
  -- Who may receive the events: null if all members of the organisation may SELECT what they show, 'organisation' if
  -- the operator shows it to all of them on purpose, 'claim' if only tokens that name the topic receive it.
  visibility    text constraint watches_visibility check (visibility in ('organisation', 'claim')),
  constraint watches_entity_topic check ((entity_topic is null) = (entity_topic_column is null))
);
-- The table of the former version lacks this column.
alter table warden.watches add column if not exists
  visibility text constraint watches_visibility check (visibility in ('organisation', 'claim'));
-- Gateways also load which topics need a claim.
create or replace trigger topics_changed after insert or update or delete or truncate on warden.watches
  for each statement execute function warden.topics_changed();

-- The id type for a column's type; null if columns of that type cannot contain ids.
create or replace function warden.entity_id_type(type regtype) returns text
language sql immutable set search_path = '' as $$
  select case
    when type = 'uuid'::regtype then 'uuid'
    when type in ('bigint'::regtype, 'integer'::regtype, 'smallint'::regtype) then 'integer'
    when type in ('text'::regtype, 'character varying'::regtype) then 'text'
  end
$$;

-- An SQL expression for the entity topic of the row with this alias in a trigger function. A string that is not a valid
-- id gives null: the event reaches no entity topic, and the write never fails. (A regular expression fails with a
-- nondeterministic collation, hence "C". octet_length() does not decompress a large value.)
create or replace function warden.entity_topic_expression(w warden.watches, alias text) returns text
language sql stable set search_path = '' as $fn$
  select case
    when w.entity_topic is null then 'null::text'
    when t.id_type = 'text' then pg_catalog.format(
      $sql$case when pg_catalog.octet_length(%1$s.%2$I) <= 64 and %1$s.%2$I collate "C" ~ '^[A-Za-z0-9._~-]+$'
           then %3$L || %1$s.%2$I end$sql$,
      alias, w.entity_topic_column, w.entity_topic || ':')
    else pg_catalog.format('%3$L || %1$s.%2$I::text', alias, w.entity_topic_column, w.entity_topic || ':')
  end
  from (values (true)) always left join warden.entity_topics t on t.kind = w.entity_topic
$fn$;

-- Creates the trigger function of a watched table. With one function per table, PostgreSQL plans each statement once,
-- and columns need no lookup. Statement triggers with transition tables cost one INSERT ... SELECT per bulk statement.
create or replace function warden.watch_function(w warden.watches) returns text
language plpgsql set search_path = '' as $fn$
declare
  relation_name text := (select pg_catalog.format('%s.%s', n.nspname, c.relname)
                         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                         where c.oid = w.relation);
  fn text := 'log ' || relation_name;
  -- If the document is larger than this, only the entity column is logged.
  event_bytes_max constant int := 65536;
  -- A row larger than this is not converted into a document at all.
  row_bytes_max constant int := 1048576;
  body text;
begin
  if pg_catalog.octet_length(fn) > 63 then
    fn := pg_catalog.left(fn, 40) || ' ' || pg_catalog.left(pg_catalog.md5(relation_name), 8);
  end if;
  -- The row's size is checked first, because to_jsonb fails above 256 MB, and a compressed column of a few megabytes
  -- can expand to that. Then the size of the document without omitted columns is checked, as jsonb and as text: in
  -- jsonb a number may take a thousandth of its digits.
  -- `offset 0` keeps the planner from computing the document once for each place that uses it.
  -- Rows are compared by their binary image (*<>), because json and a few other types have no equality.
  -- Rows are written n.* and o.*, because n alone is a column if the table has one of that name.
  body := $body$
begin
  if tg_op = 'INSERT' then
    insert into warden.events (org_id, topic, event, subject, data, truncated, needs_claim, ring)
    select n.%1$I, %2$L, %3$L, %4$s,
           case when d.fits then d.doc else pg_catalog.jsonb_build_object(%5$L, n.%5$I) end,
           not d.fits, %12$L::boolean, pg_catalog.row_number() over () = 1
    from new_rows n
    cross join lateral (select j.doc, j.doc is not null and pg_catalog.pg_column_size(j.doc) <= %7$s
             and pg_catalog.octet_length(j.doc::text) <= %7$s as fits
      from (select case when pg_catalog.pg_column_size(n.*) <= %11$s
                        then pg_catalog.to_jsonb(n.*) - %6$L::text[] end as doc offset 0) j) d
    where n.%1$I is not null;
  elsif tg_op = 'DELETE' then
    insert into warden.events (org_id, topic, event, subject, data, truncated, needs_claim, ring)
    select o.%1$I, %2$L, %9$L, %8$s,
           case when d.fits then d.doc else pg_catalog.jsonb_build_object(%5$L, o.%5$I) end,
           not d.fits, %12$L::boolean, pg_catalog.row_number() over () = 1
    from old_rows o
    cross join lateral (select j.doc, j.doc is not null and pg_catalog.pg_column_size(j.doc) <= %7$s
             and pg_catalog.octet_length(j.doc::text) <= %7$s as fits
      from (select case when pg_catalog.pg_column_size(o.*) <= %11$s
                        then pg_catalog.to_jsonb(o.*) - %6$L::text[] end as doc offset 0) j) d
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
           not d.fits, %12$L::boolean, pg_catalog.row_number() over () = 1
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
  body := pg_catalog.format(body,
    w.org_column, w.topic, w.event_prefix || '.created',
    warden.entity_topic_expression(w, 'n'),
    w.entity_column, w.omit_columns, event_bytes_max,
    warden.entity_topic_expression(w, 'o'),
    w.event_prefix || '.deleted', w.event_prefix || '.updated', row_bytes_max,
    w.visibility is not distinct from 'claim');
  execute pg_catalog.format(
    'create or replace function warden.%I() returns trigger language plpgsql security definer '
    'set search_path = '''' as %L', fn, body);
  execute pg_catalog.format('alter function warden.%I() owner to warden_owner', fn);
  perform warden.close_function(pg_catalog.format('warden.%I()', fn)::regprocedure);
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

-- Whether a policy for these roles applies to a role: it is for PUBLIC, for the role, or for one whose rights it has.
create or replace function warden.applies_to(policy_roles oid[], role oid) returns boolean
language sql stable set search_path = '' as $$
  select exists (select from unnest(policy_roles) r (oid)
                 where case when r.oid = 0 then true else pg_catalog.pg_has_role(applies_to.role, r.oid, 'usage') end)
$$;

-- Whether this database uses the role `authenticated`: the role has a right or a policy on a table that Warden did not
-- create. If not, its rights say nothing about what the application's users see. Members of the role do not matter,
-- because they belong to the whole cluster.
create or replace function warden.uses_authenticated() returns boolean
language sql stable set search_path = '' as $$
  select exists (
    select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
      and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
      and coalesce(pg_catalog.obj_description(c.oid, 'pg_class'), '') not like '%(created by Warden)'
      -- The platform's tables.
      and not exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid and p.polname = 'warden_select')
      and (exists (select from pg_catalog.aclexplode(c.relacl) a where a.grantee = 'authenticated'::regrole)
           or exists (select from pg_catalog.pg_attribute t, pg_catalog.aclexplode(t.attacl) a
                      where t.attrelid = c.oid and a.grantee = 'authenticated'::regrole)
           or exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid and p.polname not like 'warden\_%'
                        and 'authenticated'::regrole = any (p.polroles)))
  )
$$;

-- The reason why the role `authenticated` may SELECT less of a table than a watch sends: all rows of the organisation,
-- without the omitted columns. Null if it may SELECT all of that, or if the database does not use the role.
--
-- Row-level security shows all rows if one permissive policy does, and every restrictive one does. A condition shows
-- all rows of the organisation if it is `true` or Warden's own comparison with auth_org_id(). Of any other condition
-- nobody can know that in advance, so it counts as narrower.
create or replace function warden.narrower_than_organization(relation regclass, omit_columns text[], org_column name)
returns text
language plpgsql stable set search_path = '' as $$
declare
  role constant oid := 'authenticated'::regrole;
  c pg_catalog.pg_class := (select t from pg_catalog.pg_class t where t.oid = relation);
  whole text[] := array['true'] || array(
    select pg_catalog.format('(%I = ( SELECT %s() AS auth_org_id))', org_column, callee)
    from unnest(array['public.auth_org_id', 'warden.auth_org_id']) callee);
  hidden text;
begin
  if not warden.uses_authenticated() then
    return null;
  end if;
  if not pg_catalog.has_schema_privilege(role, c.relnamespace, 'usage') then
    return pg_catalog.format('role authenticated may not use schema %s', c.relnamespace::regnamespace);
  end if;
  select string_agg(pg_catalog.quote_ident(a.attname), ', ' order by a.attnum) into hidden
  from pg_catalog.pg_attribute a
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    and a.attname <> all (omit_columns)
    and not pg_catalog.has_column_privilege(role, relation, a.attnum, 'select');
  if hidden is not null then
    return pg_catalog.format('role authenticated may not SELECT the columns %s', hidden);
  end if;
  if not c.relrowsecurity
     or (select r.rolbypassrls or r.rolsuper from pg_catalog.pg_roles r where r.oid = role)
     or (not c.relforcerowsecurity and pg_catalog.pg_has_role(role, c.relowner, 'usage')) then
    return null;
  end if;
  select pg_catalog.format('the restrictive policy %I hides rows of the organisation from role authenticated',
                           p.polname)
    into hidden
  from pg_catalog.pg_policy p
  where p.polrelid = relation and not p.polpermissive and p.polname <> 'warden_org' and p.polcmd in ('r', '*')
    and warden.applies_to(p.polroles, role)
    and pg_catalog.pg_get_expr(p.polqual, p.polrelid) <> all (whole)
  order by p.polname limit 1;
  if hidden is not null then
    return hidden;
  end if;
  if not exists (
    select from pg_catalog.pg_policy p
    where p.polrelid = relation and p.polpermissive and p.polcmd in ('r', '*')
      and warden.applies_to(p.polroles, role) and pg_catalog.pg_get_expr(p.polqual, p.polrelid) = any (whole)
  ) then
    return 'no policy shows all rows of the organisation to role authenticated';
  end if;
  return null;
end
$$;

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
-- The caller must own the table and be a member of warden_owner. Call it again to change an argument. Triggers of a
-- partitioned table do not fire for a statement on a partition, so each partition gets its own triggers. A new
-- partition gets them from the event trigger of 0015_partitions.sql, or from warden.protect_members().
-- The former version had no argument visibility. No client of the database calls it: operators do.
-- squawk-ignore ban-drop-function
drop function if exists warden.watch(regclass, text, text, name, text[], name, text, name);
create or replace function warden.watch(
  relation regclass, topic text, event_prefix text,
  entity_column name default 'id', omit_columns text[] default '{}', org_column name default 'org_id',
  entity_topic text default null, entity_topic_column name default null, visibility text default null
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
    select o.name from unnest(omit_columns) o(name)
    where not exists (select from pg_catalog.pg_attribute a where a.attrelid = watch.relation
                        and a.attname = o.name and a.attnum > 0 and not a.attisdropped)
  loop
    raise exception 'warden.watch: % has no column "%" (given in omit_columns)', watch.relation, col.name;
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
           watch.org_column, watch.entity_topic, watch.entity_topic_column, watch.visibility);
  insert into warden.watches values (w.*)
  on conflict on constraint watches_pkey do update
    set (topic, event_prefix, entity_column, omit_columns, org_column, entity_topic, entity_topic_column, visibility)
      = (excluded.topic, excluded.event_prefix, excluded.entity_column, excluded.omit_columns,
         excluded.org_column, excluded.entity_topic, excluded.entity_topic_column, excluded.visibility);
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

grant select on warden.topics, warden.entity_topics to warden_gateway;
grant select (topic, entity_topic, visibility) on warden.watches to warden_gateway;

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
