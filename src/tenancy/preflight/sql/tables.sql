-- The tables of $1, names as the operator wrote them: [{n, schema, name, is_exact}]. A name that is not exact may have
-- been written without quotes. One row per name, with the table or the problem.
with wanted as (
  select w.* from jsonb_to_recordset($1) w (n int, schema text, name text, is_exact boolean)
), found as (
  select w.n, c.oid, c.relkind, c.relispartition, c.relpersistence, c.relnamespace, n.nspname, c.relname,
    count(*) over (partition by w.n) as matches
  from wanted w
  join pg_class c on c.relname = w.name or not w.is_exact and c.relname = lower(w.name)
  join pg_namespace n on n.oid = c.relnamespace
    and (n.nspname = w.schema or not w.is_exact and n.nspname = lower(w.schema))
)
select w.n, f.oid::bigint as oid,
  case when f.oid is not null then format('%I.%I', f.nspname, f.relname) end as full_name,
  case
    when f.oid is null then coalesce((
      select format('does not exist. Is it %s?', string_agg(format('%I.%I', n.nspname, c.relname), ' or ' order by n.nspname))
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where lower(c.relname) = lower(w.name) and c.relkind in ('r', 'p') having count(*) > 0), 'does not exist')
    when f.matches > 1 then 'could be several tables: write the exact name in double quotes'
    when f.nspname in ('pg_catalog', 'information_schema') or f.nspname ~ '^pg_' then 'is a table of PostgreSQL'
    when f.nspname = 'warden' then 'is a table of Warden'
    when f.relkind = 'v' then 'is a view: name its underlying tables'
    when f.relkind = 'm' then 'is a materialized view: no policy can protect its rows'
    when f.relkind = 'f' then 'is a foreign table: adopt the table on the server that stores its rows'
    when f.relkind not in ('r', 'p') then 'is not a table'
    when f.relpersistence = 't' then 'is a temporary table'
    when i.inhparent is not null then format('is a part of %s: name the whole', i.inhparent::regclass)
    when e.extname is not null then format('belongs to the extension %s', e.extname)
  end as problem,
  coalesce(array(select a.attname::text from pg_attribute a
                 where a.attrelid = f.oid and a.attnum > 0 and not a.attisdropped), '{}') as columns
from wanted w
left join found f on f.n = w.n
left join lateral (select i.inhparent from pg_inherits i where i.inhrelid = f.oid limit 1) i on true
left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = f.oid and d.deptype = 'e'
left join pg_extension e on e.oid = d.refobjid
order by w.n
