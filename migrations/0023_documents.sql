-- What the events of watched tables contain: SQL expressions, from which the log functions are built.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The name of a column now, whatever the transaction's snapshot is: a function of the catalog's caches reads it, so a
-- REPEATABLE READ transaction sees the name under which it writes. Null if the column was dropped.
create or replace function warden.column_name(relation regclass, number int) returns name
language sql stable set search_path = pg_catalog, pg_temp as $$
  select n.name from (
    select (pg_catalog.pg_identify_object_as_address('pg_catalog.pg_class'::regclass, relation, number)).object_names[3]
      ::name) n (name)
  where n.name <> pg_catalog.format('........pg.dropped.%s........', number)
$$;

-- The columns of a table, by number.
create or replace function warden.columns_of(relation regclass) returns table (number int, name name, type oid)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select a.attnum, n.name, a.atttypid
  from pg_catalog.pg_attribute a cross join lateral (select warden.column_name(relation, a.attnum)) n (name)
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and n.name is not null
  order by a.attnum
$$;

-- The virtual generated columns of a table (PostgreSQL 18), whose values are computed whenever a query reads them.
-- Transition tables, NEW and OLD have nulls instead, so log functions compute them. `expression` is in the names of the
-- table's columns. `problem` tells why a log function cannot compute the column; else it is null.
create or replace function warden.virtual_columns(relation regclass)
returns table (name name, type text, expression text, problem text)
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
begin
  return query
    select warden.column_name(relation, a.attnum), pg_catalog.format_type(a.atttypid, a.atttypmod),
      pg_catalog.pg_get_expr(d.adbin, d.adrelid),
      case when d.adbin::text ~ ':varattno -' then 'a system column'
           -- Its name may change without an effect on the table.
           when exists (select from pg_catalog.regexp_matches(d.adbin::text, ':collOid ([0-9]+)', 'g') m (id)
                        where m.id[1]::oid >= 16384) then 'a collation that is not PostgreSQL''s own' end
    from pg_catalog.pg_attribute a
    join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = 'v'
    order by a.attnum;
end
$$;

