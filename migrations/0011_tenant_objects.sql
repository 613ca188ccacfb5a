-- warden.tenant_objects: every object that the registry requires, and whether it exists. Adoption, the audit and the
-- tests read it.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The default of org_id that `warden migrate --enforce` sets.
create or replace function warden.org_id_default() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select warden.callee('auth_org_id') || '()');
end
$$;

-- Whether a default of org_id is Warden's: also the one that it set before the application replaced
-- public.auth_org_id(), whose comment remains.
create or replace function warden.is_own_default(expression text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select expression = warden.org_id_default()
            or expression = 'public.auth_org_id()'
               and coalesce(pg_catalog.obj_description(pg_catalog.to_regprocedure('public.auth_org_id()'), 'pg_proc')
                            like '%(created by Warden)', false));
end
$$;

-- Whether a trigger is enabled, and is exactly the one that warden.require_org_id() creates.
create or replace function warden.is_requirement(requirement oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select g.tgenabled in ('O', 'A') and pg_catalog.pg_get_triggerdef(g.oid) = pg_catalog.format(
            'CREATE TRIGGER warden_require_org_id BEFORE INSERT ON %s FOR EACH ROW '
            'WHEN ((new.org_id IS NULL)) EXECUTE FUNCTION warden.reject_missing_org_id()', g.tgrelid::regclass)
          from pg_catalog.pg_trigger g where g.oid = requirement);
end
$$;

-- Whether a trigger of the application could still set org_id after warden_require_org_id: triggers of one kind fire
-- in the order of their names.
create or replace function warden.has_later_trigger(relation regclass) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  -- Bits of tgtype: 1 row, 2 before, 4 insert.
  return (select exists (select from pg_catalog.pg_trigger g
                         where g.tgrelid = relation and g.tgtype & 7 = 7 and g.tgenabled in ('O', 'A')
                           and g.tgname > 'warden_require_org_id'
                           -- Warden's own triggers keep org_id as it is.
                           and g.tgname !~ E'^[~!\U0010FFFF]?warden_'));
end
$$;

-- Whether a trigger is enabled, and is exactly the one that warden.guard_org_id() creates.
create or replace function warden.is_guard(guard oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select g.tgenabled in ('O', 'A') and pg_catalog.pg_get_triggerdef(g.oid) = pg_catalog.format(
            'CREATE TRIGGER warden_org_id_immutable BEFORE UPDATE ON %s FOR EACH ROW '
            'WHEN ((old.org_id IS DISTINCT FROM new.org_id)) EXECUTE FUNCTION %s()',
            g.tgrelid::regclass, warden.callee('prevent_org_id_change'))
          from pg_catalog.pg_trigger g where g.oid = guard);
end
$$;

-- Whether the function of a table's fill triggers follows the present rule, exactly as warden.fill_org_id() creates it;
-- null if there is none.
create or replace function warden.is_fill_function_current(relation regclass) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select p.prosrc = warden.fill_function_text(relation) and p.prosecdef and p.proconfig = array['search_path=pg_catalog, pg_temp']
      and p.prolang = (select l.oid from pg_catalog.pg_language l where l.lanname = 'plpgsql')
      -- A superuser gives the function to the owner whose rights it needs. Other roles own it themselves.
      and (pg_catalog.pg_get_userbyid(p.proowner) = warden.fill_function_owner(relation)
           or not (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user))
    from pg_catalog.pg_proc p
    where p.pronamespace = 'warden'::regnamespace and p.proname = warden.fill_function_name(relation) and p.pronargs = 0);
end
$$;

