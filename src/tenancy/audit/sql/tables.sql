-- Registered tables that cannot be protected, or whose rows cannot inherit, and tables of users that requests may read.
with registered as (
  select t.*, format('%I.%I', t.schema_name, t.table_name) as full_name, c.oid, c.relkind,
    -- A fill trigger cannot move a row to another partition.
    exists (select from pg_partitioned_table pt
            join pg_attribute a on a.attrelid = pt.partrelid and a.attnum = any (pt.partattrs)
            where pt.partrelid = c.oid and a.attname = 'org_id' and not a.attnotnull) as is_partitioned_by_org,
    format('(schema_name, table_name) = (%L, %L)', t.schema_name, t.table_name) as key
  from warden.tenant_tables t
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind in ('r', 'p', 'v', 'm', 'f')
), kinds as (
  select r.*, case
      when r.relkind = 'v' then 'is a view: register its underlying tables'
      when r.relkind = 'm' then 'is a materialized view: no policy can protect its rows'
      when r.relkind = 'f' then 'is a foreign table: protect its rows on the server that stores them'
      when t.outer_table is not null then format('is part of %s, which is adopted with all its members', t.outer_table)
      when t.member is not null then t.member
      when r.is_partitioned_by_org then 'is partitioned by org_id, which may be null: a row cannot be filled'
      end as misfit, t.outer_table
  from registered r
  cross join lateral (
    select min(i.inhparent::regclass::text) filter (where i.inhrelid = r.oid) as outer_table,
      min(format('has the member %s, %s', m.oid::regclass, case
        when c.relkind = 'f' then 'a foreign table: no policy can protect its rows'
        else format('which also inherits from %s', i.inhparent::regclass) end))
        filter (where i.inhrelid <> r.oid or c.relkind = 'f' and c.oid <> r.oid) as member
    from warden.tree(r.oid) m (oid)
    join pg_class c on c.oid = m.oid
    left join pg_inherits i on i.inhrelid = m.oid and i.inhparent not in (select x from warden.tree(r.oid) x)
    where i.inhrelid is not null or c.relkind = 'f') t
), parents as (
  select r.*, format('%I.%I', r.parent_schema, r.parent_table) as parent_name, p.oid as parent,
    child.attname as child_column, format_type(child.atttypid, null) as child_type,
    key.attname as key_column, format_type(key.atttypid, null) as key_type,
    -- A unique index of a partitioned table also contains the partition key.
    p.relkind = 'r' and not exists (
      select from pg_index i
      where i.indrelid = p.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
        and i.indnkeyatts = 1 and i.indkey[0] = key.attnum) as is_key_ambiguous
  from kinds r
  left join pg_namespace pn on pn.nspname = r.parent_schema
  left join pg_class p on p.relnamespace = pn.oid and p.relname = r.parent_table and p.relkind in ('r', 'p')
  left join pg_attribute child on child.attrelid = r.oid and child.attname = r.parent_column and not child.attisdropped
  left join pg_attribute key on key.attrelid = p.oid and key.attname = r.parent_key and not key.attisdropped
  where r.parent_table is not null and r.misfit is null
), run as (
  -- A table that is adopted late is enforced at once if the database isolates organisations already.
  select case when exists (select from pg_policy p where p.polrelid = to_regclass('public.organizations')
                             and p.polname = 'warden_org')
              then 'warden migrate --enforce' else 'warden migrate' end as command
)
select 'table-kind' as rule, null::text as severity, k.full_name as "table", k.table_name::text as object,
  'it ' || k.misfit as cause, 'decide' as remedy_kind,
  json_build_object('question', 'what protects its rows?', 'choices', json_build_array(
    case
      when k.outer_table is not null then json_build_array('policies of the table at the top, and of its members', 'sql',
        format(E'delete from warden.tenant_tables where %s;\nselect warden.adopt_table(%L);\n$ %s', k.key, k.outer_table,
               run.command))
      when k.is_partitioned_by_org then json_build_array('policies, once each row has its org_id', 'sql',
        format(E'alter table %s alter column org_id set not null;\n$ %s', k.full_name, run.command)) end,
    json_build_array('something else, or they need no protection: remove it from the registry', 'sql', format(
      'delete from warden.tenant_tables where %s;%s', k.key,
      -- Otherwise the next audit would ask to register it again.
      case when k.relkind in ('r', 'p', 'f') then format(
        E'\nselect warden.accept_finding(''unregistered-table'', %L, %L);', k.full_name, 'it ' || k.misfit) else '' end)),
    case when k.relkind = 'f' then json_build_array('no request reads it', 'sql', format(
      E'revoke all on %s from public, anon, authenticated;\ndelete from warden.tenant_tables where %s;\n'
      'select warden.accept_finding(''unregistered-table'', %L, ''no request reads it'');',
      k.full_name, k.key, k.full_name)) end))::text as remedy
