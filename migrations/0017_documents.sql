-- What the events of watched tables contain: SQL expressions, from which the log functions are built.
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

-- The type below all domains.
create or replace function warden.base_type(type oid) returns oid
language sql stable set search_path = '' as $$
  with recursive t as (
    select p.oid, p.typtype, p.typbasetype from pg_catalog.pg_type p where p.oid = type
    union all
    select p.oid, p.typtype, p.typbasetype from t join pg_catalog.pg_type p on p.oid = t.typbasetype
    where t.typtype = 'd'
  )
  select t.oid from t where t.typtype <> 'd'
$$;

-- The key columns of an index; null for each expression.
create or replace function warden.index_columns(index oid) returns text[]
language sql stable set search_path = '' as $$
  select array_agg(a.attname::text order by k)
  from pg_catalog.pg_index i cross join pg_catalog.generate_series(0, i.indnkeyatts - 1) k
  left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k] and a.attnum > 0
  where i.indexrelid = index
$$;

-- The columns by which a table and its partitions are partitioned.
create or replace function warden.partition_key_columns(relation regclass) returns text[]
language sql stable set search_path = '' as $$
  select array(
    select distinct a.attname::text
    from warden.tree(relation) t (oid)
    join pg_catalog.pg_partitioned_table p on p.partrelid = t.oid
    join pg_catalog.pg_attribute a on a.attrelid = p.partrelid and a.attnum = any (p.partattrs::int2[]) and a.attnum > 0)
$$;

-- Whether columns identify a row within its organisation: they are not null, and unique by themselves or together with
-- the organisation, as in `primary key (org_id, id)`. A unique index of a partitioned table also contains the partition
-- key, so columns of that one may be left out. Columns that an index only includes are not part of its key.
-- The former version knew keys of one column only. No client of the database calls it.
-- squawk-ignore ban-drop-function
drop function if exists warden.is_key(regclass, name, name);
create or replace function warden.is_key(relation regclass, key_columns text[], org_column name) returns boolean
language sql stable set search_path = '' as $$
  select coalesce(bool_and(a.attnotnull), false) and exists (
    select from pg_catalog.pg_index i
    cross join lateral (select warden.index_columns(i.indexrelid) as names) x
    where i.indrelid = relation and i.indisunique and i.indisvalid and i.indpred is null
      and key_columns <@ x.names
      and x.names <@ (key_columns || org_column::text || warden.partition_key_columns(relation)))
  from unnest(key_columns) k (name)
  left join pg_catalog.pg_attribute a on a.attrelid = relation and a.attname = k.name and a.attnum > 0
$$;

-- The columns that identify a row unless the operator names others: the primary key without the organisation. (Alone,
-- the organisation is the key.) PostgreSQL requires the partition key in the primary key of a partitioned table, so a
-- column `id` in that one is a key by itself. Without a primary key, it is `id`.
create or replace function warden.default_key(relation regclass, org_column name) returns text[]
language sql stable set search_path = '' as $$
  select coalesce((
    select case when c.relkind = 'p' and 'id' = any (x.names) and warden.is_key(relation, '{id}', org_column) then '{id}'
                when x.names = array[org_column::text] then x.names
                else array_remove(x.names, org_column::text) end
    from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indrelid
    cross join lateral (select warden.index_columns(i.indexrelid) as names) x
    where i.indrelid = relation and i.indisprimary), '{id}')
$$;

-- Whether a column of this type can be part of a key. Rows are paired by the type's equality, which PostgreSQL itself
-- must define: a log function uses no other schema. Events also send the key of a row that they cannot send, so every
-- value must be small and have a document.
create or replace function warden.is_key_type(type oid) returns boolean
language sql stable set search_path = '' as $$
  select b.type::regtype in ('uuid', 'bigint', 'integer', 'smallint', 'text', 'varchar', 'char', 'boolean', 'numeric',
                             'date', 'timestamp', 'timestamptz', 'time', 'inet', 'oid')
      or (select t.typtype = 'e' from pg_catalog.pg_type t where t.oid = b.type)
  from (values (warden.base_type(type))) b (type)
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

-- The parts of a type that to_jsonb() converts one by one: the element of an array, the columns of a composite type.
-- Other types have none. The argument is a base type.
create or replace function warden.parts_of_type(type oid)
returns table (is_array boolean, "column" name, part oid)
language plpgsql stable set search_path = '' as $$
begin
  return query
    select true, null::name, t.typelem from pg_catalog.pg_type t
    where t.oid = type and t.typelem <> 0 and t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
    union all
    (select false, a.attname, a.atttypid
     from pg_catalog.pg_type t
     join pg_catalog.pg_attribute a on a.attrelid = t.typrelid
     where t.oid = type and a.attnum > 0 and not a.attisdropped
     order by a.attnum);
