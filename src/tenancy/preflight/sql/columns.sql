-- The columns of $1, as [{n, relation, name}]: type, and what a value of it can identify.
with recursive wanted as (
  select * from jsonb_to_recordset($1) w (n int, relation bigint, name text)
), base as (
  select w.n, a.attrelid, a.attnum, a.atttypid as declared, a.atttypid as type, a.atttypmod as typmod
  from wanted w
  join pg_attribute a on a.attrelid = w.relation::oid and a.attname = w.name and a.attnum > 0 and not a.attisdropped
  union all
  -- The type below a domain.
  select b.n, b.attrelid, b.attnum, b.declared, t.typbasetype, greatest(b.typmod, t.typtypmod)
  from base b join pg_type t on t.oid = b.type
  where t.typtype = 'd'
)
select b.n, format_type(b.declared, null) as type_name, b.type = 'uuid'::regtype as is_uuid,
  -- Of varchar(n) and char(n), typmod is n + 4.
  t.typcategory = 'S' and t.typlen <> 1 and (b.typmod < 0 or b.typmod - 4 >= 36) as is_text,
  exists (
    select from pg_index i
    where i.indrelid = b.attrelid and i.indisunique and i.indisvalid and i.indpred is null
      and b.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
      -- A unique index of a partitioned table also contains the partition key.
      and not exists (
        select from unnest(i.indkey::int2[]) with ordinality k (attnum, position)
        where k.position <= i.indnkeyatts and k.attnum <> b.attnum and not exists (
          select from pg_partition_tree(b.attrelid) m
          join pg_partitioned_table p on p.partrelid = m.relid
          join pg_attribute pa on pa.attrelid = m.relid and pa.attnum = any (p.partattrs)
          join pg_attribute ka on ka.attrelid = b.attrelid and ka.attnum = k.attnum
          where pa.attname = ka.attname))) as is_unique,
  has_column_privilege(b.attrelid, b.attnum, 'select') and not row_security_active(b.attrelid) as is_readable
from base b join pg_type t on t.oid = b.type
where t.typtype <> 'd'
