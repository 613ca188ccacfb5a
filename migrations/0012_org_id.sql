-- The steps that isolate a table, each in one short function. They run with the rights and the lock_timeout of their
-- caller, who owns the table. They change metadata only, and do nothing if nothing is missing. Steps that take time on
-- existing rows belong to the online executor of `warden migrate`.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
-- Rejects a change of org_id, except from null. While the table is adopted, a row follows its parent: then the fill
-- triggers, which precede this one, decide about every change. (SQLSTATE 23514, check_violation, tells clients that the
-- schema rejects the data.)
set local role warden_owner;
create or replace function warden.prevent_org_id_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  org_column name := 'org_id';
  former text;
  present text;
begin
  -- A trigger's condition follows a renamed column, its function does not.
  if not exists (select from pg_catalog.pg_attribute a
                 where a.attrelid = tg_relid and a.attname = 'org_id' and not a.attisdropped) then
    select a.attname into org_column
    from pg_catalog.pg_trigger g
    join pg_catalog.pg_attribute a on a.attrelid = g.tgrelid
      and a.attnum = pg_catalog.substring(g.tgqual::text, ':varattno ([0-9]+)')::int
    where g.tgrelid = tg_relid and g.tgname = tg_name;
  end if;
  execute pg_catalog.format('select ($1).%1$I, ($2).%1$I', org_column) using old, new into former, present;
  if former is null or exists (
       select from pg_catalog.pg_trigger g
       where g.tgrelid = tg_relid and g.tgname = 'warden_fill_org_id_parent' and g.tgenabled in ('O', 'A')) then
    return new;
  end if;
  raise exception 'warden: % of %.% cannot be changed (from % to %)',
      org_column, tg_table_schema, tg_table_name, former, present
    using errcode = 'check_violation',
          hint = 'Rows do not move between organisations: insert a new row in the other one.';
end
$$;
revoke execute on function warden.prevent_org_id_change() from public;
reset role;
select warden.create_public_function('prevent_org_id_change');

set local role warden_owner;

-- The registry's entry of a table, or of the whole whose member it is. It is an error if there is none.
create or replace function warden.registered(relation regclass) returns warden.tenant_tables
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  r warden.tenant_tables;
begin
  select t.* into r
  from warden.tenant_tables t
  join pg_catalog.pg_namespace n on n.nspname = t.schema_name
  join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
  where c.oid = warden.whole(relation);
  if not found then
    raise exception '% is not registered', relation
      using errcode = '22023', hint = pg_catalog.format('select warden.adopt_table(%L);', relation);
  end if;
  return r;
end
$$;

create or replace function warden.has_column(relation regclass, column_name name) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select exists (select from pg_catalog.pg_attribute a
                         where a.attrelid = relation and a.attname = column_name and a.attnum > 0 and not a.attisdropped));
end
$$;

-- Name of the function of a table's fill trigger.
create or replace function warden.fill_function_name(relation regclass) returns name
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select warden.object_name('fill ' || n.nspname || '.' || c.relname)
          from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = relation);
end
$$;

-- The members of a table, itself included, that lack an enabled trigger of this name: parents before children.
create or replace function warden.without_trigger(relation regclass, trigger_name name) returns regclass[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select array(
            select m.oid from warden.tree(relation) with ordinality m (oid, n)
            join pg_catalog.pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
            where not exists (select from pg_catalog.pg_trigger g
                              where g.tgrelid = m.oid and g.tgname = trigger_name and g.tgenabled in ('O', 'A'))
            order by m.n));
end
$$;

