-- Registered tables that cannot be protected, and tables that may belong to organisations but are not registered.
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
    key.attname as key_column, format_type(key.atttypid, null) as key_type
  from kinds r
  left join pg_namespace pn on pn.nspname = r.parent_schema
  left join pg_class p on p.relnamespace = pn.oid and p.relname = r.parent_table and p.relkind in ('r', 'p')
  left join pg_attribute child on child.attrelid = r.oid and child.attname = r.parent_column and not child.attisdropped
  left join pg_attribute key on key.attrelid = p.oid and key.attname = r.parent_key and not key.attisdropped
  where r.parent_table is not null and r.misfit is null
), others as (
  select format('%I.%I', n.nspname, c.relname) as full_name, c.oid, c.relname,
    (select string_agg(format('the column %I', a.attname), ' and ' order by a.attname) from pg_attribute a
     where a.attrelid = c.oid and a.attname in ('org_id', 'user_id') and not a.attisdropped) as org_columns,
    exists (select from pg_attribute a
            where a.attrelid = c.oid and a.attname = 'user_id' and not a.attisdropped) as has_user_id,
    (select min(format('a foreign key to %s', f.confrelid::regclass)) from pg_constraint f
     join registered r on r.oid = f.confrelid and r.scope in ('org', 'root')
     where f.conrelid = c.oid and f.contype = 'f') as org_key
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p', 'f') and not c.relispartition and c.relpersistence <> 't'
    and n.nspname !~ '^pg_' and n.nspname not in (
      'information_schema', 'warden',
      -- Schemas that Supabase owns and protects.
      'auth', 'storage', 'realtime', '_realtime', 'vault', 'pgsodium', 'extensions', 'graphql', 'graphql_public',
      'supabase_functions', 'supabase_migrations', '_analytics', 'net', 'cron', 'pgbouncer')
    and not exists (select from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
    and warden.whole(c.oid) is null
)
select 'table-kind' as rule, null::text as severity, k.full_name as "table", k.table_name::text as object,
  'it ' || k.misfit as cause, 'decide' as remedy_kind, case
    when k.outer_table is not null then
      format('register the table at the top instead: delete from warden.tenant_tables where %s; '
             'select warden.adopt_table(%L);', k.key, k.outer_table)
    when k.is_partitioned_by_org then
      format('give each row its org_id, then: alter table %s alter column org_id set not null;', k.full_name)
    else format('protect its rows by hand, and leave it out: delete from warden.tenant_tables where %s; '
                'select warden.accept_finding(''unregistered-table'', %L, ''<reason>'');', k.key, k.full_name)
    end as remedy
from kinds k where k.misfit is not null
union all
select 'parent-link', case when p.parent is null then 'notice' end, p.full_name, p.parent_column, case
    when p.parent is null then format('its rows inherit from %s, which does not exist: they get the organisation of '
                                      'their user, or the default organisation', p.parent_name)
    when p.child_column is null then
      format('it has no column %I, through which its rows inherit from %s', p.parent_column, p.parent_name)
    when p.key_column is null then
      format('its rows inherit from %s, which has no column %I', p.parent_name, p.parent_key)
    else format('%I is %s, but %s.%I is %s', p.parent_column, p.child_type, p.parent_name, p.parent_key,
                p.key_type) end,
  'decide',
  format('name the right columns with warden.adopt_table(), or use the user alone: update warden.tenant_tables '
         'set parent_schema = null, parent_table = null, parent_column = null where %s;', p.key)
from parents p
where p.parent is null or p.child_column is null or p.key_column is null or p.child_type <> p.key_type
union all
select 'unregistered-table', null, o.full_name, o.relname,
  format('it has %s, and is not registered as a table of organisations or of users',
         coalesce(o.org_columns, o.org_key)),
  'decide',
  format('if its rows belong to organisations: select warden.adopt_table(%L%s);%s', o.full_name,
         case when o.has_user_id then ', ''user_id''' else '' end,
         case when o.has_user_id then
           format(' If they belong to users: select warden.leave_to_user(%L);', o.full_name) else '' end)
from others o where coalesce(o.org_columns, o.org_key) is not null
union all
select 'open-user-table', null, k.full_name, k.table_name,
  format('%s may read every user''s rows: row-level security is not enabled', r.names), 'sql',
  format('select warden.protect(%L);', k.full_name)
from kinds k
cross join lateral (select string_agg(g.rolname, ' and ' order by g.rolname) as names from pg_roles g
                    where g.rolname in ('anon', 'authenticated') and has_any_column_privilege(g.oid, k.oid, 'select')) r
where k.scope = 'user' and k.relkind in ('r', 'p') and r.names is not null
  and not (select c.relrowsecurity from pg_class c where c.oid = k.oid)
  -- The rule `policy` checks tables that Warden created.
  and not exists (select from pg_policy p where p.polrelid = k.oid and p.polname = 'warden_org')
union all
select 'loose-key', null, a.full_name, k.conname,
  format('foreign key "%s" does not include org_id: a row may reference another organisation''s row of %s', k.conname,
         b.full_name),
  'decide',
  format('alter table %s add foreign key (org_id, %s) references %s (org_id, %s) not valid; then validate it',
    a.full_name,
    (select string_agg(quote_ident(x.attname), ', ' order by u.n) from unnest(k.conkey) with ordinality u (attnum, n)
     join pg_attribute x on x.attrelid = k.conrelid and x.attnum = u.attnum), b.full_name,
    (select string_agg(quote_ident(x.attname), ', ' order by u.n) from unnest(k.confkey) with ordinality u (attnum, n)
     join pg_attribute x on x.attrelid = k.confrelid and x.attnum = u.attnum))
from pg_constraint k
join kinds a on a.oid = k.conrelid and a.scope = 'org' and a.misfit is null
join kinds b on b.oid = k.confrelid and b.scope = 'org'
join pg_attribute o on o.attrelid = a.oid and o.attname = 'org_id' and not o.attisdropped
where k.contype = 'f' and o.attnum <> all (k.conkey)
  and not exists (select from pg_constraint w
                  where w.contype = 'f' and w.conrelid = k.conrelid and w.confrelid = k.confrelid
                    and w.conkey @> k.conkey and o.attnum = any (w.conkey))
