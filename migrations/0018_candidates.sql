-- Candidates: tables that look like an organisation's, and from where their rows would get their organisation. They are
-- suggestions: a table is adopted only if an operator names it (`warden migrate --tables`, or warden.adopt_table()).
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- A column name in the form that conventions are compared in: "ownerId", "OwnerID" and "Owner Id" are owner_id.
create or replace function warden.convention(column_name name) returns text
language sql immutable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
  select pg_catalog.lower(pg_catalog.regexp_replace(
    pg_catalog.regexp_replace(column_name::text, '([a-z0-9])([A-Z])', '\1_\2', 'g'), '[^[:alnum:]]+', '_', 'g'))
$$;
revoke execute on function warden.convention(name) from public;

-- The platform's tables, and the tables that have their names.
create or replace function warden.platform_relations() returns table (
  table_name name, present regclass, adopted_table regclass, is_registered boolean
)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p.table_name, c.oid, p.adopted_table,
    exists (select from warden.tenant_tables t
            where t.schema_name = 'public' and t.table_name = p.table_name and t.origin = 'platform')
  from warden.platform_tables p
  left join pg_catalog.pg_class c on c.relnamespace = 'public'::regnamespace and c.relname = p.table_name
    and c.relkind in ('r', 'p', 'v', 'm', 'f')
$$;
revoke execute on function warden.platform_relations() from public;

-- Registers the tables of the platform that exist, or all of them if Warden creates them. An operator chooses them with
-- `warden migrate --platform`. An entry of the operator takes precedence, and a table that somebody removed from the
-- registry stays out.
create or replace function warden.register_platform() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  added constant name[] := array(
    select r.table_name from warden.platform_relations() r
    where case when r.present is null then warden.creates_platform_tables()
               else r.present is distinct from r.adopted_table end);
begin
  insert into warden.tenant_tables
    (table_name, scope, user_column, parent_schema, parent_table, parent_column, is_immutable, is_read_only,
     pauses_triggers, origin)
  select p.table_name, p.scope, p.user_column, case when p.parent_table is not null then 'public' end, p.parent_table,
    p.parent_column, p.is_immutable, p.is_read_only, p.pauses_triggers, 'platform'
  from warden.platform_tables p where p.table_name = any (added)
  on conflict do nothing;
  insert into warden.tenant_indexes (table_name, index_name, key_columns, is_unique)
  select i.table_name, i.index_name, i.key_columns, i.is_unique
  from warden.platform_indexes i
  join warden.tenant_tables t on t.schema_name = 'public' and t.table_name = i.table_name
  where i.table_name = any (added)
  on conflict do nothing;
  update warden.platform_tables p set adopted_table = r.present
  from warden.platform_relations() r where r.table_name = p.table_name and p.table_name = any (added);
end
$$;
revoke execute on function warden.register_platform() from public;

-- The platform's tables in the registry that were dropped. (One that Warden has yet to create never existed.)
create or replace function warden.absent_platform_tables() returns setof name
language sql stable set search_path = pg_catalog, pg_temp as $$
  select r.table_name from warden.platform_relations() r
  where r.is_registered and r.present is distinct from r.adopted_table
    and (not warden.creates_platform_tables() or r.present is not null and r.adopted_table is not null)
$$;
revoke execute on function warden.absent_platform_tables() from public;

-- Removes these tables from the registry, and returns their names. A table that the application creates under such a
-- name later is a candidate, like any other.
create or replace function warden.forget_absent_tables() returns setof name
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Tables that Warden has created since their registration.
  update warden.platform_tables p set adopted_table = r.present
  from warden.platform_relations() r
  where r.table_name = p.table_name and r.is_registered and r.present is not null and r.adopted_table is null
    and warden.creates_platform_tables();
  return query
    delete from warden.tenant_tables t
    where t.schema_name = 'public' and t.origin = 'platform'
      and t.table_name in (select a from warden.absent_platform_tables() a)
    returning t.table_name;
end
$$;
revoke execute on function warden.forget_absent_tables() from public;