from kinds k, run where k.misfit is not null
union all
select 'parent-link', case when p.parent is null then 'notice' end, p.full_name, p.parent_column, case
    when p.parent is null then format('its rows inherit from %s, which does not exist: they get the organisation of '
                                      'their user, or the default organisation', p.parent_name)
    when p.child_column is null then
      format('it has no column %I, through which its rows inherit from %s', p.parent_column, p.parent_name)
    when p.key_column is null then
      format('its rows inherit from %s, which has no column %I', p.parent_name, p.parent_key)
    when p.child_type <> p.key_type then
      format('%I is %s, but %s.%I is %s', p.parent_column, p.child_type, p.parent_name, p.parent_key, p.key_type)
    else format('its rows inherit from %s, where %I is not unique', p.parent_name, p.parent_key) end,
  'decide',
  json_build_object('question', 'through which column do its rows inherit their organisation?',
    'choices', (select json_agg(c.choice order by c.rank, c.name) from (
      select 0 as rank, '' as name, json_build_array(
        format('through %I; the column of the parent must be unique', p.parent_column), 'sql', format(
        'alter table %s add unique (%I);', p.parent_name, p.parent_key)) as choice
      where p.is_key_ambiguous and p.child_type = p.key_type
      union all
      select 1, f.attname, json_build_array(
        format('through %I, its foreign key to %s', f.attname, p.parent_name), 'sql', format(
        E'update warden.tenant_tables set parent_column = %L, parent_key = %L where %s;\n$ %s',
        f.attname, f.key, p.key, run.command))
      from (select a.attname, b.attname as key from pg_constraint k
            join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
            join pg_attribute b on b.attrelid = k.confrelid and b.attnum = k.confkey[1]
            where k.conrelid = p.oid and k.confrelid = p.parent and k.contype = 'f' and array_length(k.conkey, 1) = 1
              and (a.attname, b.attname) is distinct from (p.parent_column, p.parent_key)) f
      union all
      select 2, '', json_build_array('through none: each row has the organisation of its user', 'sql', format(
        E'update warden.tenant_tables set parent_schema = null, parent_table = null, parent_column = null where %s;\n'
        '$ %s', p.key, run.command))) c))::text
from parents p, run
where p.parent is null or p.child_column is null or p.key_column is null or p.child_type <> p.key_type
   or p.is_key_ambiguous
union all
select 'open-user-table', null, k.full_name, k.table_name,
  format('%s may read every user''s rows: row-level security is not enabled', r.names), 'decide',
  json_build_object('question', 'which rows may a request read?', 'choices', json_build_array(
    json_build_array('those of its own user, and writes only these', 'sql', format('select warden.protect(%L);', k.full_name)),
    json_build_array('none', 'sql', format('revoke select on %s from public, anon, authenticated;', k.full_name))))::text
from kinds k
cross join lateral (select string_agg(g.rolname, ' and ' order by g.rolname) as names from pg_roles g
                    where g.rolname in ('anon', 'authenticated') and has_any_column_privilege(g.oid, k.oid, 'select')) r
where k.scope = 'user' and k.relkind in ('r', 'p') and r.names is not null
  and not (select c.relrowsecurity from pg_class c where c.oid = k.oid)
  -- The rule `policy` checks tables that Warden created.
  and not exists (select from pg_policy p where p.polrelid = k.oid and p.polname = 'warden_org')
