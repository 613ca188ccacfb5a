-- What a gateway needs to read the rows of a watched table on behalf of a user: the table of a topic, the columns that
-- the user may see, and the expression of their document.
set local lock_timeout = '5s';
set local statement_timeout = '5min';

-- The gateway reads rows as `authenticated`, with the claims of the caller's token. It must be able to become that role
-- for one transaction, and must not have its rights otherwise.
do $do$
declare
  version constant int := current_setting('server_version_num')::int;
begin
  if not pg_has_role('warden_gateway', 'authenticated', case when version >= 160000 then 'set' else 'member' end) then
    if version < 160000 and (select rolinherit from pg_roles where rolname = 'warden_gateway') then
      raise notice 'GET /v1/<topic> is not available: warden_gateway would inherit the rights of authenticated'
        using hint = 'As a superuser: alter role warden_gateway noinherit; grant authenticated to warden_gateway;';
    else
      execute 'grant authenticated to warden_gateway'
              || case when version >= 160000 then ' with inherit false, set true' else '' end;
    end if;
  end if;
exception
  -- A concurrent migration of another database in this cluster may grant it first.
  when unique_violation or internal_error then null;
  when insufficient_privilege then
    raise notice 'GET /v1/<topic> is not available: % may not grant the role authenticated', current_user
      using hint = 'As a superuser: grant authenticated to warden_gateway;';
end
$do$;

set local role warden_owner;

-- Documents of some types call functions of this schema.
grant usage on schema warden to authenticated;

