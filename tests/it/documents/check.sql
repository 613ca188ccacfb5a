-- Watches one table for each type and shape of column, writes hostile values under changing settings, and reports
-- failed writes and documents that differ.
create table failures (what text, detail text);
-- What was tried: rows of values, and rows written.
create table tried (what text, is_null boolean, rows bigint, writes bigint);

-- Sessions of the application with settings that change how PostgreSQL prints or reads values.
create table writers (n int, settings text[]);
insert into writers values
  (1, '{}'),
  (2, array['TimeZone', 'Asia/Kolkata', 'DateStyle', 'German, DMY', 'IntervalStyle', 'iso_8601', 'extra_float_digits', '-15',
            'bytea_output', 'escape', 'quote_all_identifiers', 'on', 'array_nulls', 'off',
            -- A locale whose currency is not that of "C", if the system has one.
            'lc_monetary', (select coalesce(max(collcollate), 'C') from pg_collation
                            where collprovider = 'c' and collcollate ~ '^[a-z]+_[A-Z]+[.]')]),
  (3, array['TimeZone', 'America/St_Johns', 'DateStyle', 'SQL, MDY', 'IntervalStyle', 'sql_standard', 'extra_float_digits', '0',
            'standard_conforming_strings', 'off', 'escape_string_warning', 'off', 'backslash_quote', 'off',
            'transform_null_equals', 'on', 'xmloption', 'document', 'xmlbinary', 'hex', 'row_security', 'off']),
  (4, array['TimeZone', 'Etc/GMT+12', 'DateStyle', 'Postgres, YMD', 'IntervalStyle', 'postgres_verbose',
            'extra_float_digits', '3', 'search_path', 'hidden, pg_catalog', 'plan_cache_mode', 'force_custom_plan',
            'default_transaction_isolation', 'serializable', 'lc_messages', 'C', 'enable_seqscan', 'off']);

create procedure check_column(name text, column_type text, fill text) language plpgsql as $$
declare
  writer record;
  step text;
  different text;
  count bigint;
  writes bigint := 0;
begin
  execute format('create table %I (id bigint generated always as identity primary key, '
                 'org_id uuid not null default ''00000000-0000-4000-8000-000000000001'', v %s, changes int default 0)', name, column_type);
  execute format('create table %I as table %I', name || ' source', name);
  execute format('insert into %I (id, org_id, v, changes) select row_number() over (), ''00000000-0000-4000-8000-000000000001'', v, 0 from (%s) s (v)',
                 name || ' source', fill);
  execute format('select warden.watch(%L, ''probe'', ''probe'')', quote_ident(name));
  for writer in select * from writers order by n loop
    begin
      for i in 1..cardinality(writer.settings) / 2 loop
        perform set_config(writer.settings[2 * i - 1], writer.settings[2 * i], false);
      end loop;
      foreach step in array array['insert into public.%1$I overriding system value table public.%2$I',
                                  'update public.%1$I set changes = changes + 1', 'update public.%1$I set v = null',
                                  'delete from public.%1$I'] loop
        execute format(step, name, name || ' source');
        get diagnostics count = row_count;
        writes := writes + count;
        if writer.n = 1 and step like 'insert%' then
          execute format('create table public.%I as select d.* from warden.row_documents(%L) d', name || ' rows', quote_ident(name));
        end if;
      end loop;
    exception when others then
      execute 'reset all';
      insert into public.failures values (name || ', writer ' || writer.n, sqlerrm);
    end;
    execute 'reset all';
  end loop;
  -- A snapshot under another writer's settings.
  select string_agg(distinct e.data ->> 'id', ', ') into different from warden.events e
  where e.event = 'probe.created' and not exists (
    select from public.snapshot(name) d where (d.document::text, d.truncated) = (e.data::text, e.truncated));
  if different is not null then
    insert into public.failures values (name, 'a created event differs from the snapshot, ids ' || different);
  end if;
  select string_agg(data::text, e' <> ') into different from (
    select data -> 'id', min(left(data ->> 'v', 60)) || ' <> ' || max(left(data ->> 'v', 60)) as data
    from (select (data - 'changes') as data, truncated from warden.events where event in ('probe.created', 'probe.updated')
          and (data -> 'v' <> 'null' or old is null) ) e group by 1 having count(distinct data::text) > 1 ) x;
  if different is not null then
    insert into public.failures values (name, 'events of one row differ: ' || different);
  end if;
  select string_agg(e.data ->> 'id', ', ') into different from warden.events e
  where e.event = 'probe.updated' and e.old ? 'v' and not exists (
    select from public.snapshot(name) d where d.document -> 'id' = e.data -> 'id' and (d.document -> 'v')::text = (e.old -> 'v')::text);
  if different is not null then
    insert into public.failures values (name, '`old` differs from the snapshot, ids ' || different);
  end if;
  if (select count(*) from warden.events where event = 'probe.created') <>
     (select count(*) from public.snapshot(name)) * (select count(*) from writers) then
    insert into public.failures values (name, 'events are missing');
  end if;
  execute format('insert into tried select $1, bool_and(v is not distinct from null), count(*), $2 from %I', name || ' source')
    using name, writes;
  execute format('drop table %I, %I, %I', name, name || ' source', name || ' rows');
  delete from warden.events;
end
$$;
create function snapshot(name text) returns table (document jsonb, truncated boolean) language plpgsql as $$
begin
  return query execute format('select document, truncated from public.%I', name || ' rows');
end
$$;

create procedure check_type(type regtype) language plpgsql as $$
declare
  -- Literals, because the cast of text to regclass takes no numbers, unlike the input function.
  values text := concat_ws(' union all ',
    (select string_agg(format('select %L::%s as v', h.value, h.type), ' union all ')
     from public.hostile h where h.type = check_type.type),
    (select string_agg(format('select v from (%s) q (v)', s.query), ' union all ') from public.sources s where s.type = check_type.type));
  has_array boolean := (select typarray <> 0 and warden.base_type(oid) not in (select typarray from pg_type)
                        from pg_type where oid = type);
begin
  call check_column(type || ' alone', type::text, values || ' union all select null' );
  execute format('create domain probe_domain as %s', type);
  call check_column(type || ' in a domain', 'probe_domain', values);
  drop domain probe_domain;
  execute format('create type probe_row as (x int, v %s)', type);
  call check_column(type || ' in a row', 'probe_row', format('select row(1, v)::probe_row from (%s) s union all select row(null, null)::probe_row', values));
  drop type probe_row;
  if has_array then
    call check_column(type || ' in an array', type || '[]',
      format('select array[v, null, v] from (%1$s) s union all select array[array[v], array[v]] from (%1$s) s '
             'union all select array_fill(v, ''{2}'', ''{-5}'') from (%1$s) s union all select ''{}''', values));
  end if;
end
$$;