end
$$;

-- An SQL expression that gives the text of a value, as its type's own output function writes it. concat() calls that
-- function whatever casts, schemas and rights there are. (IS DISTINCT FROM, because a composite value IS NULL if all of
-- its columns are.)
create or replace function warden.text_expression(value text) returns text
language sql immutable set search_path = '' as $$
  select pg_catalog.format('case when %1$s is distinct from null then pg_catalog.concat(%1$s) end', value)
$$;

-- An SQL expression for a value of this type in a document. Null if to_jsonb() converts the value without an error.
--
-- to_jsonb() is right for PostgreSQL's own types. For a type of an extension or of the application it would call a cast
-- to json if there is one: the cast may fail, or be forbidden to the log's owner. So such a value is sent as a string,
-- written by the type's output function. It is also the form in which PostgreSQL accepts the value.
create or replace function warden.value_expression(value text, type oid) returns text
language plpgsql stable set search_path = '' as $fn$
declare
  base constant oid := warden.base_type(type);
  -- Types with lower oids belong to PostgreSQL itself.
  first_own_type constant oid := 16384;
  element oid;
  inner_expression text;
  columns text;
begin
  select p.part into element from warden.parts_of_type(base) p where p.is_array;
  if element is not null then
    inner_expression := warden.value_expression('u.e', element);
    if inner_expression is null then
      return null;
    elsif inner_expression = warden.text_expression('u.e')
          and (select t.typdelim from pg_catalog.pg_type t where t.oid = element) = ',' then
      -- This keeps all dimensions.
      return pg_catalog.format('case when %1$s is distinct from null then pg_catalog.concat(%1$s)::pg_catalog.text[] '
                               'end', value);
    end if;
    return pg_catalog.format(
      'case when pg_catalog.array_ndims(%1$s) > 1 then pg_catalog.to_jsonb(pg_catalog.concat(%1$s)) '
      'when %1$s is distinct from null then pg_catalog.to_jsonb(array(select %2$s from (select '
      'pg_catalog.unnest(%1$s) as e) u)) end', value, inner_expression);
  end if;
  if (select t.typtype from pg_catalog.pg_type t where t.oid = base) = 'c' then
    -- `offset 0` computes each expression once. Twice at each level would be exponential in the depth of the type.
    select string_agg(pg_catalog.format('%s as %I', coalesce(x.expression, x.value), x."column"), ', ' order by x.n),
           min(x.expression)
      into columns, inner_expression
    from (select p."column", p.n, v.value, warden.value_expression(v.value, p.part) as expression
          from warden.parts_of_type(base) with ordinality p (is_array, "column", part, n)
          cross join lateral (select pg_catalog.format('(%s).%I', value, p."column") as value) v offset 0) x;
    if inner_expression is null then
      return null;
    end if;
    return pg_catalog.format('case when %s is distinct from null then '
                             '(select pg_catalog.to_jsonb(r.*) from (select %s) r) end', value, columns);
  end if;
  return case when base >= first_own_type then warden.text_expression(value) end;
end
$fn$;

-- Bytes of a row's columns above which no document is built: no such document fits into an event, because the
-- columns of no type of PostgreSQL take three times their space in a document.
create or replace function warden.row_bytes_max() returns int
language sql immutable set search_path = '' as $$ select 196608 $$;

-- The former versions of these functions knew the limit of events only. No client of the database calls them.
-- squawk-ignore ban-drop-function
drop function if exists warden.size_condition(text, oid), warden.value_condition(text, oid),
                        warden.document_columns(warden.watches, text), warden.row_condition(warden.watches, text),
                        warden.document_expression(warden.watches, text);

-- An SQL condition: without compression, this value has not many more than `bytes_max` bytes. Null if that holds for
-- every value of the type. The value's stored size must be limited before, because the size of most types is only known
-- once they are decompressed.
create or replace function warden.size_condition(
  value text, type oid, bytes_max int default warden.row_bytes_max()
) returns text
language sql stable set search_path = '' as $fn$
  select case
    -- numeric is limited by its own range.
    when t.typlen > 0 or t.typstorage = 'p' or t.oid = 'numeric'::regtype then null
    -- These give their size without being decompressed.
    when t.oid in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype)
      then pg_catalog.format('pg_catalog.octet_length(%s) <= %s is not false', value, bytes_max)
    -- An array stores its elements without compression.
    when t.typarray <> 0 or t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
      then pg_catalog.format('(pg_catalog.pg_column_compression(%1$s) is null '
                             'or pg_catalog.pg_column_size(array[%1$s]) <= %2$s)', value, bytes_max)
  end
  from pg_catalog.pg_type t where t.oid = warden.base_type(type)
