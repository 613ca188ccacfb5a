-- What the events of watched tables contain: SQL expressions, which the log functions are built from.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

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

-- An SQL expression for the document of the row with this alias in a trigger function: null if the row is too large.
-- The row's size is checked first, because to_jsonb fails above 256 MB, and a compressed column of a few megabytes can
-- expand to that. (The row is written n.*, because n alone is a column if the table has one of that name.)
create or replace function warden.document_expression(w warden.watches, alias text) returns text
language plpgsql stable set search_path = '' as $fn$
declare
  -- A row larger than this is not converted into a document at all.
  row_bytes_max constant int := 1048576;
begin
  return pg_catalog.format(
    'case when pg_catalog.pg_column_size(%1$s.*) <= %3$s then pg_catalog.to_jsonb(%1$s.*) - %2$L::text[] end',
    alias, w.omit_columns, row_bytes_max);
end
$fn$;

-- An SQL condition: this document may be sent. The document is checked without omitted columns, as jsonb and as text:
-- in jsonb a number may take a thousandth of its digits.
create or replace function warden.document_fits_expression(document text) returns text
language plpgsql immutable set search_path = '' as $fn$
declare
  -- If the document is larger than this, only the entity column is logged.
  event_bytes_max constant int := 65536;
begin
  return pg_catalog.format(
    '(%1$s is not null and pg_catalog.pg_column_size(%1$s) <= %2$s and pg_catalog.octet_length(%1$s::text) <= %2$s)',
    document, event_bytes_max);
end
$fn$;

reset role;
