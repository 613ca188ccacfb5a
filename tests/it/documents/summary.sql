-- What was tried, as a line of the table that `make types` prints. The row types of tables were tried in groups.
with types as (
  select regexp_replace(what, ' (alone|in a domain|in a row|in an array)$', '') as name, bool_and(is_null) as is_null
  from tried where what like '% alone' group by 1
)
select format('types | %s | %s | %s | %s | %s | %s | %s | %s |',
  current_setting('server_version'),
  (select count(*) from pg_extension where extname <> 'plpgsql'),
  (select count(*) from types where name !~ '^hidden.rows_'),
  (select count(*) from pg_type t join pg_attribute a on a.atttypid = t.oid join pg_class c on c.oid = a.attrelid
   where c.relname ~ '^rows_' and c.relnamespace = 'hidden'::regnamespace),
  (select count(*) from types where is_null),
  (select sum(rows) from tried), (select sum(writes) from tried), (select count(*) from failures))