$fn$;

-- Whether no number in a document unfolds: as text, 1e131000 takes 10,000 times its size. Every number of a float8 is
-- short. The value must not be nested deeply.
create or replace function warden.has_short_numbers(value jsonb) returns boolean
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  return not exists (
    select from pg_catalog.jsonb_path_query(value, 'strict $.** ? (@.type() == "number")') n
    where pg_catalog.scale(n::numeric) > 400 or pg_catalog.abs(n::numeric) >= 1e400);
end
$$;
-- Gateways read rows as this role. The function computes with its argument alone.
select warden.close_function('warden.has_short_numbers(jsonb)');
grant execute on function warden.has_short_numbers(jsonb) to authenticated;

-- An SQL condition: this value can be converted into jsonb. Null if every value of the type can.
create or replace function warden.value_condition(
  value text, type oid, bytes_max int default warden.row_bytes_max()
) returns text
language plpgsql stable set search_path = '' as $fn$
declare
  base constant oid := warden.base_type(type);
  element oid;
  is_range boolean;
  inner_condition text;
begin
  -- Nested deeper than this, a value could exceed the stack of the writer. Values of so few bytes are not.
  case base
    when 'json'::regtype then
      return pg_catalog.format('warden.json_is_convertible(pg_catalog.concat(%s))', value);
    when 'jsonb'::regtype then
      -- A check costs as much as the conversion into text, so small values are not checked: in 512 bytes are at most 42
      -- numbers, which unfold to 6 MB. In 2,000 bytes, numbers may have many decimal places, but not many digits.
      return pg_catalog.format(
        'case when pg_catalog.pg_column_compression(%1$s) is not null or pg_catalog.pg_column_size(%1$s) > 2000 '
        'then not (pg_catalog.pg_column_size(array[%1$s]) > 4000 '
        'and pg_catalog.jsonb_path_exists(%1$s, ''$.**{500}'')) and warden.has_short_numbers(%1$s) '
        'when pg_catalog.pg_column_size(%1$s) > 512 '
        'then (%1$s operator(pg_catalog.@@) ''$.** >= 1e400 || $.** <= -1e400''::pg_catalog.jsonpath) is not true '
        'else true end', value);
    when 'numeric'::regtype then
      return pg_catalog.format('case when pg_catalog.scale(%1$s) > 400 then false '
                               'when pg_catalog.scale(%1$s) is not null then pg_catalog.abs(%1$s) < 1e400 '
                               'else true end', value);
    when 'tsquery'::regtype, 'jsonpath'::regtype then
      return pg_catalog.format(
        '(%1$s is null or pg_catalog.pg_column_size(%1$s) <= 8000 and pg_catalog.pg_column_compression(%1$s) is null)',
        value);
    when '"char"'::regtype then
      -- Before version 15, PostgreSQL writes a byte above 127 as it is, which is no text.
      return pg_catalog.format('(%1$s is null or %1$s::pg_catalog.int4 >= 0)', value);
    else null;
  end case;
  -- Bounds are printed as text.
  select r.rngsubtype, r.rngtypid = base into element, is_range
  from pg_catalog.pg_range r where base in (r.rngtypid, r.rngmultitypid);
  if element is not null then
    inner_condition := warden.value_condition('pg_catalog.lower(u.e)', element, bytes_max)
                       || ' and ' || warden.value_condition('pg_catalog.upper(u.e)', element, bytes_max);
    return pg_catalog.format('not exists (select from (select %s(%s) as e) u where not (%s))',
                             case when not is_range then 'pg_catalog.unnest' else '' end, value, inner_condition)
           where inner_condition is not null;
  end if;
  select p.part into element from warden.parts_of_type(base) p where p.is_array;
  if element is not null then
    inner_condition := warden.value_condition('u.e', element, bytes_max);
    return pg_catalog.format('not exists (select from (select pg_catalog.unnest(%s) as e) u where not (%s))',
                             value, inner_condition)
           where inner_condition is not null;
  end if;
  -- The columns of a composite value are compressed for themselves. `offset 0` computes each condition once.
  return (
    select string_agg(c.condition, ' and ')
    from warden.parts_of_type(base) p
    cross join lateral (select pg_catalog.format('(%s).%I', value, p."column") as value) v
    cross join lateral (
      select pg_catalog.concat_ws(' and ', warden.size_condition(v.value, p.part, bytes_max),
                                  warden.value_condition(v.value, p.part, bytes_max)) offset 0) c (condition)
    where c.condition <> '');
