-- Foreign keys between tables of organisations that do not include org_id, with no other key beside them that does.
with registered as (
  select t.*, format('%I.%I', t.schema_name, t.table_name) as full_name, c.oid
  from warden.tenant_tables t
  join pg_namespace n on n.nspname = t.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind in ('r', 'p')
  where t.scope = 'org'
), loose as (
  select k.*, a.full_name, b.full_name as parent_name,
    -- PERIOD and NOT ENFORCED came with PostgreSQL 18. A column whose key is not enforced is as one without a key.
    (select string_agg(case when v.has_period and u.n = cardinality(k.conkey) then 'period ' else '' end
                       || quote_ident(x.attname), ', ' order by u.n)
     from unnest(k.conkey) with ordinality u (attnum, n)
     join pg_attribute x on x.attrelid = k.conrelid and x.attnum = u.attnum) as columns,
    (select string_agg(case when v.has_period and u.n = cardinality(k.conkey) then 'period ' else '' end
                       || quote_ident(x.attname), ', ' order by u.n)
     from unnest(k.confkey) with ordinality u (attnum, n)
     join pg_attribute x on x.attrelid = k.confrelid and x.attnum = u.attnum) as key_columns,
    (select string_agg(quote_ident(x.attname) || case when v.has_period and u.n = cardinality(k.conkey)
                                                       then ' without overlaps' else '' end, ', ' order by u.n)
     from unnest(k.confkey) with ordinality u (attnum, n)
     join pg_attribute x on x.attrelid = k.confrelid and x.attnum = u.attnum) as unique_columns,
    exists (select from pg_index i
            where i.indrelid = k.confrelid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
              and i.indnkeyatts = cardinality(k.confkey) + 1
              and i.indkey::int2[] @> (k.confkey || p.attnum)) as has_key,
    current_setting('server_version_num')::int >= 150000 as can_set_one_column,
    quote_ident(left(k.conname, 54) || '_in_org') as new_name
  from pg_constraint k
  cross join lateral (
    select coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false) as has_period,
      coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) as is_enforced) v
  join registered a on a.oid = k.conrelid
  join registered b on b.oid = k.confrelid
  join pg_attribute o on o.attrelid = a.oid and o.attname = 'org_id' and not o.attisdropped
  join pg_attribute p on p.attrelid = b.oid and p.attname = 'org_id' and not p.attisdropped
  where k.contype = 'f' and v.is_enforced and o.attnum <> all (k.conkey)
    and not exists (select from pg_constraint w
                    where w.contype = 'f' and w.conrelid = k.conrelid and w.confrelid = k.confrelid
                      and w.conkey @> k.conkey and o.attnum = any (w.conkey))
)
select 'loose-key' as rule, null::text as severity, l.full_name as "table", l.conname::text as object,
  format('foreign key "%s" does not include org_id: a row may reference another organisation''s row of %s', l.conname,
         l.parent_name) as cause,
  'decide' as remedy_kind,
  json_build_object('question', 'may its rows reference rows of other organisations?', 'choices', json_build_array(
    json_build_array('no (this fails if one does so already)', 'sql', concat(
      case when not l.has_key then format(E'alter table %s add unique (org_id, %s);\n', l.parent_name, l.unique_columns) end,
      format(E'alter table %s add constraint %s foreign key (org_id, %s) references %s (org_id, %s)%s not valid;\n',
        l.full_name, l.new_name, l.columns, l.parent_name, l.key_columns,
        -- The same action on deletion as the simple key. Before PostgreSQL 15, SET NULL would also clear org_id, so
        -- there the new key only checks, after the simple one has acted.
        case when l.confdeltype = 'c' then ' on delete cascade'
             when l.confdeltype = 'n' and l.can_set_one_column then format(' on delete set null (%s)', l.columns)
             when l.confdeltype = 'd' and l.can_set_one_column then format(' on delete set default (%s)', l.columns)
             when l.confdeltype in ('n', 'd') then ' deferrable initially deferred' else '' end),
      format('alter table %s validate constraint %s;', l.full_name, l.new_name)))))::text as remedy
from loose l
