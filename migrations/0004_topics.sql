-- The topics that clients may join, and the tables whose changes become events.
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

-- Whether GET /v1/<name> is a route of the gateway for another purpose, or will be. No topic may have such a name,
-- because the rows of a watched table are read at GET /v1/<topic>.
create or replace function warden.is_reserved_topic(name text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select name in ('covers', 'events', 'openapi', 'revocations')
$$;

create or replace function warden.declare_topic(name text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if (name ~ '^[a-z][a-z0-9_]{0,62}$') is not true then
    raise exception 'warden.declare_topic: topic "%" is not valid', name
      using errcode = '22023', hint = 'Use up to 63 lower-case letters, digits and _, starting with a letter.';
  end if;
  if warden.is_reserved_topic(name) then
    raise exception 'warden.declare_topic: the topic "%" is reserved: the gateway has a route /v1/%', name, name
      using errcode = '22023', hint = 'Choose another name, such as the name of the table.';
  end if;
  insert into warden.topics values (declare_topic.name) on conflict do nothing;
end
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
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  declared text;
begin
  if (kind ~ '^[a-z][a-z0-9_]{0,62}$' and kind <> 'org') is not true then
    raise exception 'warden.declare_entity_topic: kind "%" is not valid', kind
      using errcode = '22023',
            hint = 'Use up to 63 lower-case letters, digits and _, starting with a letter; not org.';
  end if;
  if (id_type in ('uuid', 'integer', 'text')) is not true then
    raise exception 'warden.declare_entity_topic: ids of type "%" are not supported', id_type
      using errcode = '22023', hint = 'Pass uuid, integer (also for bigint) or text.';
  end if;
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
language sql immutable set search_path = pg_catalog, pg_temp as $$
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
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
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
  -- Columns that identify a row within its organisation.
  key_columns   text[] not null,
  omit_columns  text[] not null,
  org_column    name   not null,
  -- Kind of the entity topic that the table's events reach, and the column with the entity's id.
  entity_topic        text references warden.entity_topics,
  entity_topic_column name,
  -- Who may receive the events: null if all members of the organisation may SELECT what they show, 'organisation' if
  -- the operator shows it to all of them on purpose, 'claim' if only tokens that name the topic receive it.
  visibility    text constraint watches_visibility check (visibility in ('organisation', 'claim')),
  -- Columns that events send as strings.
  as_text       text[] not null default '{}',
  -- Whether rows that logical replication applies emit events.
  replicated    boolean not null default false,
  -- Columns that the events of rows that are too large keep.
  filter_columns text[] not null default '{}',
  -- Names the log function. No name of a table does, because tables are renamed.
  id            bigint generated always as identity,
  -- The oid of `relation`, and the numbers of the columns above by name, when the log function was generated. A renamed
  -- column keeps its number. In a restored dump, `relation` has another oid, and only names hold.
  relation_id    oid,
  column_numbers jsonb not null default '{}',
  -- The names of all columns then, in their order, which a dump keeps.
  column_list    text[],
  -- What warden.shape() of the table was then.
  shape          text,
  -- What warden.document_shape() was then, and the labels of all enums in documents. If they change, the rows have
  -- other documents than clients know.
  document_shape text,
  enum_labels    jsonb,
  -- The table with its partitions and children then. The rows of one that was dropped have gone.
  members        oid[],
  constraint watches_entity_topic check ((entity_topic is null) = (entity_topic_column is null))
);
-- The table of the former version lacks these columns.
alter table warden.watches add column if not exists
  visibility text constraint watches_visibility check (visibility in ('organisation', 'claim'));
alter table warden.watches
  add column if not exists as_text text[] not null default '{}',
  add column if not exists replicated boolean not null default false,
  add column if not exists filter_columns text[] not null default '{}';
-- The table has one row per watched table.
-- squawk-ignore adding-field-with-default
alter table warden.watches add column if not exists id bigint generated always as identity;
alter table warden.watches
  add column if not exists relation_id oid,
  add column if not exists column_numbers jsonb not null default '{}',
  add column if not exists column_list text[],
  add column if not exists shape text,
  add column if not exists document_shape text,
  add column if not exists enum_labels jsonb,
  add column if not exists members oid[];
-- In the former version, one column identified a row.
do $$
begin
  if exists (select from pg_attribute where attrelid = 'warden.watches'::regclass and attname = 'entity_column') then
    alter table warden.watches add column key_columns text[];
    update warden.watches set key_columns = array[entity_column];
    -- The table has one row per watched table. Only functions of later files read the former column.
    execute 'alter table warden.watches alter column key_columns set not null, drop column entity_column';
  end if;
end
$$;
-- Gateways also load which topics need a claim.
create or replace trigger topics_changed after insert or update or delete or truncate on warden.watches
  for each statement execute function warden.topics_changed();

grant select on warden.topics, warden.entity_topics to warden_gateway;
grant select (topic, entity_topic, visibility) on warden.watches to warden_gateway;

reset role;