end
$fn$;

-- Whether to_jsonb() converts a json value: jsonb has no \u0000, no half of a surrogate pair, no number beyond
-- numeric, and its parser needs stack for each level. Every regular expression and loop here is bounded. The strings
-- are written E'', because those mean the same whatever standard_conforming_strings is.
create or replace function warden.json_is_convertible(value text) returns boolean
language plpgsql immutable as $fn$
declare
  json_bytes_max constant int := 1048576;
  rest text collate "C" := value;
  shorter text collate "C";
begin
  if pg_catalog.octet_length(rest) > json_bytes_max then
    return false;
  end if;
  if pg_catalog.strpos(rest, E'\\') > 0 then
    -- Escaped backslashes first, so that each backslash that is left starts an escape.
    rest := pg_catalog.replace(rest, E'\\\\', '..');
    if pg_catalog.strpos(rest, E'\\u0000') > 0
       or (pg_catalog.getdatabaseencoding() <> 'UTF8' and rest ~ E'\\\\u(?!00[0-7])') then
      return false;
    end if;
    rest := pg_catalog.regexp_replace(
      rest, E'\\\\u[dD][89abAB][0-9a-fA-F]{2}\\\\u[dD][c-fC-F][0-9a-fA-F]{2}', '.', 'g');
    if rest ~ E'\\\\u[dD][89a-fA-F]' then
      return false;
    end if;
    rest := pg_catalog.replace(rest, E'\\"', '..');
  end if;
  if rest !~ '[eE][+-]?([0-9]{4}|[4-9][0-9]{2})' and pg_catalog.octet_length(rest) <= 1000 then
    return true;
  end if;
  -- Now only numbers and structure matter.
  rest := pg_catalog.regexp_replace(rest, '"[^"]*"', '""', 'g');
  if rest ~ '[eE][+-]?([0-9]{4}|[4-9][0-9]{2})'
     or (pg_catalog.octet_length(rest) > 10000
         and exists (select from pg_catalog.regexp_split_to_table(rest, '[^0-9]+') d
                     where pg_catalog.octet_length(d) > 10000)) then
    return false;
  end if;
  rest := pg_catalog.translate(rest, E'"0123456789+-.eEtruefalsn:, \t\n\r', '');
  for level in 1..64 loop
    exit when pg_catalog.octet_length(rest) <= 1000;
    shorter := pg_catalog.replace(pg_catalog.replace(rest, '[]', ''), '{}', '');
    exit when pg_catalog.octet_length(shorter) = pg_catalog.octet_length(rest);
    rest := shorter;
  end loop;
  return pg_catalog.octet_length(rest) <= 1000;
end
$fn$;
select warden.close_function('warden.json_is_convertible(text)');
grant execute on function warden.json_is_convertible(text) to authenticated;

-- The settings that change how PostgreSQL prints values, with the values that documents need. `in_text` tells whether
-- the type's output function is called, not the conversion into JSON: that one writes dates and times in ISO 8601.
create or replace function warden.value_settings(type oid, in_text boolean default false)
returns table (setting text, value text)
language plpgsql stable set search_path = '' as $fn$
declare
  base constant oid := warden.base_type(type);
  first_own_type constant oid := 16384;
  kind "char" := (select t.typtype from pg_catalog.pg_type t where t.oid = base);
  subtype oid;