-- Every object that a registered table needs, in order of creation, and whether it exists. A partitioned table or an
-- inheritance parent has rows for itself and for each of its members, because a statement can name a member directly.
--   phase       'expand': breaks no running application. 'fill': exists only until the enforce phase. 'enforce': could
--               reject what an application writes today. 'user': for tables of users that Warden created
--   definition  of an index: its columns; of a constraint: its definition after the name; of a policy: its condition
--   applies     false if the table, or a column that the object needs, does not exist
--   found       the existing object: of this name, or an index or constraint of another name that serves as well
--   problem     null if the object is valid, does not apply, or belongs to a phase that is over
-- Only the objects of these tables and members; with null, those of all, also of registered tables that do not exist.
-- PL/pgSQL plans the query once per session, and not at each call, because that takes as long as the query.
create or replace function warden.tenant_objects_of(relations regclass[]) returns table (
  schema_name name, table_name name, scope text, relation regclass, step int, phase text, kind text, name text,
  definition text, is_unique boolean, applies boolean, found text, is_present boolean, is_valid boolean, problem text
)
-- With JIT compilation, planning would take seconds longer than the query.
language plpgsql stable set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan as $fn$
#variable_conflict use_column
begin
  return query
  with recursive wholes as materialized (
    select r.*, c.oid as rel, pc.oid as parent_rel,
      exists (select from warden.watches w where w.relation = c.oid and w.org_column = 'org_id') as is_watched,
      coalesce(pc.oid is null or warden.can_be_unique(pc.oid, array['org_id', r.parent_key::text]), false)
        as can_have_parent_key
    -- Rows that reference organizations inherit from no other table, so they need no composite key.
    from (select t.schema_name, t.table_name, t.scope, t.user_column, t.is_immutable, t.is_read_only,
            case when p.is_parent then t.parent_schema end as parent_schema,
            case when p.is_parent then t.parent_table end as parent_table,
            case when p.is_parent then t.parent_column end as parent_column, t.parent_key,
            case when not p.is_parent and t.parent_key = 'id' then t.parent_column end as organization_column
          from warden.tenant_tables t,
          lateral (select (t.parent_schema, t.parent_table) <> ('public', 'organizations') as is_parent) p) r
    left join pg_catalog.pg_namespace n on n.nspname = r.schema_name
    left join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = r.table_name
      and c.relkind in ('r', 'p', 'v', 'm', 'f')
    left join pg_catalog.pg_namespace pn on pn.nspname = r.parent_schema
    left join pg_catalog.pg_class pc on pc.relnamespace = pn.oid and pc.relname = r.parent_table
      and pc.relkind in ('r', 'p')
  ), members as (
    -- As warden.tree(), of all tables at once.
    select w.rel as whole, w.rel as oid from wholes w where w.rel is not null
    union
    select m.whole, i.inhrelid from members m join pg_catalog.pg_inherits i on i.inhparent = m.oid
  ), registered as materialized (
    -- The tables themselves, and the members of partitioned tables and of inheritance trees.
    select w.schema_name as whole_schema, w.table_name as whole_table, w.rel as whole,
      coalesce(n.nspname, w.schema_name) as schema_name, coalesce(c.relname, w.table_name) as table_name,
      w.scope, w.user_column, w.parent_schema, w.parent_table, w.parent_column, w.parent_key, w.is_immutable,
      w.is_read_only, w.parent_rel, w.can_have_parent_key, w.is_watched, w.organization_column,
      c.oid as rel, coalesce(c.relkind in ('r', 'p'), false) as is_table, c.oid is distinct from w.rel as is_member,
      c.relrowsecurity, c.relforcerowsecurity,
      coalesce((select array_agg(a.attname::text) from pg_catalog.pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '{}') as columns
    from wholes w
    left join members m on m.whole = w.rel
    left join pg_catalog.pg_class c on c.oid = m.oid
    left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    -- A member may have an entry of its own, which is an error.
    where (relations is null or c.oid = any (relations))
      and (m.oid is not distinct from w.rel or not exists (
        select from warden.tenant_tables x where x.schema_name = n.nspname and x.table_name = c.relname))
  ), filled as materialized (
    select p.whole, warden.is_fill_function_current(p.whole) as is_right
    from (select distinct r.whole from registered r where r.scope = 'org' and not r.is_read_only) p
  ), keys as (
    -- Unique (org_id, key) on a parent: its children's foreign keys reference it.
    select distinct p.schema_name, p.table_name, c.parent_key
    from wholes c join registered p on p.whole_schema = c.parent_schema and p.whole_table = c.parent_table
    where c.can_have_parent_key
  ), wanted_indexes as (
    select r.schema_name, r.table_name,
      case when r.is_member then warden.object_name(i.index_name, r.table_name) else i.index_name::text end as name,
      i.key_columns,
      i.is_unique and (r.whole is null or warden.can_be_unique(r.whole, warden.bare_columns(i.key_columns))) as is_unique
    from warden.tenant_indexes i
    join registered r on r.whole_schema = i.schema_name and r.whole_table = i.table_name
    union all
    select r.schema_name, r.table_name, warden.object_name('idx', r.table_name, 'org', r.parent_column),
           array['org_id', r.parent_column::text], false
    from registered r
    where r.parent_column is not null and not exists (
      select from warden.tenant_indexes i where i.schema_name = r.whole_schema and i.table_name = r.whole_table
        and i.key_columns[2] = r.parent_column::text
        -- An index of the list does not count if the table lacks one of its columns.
        and not (r.is_table and exists (
          select from unnest(i.key_columns) k (name)
          where pg_catalog.regexp_replace(k.name, ' desc$', '') <> all (r.columns || array['org_id']))))
    union all
    select r.schema_name, r.table_name, warden.object_name('idx', r.table_name, 'org_id'), array['org_id'], false
    from registered r
    where r.scope = 'org' and not coalesce(r.parent_column = any (r.columns), false)
      -- An index of the list does not count if the table lacks one of its columns.
      and not exists (select from warden.tenant_indexes i
                      where i.schema_name = r.whole_schema and i.table_name = r.whole_table
                        and (not r.is_table or warden.bare_columns(i.key_columns) <@ (r.columns || array['org_id'])))
      and not exists (select from keys k where k.schema_name = r.schema_name and k.table_name = r.table_name
                        and (not r.is_table or k.parent_key = any (r.columns)))
  ), present_indexes as (
    select i.indrelid, x.relname::text as name, i.indisunique and i.indimmediate as is_unique,
      i.indisvalid and i.indisready as is_valid, i.indpred is null and am.amname = 'btree'
        -- An index of a partition becomes part of the whole's only with default operator classes and collations.
        and (not r.is_member or not exists (
          select
          from unnest(i.indclass::oid[], i.indcollation::oid[], i.indkey::int2[]) k (opclass, collation_id, attnum)
          join pg_catalog.pg_opclass oc on oc.oid = k.opclass
          left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
          where not oc.opcdefault or k.collation_id is distinct from a.attcollation)) as is_whole,
      (select array_agg(coalesce(a.attname::text || case when o.option & 1 = 1 then ' desc' else '' end, '')
                        order by k.n)
       from unnest(i.indkey) with ordinality k (attnum, n)
       join unnest(i.indoption) with ordinality o (option, n) on o.n = k.n
       left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum) as key_columns
    from pg_catalog.pg_index i
    join pg_catalog.pg_class x on x.oid = i.indexrelid
    join pg_catalog.pg_am am on am.oid = x.relam
    join registered r on r.rel = i.indrelid
  ), present_constraints as (
    select k.conrelid, k.conname::text as name, k.contype, k.confrelid, k.confdeltype, k.confupdtype, k.condeferrable,
      -- PostgreSQL 18 introduced foreign keys that are NOT ENFORCED.
      k.convalidated and coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true) as is_valid,
      (select array_agg(a.attname::text order by u.n) from unnest(k.conkey) with ordinality u (attnum, n)
       join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum) as columns,
      (select array_agg(a.attname::text order by u.n) from unnest(k.confkey) with ordinality u (attnum, n)
       join pg_catalog.pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum) as key_columns
    from pg_catalog.pg_constraint k
    where k.conrelid in (select r.rel from registered r) and k.contype in ('f', 'u', 'p', 'c')
  ), own_default as materialized (
    select warden.org_id_default() as expression
  ), wanted_policies as materialized (
    select r.schema_name, r.table_name, r.rel, p.* from registered r
    cross join lateral warden.tenant_policies(r.rel, r.scope, r.user_column, r.is_read_only) p
  ), objects as (
    select r.schema_name, r.table_name, 1 as step, 'expand' as phase, 'column' as kind, 'org_id' as name,
      'uuid' as definition, null::boolean as is_unique, r.is_table as applies,
      -- Warden writes org_id only where it fills it.
      a.attname::text as found,
      a.atttypid = 'uuid'::regtype and (a.attgenerated = '' or r.is_read_only and a.attgenerated = 's') as is_right,
      pg_catalog.format('is %s, and must be a plain uuid', pg_catalog.format_type(a.atttypid, a.atttypmod)) as wrong
    from registered r
    left join pg_catalog.pg_attribute a on a.attrelid = r.rel and a.attname = 'org_id' and not a.attisdropped
    where r.scope = 'org'
    union all
    select r.schema_name, r.table_name, 2, 'fill', 'trigger', t.name, null, null, r.is_table,
      g.tgname::text, g.tgenabled in ('O', 'A') and f.is_right,
      case when g.tgenabled in ('O', 'A') then 'follows another rule than this version' else 'is disabled' end
    from registered r
    cross join (values ('warden_fill_org_id'), ('warden_fill_org_id_update'), ('warden_fill_org_id_parent')) t (name)
    left join pg_catalog.pg_trigger g on g.tgrelid = r.rel and g.tgname = t.name
    left join filled f on f.whole = r.whole
    where r.scope = 'org' and not r.is_read_only
      and (t.name <> 'warden_fill_org_id_parent' or coalesce(r.parent_column, r.organization_column) is not null)
    union all
    -- A unique index could reject rows that the application writes today, unless one of the application's own indexes
    -- rejects them already.
    select r.schema_name, r.table_name, 3, case when w.is_unique and not exists (
        select from present_indexes x
        where x.indrelid = r.rel and x.is_unique and x.is_valid and x.is_whole
          and array_remove(warden.bare_columns(x.key_columns), 'org_id') <@ warden.bare_columns(w.key_columns)
          and x.key_columns <> array['org_id']) then 'enforce' else 'expand' end,
      'index', w.name, warden.column_list(w.key_columns), w.is_unique,
      r.is_table and not exists (
        select from unnest(w.key_columns) k (name)
        where pg_catalog.regexp_replace(k.name, ' desc$', '') <> all (r.columns || array['org_id'])),
      coalesce(i.name, taken.name), i.is_valid,
      case when i.name is null then 'is another index' else 'is not valid' end
    from wanted_indexes w join registered r using (schema_name, table_name)
    left join lateral (
      select i.* from present_indexes i
      where i.indrelid = r.rel and i.is_whole and i.is_unique >= w.is_unique
        -- Any index that starts with org_id serves as an index on org_id alone.
        and (i.key_columns = w.key_columns or w.key_columns = array['org_id'] and i.key_columns[1] = 'org_id')
      order by i.is_valid desc, i.name = w.name desc limit 1) i on true
    left join present_indexes taken on taken.indrelid = r.rel and taken.name = w.name
    union all
    select r.schema_name, r.table_name, 3, 'expand', 'unique',
      warden.object_name(r.table_name, 'org_id', k.parent_key, 'key'),
      pg_catalog.format('unique (org_id, %I)', k.parent_key), true, r.is_table and k.parent_key = any (r.columns),
      coalesce(u.name, taken.name), u.is_valid,
      case when u.name is null then 'is another constraint' else 'is not valid' end
    from keys k join registered r using (schema_name, table_name)
    -- A foreign key can also reference a unique index that has no constraint.
    left join lateral (
      select i.* from present_indexes i
      where i.indrelid = r.rel and i.is_whole and i.is_unique and i.key_columns = array['org_id', k.parent_key::text]
      order by i.is_valid desc limit 1) u on true
    left join present_constraints taken on taken.conrelid = r.rel
      and taken.name = warden.object_name(r.table_name, 'org_id', k.parent_key, 'key')
    union all
    select r.schema_name, r.table_name, 4, 'expand', 'foreign_key', warden.object_name(r.table_name, 'org_id_fkey'),
      'foreign key (org_id) references public.organizations (id) on delete cascade', null, r.is_table,
      coalesce(f.name, taken.name), f.is_valid and f.confdeltype = 'c',
      case when f.name is null then 'is another constraint'
           when f.confdeltype <> 'c' then 'does not cascade' else 'is not validated' end
    from registered r
    left join lateral (
      select f.* from present_constraints f
      where f.conrelid = r.rel and f.contype = 'f' and f.columns = array['org_id']
        and f.confrelid = 'public.organizations'::regclass and f.key_columns = array['id']
      order by f.is_valid and f.confdeltype = 'c' desc limit 1) f on true
    left join present_constraints taken on taken.conrelid = r.rel
      and taken.name = warden.object_name(r.table_name, 'org_id_fkey')
    where r.scope = 'org'
    union all
    -- A composite foreign key could also reject rows, if the application has no simple key, or a deferrable one: then
    -- it may insert a child first, whose parent's organisation is not known yet.
    select r.schema_name, r.table_name, 5,
      case when simple.name is null or simple.condeferrable then 'enforce' else 'expand' end, 'foreign_key',
      warden.object_name(r.table_name, 'org_id', r.parent_column, 'fkey'),
      pg_catalog.format('foreign key (org_id, %I) references %I.%I (org_id, %I)%s', r.parent_column,
        r.parent_schema, r.parent_table, r.parent_key,
        -- It deletes as the simple key does, if that suits both columns. A row follows its parent to another
        -- organisation, which happens only while the tables are adopted.
        case simple.confdeltype when 'c' then ' on delete cascade' else '' end || case when simple.confupdtype in ('n', 'd') then '' else ' on update cascade' end),
      null, r.is_table and r.parent_rel is not null and r.parent_column = any (r.columns),
      coalesce(f.name, taken.name), f.is_valid,
      case when f.name is null then 'is another constraint' else 'is not validated' end
    from registered r
    left join lateral (
      select f.* from present_constraints f
      where f.conrelid = r.rel and f.contype = 'f' and f.confrelid = r.parent_rel
        and f.columns = array[r.parent_column::text] and f.key_columns = array[r.parent_key::text]
      limit 1) simple on true
    left join lateral (
      select f.* from present_constraints f
      where f.conrelid = r.rel and f.contype = 'f' and f.confrelid = r.parent_rel
        and f.columns = array['org_id', r.parent_column::text]
        and f.key_columns = array['org_id', r.parent_key::text]
      order by f.is_valid desc limit 1) f on true
    left join present_constraints taken on taken.conrelid = r.rel
      and taken.name = warden.object_name(r.table_name, 'org_id', r.parent_column, 'fkey')
    where r.scope = 'org' and r.parent_column is not null and r.can_have_parent_key
    union all
    select r.schema_name, r.table_name, 6, 'expand', 'trigger', 'warden_org_id_immutable', null, null, r.is_table,
      g.tgname::text, warden.is_guard(g.oid), 'is disabled, or differs from the one that warden.guard_org_id() creates'
    from registered r
    left join pg_catalog.pg_trigger g on g.tgrelid = r.rel and g.tgname = 'warden_org_id_immutable'
    where r.scope = 'org' and (r.is_immutable or r.is_watched)
    union all
    select r.schema_name, r.table_name, 7, 'enforce', 'not_null', 'org_id', null, null, r.is_table,
      case when a.attnotnull then a.attname::text end, true, null
    from registered r
    left join pg_catalog.pg_attribute a on a.attrelid = r.rel and a.attname = 'org_id' and not a.attisdropped
    where r.scope = 'org'
    union all
    -- A default of the application remains.
    select r.schema_name, r.table_name, 7, 'enforce', 'default', 'org_id', own_default.expression, null,
      r.is_table and (d.oid is null or d.is_own), case when d.is_own then 'org_id' end,
      d.expression = own_default.expression, 'calls a function that the application replaced'
    from registered r
    cross join own_default
    left join lateral (
      select d.oid, d.expression,
        d.expression = own_default.expression or warden.is_own_default(d.expression) as is_own
      -- Without OFFSET, the defaults of all columns would be printed.
      from (select d.oid, pg_catalog.pg_get_expr(d.adbin, d.adrelid) as expression
            from pg_catalog.pg_attribute a
            join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
            where a.attrelid = r.rel and a.attname = 'org_id' and not a.attisdropped offset 0) d) d on true
    where r.scope = 'org' and not r.is_read_only
    union all
    select r.schema_name, r.table_name, 7, 'enforce', 'trigger', 'warden_require_org_id', null, null,
      r.is_table and (g.oid is not null or not warden.has_later_trigger(r.rel)),
      g.tgname::text, warden.is_requirement(g.oid),
      'is disabled, or differs from the one that warden.require_org_id() creates'
    from registered r
    left join pg_catalog.pg_trigger g on g.tgrelid = r.rel and g.tgname = 'warden_require_org_id'
    where r.scope = 'org' and not r.is_read_only
    union all
    select r.schema_name, r.table_name, 8, case r.scope when 'user' then 'user' else 'enforce' end, 'policy', p.name,
      coalesce(p.using_condition, p.checking_condition), null,
      r.is_table and (r.scope <> 'user' or r.user_column = any (r.columns)), pol.polname::text,
      warden.is_policy(pol.oid, p.command, p.is_permissive, p.roles, p.using_condition, p.checking_condition),
      'differs from the one that warden.protect() creates'
    from registered r
    join wanted_policies p using (schema_name, table_name)
    left join pg_catalog.pg_policy pol on pol.polrelid = r.rel and pol.polname = p.name
    union all
    -- A policy of Warden that a change of the access mode, or another version, left behind.
    select r.schema_name, r.table_name, 8, case r.scope when 'user' then 'user' else 'enforce' end, 'policy',
      pol.polname::text, 'none', null, r.is_table, pol.polname::text, false,
      'is no longer needed: it may grant more than the application does'
    from registered r
    join (
      -- Without OFFSET, all policies would be compared.
      select x.oid, x.polrelid, x.polname from pg_catalog.pg_policy x
      where x.polname ~ '^warden_(select|insert|update|delete|granted|table_owner)$'
        and not exists (select from wanted_policies p where p.rel = x.polrelid and p.name = x.polname)
      offset 0) pol on pol.polrelid = r.rel
    where warden.is_own_policy(pol.oid)
    union all
    select r.schema_name, r.table_name, 9, case r.scope when 'user' then 'user' else 'enforce' end, 'row_security',
      s.name, null, null, r.is_table,
      case when case s.name when 'enabled' then r.relrowsecurity else r.relforcerowsecurity end then s.name end,
      true, null
    from registered r, (values ('enabled'), ('forced')) s (name)
    union all
    select r.schema_name, r.table_name, 9, 'enforce', 'check', 'warden_org_id_parent',
      pg_catalog.format('check (org_id = %I)', r.organization_column), null,
      c.relkind = 'r' and r.organization_column = any (r.columns), k.conname::text, true, null
    from registered r
    join pg_catalog.pg_class c on c.oid = r.rel
    left join pg_catalog.pg_constraint k on k.conrelid = r.rel and k.conname = 'warden_org_id_parent'
    where r.scope = 'org' and not r.is_read_only and r.organization_column <> 'org_id'
  )
  select o.schema_name, o.table_name, r.scope, r.rel::regclass, o.step, o.phase, o.kind, o.name, o.definition,
    o.is_unique,
    o.applies, o.found, o.found is not null, coalesce(o.found is not null and o.is_right, false),
    case when not o.applies then null
         when o.phase = 'fill' and bool_or(o.kind = 'not_null' and o.found is not null) over (
                partition by o.schema_name, o.table_name) then
           case when o.found is not null then 'exists, although the table is enforced' end
         when o.found is null then 'is missing'
         when o.is_right is not true then o.wrong end
  from objects o join registered r using (schema_name, table_name);
end
$fn$;

-- The objects of all tables.
create or replace function warden.tenant_object_rows() returns table (
  schema_name name, table_name name, scope text, relation regclass, step int, phase text, kind text, name text,
  definition text, is_unique boolean, applies boolean, found text, is_present boolean, is_valid boolean, problem text
)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select * from warden.tenant_objects_of(null)
$$;

create or replace view warden.tenant_objects as select * from warden.tenant_object_rows();
reset role;