-- Columns that may name the user or the organisation of a row.
--   kind       'organisation': a foreign key to organizations, which gives the organisation itself.
--              'parent': a foreign key to another table. 'user': a user whose membership gives the organisation.
--              'hint': the name of an organisation's column, or a user's whose type is no uuid. It gives nothing.
--              'reference': a foreign key of several columns to another table, of which it names the first. The
--              referenced row gives the organisation, but without a parent's key.
--              'platform': no column, but the name of a table of the platform. It gives nothing either.
--              'tenants': a table of organisations of another name, by its key, with its members in `target`. Once its
--              rows were copied to organizations, the key names the organisation.
--              'name': no column, but the table's name. 'copy': a trigger of `target` copies rows to the table. Neither
--              gives anything.
--   rank       the best has the lowest
create or replace function warden.candidate_columns() returns table (
  relation regclass, column_name name, kind text, target regclass, target_key name, rank int
)
language sql stable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
  with tables as (
    select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
      and n.nspname !~ '^(pg|supabase)_' and n.nspname not in ('information_schema', 'warden')
      -- Schemas that Supabase owns and protects. An application may have schemas of these names.
      and not (n.nspname in ('auth', 'storage', 'realtime', '_realtime', 'vault', 'pgsodium', 'extensions', 'graphql',
                             'graphql_public', '_analytics', 'net', 'cron', 'pgbouncer')
        and pg_catalog.pg_get_userbyid(n.nspowner) ~ '^(supabase_|pgbouncer$)')
      -- The users themselves, unless requests may read them.
      and ((n.nspname, c.relname) <> ('auth', 'users') or exists (
        select from pg_catalog.pg_roles q
        where q.rolname in ('anon', 'authenticated') and pg_catalog.has_schema_privilege(q.oid, n.oid, 'usage')
          and pg_catalog.has_any_column_privilege(q.oid, c.oid, 'select')))
      and not exists (select from pg_catalog.pg_inherits i where i.inhrelid = c.oid)
      and not exists (select from pg_catalog.pg_depend d
                      where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
  ), columns as (
    select a.attrelid, a.attname, a.attnum, a.attnotnull, a.atttypid,
      -- "userid" is user_id as well.
      case when c.convention ~ '^(user|owner|creator|author|profile|member|org|organization|organisation|tenant|account|'
                               'workspace|team|company)id$'
           then pg_catalog.left(c.convention, -2) || '_id' else c.convention end as convention
    from pg_catalog.pg_attribute a join tables t on t.oid = a.attrelid
    cross join lateral (select warden.convention(a.attname) as convention) c
    where a.attnum > 0 and not a.attisdropped
  ), keys as (
    select c.*, f.confrelid, f.confdeltype, k.attname as key, n.nspname as target_schema, p.relname as target_name
    from columns c
    join pg_catalog.pg_constraint f on f.conrelid = c.attrelid and f.contype = 'f' and f.confrelid <> f.conrelid
      -- A key of one column, or Warden's (org_id, column).
      and (f.conkey = array[c.attnum]
        or pg_catalog.cardinality(f.conkey) = 2 and f.conkey[2] = c.attnum and exists (
          select from pg_catalog.pg_attribute o
          where o.attrelid = c.attrelid and o.attnum = f.conkey[1] and o.attname = 'org_id'))
      -- A column of PostgreSQL 18. The rows of a key that is not enforced may have no parent.
      and coalesce((pg_catalog.to_jsonb(f) ->> 'conenforced')::boolean, true)
    join pg_catalog.pg_attribute k on k.attrelid = f.confrelid
      and k.attnum = f.confkey[pg_catalog.cardinality(f.conkey)]
    join pg_catalog.pg_class p on p.oid = f.confrelid
    join pg_catalog.pg_namespace n on n.oid = p.relnamespace
  ), member_tables as (
    -- Tables that connect users with another table, and say so by their names: account_users, team_members.
    select k.confrelid as tenants, k.key, k.attrelid as members
    from keys k
    join pg_catalog.pg_class m on m.oid = k.attrelid
    cross join lateral (select warden.convention(m.relname) as members,
                          pg_catalog.regexp_replace(warden.convention(k.target_name), '(ies|es|s|y)$', '') as stem) x
    where k.confrelid <> coalesce(pg_catalog.to_regclass('public.organizations'), 0) and k.target_name <> 'users'
      and k.confrelid in (select t.oid from tables t)
      and (x.members ~ ('^(\w+_)?' || x.stem || '(y|ies|es|s|e)?_?(members?|memberships?|users?|people|staff)$')
        or x.members in ('members', 'memberships'))
      and exists (
        select from columns u
        where u.attrelid = k.attrelid and u.attname <> k.attname
          and (u.convention in ('user_id', 'profile_id', 'member_id', 'user', 'uid')
            or exists (select from keys uk where uk.attrelid = u.attrelid and uk.attname = u.attname
                         and uk.target_name in ('users', 'user', 'profiles', 'auth_user'))))
  ), tenants as (
    -- Those that belong to no other table of organisations.
    select t.* from member_tables t
    where not exists (
      select from keys k where k.attrelid = t.tenants and (
        k.confrelid = pg_catalog.to_regclass('public.organizations')
        or k.confrelid in (select o.tenants from member_tables o)))
  ), copies as (
    -- Tables to which a trigger writes values of the changed row.
    select distinct x.target, g.tgrelid
    from pg_catalog.pg_trigger g
    join tables t on t.oid = g.tgrelid
    join pg_catalog.pg_class c on c.oid = g.tgrelid
    join pg_catalog.pg_proc p on p.oid = g.tgfoid and p.prosrc ~* '\m(new|old)\M'
    cross join lateral pg_catalog.regexp_matches(
      p.prosrc, 'insert\s+into\s+((?:(?:[a-z_]\w*|"[^"]+")\.)?(?:[a-z_]\w*|"[^"]+"))', 'gi') m (name)
    cross join lateral (
      select coalesce(pg_catalog.to_regclass(m.name[1]),
        pg_catalog.to_regclass(pg_catalog.format('%I.%s', n.nspname, m.name[1]))) as target
      from pg_catalog.pg_namespace n where n.oid = c.relnamespace) x
    where not g.tgisinternal and g.tgname !~ E'^[~!\U0010FFFF]?warden_' and x.target <> g.tgrelid
  )
  -- A row without org_id gets nothing from org_id itself: every parent is better.
  select k.attrelid, k.attname, 'organisation', k.confrelid, k.key,
    case when k.attname = 'org_id' then 19 when k.attnotnull then 1 else 2 end
  from keys k where k.confrelid = pg_catalog.to_regclass('public.organizations') and k.key = 'id'
  union all
  select t.tenants, t.key, case when c.atttypid = 'uuid'::regtype then 'tenants' else 'hint' end, t.members, null,
    case when c.atttypid = 'uuid'::regtype then 0 else 49 end
  from tenants t join columns c on c.attrelid = t.tenants and c.attname = t.key
  union all
  select c.target, null, 'copy', c.tgrelid, null, 80 from copies c where c.target in (select t.oid from tables t)
  union all
  select t.oid, null, 'name', null, null, 85
  from tables t join pg_catalog.pg_class c on c.oid = t.oid
  where warden.convention(c.relname) ~ '^((app|auth|account|accounts|core)_)?(users?|profiles?|tenants?|workspaces?|organi[sz]ations?|accounts?|teams?|compan(y|ies))$'
    and c.oid <> coalesce(pg_catalog.to_regclass('public.organizations'), 0)
  union all
  -- A required parent, whose rows are deleted with it, is the likeliest owner of a row.
  select k.attrelid, k.attname, 'parent', k.confrelid, k.key,
    10 + case when k.attnotnull then 0 else 2 end + case when k.confdeltype = 'c' then 0 else 1 end
  from keys k
  where k.confrelid <> coalesce(pg_catalog.to_regclass('public.organizations'), 0)
    and (k.target_schema, k.target_name) <> ('auth', 'users')
    -- It names the organisation itself.
    and not (k.attname = 'org_id' and k.confrelid in (select m.tenants from member_tables m))
  union all
  select k.attrelid, k.attname, 'user', k.confrelid, k.key, 20 + case when k.attnotnull then 0 else 1 end
  from keys k where (k.target_schema, k.target_name) = ('auth', 'users')
  union all
  select c.attrelid, c.attname, case when c.atttypid in ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype)
                                     then 'user' else 'hint' end, null, null, 30 + u.n::int
  from columns c
  join unnest('{user_id,owner_id,created_by,created_by_id,created_by_user_id,author_id,profile_id,creator_id}'::text[])
    with ordinality u (name, n) on u.name = c.convention
  union all
  -- As text, such a column often contains a name.
  select c.attrelid, c.attname, 'user', null, null, 40
  from columns c
  where c.atttypid = 'uuid'::regtype
    and c.convention in ('uid', 'user', 'user_uuid', 'owner', 'owner_user_id', 'author', 'creator', 'created_user_id', 'member_id',
                         'assignee_id', 'assigned_to', 'sender_id')
       or c.atttypid = 'uuid'::regtype and c.convention <> 'created_by' and c.convention ~ '_by$'
  union all
  select c.attrelid, c.attname, 'hint', null, null, 60
  from columns c
  where c.atttypid in ('uuid'::regtype, 'int4'::regtype, 'int8'::regtype)
    and c.convention in ('org', 'organization', 'organisation', 'tenant', 'workspace', 'team', 'company', 'org_uuid', 'tenant_uuid',
                         'agency_id', 'business_id', 'merchant_id', 'client_id', 'customer_id', 'realm_id', 'shop_id', 'store_id',
                         'clinic_id', 'practice_id', 'hospital_id', 'school_id', 'hotel_id', 'restaurant_id', 'firm_id',
                         'vendor_id', 'seller_id', 'partner_id', 'brand_id', 'site_id', 'space_id', 'community_id',
                         'household_id', 'family_id', 'subscriber_id', 'project_id', 'group_id')
       or c.atttypid in ('uuid[]'::regtype, 'text[]'::regtype, 'int4[]'::regtype, 'int8[]'::regtype)
    and c.convention ~ '^(user|owner|member|author|participant|assignee|org|organi[sz]ation|tenant|team|account|workspace)_ids$'
  union all
  select c.attrelid, c.attname, 'hint', null, null, 50 + u.n::int
  from columns c
  join unnest('{org_id,organization_id,organisation_id,tenant_id,account_id,workspace_id,team_id,company_id}'::text[])
    with ordinality u (name, n) on u.name = c.convention
  union all
  select f.conrelid, a.attname, 'reference', f.confrelid, null, 70
  from pg_catalog.pg_constraint f
  join tables t on t.oid = f.conrelid
  join pg_catalog.pg_attribute a on a.attrelid = f.conrelid and a.attnum = f.conkey[1]
  where f.contype = 'f' and f.conparentid = 0 and f.confrelid <> f.conrelid and pg_catalog.cardinality(f.conkey) > 1
    and coalesce((pg_catalog.to_jsonb(f) ->> 'conenforced')::boolean, true)
    and f.confrelid <> coalesce(pg_catalog.to_regclass('public.organizations'), 0)
    and not exists (select from keys k where k.attrelid = f.conrelid and k.confrelid = f.confrelid)
  union all
  select t.oid, null, 'platform', null, null, 90
  from tables t
  join pg_catalog.pg_class c on c.oid = t.oid and c.relnamespace = 'public'::regnamespace
  join warden.platform_tables p on p.table_name = c.relname