begin
  if exists (select from warden.parts_of_type(base)) then
    -- An array whose elements have an expression is printed as a whole, at least if it has several dimensions.
    return query
      select distinct s.* from warden.parts_of_type(base) p
      cross join lateral (select warden.value_expression('v', p.part) is not null as has_expression) e
      cross join lateral warden.value_settings(p.part, in_text or p.is_array and e.has_expression) s
      union all
      select 'array_nulls', 'on' from warden.parts_of_type(base) p
      where p.is_array and warden.value_expression('v', p.part) is not null;
    return;
  end if;
  if kind in ('r', 'm') then
    select r.rngsubtype into subtype from pg_catalog.pg_range r
    where r.rngtypid = base or (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid = base;
    return query select s.* from warden.value_settings(subtype, true) s;
    return;
  end if;
  if kind = 'e' then
    return;
  end if;
  return query
    select s.name, s.wanted
    from (values ('DateStyle', 'ISO, YMD', array['date', 'timestamp', 'timestamptz', 'abstime']),
                 ('TimeZone', 'UTC', array['timestamptz']),
                 ('IntervalStyle', 'postgres', array['interval']),
                 ('extra_float_digits', '1', array['float4', 'float8', 'point', 'lseg', 'path', 'box', 'polygon',
                                                   'line', 'circle']),
                 ('bytea_output', 'hex', array['bytea', 'pg_mcv_list', 'pg_ndistinct', 'pg_dependencies',
                                               'pg_brin_bloom_summary', 'pg_brin_minmax_multi_summary']),
                 ('lc_monetary', 'C', array['money']),
                 ('quote_all_identifiers', 'off', array['regclass', 'regcollation', 'regconfig', 'regdictionary',
                    'regnamespace', 'regoper', 'regoperator', 'regproc', 'regprocedure', 'regrole', 'regtype'])
         ) s (name, wanted, types)
    cross join lateral (select t.typname::text as name from pg_catalog.pg_type t where t.oid = base) t
    where base >= first_own_type and not warden.prints_alike(base)
       or base < first_own_type and t.name = any (s.types) and (in_text or s.name <> 'DateStyle');
end
$fn$;

-- Whether a type of a widespread extension is known to depend on no setting. Of all others nobody can know that.
create or replace function warden.prints_alike(type oid) returns boolean
language sql stable set search_path = '' as $$
  select exists (
    select from pg_catalog.pg_depend d
    join pg_catalog.pg_extension e on e.oid = d.refobjid
    join pg_catalog.pg_type t on t.oid = d.objid
    where d.classid = 'pg_catalog.pg_type'::regclass and d.objid = type and d.deptype = 'e'
      and d.refclassid = 'pg_catalog.pg_extension'::regclass
      and (e.extname, t.typname) in (('citext', 'citext'), ('hstore', 'hstore'), ('ltree', 'ltree'),
                                     ('postgis', 'geometry'), ('postgis', 'geography'), ('vector', 'vector')))
$$;

-- An SQL expression that sends a value of this type as a string, or an array of them. Other values that are strings in
-- a document anyway stay as they are.
create or replace function warden.as_text_expression(value text, type oid) returns text
language sql stable set search_path = '' as $$
  select case
    when b.type in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'float4'::regtype,
                    'float8'::regtype, 'oid'::regtype, 'json'::regtype, 'jsonb'::regtype)
      then warden.text_expression(value)
    when b.type in ('int2[]'::regtype, 'int4[]'::regtype, 'int8[]'::regtype, 'numeric[]'::regtype,
                    'float4[]'::regtype, 'float8[]'::regtype)
      then pg_catalog.format('%s::pg_catalog.text[]', value)
    else warden.value_expression(value, type)
  end
  from (values (warden.base_type(type))) b (type)
$$;

-- The name of a column now, whatever the transaction's snapshot is: a function of the catalog's caches reads it, so a
-- REPEATABLE READ transaction sees the name under which it writes. Null if the column was dropped.
create or replace function warden.column_name(relation regclass, number int) returns name
language sql stable set search_path = '' as $$
  select n.name from (
    select (pg_catalog.pg_identify_object_as_address('pg_catalog.pg_class'::regclass, relation, number)).object_names[3]
      ::name) n (name)
  where n.name <> pg_catalog.format('........pg.dropped.%s........', number)
$$;

-- The columns of a table, by number.
create or replace function warden.columns_of(relation regclass) returns table (number int, name name, type oid)
language sql stable set search_path = '' as $$
  select a.attnum, n.name, a.atttypid
  from pg_catalog.pg_attribute a cross join lateral (select warden.column_name(relation, a.attnum)) n (name)
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and n.name is not null
  order by a.attnum
$$;

-- A table with the composite types of its columns, at all depths: a document depends on the columns of all of these.
create or replace function warden.relations_of_document(relation regclass) returns regclass[]
language sql stable set search_path = '' as $$
  with recursive parts as (
    select 0::oid as type, relation::oid as rel
    union
    select b.type, t.typrelid
    from parts p
    cross join lateral (
      select warden.base_type(a.atttypid) as type from pg_catalog.pg_attribute a
      where a.attrelid = p.rel and a.attnum > 0 and not a.attisdropped
      union all
      select warden.base_type(e.part) from warden.parts_of_type(p.type) e where e.is_array) b
    join pg_catalog.pg_type t on t.oid = b.type
    where t.typrelid <> 0 or t.typelem <> 0
  )
  select array_agg(distinct p.rel::regclass) from parts p where p.rel <> 0
