-- The rows that a role with claims can reach in a table, by really trying. Each attempt runs in a subtransaction that
-- is rolled back. In `ids`, null means that the whole statement was rejected.
create or replace function pg_temp.probe(
  target regclass, role_name text, claims text, org_column text, candidates jsonb, views text[], functions text[]
) returns table (what text, ids int[])
language plpgsql as $$
declare
  row_ids int[];
  c jsonb;
  statement text;
  before int[];
  reached int[];
  item text;
  n int;
  rows bigint;
begin
  execute format('select array_agg(id order by id) from %s', target) into row_ids;
  for item in select unnest(array['select']) union all select 'view ' || v from unnest(views) v
              union all select 'function ' || f from unnest(functions) f loop
    reached := null;
    begin
      perform set_config('request.jwt.claims', claims, true), set_config('role', role_name, true);
      if item = 'select' then
        execute format('select coalesce(array_agg(id order by id), ''{}'') from %s', target) into reached;
      elsif item like 'view %' then
        execute format('select coalesce(array_agg(id order by id), ''{}'') from %s', substr(item, 6)) into reached;
      else
        execute format('select coalesce(array_agg(id order by id), ''{}'') from %s() id', substr(item, 10)) into reached;
      end if;
      raise exception sqlstate 'WD000';
    exception when sqlstate 'WD000' then null; when insufficient_privilege then reached := null;
    end;
    what := item; ids := reached; return next;
  end loop;
  -- A WHERE clause needs the right to select, and then policies for SELECT apply too.
  for item, statement in values
    ('update', 'update %s set v = v where id = %s'), ('update blindly', 'update %s set v = 2 where id = %s'),
    ('delete', 'delete from %s where id = %s'), ('delete returning', 'delete from %s where id = %s returning id')
  loop
    reached := '{}';
    foreach n in array coalesce(row_ids, '{}') loop
      begin
        perform set_config('request.jwt.claims', claims, true), set_config('role', role_name, true);
        execute format(statement, target, n);
        get diagnostics rows = row_count;
        if rows > 0 then reached := reached || n; end if;
        raise exception sqlstate 'WD000';
      exception when sqlstate 'WD000' then null; when insufficient_privilege then null;
      end;
    end loop;
    what := item; ids := reached; return next;
  end loop;
  -- Without WHERE and RETURNING: policies for DELETE alone. The superuser counts what is left.
  reached := null;
  begin
    perform set_config('request.jwt.claims', claims, true), set_config('role', role_name, true);
    execute format('delete from %s', target);
    perform set_config('role', 'none', true);
    execute format('select coalesce(array_agg(id order by id), ''{}'') from %s', target) into before;
    reached := array(select u from unnest(row_ids) u where u <> all (before) order by 1);
    raise exception sqlstate 'WD000';
  exception when sqlstate 'WD000' then null; when insufficient_privilege then reached := null;
  end;
  what := 'delete all'; ids := reached; return next;
  -- New rows, and rows that exist already (upsert).
  for item in values ('insert'), ('insert returning'), ('upsert') loop
    reached := '{}';
    for c in select x from jsonb_array_elements(candidates) x loop
      begin
        perform set_config('request.jwt.claims', claims, true), set_config('role', role_name, true);
        statement := format('insert into %s (id, owner_id, v%s) values (%s, %L, %s%s)', target,
          case when org_column <> '' then ', org_id' else '' end,
          case item when 'upsert' then c ->> 'existing' else c ->> 'id' end, c ->> 'owner_id', c ->> 'v',
          case org_column when 'named' then format(', %L', c ->> 'org_id') else '' end);
        execute statement || case item when 'insert returning' then ' returning id'
                                       when 'upsert' then ' on conflict (id) do update set v = excluded.v' else '' end;
        get diagnostics rows = row_count;
        if rows > 0 then reached := reached || (c ->> 'id')::int; end if;
        raise exception sqlstate 'WD000';
      exception when sqlstate 'WD000' then null;
        when insufficient_privilege or not_null_violation then null;
      end;
    end loop;
    what := item; ids := reached; return next;
  end loop;
end
$$;
