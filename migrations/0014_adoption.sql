-- Registers tables, and creates all objects of those without rows.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Creates all missing objects of tables without rows, parents before their children. Partitions inherit most objects of
-- the whole, so objects that members still lack are created in a second pass. on_parent_delete is the action of
-- composite keys if the table has no simple key whose action they could take.
create or replace function warden.create_tenant_objects(relations regclass[], on_parent_delete text default '') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  members constant regclass[] := array(
    select m from unnest(relations) w (relation) cross join lateral warden.tree(w.relation) m
    where m <> all (pg_catalog.array_remove(relations, null)));
  protected regclass[] := '{}';
  o record;
begin
  for o in
    select t.*, pg_catalog.format('%I.%I', t.schema_name, t.table_name) as target
    from warden.tenant_objects_of(coalesce(relations, '{}')) t
    where t.applies and not t.is_valid and t.phase <> 'fill'
    order by t.step, t.schema_name, t.table_name, t.name
  loop
    if o.is_present and o.kind <> 'policy' then
      raise exception '%: % "%" %', o.target, o.kind, o.found, o.problem
        using hint = 'Change it, or drop it so that Warden creates its own.';
    end if;
    case o.kind
      when 'column' then
        execute pg_catalog.format('alter table %s add column org_id uuid', o.target);
      when 'index' then
        execute pg_catalog.format('create %sindex %I on %s (%s)',
                                  case when o.is_unique then 'unique ' end, o.name, o.target, o.definition);
      when 'unique' then
        execute pg_catalog.format('alter table %s add constraint %I %s', o.target, o.name, o.definition);
      when 'foreign_key' then
        execute pg_catalog.format('alter table %s add constraint %I %s%s', o.target, o.name, o.definition,
                                  case when o.step = 5 and o.definition !~ ' on delete ' then on_parent_delete end);
      when 'trigger' then
        if o.name = 'warden_require_org_id' then
          perform warden.require_org_id(o.relation);
        else
          perform warden.guard_org_id(o.relation);
        end if;
      when 'default' then
        perform warden.require_org_id(o.relation);
      when 'not_null' then
        execute pg_catalog.format('alter table %s alter column org_id set not null', o.target);
      else
        -- One call creates all policies of a table, and enables row-level security.
        if o.relation <> all (protected) then
          perform warden.protect(o.relation);
          protected := protected || o.relation;
        end if;
    end case;
  end loop;
  if members <> '{}' then
    perform warden.create_tenant_objects(members, on_parent_delete);
  end if;
end
$$;