$$;

-- A fingerprint of the columns of these tables and composite types.
create or replace function warden.shape(relations regclass[]) returns text
language sql stable set search_path = '' as $$
  select pg_catalog.md5(coalesce(string_agg(pg_catalog.format('%s %s %s %I', r.oid::oid, c.number, c.type, c.name), ','
                                            order by r.oid::oid, c.number), ''))
  from unnest(relations) r (oid) cross join lateral warden.columns_of(r.oid) c
$$;

-- Whether these tables still have the columns for which a log function was generated.
--
-- It is declared immutable, which it is not, so that PostgreSQL evaluates it when it plans the condition, and not in
-- every statement. PostgreSQL plans the condition again when one of the tables has changed, because the plan of an
-- expression with constants of type regclass depends on these tables.
create or replace function warden.has_shape(relations regclass[], shape text) returns boolean
language plpgsql immutable set search_path = '' as $$
begin
  return warden.shape(relations) = shape;
end
$$;

-- The present name of a column that a watch names: by its number if that is known, else by its name. (After a swap of
-- names, another column has the name of a dropped one.)
create or replace function warden.current_column(relation regclass, name text, numbers jsonb, names text[]) returns text
language sql stable set search_path = '' as $$
  select case when numbers ? name then warden.column_name(relation, (numbers ->> name)::int)::text
              when name = any (names) then name end
$$;

-- A watch with the names that its columns have now. What was omitted stays omitted, under its number and its name.
-- If it is unclear which column that was, omit_columns is null, and rows are logged as truncated. If a column of the
-- key or the organisation is missing, key_columns or org_column is null.
create or replace function warden.current_watch(w warden.watches) returns warden.watches
language plpgsql stable set search_path = '' as $fn$
declare
  is_same_table constant boolean := w.relation_id is not distinct from w.relation::oid;
  numbers constant jsonb := case when is_same_table then w.column_numbers else '{}' end;
  current warden.watches := w;
  names constant text[] := array(select c.name::text from warden.columns_of(w.relation) c);
  name text;
  present text;
begin
  current.key_columns := '{}';
  foreach name in array w.key_columns loop
    current.key_columns := current.key_columns || warden.current_column(w.relation, name, numbers, names);
  end loop;
  if array_position(current.key_columns, null) is not null then
    current.key_columns := null;
  end if;
  current.org_column := warden.current_column(w.relation, w.org_column, numbers, names);
  current.entity_topic_column := warden.current_column(w.relation, w.entity_topic_column, numbers, names);
  if current.entity_topic_column is null then
    current.entity_topic := null;
  end if;
  current.omit_columns := '{}';
  current.as_text := '{}';
  foreach name in array w.as_text loop
    -- A column that was dropped and added again is still sent as a string.
    present := coalesce(warden.current_column(w.relation, name, numbers, names), name);
    if present = any (names) then
      current.as_text := current.as_text || present;
    end if;
  end loop;
  foreach name in array w.omit_columns loop
    present := warden.current_column(w.relation, name, numbers, names);
    if present is null and w.column_numbers ? name and not is_same_table then
      current.omit_columns := null;
    else
      -- A column of that name may be added again later.
      current.omit_columns := current.omit_columns || name;
      if present <> name then
        current.omit_columns := current.omit_columns || present;
      end if;
    end if;
  end loop;
  return current;
end
$fn$;

-- The numbers of the columns that a watch names.
create or replace function warden.column_numbers(w warden.watches) returns jsonb
language sql stable set search_path = '' as $$
  select coalesce(pg_catalog.jsonb_object_agg(c.name, c.number), '{}')
  from warden.columns_of(w.relation) c
  where c.name in (w.org_column, w.entity_topic_column)
     or c.name::text = any (w.key_columns || w.omit_columns || w.as_text)
$$;

-- Whether a statement on this table is one on a watch's table: it is the table, or a partition or child of it. A watch
-- that a restore without data has lost may mean any table.
create or replace function warden.is_watched_by(relation oid, watch bigint) returns boolean
language sql stable set search_path = '' as $$
  with recursive above as (
    select is_watched_by.relation as oid
    union
    select i.inhparent from pg_catalog.pg_inherits i join above a on i.inhrelid = a.oid
  )
  select exists (select from warden.watches w join above a on a.oid = w.relation where w.id = watch)
      or not exists (select from warden.watches w where w.id = watch)