-- A table with the composite types of its columns, at all depths: a document depends on the columns of all of these.
create or replace function warden.relations_of_document(relation regclass) returns regclass[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (with recursive parts as (
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
          select array_agg(distinct p.rel::regclass) from parts p where p.rel <> 0);
end
$$;

-- A fingerprint of the columns of these tables and composite types. It must not depend on the session's settings.
create or replace function warden.shape(relations regclass[]) returns text
language sql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
  select pg_catalog.md5(coalesce(string_agg(pg_catalog.format('%s %s %s %I%s', r.oid::oid, c.number, c.type, c.name,
                                                              ' ' || v.expression), ','
                                            order by r.oid::oid, c.number), ''))
  from unnest(relations) r (oid) cross join lateral warden.columns_of(r.oid) c
  left join lateral warden.virtual_columns(r.oid) v on v.name = c.name
$$;

-- Whether these tables still have the columns for which a log function was generated.
--
-- It is declared immutable, which it is not, so that PostgreSQL evaluates it when it plans the condition, and not in
-- every statement. PostgreSQL plans the condition again when one of the tables has changed, because the plan of an
-- expression with constants of type regclass depends on these tables.
create or replace function warden.has_shape(relations regclass[], shape text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return warden.shape(relations) = shape;
end
$$;

-- The present name of a column that a watch names: by its number if that is known, else by its name. (After a swap of
-- names, another column has the name of a dropped one.)
create or replace function warden.current_column(relation regclass, name text, numbers jsonb, names text[]) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when numbers ? name then warden.column_name(relation, (numbers ->> name)::int)::text
              when name = any (names) then name end
$$;

-- Whether these columns have the same places in two lists of a table's columns, of which the second one may be longer.
create or replace function warden.has_same_places(columns text[], former text[], present text[]) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select former is not null and cardinality(former) <= cardinality(present) and not exists (
    select from unnest(former, present) u (former, present)
    where coalesce(u.former = any (columns), false) <> (u.present = any (columns)))
$$;

-- A watch with the names that its columns have now. What was omitted stays omitted, under its number and its name.
-- If it is unclear which column that was, or a column cannot be computed, omit_columns is null, and rows are logged as
-- truncated. If a column of the key or the organisation is missing, unclear, or has the wrong type, key_columns or
-- org_column is null.
--
-- In a restored table, columns have other numbers. If its columns are not those that the log function was generated
-- for, one of them may have the name of another one, so no name proves which columns are omitted or sent as strings.
create or replace function warden.current_watch(w warden.watches) returns warden.watches
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  is_same_table constant boolean := w.relation_id is not distinct from w.relation::oid;
  numbers constant jsonb := case when is_same_table then w.column_numbers else '{}' end;
  current warden.watches := w;
  names constant text[] := array(select c.name::text from warden.columns_of(w.relation) c);
  has_same_columns constant boolean := is_same_table or w.column_list is not distinct from names;
  name text;
  present text;
begin
  current.key_columns := '{}';
  foreach name in array w.key_columns loop
    current.key_columns := current.key_columns || warden.current_column(w.relation, name, numbers, names);
  end loop;
  current.org_column := warden.current_column(w.relation, w.org_column, numbers, names);
  -- A column that was altered to a type that cannot identify a row, or the organisation, counts as missing. The type
  -- may have no equality at all, or none that a log function finds, and then writes would fail.
  if array_position(current.key_columns, null) is not null or exists (
       select from warden.columns_of(w.relation) c
       where c.name::text = any (current.key_columns) and not warden.is_key_type(c.type)) then
    current.key_columns := null;
  end if;
  if not exists (select from warden.columns_of(w.relation) c
                 where c.name = current.org_column and warden.base_type(c.type) = 'uuid'::regtype) then
    current.org_column := null;
  end if;
  current.entity_topic_column := warden.current_column(w.relation, w.entity_topic_column, numbers, names);
  if current.entity_topic_column is null then
    current.entity_topic := null;
  end if;
  if not has_same_columns then
    if not warden.has_same_places(w.key_columns, w.column_list, names) then
      current.key_columns := null;
    end if;
    if not warden.has_same_places(array[w.org_column::text], w.column_list, names) then
      current.org_column := null;
    end if;
    if not warden.has_same_places(array[w.entity_topic_column::text], w.column_list, names) then
      current.entity_topic := null;
    end if;
  end if;
  current.omit_columns := '{}';
  current.as_text := '{}';
  current.filter_columns := '{}';
  foreach name in array w.filter_columns loop
    -- A column that was dropped stays in the list: the audit reports it, and it may be added again.
    current.filter_columns := current.filter_columns
      || coalesce(warden.current_column(w.relation, name, numbers, names), name);
  end loop;
  foreach name in array w.as_text loop
    -- A column that was dropped and added again is still sent as a string.
    present := coalesce(warden.current_column(w.relation, name, numbers, names), name);
    if present = any (names) then
      current.as_text := current.as_text || present;
    end if;
  end loop;
  foreach name in array w.omit_columns loop
    present := warden.current_column(w.relation, name, numbers, names);
    -- A column of that name may be added again later.
    current.omit_columns := current.omit_columns || name;
    if present <> name then
      current.omit_columns := current.omit_columns || present;
    end if;
  end loop;
  -- Such a watch is not refreshed, because its columns would count as known.
  if not has_same_columns and (w.omit_columns <> '{}' or w.as_text <> '{}'
                               or w.entity_topic is not null and current.entity_topic is null) then
    current.omit_columns := null;
  end if;
  if exists (select from warden.virtual_columns(w.relation) v
             where v.problem is not null and v.name::text <> all (current.omit_columns)) then
    current.omit_columns := null;
  end if;
  return current;
end
$fn$;

-- The numbers of the columns that a watch names.
create or replace function warden.column_numbers(w warden.watches) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(pg_catalog.jsonb_object_agg(c.name, c.number), '{}')
  from warden.columns_of(w.relation) c
  where c.name in (w.org_column, w.entity_topic_column)
     or c.name::text = any (w.key_columns || w.omit_columns || w.as_text || w.filter_columns)
$$;

-- Whether a statement on this table is one on a watch's table: it is the table, or a partition or child of it. A watch
-- that a restore without data has lost may mean any table.
create or replace function warden.is_watched_by(relation oid, watch bigint) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
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
language sql stable set search_path = pg_catalog, pg_temp as $$
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

-- The types of which the documents of a watch consist, at all depths.
create or replace function warden.types_of_documents(w warden.watches) returns setof oid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query
    with recursive types as (
      select warden.base_type(c.type) as type from warden.columns_of(w.relation) c
      where c.name::text <> all (w.omit_columns) or c.name::text = any (w.key_columns)
      union
      select warden.base_type(p.part)
      from types t
      cross join lateral (
        select x.part from warden.parts_of_type(t.type) x
        union all
        select r.rngsubtype from pg_catalog.pg_range r where t.type in (r.rngtypid, r.rngmultitypid)) p
    )
    select t.type from types t;
end
$$;

-- A fingerprint of the columns that the documents and keys of a watch contain, and of the composite types in them. A
-- domain, text and varchar are the same in a document as the type below. Rows that were written before it changed have
-- other documents now.
create or replace function warden.document_shape(w warden.watches) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set quote_all_identifiers = off as $$
begin
  return (
    with columns as (
      select 0::oid as rel, c.*, c.name::text = any (w.as_text) as is_text, c.name::text = any (w.filter_columns) as is_filter,
             array_position(w.key_columns, c.name::text) as key, v.expression
      from warden.columns_of(w.relation) c
      left join warden.virtual_columns(w.relation) v on v.name = c.name
      where c.name::text <> all (w.omit_columns) or c.name::text = any (w.key_columns)
      union all
      select t.typrelid, c.*, null, null, null, null
      from warden.types_of_documents(w) d join pg_catalog.pg_type t on t.oid = d and t.typrelid <> 0
      cross join lateral warden.columns_of(t.typrelid) c
    )
    select pg_catalog.md5(pg_catalog.concat(w.omit_columns is null, w.key_columns is null, string_agg(pg_catalog.format(
             '%s %s %I %s %s %s %s %s', c.rel, c.number, c.name,
             case b.type when 'varchar'::regtype then 'text'::regtype::oid else b.type end, c.is_text, c.is_filter, c.key,
             c.expression),
             ',' order by c.rel, c.number)))
    from columns c cross join lateral (select warden.base_type(c.type) as type) b);
end
$$;

-- The labels of the enums in the documents of a watch, by oid.
create or replace function warden.enum_labels(w warden.watches) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select coalesce(pg_catalog.jsonb_object_agg(e.oid, e.enumlabel), '{}')
          from warden.types_of_documents(w) t join pg_catalog.pg_enum e on e.enumtypid = t);
end
$$;

-- Whether a document contains virtual columns.
create or replace function warden.has_virtual_columns(w warden.watches) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from warden.virtual_columns(w.relation) v where v.name::text <> all (w.omit_columns))
$$;

-- The rows of a transition table, or of a query for one row, with the values of virtual columns. (In the inner query,
-- the columns of the expression have the names of the table's, and nothing else has these names.)
create or replace function warden.filled_rows(w warden.watches, rows text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
begin
  if not warden.has_virtual_columns(w) then
    return rows;
  end if;
  return (
    select pg_catalog.format('(select %s from %s r)', string_agg(
      case when v.expression is null then pg_catalog.format('r.%I', c.name)
           else pg_catalog.format('(select (%s) from (select r.*) v)::%s as %I', v.expression, v.type, c.name) end,
      ', ' order by c.number), rows)
    from warden.columns_of(w.relation) c
    left join warden.virtual_columns(w.relation) v on v.name = c.name and v.name::text <> all (w.omit_columns));
end
$fn$;

-- A log function's body that computes virtual columns. An expression may fail, as a / b does. Then a query that reads
-- the row fails, but not the write, so the function tries it first: if it fails, the statement's rows are logged as
-- truncated. A subtransaction that writes nothing has no transaction id, so it does not slow down the server.
create or replace function warden.with_virtual_columns(w warden.watches, body text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  tries constant text := (
    select pg_catalog.concat('perform ', string_agg(pg_catalog.format('count(r.%I)', v.name), ', '), ' from %s r;')
    from warden.virtual_columns(w.relation) v where v.name::text <> all (w.omit_columns));
begin
  if tries is null or not warden.has_virtual_columns(w) then
    return body;
  end if;
  body := pg_catalog.regexp_replace(body, 'warden[.]has_shape[(]array[[][^]]*[]], ''[0-9a-f]*''[)]', E'(is_computable and \\&)', 'g');
  body := pg_catalog.regexp_replace(body, '(warden[.]current_rest_statement[(][^)]*)[)]', E'\\1, is_computable)', 'g');
  return pg_catalog.regexp_replace(body, E'\nbegin', pg_catalog.replace(pg_catalog.format($body$
  -- Whether the virtual columns of all rows can be computed.
  is_computable boolean := true;
begin
  begin
    if tg_level = 'ROW' then
      if tg_op <> 'DELETE' then
        %1$s
      end if;
      if tg_op <> 'INSERT' then
        %2$s
      end if;
    elsif tg_op <> 'TRUNCATE' then
      if tg_op <> 'DELETE' then
        %3$s
      end if;
      if tg_op <> 'INSERT' then
        %4$s
      end if;
    end if;
  exception when others then
    is_computable := false;
  end;$body$,
    pg_catalog.format(tries, warden.filled_rows(w, '(select new.*)')),
    pg_catalog.format(tries, warden.filled_rows(w, '(select old.*)')),
    pg_catalog.format(tries, warden.filled_rows(w, 'new_rows')),
    pg_catalog.format(tries, warden.filled_rows(w, 'old_rows'))), E'\\', E'\\\\'));
end
$fn$;

-- An SQL condition: the columns of the row with this alias have not many more than `bytes_max` bytes. It reads no more
-- of a row than that: the columns as they are stored, then those few that were compressed. Columns that a document does
-- not contain do not count.
create or replace function warden.row_condition(
  w warden.watches, alias text, bytes_max int default warden.row_bytes_max()
) returns text
language sql stable set search_path = pg_catalog, pg_temp as $fn$
  select pg_catalog.concat_ws(' and ',
    string_agg(pg_catalog.format('coalesce(pg_catalog.pg_column_size(%s), 0)', v.value), ' + ' order by c.n)
      || pg_catalog.format(' <= %s', bytes_max),
    string_agg(warden.size_condition(v.value, c.type, bytes_max), ' and ' order by c.n),
    'true')
  from warden.columns_of(w.relation) c (n, name, type)
  join pg_catalog.pg_type t on t.oid = warden.base_type(c.type) and t.typlen < 0
  cross join lateral (select pg_catalog.format('%s.%I', alias, c.name) as value) v
  where c.name::text <> all (w.omit_columns)
$fn$;

-- An SQL expression for the document of the row with this alias in a trigger function: null if the row is too large, or
-- contains a value that jsonb cannot represent. (Rows are written n.* and r.*, because n alone is a column if the table
-- has one of that name.)
create or replace function warden.document_expression(
  w warden.watches, alias text, bytes_max int default warden.row_bytes_max()
) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  document text;
  condition text;
  expressions text[];
begin
  if w.omit_columns is null then
    return 'null::pg_catalog.jsonb';
  end if;
  select pg_catalog.format('(select pg_catalog.to_jsonb(r.*) from (select %s) r)',
                           string_agg(pg_catalog.format('%s as %I', c.expression, c.name), ', ' order by c.n)),
         string_agg(' and ' || c.condition, '' order by c.n), array_agg(c.expression order by c.n)
    into document, condition, expressions
  from warden.document_columns(w, alias, bytes_max) with ordinality c (name, type, expression, condition, n);
  -- The usual table: every column is sent as it is. A child that inherits may have more columns; a partition has not.
  if coalesce(expressions, '{}')
       = array(select pg_catalog.format('%s.%I', alias, c.name) from warden.columns_of(w.relation) c)
     and not exists (select from pg_catalog.pg_class c where c.oid = w.relation and c.relkind = 'r' and c.relhassubclass)
  then
    document := pg_catalog.format('pg_catalog.to_jsonb(%s.*)', alias);
  end if;
  return pg_catalog.format('case when %s%s then %s end', warden.row_condition(w, alias, bytes_max), condition,
                           document);
end
$fn$;

-- An SQL expression for the document of the row with this alias, without the columns whose values jsonb cannot
-- represent: null if the row is too large.
create or replace function warden.partial_document_expression(w warden.watches, alias text, bytes_max int) returns text
language sql stable set search_path = pg_catalog, pg_temp as $fn$
  select pg_catalog.format(
    'case when %s then (select pg_catalog.to_jsonb(r.*) operator(pg_catalog.-) '
    'pg_catalog.array_remove(array[%s]::pg_catalog.text[], null) from (select %s) r) end',
    warden.row_condition(w, alias, bytes_max),
    string_agg(pg_catalog.format('case when (%s) is not true then %L end', c.condition, c.name), ', ' order by c.n)
      filter (where c.condition is not null),
    string_agg(case when c.condition is null then pg_catalog.format('%s as %I', c.expression, c.name)
                    else pg_catalog.format('case when %s then %s end as %I', c.condition, c.expression, c.name) end,
               ', ' order by c.n))
  from warden.document_columns(w, alias, bytes_max) with ordinality c (name, type, expression, condition, n)
$fn$;

-- The columns of a watch's key, with their SQL expressions for the row with this alias. They may be omitted elsewhere.
-- The other columns are left out, because their expressions take time.
create or replace function warden.key_parts(w warden.watches, alias text)
returns table (name name, type oid, expression text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  w.omit_columns := array(select c.name::text from warden.columns_of(w.relation) c
                          where (c.name::text = any (w.key_columns)) is not true);
  return query select c.name, c.type, c.expression from warden.document_columns(w, alias) c;
end
$$;

-- An SQL expression for the key of the row with this alias: the part of its document that is always sent, because it
-- identifies the row. A column that is too large for it is sent as null.
create or replace function warden.key_expression(w warden.watches, alias text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.format('pg_catalog.jsonb_build_object(%s)', string_agg(pg_catalog.format('%L, %s', c.name,
    case when t.typlen > 0 then c.expression
         else pg_catalog.format('case when %s then %s end', warden.is_small_expression(v.value, c.type), c.expression)
    end), ', ' order by c.name))
  from warden.key_parts(w, alias) c
  join pg_catalog.pg_type t on t.oid = warden.base_type(c.type)
  cross join lateral (select pg_catalog.format('%s.%I', alias, c.name) as value) v
$$;

-- The columns of a row that are converted, by the bytes of their values, of which the first `first` belong to filters:
-- those, and the smallest others up to 1 MiB in all. So a row whose columns were compressed needs no more memory.
create or replace function warden.convertible_columns(bytes int[], first int) returns boolean[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.array_agg(s.bytes is not null and (s.n <= first or s.total <= 1048576) order by s.n)
  from (select u.bytes, u.n, sum(u.bytes) over (partition by u.n <= first order by u.bytes, u.n) as total
        from unnest(bytes) with ordinality u (bytes, n)) s
$$;

-- The document of a row that is too large for an event: its key, its filter columns, and its smallest other columns.
-- The largest columns are left out until the rest fits; of equally large ones, the last column first. `names` and
-- `vals` are the columns in their order, first those of filters; null values are left out.
create or replace function warden.kept_document(key jsonb, names text[], vals jsonb[], first int) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  bytes_max constant int := warden.event_bytes_max();
  -- For each column, its bytes in the text of a document, and at most as many in jsonb.
  text_bytes int[] := '{}';
  binary_bytes int[] := '{}';
begin
  for i in 1..pg_catalog.cardinality(names) loop
    text_bytes := text_bytes
      || (pg_catalog.octet_length(pg_catalog.to_jsonb(names[i])::text) + pg_catalog.octet_length(vals[i]::text) + 4);
    binary_bytes := binary_bytes || (pg_catalog.octet_length(names[i]) + pg_catalog.pg_column_size(vals[i]) + 12);
  end loop;
  return key || coalesce((
    select pg_catalog.jsonb_object_agg(names[s.n], vals[s.n])
    from (select c.n, sum(c.text_bytes) over w as text_total, sum(c.binary_bytes) over w as binary_total
          from unnest(text_bytes, binary_bytes) with ordinality c (text_bytes, binary_bytes, n)
          where c.text_bytes is not null
          window w as (order by c.n > first, greatest(c.text_bytes, c.binary_bytes), c.n)) s
    where pg_catalog.octet_length(key::text) + s.text_total <= bytes_max
      and pg_catalog.pg_column_size(key) + s.binary_total <= bytes_max), '{}');
end
$$;

-- An SQL expression for the document of the row with this alias if it is too large for an event, or contains a value
-- that jsonb cannot represent: warden.kept_document(). If it is unclear which columns are omitted, only the key is
-- sent.
create or replace function warden.kept_expression(w warden.watches, alias text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  names text[];
  vals text;
  bytes text;
  filters int;
begin
  if w.omit_columns is null then
    return warden.key_expression(w, alias);
  end if;
  select array_agg(c.name order by c.n), count(*) filter (where c.is_filter),
         string_agg(pg_catalog.format(
           'case when %s then coalesce(pg_catalog.to_jsonb(%s), ''null'') end',
           pg_catalog.concat_ws(' and ', 'r.is_convertible[' || c.n || ']',
             case when not c.is_filter or c.is_fixed then c.condition
                  else pg_catalog.format('(%s is not distinct from null or %s)', c.value,
                                         warden.is_small_expression(c.value, c.type)) end),
           c.expression), ', ' order by c.n),
         string_agg(warden.unpacked_bytes_expression(c.value, c.type), ', ' order by c.n)
    into names, filters, vals, bytes
  from (select d.name::text, d.type, d.expression, d.condition, v.value, f.is_filter,
               t.typlen > 0 as is_fixed, pg_catalog.row_number() over (order by f.is_filter desc, d.n) as n
        from warden.document_columns(w, alias) with ordinality d (name, type, expression, condition, n)
        join pg_catalog.pg_type t on t.oid = warden.base_type(d.type)
        cross join lateral (select pg_catalog.format('%s.%I', alias, d.name) as value) v
        cross join lateral (select d.name::text = any (w.filter_columns) as is_filter) f
        where d.name::text <> all (coalesce(w.key_columns, '{}'))) c;
  if names is null then
    return warden.key_expression(w, alias);
  end if;
  return pg_catalog.format(
    '(select warden.kept_document(%1$s, %2$L::pg_catalog.text[], array[%3$s], %4$s) '
    'from (select warden.convertible_columns(array[%5$s]::pg_catalog.int4[], %4$s) as is_convertible offset 0) r)',
    warden.key_expression(w, alias), names, vals, filters, bytes);
end
$fn$;

-- The columns of one document that another document has as well: of an update of a row that is too large, only these
-- are sent. So the row before the update is that of `data` with the values of `old`.
create or replace function warden.shared_columns(document jsonb, other jsonb) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.jsonb_object_agg(e.key, e.value) from pg_catalog.jsonb_each(document) e where other ? e.key
$$;

-- The former values of the columns whose bytes differ between two documents. A column that one of them lacks is left
-- out.
create or replace function warden.changed_columns(old jsonb, new jsonb) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.jsonb_object_agg(e.key, e.value) from pg_catalog.jsonb_each(old) e
  where new ? e.key
    and row(new -> e.key)::pg_catalog.record operator(pg_catalog.*<>) row(e.value)::pg_catalog.record
$$;

-- An SQL condition: these two rows of one statement have the same key and organisation, as clients see them. Some types
-- have an equality that is wider than the bytes of a document: strings whose collation ignores case, bpchar with other
-- blanks at its end, and numerics with other trailing zeros. Such a change is a new key.
create or replace function warden.same_key_expression(w warden.watches, alias text, other text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select string_agg(pg_catalog.format(
    case b.type
      when 'bpchar'::regtype then
        '%1$s = %2$s collate pg_catalog."C" and pg_catalog.octet_length(%1$s) = pg_catalog.octet_length(%2$s)'
      -- NaN and infinity have no scale.
      when 'numeric'::regtype then
        '%1$s = %2$s and coalesce(pg_catalog.scale(%1$s), -1) = coalesce(pg_catalog.scale(%2$s), -1)'
      else case when t.typcollation <> 0 then '%1$s = %2$s collate pg_catalog."C"' else '%1$s = %2$s' end
    end, v.value, v.other), ' and ' order by k.n)
  from unnest(w.key_columns || w.org_column::text) with ordinality k (name, n)
  left join warden.columns_of(w.relation) c on c.name::text = k.name
  cross join lateral (select warden.base_type(c.type) as type) b
  left join pg_catalog.pg_type t on t.oid = b.type
  cross join lateral (select pg_catalog.format('%s.%I', alias, k.name) as value,
                             pg_catalog.format('%s.%I', other, k.name) as other) v
$$;

-- An SQL condition: what a document would contain differs between these two rows. Rows are compared by their binary
-- image (*<>), because json and a few other types have no equality. Rows too large for that count as different.
create or replace function warden.differs_expression(w warden.watches, a text, b text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $fn$
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
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(string_agg(pg_catalog.format(' set %I = %L', s.setting, s.value), '' order by s.setting), '')
  from (select distinct s.setting, s.value
        from (select distinct d.type from warden.columns_of(w.relation) d
              where d.name::text <> all (w.omit_columns) or d.name::text = any (w.key_columns)) c
        cross join lateral warden.value_settings(c.type) s
        -- An immutable expression may still depend on how numbers print.
        union select 'extra_float_digits', '1' where warden.has_virtual_columns(w)
        union select 'bytea_output', 'hex' where warden.has_virtual_columns(w)) s
$$;

-- An SQL condition: this document may be sent. The document is checked as jsonb and as text: in jsonb a number may take
-- a fortieth of its digits.
create or replace function warden.document_fits_expression(document text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $fn$
begin
  return pg_catalog.format(
    '(%1$s is not null and pg_catalog.pg_column_size(%1$s) <= %2$s and pg_catalog.octet_length(%1$s::text) <= %2$s)',
    document, warden.event_bytes_max());
end
$fn$;

-- The rows of a watched table that the caller may SELECT, as events send them: the same bytes, whatever the caller's
-- settings. `truncated` as in warden.events.
create or replace function warden.row_documents(relation regclass) returns table (document jsonb, truncated boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp set "TimeZone" = 'UTC' set "DateStyle" = 'ISO, YMD' set "IntervalStyle" = 'postgres'
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
    warden.kept_expression(w, 'n'), relation, warden.document_fits_expression('j.doc'),
    warden.document_expression(w, 'n'));
end
$fn$;

reset role;