-- Whether schema public contains no tables but those that Warden created. (Tables of extensions don't count.) Then it
-- has nothing to adopt, and the platform may create its tables.
create or replace function warden.is_public_empty() returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select not exists (
    select from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'f', 'v', 'm')
      and not exists (select from pg_catalog.pg_depend d
                      where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
      and coalesce(pg_catalog.obj_description(c.oid, 'pg_class'), '') not like '%(created by Warden)')
$$;

-- Rights of requests on tables that Warden created: whole tables, because row-level security selects the rows. A
-- request without a token gets nothing. Rights that default privileges gave to any role are revoked first.
create or replace function warden.grant_to_requests(relations regclass[], may_write boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  relation regclass;
  grantee text;
begin
  foreach relation in array relations loop
    for grantee in
      select distinct case a.grantee when 0 then 'public'
                                     else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end
      from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a where c.oid = relation and a.grantee <> c.relowner
    loop
      execute pg_catalog.format('revoke all on %s from %s', relation, grantee);
    end loop;
    execute pg_catalog.format('grant select, insert, update, delete on %s to service_role', relation);
    execute pg_catalog.format('grant select%s on %s to authenticated',
                              case when may_write then ', insert, update, delete' else '' end, relation);
  end loop;
end
$$;

-- Registers a table of the application as a table of organisations. The table itself is not changed: the next
-- `warden migrate` adopts it.
--   user_column    column with the user of a row
--   parent         table from which rows inherit their organisation: parent_column references its parent_key. If it is
--                  organizations, parent_column names the organisation itself.
--   is_immutable   whether org_id can never change
--   uses_default_organization
--                  whether rows belong to the default organisation if neither parent nor user says where they belong;
--                  without both, all rows without org_id belong there, whatever their foreign keys say
-- Call it again to change an argument.
-- The former version had one argument less. Only operators and `warden migrate` call it.
-- squawk-ignore ban-drop-function
drop function if exists warden.register_table(regclass, name, regclass, name, name, boolean);
create or replace function warden.register_table(
  relation regclass, user_column name default null, parent regclass default null,
  parent_column name default null, parent_key name default 'id', is_immutable boolean default true,
  uses_default_organization boolean default false
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c record;
  p warden.tenant_tables;
  missing text;
begin
  select n.nspname, k.relname, k.relkind, k.relispartition, k.relpersistence into c
  from pg_catalog.pg_class k join pg_catalog.pg_namespace n on n.oid = k.relnamespace where k.oid = relation;
  if coalesce(c.relkind not in ('r', 'p'), true) or c.relpersistence = 't' or c.nspname in ('warden', 'pg_catalog') then
    raise exception 'warden.adopt_table: % is not a table of the application', relation
      using errcode = '22023',
            hint = 'For a view, adopt its underlying tables. Protect a foreign table on the server that stores it.';
  end if;
  for missing in
    select pg_catalog.format('%s is part of %s, which is adopted with all its members', relation, i.inhparent::regclass)
    from pg_catalog.pg_inherits i where i.inhrelid = relation
  loop
    raise exception 'warden.adopt_table: %', missing
      using errcode = '22023', hint = 'Adopt the table at the top.';
  end loop;
  if (parent is null) <> (parent_column is null) then
    raise exception 'warden.adopt_table: parent and parent_column must be given together' using errcode = '22023';
  end if;
  for missing in
    select pg_catalog.format('%s has no column "%s" (given as %s)', x.rel, x.col, x.use)
    from (values (relation, user_column, 'user_column'), (relation, parent_column, 'parent_column'),
                 (parent, case when parent is not null then parent_key end, 'parent_key')) x (rel, col, use)
    where x.col is not null and not warden.has_column(x.rel, x.col)
  loop
    raise exception 'warden.adopt_table: %', missing using errcode = '22023';
  end loop;
  if parent is not null then
    p := warden.registered(parent);
    if p.scope = 'user' then
      raise exception 'warden.adopt_table: rows of the parent % do not belong to organisations', parent
        using errcode = '22023';
    end if;
  end if;
  if uses_default_organization then
    perform warden.create_default_organization();
  end if;
  insert into warden.tenant_tables
    (schema_name, table_name, user_column, parent_schema, parent_table, parent_column, parent_key, is_immutable,
     uses_default_organization)
  values (c.nspname, c.relname, register_table.user_column, p.schema_name, p.table_name, register_table.parent_column,
          register_table.parent_key, register_table.is_immutable, register_table.uses_default_organization)
  on conflict on constraint tenant_tables_pkey do update
    set (scope, user_column, parent_schema, parent_table, parent_column, parent_key, is_immutable, uses_default_organization)
      = ('org', excluded.user_column, excluded.parent_schema, excluded.parent_table, excluded.parent_column,
         excluded.parent_key, excluded.is_immutable, excluded.uses_default_organization);
end
$$;
revoke execute on function warden.register_table(regclass, name, regclass, name, name, boolean, boolean) from public;

-- Registers a table, and creates all its objects at once if it has no rows.
-- The former version had one argument less. No client of the database calls it: operators do.
-- squawk-ignore ban-drop-function
drop function if exists warden.adopt_table(regclass, name, regclass, name, name, boolean);
create or replace function warden.adopt_table(
  relation regclass, user_column name default null, parent regclass default null,
  parent_column name default null, parent_key name default 'id', is_immutable boolean default true,
  uses_default_organization boolean default false
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  has_rows boolean;
begin
  perform warden.register_table(relation, user_column, parent, parent_column, parent_key, is_immutable,
                                uses_default_organization);
  -- organizations needs none of a parent's objects.
  parent := nullif(parent, 'public.organizations'::regclass);
  execute pg_catalog.format('select exists (select from %s)', relation) into has_rows;
  if not has_rows and parent is not null then
    -- The parent needs a unique (org_id, key), and an organisation in each row.
    execute pg_catalog.format('select exists (select from %s)', parent) into has_rows;
    has_rows := has_rows and exists (select from warden.tenant_objects_of(array[parent]) o
                                       where o.applies and o.phase <> 'fill' and not o.is_valid);
  end if;
  if has_rows then
    raise notice '% is registered. It, or its parent, has rows: run "warden migrate", then "warden migrate --enforce"',
      relation;
  else
    perform warden.create_tenant_objects(array[parent, relation]);
  end if;
end
$$;
revoke execute on function warden.adopt_table(regclass, name, regclass, name, name, boolean, boolean) from public;

-- Registers a table as a table of users. The table itself is not changed.
create or replace function warden.leave_to_user(relation regclass, user_column name default 'user_id') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not warden.has_column(relation, user_column) then
    raise exception 'warden.leave_to_user: % has no column "%"', relation, user_column using errcode = '22023';
  end if;
  insert into warden.tenant_tables (schema_name, table_name, scope, user_column)
  select n.nspname, c.relname, 'user', leave_to_user.user_column
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = relation
  on conflict on constraint tenant_tables_pkey do update
    set (scope, user_column, parent_schema, parent_table, parent_column, uses_default_organization)
      = ('user', excluded.user_column, null, null, null, false);
end
$$;
reset role;
