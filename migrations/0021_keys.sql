-- Keys of watched tables: which columns identify a row, and its topic.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The id type for a column's type; null if columns of that type cannot contain ids.
create or replace function warden.entity_id_type(type regtype) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case
    when type = 'uuid'::regtype then 'uuid'
    when type in ('bigint'::regtype, 'integer'::regtype, 'smallint'::regtype) then 'integer'
    when type in ('text'::regtype, 'character varying'::regtype) then 'text'
  end
$$;

-- The type below all domains.
create or replace function warden.base_type(type oid) returns oid
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  base oid := type;
  t record;
begin
  loop
    select p.typtype as kind, p.typbasetype as below into t from pg_catalog.pg_type p where p.oid = base;
    if t.kind is distinct from 'd' then
      -- Null if there is no such type.
      return case when t.kind is not null then base end;
    end if;
    base := t.below;
  end loop;
end
$$;

-- The key columns of an index; null for each expression.
create or replace function warden.index_columns(index oid) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  -- With a join, the columns of all tables would be read.
  return (select array(select (select a.attname::text from pg_catalog.pg_attribute a
                               where a.attrelid = i.indrelid and a.attnum = i.indkey[k] and a.attnum > 0)
                       from pg_catalog.generate_series(0, i.indnkeyatts - 1) k order by k)
          from pg_catalog.pg_index i where i.indexrelid = index);
end
$$;

-- The columns by which a table and its partitions are partitioned.
create or replace function warden.partition_key_columns(relation regclass) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select array(
            select distinct a.attname::text
            from warden.tree(relation) t (oid)
            join pg_catalog.pg_partitioned_table p on p.partrelid = t.oid
            join pg_catalog.pg_attribute a on a.attrelid = p.partrelid and a.attnum = any (p.partattrs::int2[]) and a.attnum > 0));
end
$$;

-- Whether columns identify a row within its organisation: they are not null, and unique by themselves or together with
-- the organisation, as in `primary key (org_id, id)`. A unique index of a partitioned table also contains the partition
-- key, so columns of that one may be left out. Columns that an index only includes are not part of its key.
-- The former version knew keys of one column only. No client of the database calls it.
-- squawk-ignore ban-drop-function
drop function if exists warden.is_key(regclass, name, name);
create or replace function warden.is_key(relation regclass, key_columns text[], org_column name) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
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
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce((
    select case when c.relkind = 'p' and 'id' = any (x.names) and warden.is_key(relation, '{id}', org_column) then '{id}'
                when x.names = array[org_column::text] then x.names
                else array_remove(x.names, org_column::text) end
    from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indrelid
    cross join lateral (select warden.index_columns(i.indexrelid) as names) x
    where i.indrelid = relation and i.indisprimary), '{id}')
$$;

-- Whether a column of this type can be part of a key. warden.same_key_expression() pairs rows by the type's equality,
-- which PostgreSQL itself must define, because a log function uses no other schema. Values that are equal must also
-- have the same bytes in a document, or that function must compare more. Events also send the key of a row that they
-- cannot send, so every value must be small and have a document.
create or replace function warden.is_key_type(type oid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select b.type::regtype in ('uuid', 'bigint', 'integer', 'smallint', 'text', 'varchar', 'char', 'boolean', 'numeric',
                             'date', 'timestamp', 'timestamptz', 'time', 'inet', 'oid')
      or (select t.typtype = 'e' from pg_catalog.pg_type t where t.oid = b.type)
  from (values (warden.base_type(type))) b (type)
$$;

reset role;
