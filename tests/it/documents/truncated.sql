-- Random rows of a watched table, some of which are too large for an event, and what is wrong with their events.
create table problems (what text);
-- The rows after each statement, as whole documents and as warden.row_documents() returns them.
create table states (step int, id int, whole jsonb, document jsonb, truncated boolean);

create procedure remember(step int) language plpgsql
set search_path = public set bytea_output = hex as $$
begin
  insert into states
  select step, (d.document ->> 'id')::int, to_jsonb(p.*), d.document, d.truncated
  from warden.row_documents('probe') d join probe p on p.id = (d.document ->> 'id')::int;
end
$$;

-- A column's share of a document, in text and in jsonb.
create function share(name text, value jsonb) returns int language sql as $$
  select greatest(octet_length(to_jsonb(name)::text) + octet_length(value::text) + 4,
                  octet_length(name) + pg_column_size(value) + 12)
$$;

-- Compares the document of an event with its whole row.
create procedure check_document(what text, data jsonb, truncated boolean, whole jsonb, filters text[]) language plpgsql as $$
declare
  next record;
begin
  -- Tables store documents compressed.
  data := data || '{}';
  whole := whole || '{}';
  if exists (select from jsonb_each(data) d where (whole -> d.key)::text is distinct from d.value::text) then
    insert into problems values (what || ': the event has another value than the row');
  end if;
  if not data ? 'id' then
    insert into problems values (what || ': the key is missing');
  end if;
  if exists (select from unnest(filters) f (name) where not data ? f.name and coalesce(octet_length(whole ->> f.name), 0) <= 8192)
  then
    insert into problems values (what || ': a filter column is missing');
  end if;
  if truncated <> (octet_length(whole::text) > 65536 or pg_column_size(whole) > 65536) or not truncated and data <> whole then
    insert into problems values (what || ': the event is truncated although the row fits, or the reverse');
  end if;
  if octet_length(data::text) > 65536 or pg_column_size(data) > 65536 then
    insert into problems values (what || ': the event is too large');
  end if;
  if (select min(share(w.key, w.value)) filter (where not data ? w.key) < max(share(w.key, w.value)) filter (where data ? w.key)
      from jsonb_each(whole) w where w.key <> 'id' and w.key <> all (filters)) then
    insert into problems values (what || ': a larger column was kept than one that was left out');
  end if;
  -- The first column that was left out; of equally large ones, the first of the table.
  select w.key, w.value into next from jsonb_each(whole) w
  join pg_attribute a on a.attrelid = 'probe'::regclass and a.attname = w.key
  where not data ? w.key and w.key <> all (filters) order by share(w.key, w.value), a.attnum limit 1;
  if found and octet_length((data || jsonb_build_object(next.key, next.value))::text) <= 65536
     and pg_column_size(data || jsonb_build_object(next.key, next.value)) <= 65536 - 300 then
    insert into problems values (what || ': ' || next.key || ' would fit');
  end if;
  if exists (select from jsonb_each(data) d join pg_attribute a on a.attrelid = 'probe'::regclass and a.attname = d.key
             join pg_attribute b on b.attrelid = a.attrelid and b.attname = next.key
             where a.attnum > b.attnum and d.key <> 'id' and d.key <> all (filters)
               and share(d.key, d.value) = share(next.key, next.value)) then
    insert into problems values (what || ': of equal columns, the last one was kept');
  end if;
end
$$;

-- Checks all events. `steps` are the statements in their order: insert, update, ..., delete.
create procedure check_events(filters text[]) language plpgsql as $$
declare
  event record;
  expected jsonb;
  former jsonb;
begin
  for event in
    select e.event, e.data, e.old, e.truncated, e.watch, s.whole, s.document, s.truncated as is_cut,
           o.whole as old_whole, o.document as old_document, o.truncated as was_cut, e.id
    from (select x.*, row_number() over (partition by x.data ->> 'id' order by x.id) as n
          from warden.events x where x.event like 'probe.%') e
    -- Each statement changes each row.
    left join states s on s.step = e.n and s.id = (e.data ->> 'id')::int
    left join states o on o.step = e.n - 1 and o.id = (e.data ->> 'id')::int
  loop
    if event.watch is null then
      insert into problems values ('the watch is missing');
    end if;
    if event.event = 'probe.created' then
      call check_document('created', event.data, event.truncated, event.whole, filters);
      if event.data::text <> event.document::text or event.truncated <> event.is_cut then
        insert into problems values ('created: warden.row_documents() differs');
      end if;
    elsif event.event = 'probe.deleted' then
      call check_document('deleted', event.data, event.truncated, event.old_whole, filters);
      if event.data::text <> event.old_document::text then
        insert into problems values ('deleted: warden.row_documents() differs');
      end if;
    else
      call check_document('row', event.document, event.is_cut, event.whole, filters);
      select jsonb_object_agg(d.key, d.value) into expected
      from jsonb_each(event.document) d where event.old_document ? d.key;
      select jsonb_object_agg(d.key, d.value) into former
      from jsonb_each(event.old_document) d where expected ? d.key and expected -> d.key <> d.value;
      if event.data::text <> expected::text or event.truncated <> (event.is_cut or event.was_cut)
         or event.old is distinct from former then
        insert into problems values (format('updated: %s', event.id));
      end if;
    end if;
  end loop;
end
$$;
