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

-- The unique indexes of a table that cover these columns: by themselves, or together with the organisation, as in
-- `primary key (org_id, id)`. A unique index of a partitioned table also contains the partition key, so columns of that
-- one may be left out. Columns that an index only includes are not part of its key. `is_immediate` is false if the
-- index, or the part of it in a partition, belongs to a DEFERRABLE constraint: PostgreSQL checks that one after a
-- statement, or at the end of the transaction, so meanwhile several rows may have the same key.
create or replace function warden.indexes_of_key(relation regclass, key_columns text[], org_column name)
returns table (index regclass, is_immediate boolean)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select i.indexrelid, i.indimmediate and not exists (
    select from pg_catalog.pg_class c
    cross join lateral warden.tree(c.oid) t (oid)
    join pg_catalog.pg_index x on x.indexrelid = t.oid
    where c.oid = i.indexrelid and c.relkind = 'I' and not x.indimmediate)
  from pg_catalog.pg_index i
  cross join lateral (select warden.index_columns(i.indexrelid) as names) x
  where i.indrelid = relation and i.indisunique and i.indisvalid and i.indpred is null
    and key_columns <@ x.names
    and x.names <@ (key_columns || org_column::text || warden.partition_key_columns(relation))
$$;

-- Whether columns identify a row within its organisation at any time: they are not null, and unique. Existing rows may
-- lack a value if the NOT NULL constraint is not valid (PostgreSQL 18).
-- The former version knew keys of one column only. No client of the database calls it.
-- squawk-ignore ban-drop-function
drop function if exists warden.is_key(regclass, name, name);
create or replace function warden.is_key(relation regclass, key_columns text[], org_column name) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(bool_and(a.attnotnull), false)
     and not exists (select from pg_catalog.pg_constraint n
                     where n.conrelid = relation and n.contype = 'n' and not n.convalidated
                       and n.conkey && array_agg(a.attnum))
     and exists (select from warden.indexes_of_key(relation, key_columns, org_column) i where i.is_immediate)
  from unnest(key_columns) k (name)
  left join pg_catalog.pg_attribute a on a.attrelid = relation and a.attname = k.name and a.attnum > 0
$$;

-- The DEFERRABLE constraint because of which columns are no key, and the statement that replaces it. PostgreSQL lets no
-- foreign key refer to such a constraint. If only that of a partition is DEFERRABLE, another unique constraint on the
-- whole is the remedy. Null if there is none.
create or replace function warden.deferrable_key(
  relation regclass, key_columns text[], org_column name, out name text, out remedy text
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  select pg_catalog.format('%I of %s', k.conname, k.conrelid::regclass),
      case when not i.indimmediate then
        pg_catalog.format('alter table %s drop constraint %I, add constraint %I %s;', relation, k.conname, k.conname,
                          pg_catalog.regexp_replace(pg_catalog.pg_get_constraintdef(k.oid), ' DEFERRABLE.*$', ''))
      else pg_catalog.format('alter table %s add unique (%s);', relation, (
        select string_agg(pg_catalog.quote_ident(u.name), ', ' order by u.n)
        from unnest(warden.index_columns(i.indexrelid)) with ordinality u (name, n))) end
    into deferrable_key.name, remedy
  from warden.indexes_of_key(relation, key_columns, org_column) x
  join pg_catalog.pg_index i on i.indexrelid = x.index
  cross join lateral warden.tree(x.index) with ordinality t (oid, n)
  join pg_catalog.pg_constraint k on k.conindid = t.oid and k.contype in ('p', 'u') and k.condeferrable
  where not x.is_immediate
  order by i.indimmediate, x.index::oid, t.n limit 1;
  if exists (select from warden.indexes_of_key(relation, key_columns, org_column) x where x.is_immediate) then
    name := null;
    remedy := null;
  end if;
end
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
                             'date', 'timestamp', 'timestamptz', 'time', 'inet', 'cidr', 'macaddr', 'macaddr8', 'bytea', 'oid')
      or (select t.typtype = 'e' from pg_catalog.pg_type t where t.oid = b.type)
  from (values (warden.base_type(type))) b (type)
$$;

reset role;