$$;
revoke execute on function warden.candidate_columns() from public;

-- Tables that are not registered and look like an organisation's, with the best derivation of their rows' organisation.
-- A foreign key to an organisation, or to a table of organisations, is better than a user column: the row belongs where
-- its parent belongs. A table that inherits from another candidate can be registered only after it.
-- squawk-ignore ban-drop-function
drop function if exists warden.tenant_candidates();
create or replace function warden.tenant_candidates() returns table (
  relation regclass, user_column name, parent regclass, parent_column name, parent_key name, reference regclass, reason text
)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  links jsonb;
  registered oid[] := array(
    select c.oid from warden.tenant_tables t
    join pg_catalog.pg_namespace n on n.nspname = t.schema_name
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.table_name);
  -- Tables whose rows have an organisation: registered ones, and candidates that were decided.
  owned oid[] := array(
    select c.oid from warden.tenant_tables t
    join pg_catalog.pg_namespace n on n.nspname = t.schema_name
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
    where t.scope = 'org' and not t.is_read_only);
  waiting oid[];
  chosen record;
begin
  select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
      'relation', l.relation::oid::bigint, 'column', l.column_name, 'kind', l.kind, 'target', l.target::oid::bigint,
      'key', l.target_key, 'rank', l.rank)), '[]') into links
  from warden.candidate_columns() l where l.relation <> all (registered);
  -- First every table with a sign of its own, then those that reference one of them, at any depth.
  waiting := array(
    with recursive signs as (
      select l.* from pg_catalog.jsonb_to_recordset(links) l
        (relation bigint, "column" name, kind text, target bigint, key name, rank int)
    ), found (relation) as (
      select s.relation from signs s where s.kind not in ('parent', 'reference', 'copy') or s.target = any (owned::bigint[])
      union
      select s.relation from signs s join found f on f.relation = s.target where s.kind in ('parent', 'reference', 'copy')
    )
    select f.relation::oid from found f order by f.relation);
  while pg_catalog.cardinality(waiting) > 0 loop
    -- The next table is one with a parent that was decided, unless a better parent is still waiting; else one that
    -- waits for no parent; else, in a cycle, any with a derivation of its own.
    with signs as (
      select l.* from pg_catalog.jsonb_to_recordset(links) l
        (relation bigint, "column" name, kind text, target bigint, key name, rank int)
      where l.relation = any (waiting::bigint[])
    )
    select w.oid as relation, p."column" as parent_column, p.target as parent, p.key as parent_key,
      u."column" as user_column, h."column" as hint, h.target as hint_members, u.target is not null as is_users_key, r.target as reference,
      exists (select from signs s where s.relation = w.oid and s.kind = 'platform') as is_platforms,
      exists (select from signs s where s.relation = w.oid and s.kind = 'name') as is_named, t.target as members,
      k.target as copied into chosen
    from unnest(waiting) w (oid)
    left join lateral (
      select s.* from signs s
      where s.relation = w.oid and (s.kind in ('organisation', 'tenants') or s.kind = 'parent' and s.target = any (owned::bigint[]))
      order by s.rank, s."column" limit 1) p on true
    left join lateral (select s.target from signs s where s.relation = w.oid and s.rank = p.rank and s.kind = 'tenants'
                       order by s.target limit 1) t on true
    left join lateral (select s.target from signs s where s.relation = w.oid and s.kind = 'copy'
                       order by s.target limit 1) k on true
    left join lateral (
      select s.* from signs s
      where s.relation = w.oid and s.kind = 'user' and t.target is null order by s.rank, s."column" limit 1) u on true
    left join lateral (
      select s.* from signs s
      where s.relation = w.oid and s.kind = 'hint' order by s.rank, s."column" limit 1) h on true
    left join lateral (
      select s.* from signs s
      where s.relation = w.oid and s.kind = 'reference' and s.target = any (owned::bigint[]) order by s."column" limit 1) r on true
    left join lateral (
      select count(*) as n, count(*) filter (where s.rank < p.rank) as better from signs s
      where s.relation = w.oid and s.kind in ('parent', 'reference') and s.target = any (waiting::bigint[])) open on true
    order by coalesce(p.kind in ('organisation', 'tenants'), false) desc, p.target is not null and open.better = 0 desc,
      open.n = 0 desc, u."column" is not null desc, p.target is not null desc, w.oid
    limit 1;
    relation := chosen.relation;
    parent := case when chosen.members is null then chosen.parent else pg_catalog.to_regclass('public.organizations') end;
    parent_column := chosen.parent_column;
    parent_key := case when chosen.members is null then chosen.parent_key when parent is not null then 'id' end;
    user_column := chosen.user_column;
    reference := case when chosen.parent is null and chosen.user_column is null then chosen.reference end;
    reason := pg_catalog.concat_ws(', ',
      case when chosen.members is not null then pg_catalog.format(
        'organisations of another name, with their members in %s: copy them first (docs/tenancy.md)', chosen.members::regclass)
      when parent is not null then pg_catalog.format('%I references %s', parent_column, parent) end,
      case when user_column is not null then pg_catalog.format(
        case when chosen.is_users_key then '%I references auth.users' else 'user column %I' end, user_column) end,
      case when reference is not null then pg_catalog.format('a key of several columns references %s', reference) end,
      case when chosen.hint is not null and parent is null and user_column is null and reference is null then
        case when chosen.hint_members is null then pg_catalog.format('column %I', chosen.hint)
        else pg_catalog.format('organisations of another name, whose ids are no uuids, with their members in %s '
                               '(docs/tenancy.md)', chosen.hint_members::regclass) end end,
      case when chosen.copied is not null and parent is null and user_column is null and reference is null then
        pg_catalog.format('a trigger of %s copies rows to it', chosen.copied::regclass) end,
      case when chosen.is_named and chosen.hint is null and parent is null and user_column is null and reference is null then
        'its name' end,
      case when chosen.is_platforms then 'it has the name of a table of the platform' end);
    return next;
    owned := owned || chosen.relation;
    waiting := array_remove(waiting, chosen.relation);
  end loop;
end
$$;
revoke execute on function warden.tenant_candidates() from public;
reset role;