$$;

-- The columns that a document contains, with their SQL expressions for the row with this alias. `condition` is null if
-- every value of the column can be converted.
create or replace function warden.document_columns(
  w warden.watches, alias text, bytes_max int default warden.row_bytes_max()
)
returns table (name name, type oid, expression text, condition text)
language sql stable set search_path = '' as $$
  select c.name, c.type,
    case when c.name::text = any (w.as_text) then coalesce(warden.as_text_expression(v.value, c.type), v.value)
         else coalesce(warden.value_expression(v.value, c.type), v.value) end,
    case when c.name::text = any (w.as_text) and warden.base_type(c.type) = 'json'::regtype
         then null else warden.value_condition(v.value, c.type, bytes_max) end
  from warden.columns_of(w.relation) c
  cross join lateral (select pg_catalog.format('%s.%I', alias, c.name) as value) v
  where c.name::text <> all (w.omit_columns)
  order by c.number
$$;

-- An SQL condition: the columns of the row with this alias have not many more than `bytes_max` bytes. It reads no more
-- of a row than that: the columns as they are stored, then those few that were compressed. Columns that a document does
-- not contain do not count.
create or replace function warden.row_condition(
  w warden.watches, alias text, bytes_max int default warden.row_bytes_max()
) returns text
language sql stable set search_path = '' as $fn$
  select pg_catalog.concat_ws(' and ',
    string_agg(pg_catalog.format('coalesce(pg_catalog.pg_column_size(%s), 0)', v.value), ' + ' order by c.n)
      || pg_catalog.format(' <= %s', bytes_max),
    string_agg(warden.size_condition(v.value, c.type, bytes_max), ' and ' order by c.n),
    'true')
  from warden.document_columns(w, alias, bytes_max) with ordinality c (name, type, expression, condition, n)
  join pg_catalog.pg_type t on t.oid = warden.base_type(c.type) and t.typlen < 0
  cross join lateral (select pg_catalog.format('%s.%I', alias, c.name) as value) v
$fn$;

-- An SQL expression for the document of the row with this alias in a trigger function: null if the row is too large, or
-- contains a value that jsonb cannot represent. (Rows are written n.* and r.*, because n alone is a column if the table
-- has one of that name.)
create or replace function warden.document_expression(
  w warden.watches, alias text, bytes_max int default warden.row_bytes_max()
) returns text
language plpgsql stable set search_path = '' as $fn$
declare
  document text;
  condition text;
begin
  if w.omit_columns is null then
    return 'null::pg_catalog.jsonb';
  end if;
  select pg_catalog.format('(select pg_catalog.to_jsonb(r.*) from (select %s) r)',
                           string_agg(pg_catalog.format('%s as %I', c.expression, c.name), ', ' order by c.n)),
         string_agg(' and ' || c.condition, '' order by c.n)
    into document, condition
  from warden.document_columns(w, alias, bytes_max) with ordinality c (name, type, expression, condition, n);
  -- The usual table: every column is sent as it is. A child that inherits may have more columns; a partition has not.
  if array(select c.expression from warden.document_columns(w, alias) c)
       = array(select pg_catalog.format('%s.%I', alias, c.name) from warden.columns_of(w.relation) c)
     and not exists (select from pg_catalog.pg_class c where c.oid = w.relation and c.relkind = 'r' and c.relhassubclass)
  then
    document := pg_catalog.format('pg_catalog.to_jsonb(%s.*)', alias);
  end if;
  return pg_catalog.format('case when %s%s then %s end', warden.row_condition(w, alias, bytes_max), condition,
                           document);
end
$fn$;

-- The columns of a watch's key, with their SQL expressions for the row with this alias. They may be omitted elsewhere.
create or replace function warden.key_parts(w warden.watches, alias text)
returns table (name name, type oid, expression text)
language plpgsql stable set search_path = '' as $$
begin
  w.omit_columns := '{}';
  return query select c.name, c.type, c.expression from warden.document_columns(w, alias) c
               where c.name::text = any (w.key_columns);
end
$$;

