-- The form of a value in an event, by its type.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- An SQL expression for the entity topic of the row with this alias in a trigger function. A string that is not a valid
-- id gives null: the event reaches no entity topic, and the write never fails. (A regular expression fails with a
-- nondeterministic collation, hence "C". octet_length() does not decompress a large value.)
create or replace function warden.entity_topic_expression(w warden.watches, alias text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $fn$
  select case
    when w.entity_topic is null then 'null::text'
    when c.id_type is distinct from t.id_type then
      -- The column was altered. Ids that still have the spelling of the topic's are those that clients know.
      case when c.id_type is null then 'null::text' else pg_catalog.format(
        $sql$case when pg_catalog.pg_column_size(%1$s) <= 256 and warden.is_entity_id(%2$L, pg_catalog.concat(%1$s))
             then %3$L || pg_catalog.concat(%1$s) end$sql$, v.value, t.id_type, w.entity_topic || ':') end
    when t.id_type = 'text' then pg_catalog.format(
      $sql$case when pg_catalog.octet_length(%1$s) <= 64 and %1$s collate "C" ~ '^[A-Za-z0-9._~-]+$'
           then %2$L || %1$s end$sql$, v.value, w.entity_topic || ':')
    else pg_catalog.format('%2$L || %1$s::text', v.value, w.entity_topic || ':')
  end
  from (select pg_catalog.format('%s.%I', alias, w.entity_topic_column) as value) v
  left join warden.entity_topics t on t.kind = w.entity_topic
  left join lateral (
    select warden.entity_id_type(warden.base_type(a.atttypid)) as id_type from pg_catalog.pg_attribute a
    where a.attrelid = w.relation and a.attname = w.entity_topic_column and a.attnum > 0 and not a.attisdropped) c on true
$fn$;

-- The parts of a type that to_jsonb() converts one by one: the element of an array, the columns of a composite type.
-- Other types have none. The argument is a base type.
create or replace function warden.parts_of_type(type oid)
returns table (is_array boolean, "column" name, part oid)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
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
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.format('case when %1$s is distinct from null then pg_catalog.concat(%1$s) end', value)
$$;

-- An SQL expression for a value of this type in a document. Null if to_jsonb() converts the value without an error.
--
-- to_jsonb() is right for PostgreSQL's own types. For a type of an extension or of the application it would call a cast
-- to json if there is one: the cast may fail, or be forbidden to the log's owner. So such a value is sent as a string,
-- written by the type's output function. It is also the form in which PostgreSQL accepts the value.
create or replace function warden.value_expression(value text, type oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
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

-- Bytes of the largest document of a row in an event. A larger row is logged without its largest columns.
create or replace function warden.event_bytes_max() returns int
language sql immutable set search_path = pg_catalog, pg_temp as $$ select 65536 $$;

-- Bytes of a row's columns above which no document is built: no such document fits into an event, because the
-- columns of no type of PostgreSQL take three times their space in a document.
create or replace function warden.row_bytes_max() returns int
language sql immutable set search_path = pg_catalog, pg_temp as $$ select 196608 $$;

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
language sql stable set search_path = pg_catalog, pg_temp as $fn$
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
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
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
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
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
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
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
language sql stable set search_path = pg_catalog, pg_temp as $$
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
language sql stable set search_path = pg_catalog, pg_temp as $$
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

-- Bytes of a value without compression, as an element of an array; null if there are more than `bytes_max`. A function
-- of its own frees the decompressed value at once.
create or replace function warden.unpacked_bytes(value anyelement, bytes_max int) returns int
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if value is not distinct from null then
    return 0;
  elsif pg_catalog.pg_column_size(value) > bytes_max then
    return null;
  end if;
  return (select case when s.bytes <= bytes_max then s.bytes end
          from (select pg_catalog.pg_column_size(array[value]) as bytes offset 0) s);
end
$$;

-- An SQL expression for the bytes of this value in its row; null if it is too large for every event. Types whose
-- documents are at least as large as their values have the limit of events. The result does not depend on how the value
-- is stored.
create or replace function warden.unpacked_bytes_expression(value text, type oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $fn$
  select case
    when t.typlen > 0 then pg_catalog.format('case when %s is null then 0 else %s end', value, t.typlen)
    when t.oid in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype) then
      pg_catalog.format('case when pg_catalog.octet_length(%1$s) > %2$s then null '
                        'else coalesce(pg_catalog.octet_length(%1$s), 0) end', value, warden.event_bytes_max())
    when t.typarray <> 0 or t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc then
      pg_catalog.format('warden.unpacked_bytes(%s, %s)', value,
                        case when t.oid = 'jsonb'::regtype then warden.event_bytes_max() + 64 else warden.row_bytes_max() end)
    -- A few types of PostgreSQL itself that have no arrays.
    else pg_catalog.format('case when pg_catalog.pg_column_size(%1$s) > %2$s then null '
                           'else pg_catalog.octet_length(pg_catalog.concat(%1$s)) end', value, warden.row_bytes_max())
  end
  from pg_catalog.pg_type t where t.oid = warden.base_type(type)
$fn$;

-- An SQL condition: this value, which is not null, is small enough for the columns that every event keeps. It does not
-- depend on how the value is stored: a numeric that is large as stored has too many digits as well.
create or replace function warden.is_small_expression(value text, type oid) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.concat_ws(' and ',
    case when b.type in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype)
           then 'pg_catalog.octet_length(' || value || ') <= 8192'
         when b.type in ('numeric'::regtype, 'inet'::regtype, 'cidr'::regtype) or b.typarray = 0 then 'pg_catalog.pg_column_size(' || value || ') <= 8192'
         else 'warden.unpacked_bytes(' || value || ', 8192) is not null' end,
    warden.value_condition(value, type), 'pg_catalog.octet_length(pg_catalog.concat(' || value || ')) <= 8192')
  from (select t.oid as type, t.typarray from pg_catalog.pg_type t where t.oid = warden.base_type(type)) b
$$;

reset role;
