-- Functions of the application that fail once a table has one more column: they write whole rows of it into another
-- table, or return whole rows of it as rows of a fixed form. $1: oids of the listed tables. Views are not concerned,
-- because PostgreSQL expands their `*` when it creates them, and neither are function bodies that it parses then.
-- Columns: subject, problem, remedy, accepted_as.
with tables as (
  select c.oid, c.reltype, format('%I.%I', n.nspname, c.relname) as name,
    regexp_replace(lower(c.relname), '([^a-z0-9_])', '\\\1', 'g') as pattern
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.oid = any ($1::bigint[]::oid[])
    and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'org_id' and not a.attisdropped)
), routines as materialized (
  select p.oid, format('%I.%I', n.nspname, p.proname) as name, p.oid::regprocedure::text as signature, l.lanname as language,
    p.prorettype, p.proargmodes && array['o', 'b', 't']::"char"[] as has_columns,
    -- Comments, and the text of strings, are no statements.
    lower(regexp_replace(regexp_replace(p.prosrc, '--[^\n]*|/[*].*?[*]/', ' ', 'g'), '''[^'']*''', '''''', 'g')) as body
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
  join pg_language l on l.oid = p.prolang and l.lanname in ('plpgsql', 'sql')
  where p.prokind in ('f', 'p') and p.prosrc like '%*%'
    and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
), found as (
  select r.name, r.signature, t.name as table_name, 'writes all columns of old or new rows into another table' as what
  from tables t
  join pg_trigger g on g.tgrelid = t.oid and not g.tgisinternal
  join routines r on r.oid = g.tgfoid
  where r.body ~ '\minsert\s+into\M[^;]*(\mselect|,|\mvalues\s*\()\s*\(?\s*(old|new)\s*\)?\s*\.\s*\*'
  union
  select r.name, r.signature, t.name,
    case when r.body ~ all_columns.inserted then 'writes all columns of its rows into another table'
         else 'returns all columns of its rows in a fixed form' end
  from tables t
  cross join lateral (select format(
    '\mselect\s+(distinct\s+)?([a-z0-9_"]+\s*\.\s*)?\*[^;]*\m(from|join)\s+(only\s+)?([a-z0-9_"]+\s*\.\s*)?"?%s("|\M)', t.pattern) as selected) s
  cross join lateral (select '\minsert\s+into\M[^;]*' || s.selected as inserted, '\mreturn\s+query\s+' || s.selected as returned) all_columns
  join routines r on r.body ~ all_columns.inserted
    or (r.has_columns or r.prorettype <> t.reltype
                         and exists (select from pg_type x where x.oid = r.prorettype and x.typtype = 'c'))
       and case r.language when 'sql' then r.body ~ s.selected else r.body ~ all_columns.returned end
)
select 'function ' || f.signature as subject,
  format('%s: %s. It fails once the table has the column org_id', string_agg(distinct f.table_name, ', '),
         string_agg(distinct f.what, ', and ')) as problem,
  'Name the columns in the function instead of "*".' as remedy,
  f.name as accepted_as
from found f group by f.signature, f.name order by 1