-- How a collation compares strings: `bytes` if as COLLATE "C" does, `deterministic` if only equal bytes are equal, else
-- `nondeterministic`. Null if there is no collation.
create or replace function warden.collation_kind(id oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    when not c.collisdeterministic then 'nondeterministic'
    when c.oid = 'pg_catalog."default"'::regcollation then (
      -- The provider is unknown before version 15, which has that of the C library only.
      select case when coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') = 'c'
                       and d.datcollate in ('C', 'POSIX') then 'bytes' else 'deterministic' end
      from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())
    when c.collprovider = 'c' and c.collcollate in ('C', 'POSIX') then 'bytes'
    else 'deterministic'
  end
  from pg_catalog.pg_collation c where c.oid = id
$$;

-- Numbers of the columns of a table that may be null although they are NOT NULL: since PostgreSQL 18, the constraint
-- may be not valid. Existing rows may then lack a value.
create or replace function warden.unvalidated_columns(relation oid) returns int2[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select unnest(k.conkey) from pg_catalog.pg_constraint k
               where k.conrelid = relation and k.contype = 'n' and not k.convalidated order by 1)
$$;

-- What GET /v1/<topic> may read, as JSON; null if no table is watched with this topic. `columns` selects some columns;
-- others are left out of the document. A larger document than `bytes_max` is null, and the row's key is sent instead.
--
--   relation      the table, quoted
--   org_column    its column of the organisation, quoted
--   key           the columns that identify a row, with their types
--   columns       the visible columns: those that are not omitted, and that `authenticated` may SELECT
--   entity        the entity topic of the table's events: its kind, and the column with the id. The column is null if
--                 events do not contain it. Null if there is no entity topic
--   document, key_document   SQL expressions about the row `n`
--   partial_document   the same for the document without the columns whose values jsonb cannot represent
--   position_conditions   SQL conditions about the row `n` by column: the value is null, or short enough for the
--                 position of a page. They are there for the columns that can be ordered and have values of any length
--   problem       why rows cannot be read
--
-- Columns have these fields: `name`, `type`, `is_ordered` (whether values can be compared), `is_text` (whether `like`
-- applies), `is_boolean`, `is_enum`, `is_nullable`, `is_virtual` (a virtual generated column, whose expression may
-- fail), `collation` (as warden.collation_kind() returns it).
create or replace function warden.reading(topic text, columns text[], bytes_max int) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $fn$
declare
  role constant oid := 'authenticated'::regrole;
  watches constant warden.watches[] := array(
    select w from warden.watches w join pg_catalog.pg_class c on c.oid = w.relation where w.topic = reading.topic);
  w warden.watches;
  selected warden.watches;
  described jsonb;
  entity jsonb;
  hidden text[];
  problem text;
begin
  if watches = '{}' then
    return null;
  end if;
  w := warden.current_watch(watches[1]);
  if cardinality(watches) > 1 then
    problem := pg_catalog.format('%s tables are watched with this topic', cardinality(watches));
  elsif w.key_columns is null or w.org_column is null or w.omit_columns is null then
    problem := 'the table no longer has the columns that it is watched with';
  elsif warden.watch_of(w.relation) <> w.id then
    problem := 'the table became part of another watched table, whose topic has its events';
  elsif not pg_catalog.has_schema_privilege(role, (select c.relnamespace from pg_catalog.pg_class c
                                                   where c.oid = w.relation), 'usage') then
    problem := 'role authenticated may not use the schema of the table';
  end if;
  if problem is not null then
    return pg_catalog.jsonb_build_object('problem', problem);
  end if;
  select pg_catalog.jsonb_object_agg(c.name, pg_catalog.jsonb_build_object(
           'name', c.name, 'type', pg_catalog.format_type(t.oid, -1), 'is_nullable',
           not a.attnotnull or a.attnum = any (warden.unvalidated_columns(a.attrelid)),
           'is_text', t.typcategory = 'S', 'is_boolean', t.oid = 'boolean'::regtype,
           'is_enum', t.typtype = 'e', 'is_virtual', a.attgenerated = 'v',
           'collation', warden.collation_kind(a.attcollation),
           'is_ordered', t.typtype = 'e' or t.oid = 'varchar'::regtype or exists (
             select from pg_catalog.pg_opclass o join pg_catalog.pg_am m on m.oid = o.opcmethod
             where m.amname = 'btree' and o.opcdefault and o.opcintype = t.oid))),
         array_agg(c.name::text) filter (
           where not pg_catalog.has_column_privilege(role, w.relation, c.number::int2, 'select'))
    into described, hidden
  from warden.columns_of(w.relation) c
  join pg_catalog.pg_attribute a on a.attrelid = w.relation and a.attnum = c.number
  join pg_catalog.pg_type t on t.oid = warden.base_type(c.type);
  if hidden && (w.key_columns || w.org_column::text) then
    return pg_catalog.jsonb_build_object('problem', 'role authenticated may not SELECT the columns of the key');
  end if;
  if w.entity_topic is not null then
    entity := pg_catalog.jsonb_build_object('kind', w.entity_topic, 'column',
      case when w.entity_topic_column::text <> all (w.omit_columns) or w.entity_topic_column::text = any (w.key_columns)
           then w.entity_topic_column end);
  end if;
  w.omit_columns := w.omit_columns || hidden;
  selected := w;
  if columns is not null then
    selected.omit_columns := w.omit_columns || array(
      select c.name::text from warden.columns_of(w.relation) c where c.name::text <> all (columns));
  end if;
  return (
    select pg_catalog.jsonb_build_object(
      'relation', pg_catalog.format('%I.%I', n.nspname, c.relname),
      'org_column', pg_catalog.quote_ident(w.org_column),
      'key', (select pg_catalog.jsonb_agg(described -> k.name order by k.n)
              from unnest(w.key_columns) with ordinality k (name, n)),
      'columns', (select coalesce(pg_catalog.jsonb_agg(described -> v.name::text order by v.number), '[]')
                  from warden.columns_of(w.relation) v where v.name::text <> all (w.omit_columns)),
      'entity', entity,
      'key_document', warden.key_expression(w, 'n'),
      'partial_document', warden.partial_document_expression(selected, 'n', bytes_max),
      'position_conditions', (
        -- A value of so few bytes is short when it is decompressed. So it may be, before its text is measured.
        select coalesce(pg_catalog.jsonb_object_agg(v.name, pg_catalog.format(
                 '(%1$s is not distinct from null or pg_catalog.pg_column_size(%1$s) <= 8192 and %2$s '
                 'and pg_catalog.octet_length(pg_catalog.concat(%1$s)) <= 8192)',
                 a.value, coalesce(warden.value_condition(a.value, v.type), 'true'))), '{}')
        from warden.columns_of(w.relation) v
        join pg_catalog.pg_type t on t.oid = warden.base_type(v.type) and t.typlen < 0
        cross join lateral (select pg_catalog.format('n.%I', v.name) as value) a
        where v.name::text <> all (w.omit_columns) and (described -> v.name::text ->> 'is_ordered')::boolean),
      'document', coalesce(warden.document_expression(selected, 'n', bytes_max), 'null::pg_catalog.jsonb'))
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = w.relation);
end
$fn$;
-- What warden.reading() depends on, as text: it changes if the watch, the table, its columns or rights change. Gateways
-- keep the result of warden.reading() for as long as this is the same.
create or replace function warden.reading_version(topic text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select string_agg(pg_catalog.concat_ws(' ', w.id, w.xmin, c.oid, pg_catalog.md5(pg_catalog.concat_ws(' ',
           n.nspname, n.nspacl, c.relname, c.relowner, c.relacl, c.relhassubclass,
           warden.unvalidated_columns(c.oid), (
             select string_agg(pg_catalog.concat_ws(' ', a.attnum, a.attname, a.atttypid, a.attcollation,
                                                     a.attnotnull, a.attacl), ','
                               order by a.attnum)
             from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)))),
           ',' order by w.id)
  from warden.watches w
  join pg_catalog.pg_class c on c.oid = w.relation
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  where w.topic = reading_version.topic
$$;

grant execute on function warden.reading(text, text[], int), warden.reading_version(text) to warden_gateway;

reset role;
