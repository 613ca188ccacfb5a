-- Names of Warden's objects, and tables with their partitions or inheritance children.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- A name of at most 63 bytes. PostgreSQL silently truncates longer names, and two of them could become equal, so a long
-- name is shortened and ends in a hash.
create or replace function warden.object_name(variadic parts text[]) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  whole text := pg_catalog.array_to_string(parts, '_');
  head text := whole;
begin
  if pg_catalog.octet_length(whole) <= 63 then
    return whole;
  end if;
  while pg_catalog.octet_length(head) > 54 loop
    head := pg_catalog.left(head, -1);
  end loop;
  return head || '_' || pg_catalog.left(pg_catalog.md5(whole), 8);
end
$$;

-- A column list for SQL, from elements 'column' and 'column desc'.
create or replace function warden.column_list(columns text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.string_agg(pg_catalog.quote_ident(pg_catalog.regexp_replace(c.name, ' desc$', ''))
                               || case when c.name like '% desc' then ' desc' else '' end, ', ' order by c.n)
  from unnest(columns) with ordinality c (name, n)
$$;

-- The column names without ' desc'.
create or replace function warden.bare_columns(columns text[]) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.array_agg(pg_catalog.regexp_replace(c.name, ' desc$', '') order by c.n)
  from unnest(columns) with ordinality c (name, n)
$$;

-- A table with its partitions or inheritance children, at all depths: parents before children.
-- (PL/pgSQL plans the query once per session. An SQL function would plan it at each call, which takes longer.)
create or replace function warden.tree(relation regclass) returns setof regclass
language plpgsql stable rows 10 set search_path = pg_catalog, pg_temp as $$
begin
  return query
    with recursive members as (
      select tree.relation::oid as oid, 0 as depth
      union
      select i.inhrelid, m.depth + 1 from pg_catalog.pg_inherits i join members m on i.inhparent = m.oid
    )
    select m.oid::regclass from members m group by m.oid order by max(m.depth), m.oid;
end
$$;

-- The registered table that a table is part of: itself, else the nearest table above it. Null if there is none.
create or replace function warden.whole(relation regclass) returns regclass
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    with recursive above as (
      select whole.relation::oid as oid, 0 as depth
      union
      select i.inhparent, a.depth + 1 from pg_catalog.pg_inherits i join above a on i.inhrelid = a.oid
    )
    select c.oid::regclass
    from above a
    join pg_catalog.pg_class c on c.oid = a.oid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join warden.tenant_tables t on t.schema_name = n.nspname and t.table_name = c.relname
    order by a.depth, c.oid limit 1);
end
$$;

-- Whether one unique index on these columns can cover a table. On a partitioned table they must include the partition
-- key of each level. An inheritance parent has no index that covers its children.
create or replace function warden.can_be_unique(relation regclass, columns text[]) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select case (select c.relkind from pg_catalog.pg_class c where c.oid = relation)
            when 'p' then not exists (
              select from warden.tree(relation) m (oid)
              join pg_catalog.pg_partitioned_table t on t.partrelid = m.oid
              cross join lateral unnest(t.partattrs::int2[]) k (attnum)
              left join pg_catalog.pg_attribute a on a.attrelid = t.partrelid and a.attnum = k.attnum
              -- An expression has no attribute.
              where a.attname is null or a.attname::text <> all (columns))
            else not exists (select from pg_catalog.pg_inherits i where i.inhparent = relation)
          end);
end
$$;

-- Whether the platform's tables were created by Warden. (Otherwise they are the application's, and were adopted.)
create or replace function warden.creates_platform_tables() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  -- The core does not have this table.
  if pg_catalog.to_regclass('warden.platform_set') is null then
    return false;
  end if;
  return exists (select from warden.platform_set s where s.creates_tables);
end
$$;

reset role;