-- An SQL expression for the key of the row with this alias: the part of its document that is always sent, because it
-- identifies the row. A column that is too large for it is sent as null.
create or replace function warden.key_expression(w warden.watches, alias text) returns text
language sql stable set search_path = '' as $$
  select pg_catalog.format('pg_catalog.jsonb_build_object(%s)', string_agg(pg_catalog.format('%L, %s', c.name,
    case when t.typlen > 0 then c.expression
         else pg_catalog.format('case when pg_catalog.pg_column_size(%1$s) <= 8192 and %2$s '
                                'and pg_catalog.octet_length(pg_catalog.concat(%1$s)) <= 8192 then %3$s end', v.value,
                                pg_catalog.concat_ws(' and ', warden.size_condition(v.value, c.type),
                                                     warden.value_condition(v.value, c.type), 'true'), c.expression)
    end), ', ' order by c.name))
  from warden.key_parts(w, alias) c
  join pg_catalog.pg_type t on t.oid = warden.base_type(c.type)
  cross join lateral (select pg_catalog.format('%s.%I', alias, c.name) as value) v
$$;

-- An SQL condition: these two rows of one statement have the same key and organisation.
create or replace function warden.same_key_expression(w warden.watches, alias text, other text) returns text
language sql stable set search_path = '' as $$
  select string_agg(pg_catalog.format('%1$s.%3$I = %2$s.%3$I', alias, other, c.name), ' and ' order by c.n)
  from unnest(w.key_columns || w.org_column::text) with ordinality c (name, n)
$$;

-- An SQL condition: what a document would contain differs between these two rows. Rows are compared by their binary
-- image (*<>), because json and a few other types have no equality. Rows too large for that count as different.
create or replace function warden.differs_expression(w warden.watches, a text, b text) returns text
language sql stable set search_path = '' as $fn$
  select pg_catalog.format(
    'case when %s and %s then row(%s)::pg_catalog.record operator(pg_catalog.*<>) row(%s)::pg_catalog.record '
    'else true end',
    warden.row_condition(w, a), warden.row_condition(w, b),
    string_agg(pg_catalog.format('%s.%I', a, c.name), ', ' order by c.number),
    string_agg(pg_catalog.format('%s.%I', b, c.name), ', ' order by c.number))
  from warden.columns_of(w.relation) c where c.name::text <> all (coalesce(w.omit_columns, '{}'))
$fn$;

-- The SET clauses of a watched table's log function: only those that a type needs, because each costs time in every
-- statement that writes.
create or replace function warden.document_settings(w warden.watches) returns text
language sql stable set search_path = '' as $$
  select coalesce(string_agg(pg_catalog.format(' set %I = %L', s.setting, s.value), '' order by s.setting), '')
  from (select distinct s.setting, s.value
        from (select d.type from warden.document_columns(w, 'n') d
              union select k.type from warden.key_parts(w, 'n') k) c
        cross join lateral warden.value_settings(c.type) s) s
$$;

-- An SQL condition: this document may be sent. The document is checked as jsonb and as text: in jsonb a number may take
-- a fortieth of its digits.
create or replace function warden.document_fits_expression(document text) returns text
language plpgsql immutable set search_path = '' as $fn$
declare
  -- If the document is larger than this, only the key is logged.
  event_bytes_max constant int := 65536;
begin
  return pg_catalog.format(
    '(%1$s is not null and pg_catalog.pg_column_size(%1$s) <= %2$s and pg_catalog.octet_length(%1$s::text) <= %2$s)',
    document, event_bytes_max);
end
$fn$;

-- The rows of a watched table that the caller may SELECT, as events send them: the same bytes, whatever the caller's
-- settings. `truncated` as in warden.events.
create or replace function warden.row_documents(relation regclass) returns table (document jsonb, truncated boolean)
language plpgsql stable
set search_path = '' set "TimeZone" = 'UTC' set "DateStyle" = 'ISO, YMD' set "IntervalStyle" = 'postgres'
set extra_float_digits = '1' set bytea_output = 'hex' set lc_monetary = 'C' set quote_all_identifiers = 'off'
set array_nulls = 'on' as $fn$
declare
  w constant warden.watches := (select warden.current_watch(t) from warden.watches t
                                where t.relation = row_documents.relation);
begin
  if w.relation is null then
    raise exception 'warden.row_documents: % is not watched', relation
      using errcode = '22023', hint = 'Watch it: select warden.watch(''<table>'', ...);';
  end if;
  return query execute pg_catalog.format(
    'select case when d.fits then d.doc else %1$s end, not d.fits '
    'from %2$s n cross join lateral (select j.doc, %3$s as fits from (select %4$s as doc offset 0) j) d',
    warden.key_expression(w, 'n'), relation, warden.document_fits_expression('j.doc'),
    warden.document_expression(w, 'n'));
end
$fn$;

reset role;