-- Lets the owners of the partitioned members execute the functions of their row triggers. A role that creates or
-- attaches a partition needs this right, because the partition inherits the triggers.
create or replace function warden.let_owners_add_partitions(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  missing text;
begin
  for missing in
    select distinct pg_catalog.format('grant execute on function %s to %I', f.oid::regprocedure, o.rolname)
    from warden.tree(coalesce(pg_catalog.pg_partition_root(relation), relation)) m (oid)
    join pg_catalog.pg_class c on c.oid = m.oid and c.relkind = 'p'
    join pg_catalog.pg_roles o on o.oid = c.relowner
    join pg_catalog.pg_trigger g on g.tgrelid = c.oid and g.tgname in (
      'warden_fill_org_id', 'warden_fill_org_id_parent', 'warden_fill_org_id_update', 'warden_org_id_immutable',
      'warden_require_org_id', 'warden_require_protection')
    -- The rights of a copy in schema public are those of its original.
    join pg_catalog.pg_proc f on f.oid in (g.tgfoid, (
      select w.oid from pg_catalog.pg_proc w join pg_catalog.pg_proc p on p.proname = w.proname
      where p.oid = g.tgfoid and w.pronamespace = 'warden'::regnamespace))
    where not pg_catalog.has_function_privilege(o.oid, f.oid, 'execute')
  loop
    execute missing;
  end loop;
end
$$;

-- Creates and enables a row trigger on these tables: the members of a tree that need it, parents before children.
-- A partition inherits the trigger from its whole, so there it is only enabled. Inheritance children get their own.
create or replace function warden.create_row_trigger(
  parts regclass[], trigger_name name, event text, condition text, function text
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  part regclass;
begin
  foreach part in array parts loop
    if not exists (select from pg_catalog.pg_trigger g
                   where g.tgrelid = part and g.tgname = trigger_name and g.tgparentid <> 0) then
      execute pg_catalog.format('create or replace trigger %I before %s on %s for each row when (%s) '
                                'execute function %s()', trigger_name, event, part, condition, function);
    end if;
    if exists (select from pg_catalog.pg_trigger g
               where g.tgrelid = part and g.tgname = trigger_name and g.tgenabled not in ('O', 'A')) then
      execute pg_catalog.format('alter table %s enable trigger %I', part, trigger_name);
    end if;
  end loop;
end
$$;

-- Whether rows whose organisation nothing says belong to the default one.
create or replace function warden.fills_with_default(r warden.tenant_tables) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select r.uses_default_organization or r.fills_rest_with_default or r.origin = 'platform'
$$;

-- The foreign keys of a table that lead to tables of organisations, except the one to its parent, as expressions about
-- the row `alias`: whether the row references another one, and the organisation of that one. A row belongs there if
-- neither a parent nor a user says where it belongs. `is_required` keys, without which no row exists, decide before the
-- user, who may be a member of several organisations; those that lead back to the same table cannot. A table may
-- reference itself. No key counts if the operator chose the default organisation for all rows of a table. Of the
-- platform's tables without a parent or user column, only keys of several columns count, which cannot be named as a
-- parent.
-- The former version lacked `is_required`. No client of the database calls it.
-- squawk-ignore ban-drop-function
drop function if exists warden.other_references(regclass, text);
create or replace function warden.other_references(relation regclass, alias text)
returns table (target regclass, columns text, is_set text, organization text, is_required boolean)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  r warden.tenant_tables := warden.registered(relation);
begin
  return query
    select k.target, string_agg(pg_catalog.quote_ident(a.attname), ', ' order by u.n),
      '(' || string_agg(pg_catalog.format('%s.%I is not null', alias, a.attname), ' and ' order by u.n) || ')',
      case when warden.has_column(k.target, k.org_column) then
        pg_catalog.format('(select r.%I from %s r where %s%s)', k.org_column, k.target,
          string_agg(pg_catalog.format('r.%I %s %s.%I', f.attname,
            case when k.has_period and u.n = pg_catalog.cardinality(k.conkey) then 'operator(pg_catalog.&&)'
                 else '=' end, alias, a.attname), ' and ' order by u.n),
          -- Several rows together may span the period.
          case when k.has_period then ' limit 1' else '' end)
      else 'null::uuid' end,
      bool_and(a.attnotnull) and not k.is_circular
    from (
      select c.oid, c.conrelid, c.conkey, c.confkey, c.confrelid::regclass as target, v.has_period,
        c.confrelid = c.conrelid or exists (
          select from pg_catalog.pg_constraint b
          where b.conrelid = c.confrelid and b.confrelid = c.conrelid and b.contype = 'f') as is_circular,
        case t.scope when 'root' then 'id' else 'org_id' end::name as org_column
      from pg_catalog.pg_constraint c
      join pg_catalog.pg_class p on p.oid = c.confrelid
      join pg_catalog.pg_namespace n on n.oid = p.relnamespace
      join warden.tenant_tables t on t.schema_name = n.nspname and t.table_name = p.relname and t.scope in ('org', 'root')
      -- Columns of PostgreSQL 18. The rows of a key that is not enforced may lead to no row.
      cross join lateral (
        select coalesce((pg_catalog.to_jsonb(c) ->> 'conperiod')::boolean, false) as has_period,
          coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true) as is_enforced) v
      where c.conrelid = relation and c.contype = 'f' and v.is_enforced
        and (r.parent_column is not null or r.user_column is not null
          or not r.uses_default_organization and (r.origin <> 'platform' or pg_catalog.cardinality(c.conkey) > 1))) k
    cross join lateral unnest(k.conkey, k.confkey) with ordinality u (col, key, n)
    join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.col
    join pg_catalog.pg_attribute f on f.attrelid = k.target and f.attnum = u.key
    group by k.oid, k.target, k.org_column, k.is_circular, k.has_period
    having not bool_or(a.attname in ('org_id', coalesce(r.parent_column, 'org_id')))
    order by k.oid;
end
$$;

-- Text of the function of a table's fill triggers. They keep one rule while the table is adopted: the organisation of a
-- row is the parent's, else that of a row which it must reference, unless this is the default one, else that of the
-- user's membership, else that of another referenced row, else the default organisation, if the operator chose it for
-- the table.
-- If nothing says where a row belongs, or the parent or another referenced row has no organisation yet, org_id stays
-- null until the backfill, or until an operator decides. The same holds if row-level security hides that row, or the
-- trigger may not read it: only the backfill can know its organisation.
create or replace function warden.fill_function_text(relation regclass) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  r warden.tenant_tables := warden.registered(relation);
  parent regclass := (select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                      where n.nspname = r.parent_schema and c.relname = r.parent_table);
  owner name := warden.fill_function_owner(relation);
  reference record;
  is_referencing text := '';
  -- The column of a parent's row with its organisation.
  parent_org name := case when parent = 'public.organizations'::regclass then 'id' else 'org_id' end;
  is_following constant boolean :=
    parent is not null and warden.has_column(relation, r.parent_column) and warden.has_column(parent, parent_org);
  body text := $body$
declare
  given constant uuid := new.org_id;
  is_exempt boolean := false;
  referenced uuid;
begin$body$;
begin
  if is_following then
    -- The parent's own organisation may have changed: then the key to it changes this row.
    body := body || pg_catalog.format($body$
  if tg_op = 'UPDATE' and old.org_id is not null and new.%1$I is not null
     and (new.%1$I is distinct from old.%1$I or new.org_id is distinct from old.org_id) then
    select p.%4$I into referenced from %2$s p where p.%3$I = new.%1$I;
    if referenced is not null and (new.%1$I is distinct from old.%1$I or new.org_id = referenced) then
      new.org_id := referenced;
      return new;
    end if;
  end if;
  if tg_name = 'warden_fill_org_id_parent' then
    return new;
  end if;$body$, r.parent_column, parent, r.parent_key, parent_org);
  end if;
  body := body || $body$
  if tg_op = 'UPDATE' then
    -- This function runs as its owner: the setting names the role of the statement.
    select r.rolsuper or r.rolbypassrls into is_exempt from pg_catalog.pg_roles r
    where r.rolname = coalesce(nullif(pg_catalog.current_setting('role', true), 'none'), session_user::text);
    if old.org_id is not null then
$body$ || case when r.is_immutable then '' else $body$      if is_exempt then
        return new;
      end if;
$body$ end || $body$      raise exception 'warden: org_id of %.% cannot be changed (from % to %)',
          tg_table_schema, tg_table_name, old.org_id, new.org_id
        using errcode = 'check_violation',
              hint = 'Rows do not move between organisations: insert a new row in the other one.';
    end if;
    new.org_id := null;
  end if;$body$;
  if is_following then
    body := body || pg_catalog.format($body$
  if new.%1$I is not null then
    select p.%4$I into new.org_id from %2$s p where p.%3$I = new.%1$I;
    if found then
      return new;
    end if;
    if pg_catalog.row_security_active(%2$L) then
      if is_exempt then
        new.org_id := given;
      end if;
      return new;
    end if;
  end if;$body$, r.parent_column, parent, r.parent_key, parent_org);
  end if;
  for reference in select * from warden.other_references(relation, 'new') o where o.is_required loop
    body := body || pg_catalog.format($body$
  referenced := %s;
  if referenced is distinct from %L::uuid then
    new.org_id := coalesce(referenced, case when is_exempt then given end);
    return new;
  end if;$body$, case when pg_catalog.has_table_privilege(owner, reference.target, 'select')
                        and (select pg_catalog.has_schema_privilege(owner, c.relnamespace, 'usage')
                             from pg_catalog.pg_class c where c.oid = reference.target)
                   then reference.organization else 'null' end, warden.default_organization());
  end loop;
  if r.user_column is not null and warden.has_column(relation, r.user_column) then
    body := body || pg_catalog.format($body$
  if new.%1$I::text ~ '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$' then
    new.org_id := warden.default_org_for(new.%1$I::text::uuid);
  end if;$body$, r.user_column);
  end if;
  for reference in select * from warden.other_references(relation, 'new') loop
    is_referencing := is_referencing || ' or ' || reference.is_set;
    if (select pg_catalog.has_table_privilege(owner, c.oid, 'select')
          and pg_catalog.has_schema_privilege(owner, c.relnamespace, 'usage')
        from pg_catalog.pg_class c where c.oid = reference.target) then
      body := body || pg_catalog.format($body$
  if new.org_id is null and %s then
    new.org_id := %s;
  end if;$body$, reference.is_set, reference.organization);
    end if;
  end loop;
  if is_referencing <> '' then
    body := body || pg_catalog.format($body$
  if new.org_id is null and (false%s) then
    if is_exempt then
      new.org_id := given;
    end if;
    return new;
  end if;$body$, is_referencing);
  end if;
  if warden.fills_with_default(r) then
    return body || pg_catalog.format($body$
  new.org_id := coalesce(new.org_id, %L::uuid);
  return new;
end
$body$, warden.default_organization());
  end if;
  return body || $body$
  if new.org_id is null and is_exempt then
    new.org_id := given;
  end if;
  return new;
end
$body$;
end
$fn$;

-- The role with whose rights the function of a table's fill triggers runs: the owner of the parent, because a role that
-- inserts children need not have the right to read parents.
create or replace function warden.fill_function_owner(relation regclass) returns name
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select pg_catalog.pg_get_userbyid(c.relowner) from pg_catalog.pg_class c
          where c.oid = coalesce((select p.oid from warden.registered(relation) r
                                  join pg_catalog.pg_namespace n on n.nspname = r.parent_schema
                                  join pg_catalog.pg_class p on p.relnamespace = n.oid and p.relname = r.parent_table), relation));
end
$$;

-- Creates the fill triggers of a table, or completes them:
--   warden_fill_org_id         sets org_id in new rows of an application that does not know the column
--   warden_fill_org_id_update  applies the rule if a statement sets org_id in a row that the backfill has not reached,
--                              and rejects any other change. Otherwise a request could choose the organisation of a
--                              row before the database isolates organisations. Roles that row-level security does not
--                              bind may change org_id, as they may once the table is enforced.
--   warden_fill_org_id_parent  lets a row of a table with a parent follow it to another organisation: applications link
--                              rows later, or to another parent. It names no column, so that columns can be dropped.
-- Partitions inherit the triggers. Inheritance children get their own, which call the same function.
-- Each table has a function of its own, as for watches, so its statements are planned once.
create or replace function warden.fill_org_id(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $fn$
declare
  r warden.tenant_tables := warden.registered(relation);
  -- A member has the function of its whole.
  whole constant regclass := warden.whole(relation);
  inserts constant regclass[] := warden.without_trigger(whole, 'warden_fill_org_id');
  updates constant regclass[] := warden.without_trigger(whole, 'warden_fill_org_id_update');
  moves constant regclass[] :=
    case when r.parent_column is null then '{}' else warden.without_trigger(whole, 'warden_fill_org_id_parent') end;
  fn constant text := pg_catalog.format('warden.%I', warden.fill_function_name(whole));
  owner constant name := warden.fill_function_owner(relation);
begin
  if r.scope <> 'org' or r.is_read_only then
    raise exception 'warden.fill_org_id: org_id of % is never filled', relation
      using hint = 'Only tables with scope ''org'' that are not read-only have a fill trigger.';
  end if;
  if inserts = '{}' and updates = '{}' and moves = '{}' and warden.is_fill_function_current(whole) then
    return;
  end if;
  execute pg_catalog.format(
    'create or replace function %s() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as %L',
    fn, warden.fill_function_text(relation));
  perform warden.close_function((fn || '()')::regprocedure);
  -- A grant changes the row of the schema, and then the session plans every query again.
  if not exists (select from pg_catalog.pg_namespace n cross join lateral pg_catalog.aclexplode(n.nspacl) a
                 where n.nspname = 'warden' and a.privilege_type = 'USAGE'
                   and a.grantee = pg_catalog.to_regrole(pg_catalog.quote_ident(owner))) then
    execute pg_catalog.format('grant usage on schema warden to %I', owner);
  end if;
  execute pg_catalog.format('grant execute on function warden.default_org_for(uuid) to %I', owner);
  -- The migrating role may be a superuser, with more rights than the function needs.
  if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
    execute pg_catalog.format('alter function %s() owner to %I', fn, owner);
  end if;
  perform warden.create_row_trigger(inserts, 'warden_fill_org_id', 'insert', 'new.org_id is null', fn);
  perform warden.create_row_trigger(updates, 'warden_fill_org_id_update', 'update',
                                    'old.org_id is distinct from new.org_id', fn);
  perform warden.create_row_trigger(moves, 'warden_fill_org_id_parent', 'update', 'true', fn);
  perform warden.let_owners_add_partitions(whole);
end
$fn$;

-- Renews the functions of fill triggers that do not follow the present rule: those of an earlier version, and those of
-- tables that since reference another table of organisations. It locks no table. Functions that this role does not own
-- stay as they are. Returns the tables.
create or replace function warden.renew_filling() returns setof regclass
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  relation regclass;
begin
  for relation in
    select c.oid from warden.tenant_tables t
    join pg_catalog.pg_namespace n on n.nspname = t.schema_name
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.table_name and c.relkind in ('r', 'p')
    join pg_catalog.pg_proc p on p.pronamespace = 'warden'::regnamespace and p.proname = warden.fill_function_name(c.oid)
    where t.scope = 'org' and not t.is_read_only and not warden.is_fill_function_current(c.oid)
      and pg_catalog.pg_has_role(p.proowner, 'usage')
    order by t.schema_name, t.table_name
  loop
    perform warden.fill_org_id(relation);
    return next relation;
  end loop;
end
$$;

-- Drops the fill triggers of a table and its members, and their function.
create or replace function warden.unfill_org_id(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  whole regclass := coalesce(warden.whole(relation), relation);
begin
  perform warden.drop_trigger(whole, 'warden_fill_org_id');
  perform warden.drop_trigger(whole, 'warden_fill_org_id_update');
  perform warden.drop_trigger(whole, 'warden_fill_org_id_parent');
  execute pg_catalog.format('drop function if exists warden.%I()', warden.fill_function_name(whole));
end
$$;

-- Drops the trigger of this name from a table and its members. (PostgreSQL drops those that partitions inherited.)
create or replace function warden.drop_trigger(relation regclass, trigger_name name) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  part regclass;
begin
  for part in
    select g.tgrelid from warden.tree(relation) m (oid)
    join pg_catalog.pg_trigger g on g.tgrelid = m.oid and g.tgname = trigger_name and g.tgparentid = 0
  loop
    execute pg_catalog.format('drop trigger %I on %s', trigger_name, part);
  end loop;
end
$$;

-- Creates the trigger that keeps the org_id of a table and its members from changing. (Partitions inherit row triggers,
-- unlike statement triggers. Inheritance children get their own.) It takes a lock, which blocks writers for a moment,
-- only if a trigger is missing or wrong.
create or replace function warden.guard_org_id(relation regclass) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select warden.create_row_trigger(
    array(
      -- A partition inherits the trigger from the root of its tree.
      select m.oid
      from warden.tree(coalesce(pg_catalog.pg_partition_root(relation), relation)) with ordinality m (oid, n)
      where not exists (select from pg_catalog.pg_trigger g where g.tgrelid = m.oid
                          and g.tgname = 'warden_org_id_immutable' and warden.is_guard(g.oid))
      order by m.n),
    'warden_org_id_immutable', 'update', 'old.org_id is distinct from new.org_id',
    warden.callee('prevent_org_id_change'));
  select warden.let_owners_add_partitions(relation)
$$;

-- Drops that trigger.
create or replace function warden.unguard_org_id(relation regclass) returns void
language sql set search_path = pg_catalog, pg_temp as $$
  select warden.drop_trigger(relation, 'warden_org_id_immutable')
$$;

-- Rejects a row without an organisation, unless the application's own column says which one: the check
-- warden_org_id_parent names the column, whatever it is called today, and keeps it equal to org_id. (NOT NULL would
-- reject the row too, with PostgreSQL's message.)
create or replace function warden.reject_missing_org_id() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  organization_column constant name := (
    select a.attname from pg_catalog.pg_constraint c
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = any (c.conkey) and a.attname <> 'org_id'
    where c.conrelid = tg_relid and c.contype = 'c' and c.conname = 'warden_org_id_parent');
begin
  if organization_column is not null then
    execute pg_catalog.format('select ($1).%I', organization_column) using new into new.org_id;
  end if;
  if new.org_id is not null then
    return new;
  end if;
  raise exception 'warden: the new row of %.% has no org_id, and the claims of the transaction name no organisation',
      pg_catalog.quote_ident(tg_table_schema), pg_catalog.quote_ident(tg_table_name)
    using errcode = 'not_null_violation', schema = tg_table_schema, table = tg_table_name, column = 'org_id',
          hint = 'Set ' || coalesce(pg_catalog.quote_ident(organization_column) || ' or ', '')
                 || 'org_id, or set the claims first, in the same transaction: '
                 'select set_config(''request.jwt.claims'', ''{"app_metadata": {"org_id": "<uuid>"}}'', true);';
end
$$;
revoke execute on function warden.reject_missing_org_id() from public;

-- Gives org_id the organisation of the claims as its default, so that an application need not name the column, and
-- creates the trigger that explains a row without an organisation, on a table and its members. A default of the
-- application remains. (Partitions inherit both, inheritance children the default.)
create or replace function warden.require_org_id(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  tree constant regclass[] := array(
    select c.oid from warden.tree(coalesce(pg_catalog.pg_partition_root(relation), relation)) with ordinality m (oid, n)
    join pg_catalog.pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
    order by m.n);
  part regclass;
begin
  foreach part in array tree loop
    -- Only now, because members inherit the default of the whole.
    -- (Without OFFSET, the defaults of all columns would be printed.)
    if not exists (select from (select pg_catalog.pg_get_expr(d.adbin, d.adrelid) as expression
                                from pg_catalog.pg_attribute a
                                join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                                where a.attrelid = part and a.attname = 'org_id' and not a.attisdropped offset 0) e
                   where e.expression = warden.org_id_default() or not warden.is_own_default(e.expression)) then
      execute pg_catalog.format('alter table %s alter column org_id set default %s', part, warden.org_id_default());
    end if;
  end loop;
  perform warden.create_row_trigger(
    array(
      select m.oid from unnest(tree) with ordinality m (oid, n)
      left join pg_catalog.pg_trigger g on g.tgrelid = m.oid and g.tgname = 'warden_require_org_id'
      where not coalesce(warden.is_requirement(g.oid), false)
        and not (g.oid is null and warden.has_later_trigger(m.oid))
      order by m.n),
    'warden_require_org_id', 'insert', 'new.org_id is null', 'warden.reject_missing_org_id');
  perform warden.let_owners_add_partitions(relation);
end
$$;

-- Removes that default and that trigger from a table and its members.
create or replace function warden.release_org_id(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  part regclass;
begin
  perform warden.drop_trigger(relation, 'warden_require_org_id');
  for part in
    select e.adrelid
    from (select d.adrelid, pg_catalog.pg_get_expr(d.adbin, d.adrelid) as expression
          from warden.tree(relation) m (oid)
          join pg_catalog.pg_attribute a on a.attrelid = m.oid and a.attname = 'org_id'
          join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum offset 0) e
    where warden.is_own_default(e.expression)
  loop
    execute pg_catalog.format('alter table %s alter column org_id drop default', part);
  end loop;
end
$$;

-- Rejects a row of a partition that has no row-level security, although its whole is protected: nothing has protected
-- the partition yet, and default privileges may let requests of every organisation read it by its name.
create or replace function warden.reject_unprotected_rows() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- A role to which no policy applies inserts many rows. This test reads no table.
  if pg_catalog.current_setting('warden.protected_member', true) = tg_relid::text then
    return null;
  end if;
  if (select c.relrowsecurity from pg_catalog.pg_class c where c.oid = tg_relid) then
    perform pg_catalog.set_config('warden.protected_member', tg_relid::text, true);
    return null;
  end if;
  raise exception 'warden: %.% accepts no rows: it is a partition of a protected table, and has no row-level security yet',
      pg_catalog.quote_ident(tg_table_schema), pg_catalog.quote_ident(tg_table_name)
    using errcode = 'object_not_in_prerequisite_state', schema = tg_table_schema, table = tg_table_name,
          hint = pg_catalog.format('Run "warden migrate", or as a role that owns the table and is a member of warden_owner: '
                                   'select warden.protect_members(%L);', tg_relid::regclass);
end
$$;
revoke execute on function warden.reject_unprotected_rows() from public;

-- Whether a table lacks that trigger: it is the top of a protected partitioned table, and no event trigger protects
-- each new partition in the statement that creates it.
create or replace function warden.accepts_unprotected_rows(relation regclass) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select not exists (select from pg_catalog.pg_event_trigger e
                     where e.evtname = 'warden_protect_members' and e.evtenabled in ('O', 'A'))
     and exists (select from pg_catalog.pg_class c where c.oid = relation and c.relkind = 'p' and not c.relispartition)
     and exists (select from pg_catalog.pg_policy p where p.polrelid = relation and p.polname = 'warden_org')
     and not exists (select from pg_catalog.pg_trigger g where g.tgrelid = relation and g.tgname = 'warden_require_protection')
$$;

-- Creates that trigger on a table that lacks it. The table's partitions inherit it. row_security_active() is false for
-- a partition without row-level security, and for roles to which no policy applies. The condition reads no table, and
-- for other roles no function is called.
create or replace function warden.require_protected_members(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not warden.accepts_unprotected_rows(relation) then
    return;
  end if;
  execute pg_catalog.format('create trigger warden_require_protection after insert on %s for each row '
                            'when (not pg_catalog.row_security_active(new.tableoid)) execute function warden.reject_unprotected_rows()', relation);
  perform warden.let_owners_add_partitions(relation);
end
$$;

reset role;
