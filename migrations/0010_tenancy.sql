-- The steps that isolate a table, each in one short function. They run with the rights and the lock_timeout of their
-- caller, who owns the table. They change metadata only, and do nothing if nothing is missing. Steps that take time on
-- existing rows belong to the online executor of `warden migrate`.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
-- Rejects a change of org_id, except from null. (SQLSTATE 23514, check_violation, tells clients that the schema
-- rejects the data.)
set local role warden_owner;
create or replace function warden.prevent_org_id_change() returns trigger
language plpgsql set search_path = '' as $$
begin
  if old.org_id is null then
    return new;
  end if;
  raise exception 'warden: org_id of %.% cannot be changed (from % to %)',
      tg_table_schema, tg_table_name, old.org_id, new.org_id
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
language plpgsql stable set search_path = '' as $$
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
language sql stable set search_path = '' as $$
  select exists (select from pg_catalog.pg_attribute a
                 where a.attrelid = relation and a.attname = column_name and a.attnum > 0 and not a.attisdropped)
$$;

-- Name of the function of a table's fill trigger.
create or replace function warden.fill_function_name(relation regclass) returns name
language sql stable set search_path = '' as $$
  select warden.object_name('fill ' || n.nspname || '.' || c.relname)
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = relation
$$;

-- The members of a table, itself included, that lack an enabled trigger of this name: parents before children.
create or replace function warden.without_trigger(relation regclass, trigger_name name) returns regclass[]
language sql stable set search_path = '' as $$
  select array(
    select m.oid from warden.tree(relation) with ordinality m (oid, n)
    join pg_catalog.pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
    where not exists (select from pg_catalog.pg_trigger g
                      where g.tgrelid = m.oid and g.tgname = trigger_name and g.tgenabled in ('O', 'A'))
    order by m.n)
$$;

-- Creates and enables a row trigger on these tables: the members of a tree that need it, parents before children.
-- A partition inherits the trigger from its whole, so there it is only enabled. Inheritance children get their own.
create or replace function warden.create_row_trigger(
  parts regclass[], trigger_name name, event text, condition text, function text
) returns void
language plpgsql set search_path = '' as $$
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

-- The foreign keys of a table that lead to tables of organisations, except the one to its parent, as expressions about
-- the row `alias`: whether the row references another one, and the organisation of that one. A row belongs there if
-- neither a parent nor a user says where it belongs. A table may reference itself. Without a parent or user column in
-- the registry there are none, because then an operator decided that all rows belong to the default organisation.
create or replace function warden.other_references(relation regclass, alias text)
returns table (target regclass, columns text, is_set text, organization text)
language plpgsql stable set search_path = '' as $$
declare
  r warden.tenant_tables := warden.registered(relation);
begin
  if r.parent_column is null and r.user_column is null then
    return;
  end if;
  return query
    select k.target, string_agg(pg_catalog.quote_ident(a.attname), ', ' order by u.n),
      '(' || string_agg(pg_catalog.format('%s.%I is not null', alias, a.attname), ' and ' order by u.n) || ')',
      case when warden.has_column(k.target, k.org_column) then
        pg_catalog.format('(select r.%I from %s r where %s)', k.org_column, k.target,
          string_agg(pg_catalog.format('r.%I = %s.%I', f.attname, alias, a.attname), ' and ' order by u.n))
      else 'null::uuid' end
    from (
      select c.oid, c.conrelid, c.conkey, c.confkey, c.confrelid::regclass as target,
        case t.scope when 'root' then 'id' else 'org_id' end::name as org_column
      from pg_catalog.pg_constraint c
      join pg_catalog.pg_class p on p.oid = c.confrelid
      join pg_catalog.pg_namespace n on n.oid = p.relnamespace
      join warden.tenant_tables t on t.schema_name = n.nspname and t.table_name = p.relname and t.scope in ('org', 'root')
      where c.conrelid = relation and c.contype = 'f') k
    cross join lateral unnest(k.conkey, k.confkey) with ordinality u (col, key, n)
    join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.col
    join pg_catalog.pg_attribute f on f.attrelid = k.target and f.attnum = u.key
    group by k.oid, k.target, k.org_column
    having not bool_or(a.attname in ('org_id', coalesce(r.parent_column, 'org_id')))
    order by k.oid;
end
$$;

-- Text of the function of a table's fill triggers. They keep one rule while the table is adopted: the organisation of a
-- row is the parent's, else that of the user's membership, else that of another referenced row, else the default
-- organisation.
-- If the parent, or another referenced row, has no organisation yet, org_id stays null until the backfill. The same
-- holds if row-level security hides that row, or the trigger may not read it: only the backfill can know its
-- organisation.
create or replace function warden.fill_function_text(relation regclass) returns text
language plpgsql stable set search_path = '' as $fn$
declare
  r warden.tenant_tables := warden.registered(relation);
  parent regclass := (select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                      where n.nspname = r.parent_schema and c.relname = r.parent_table);
  owner name := warden.fill_function_owner(relation);
  reference record;
  is_referencing text := '';
  -- The column of a parent's row with its organisation.
  parent_org name := case when parent = 'public.organizations'::regclass then 'id' else 'org_id' end;
  body text := $body$
declare
  given constant uuid := new.org_id;
  is_exempt boolean := false;
begin
  if tg_op = 'UPDATE' then
    -- This function runs as its owner: the setting names the role of the statement.
    select r.rolsuper or r.rolbypassrls into is_exempt from pg_catalog.pg_roles r
    where r.rolname = coalesce(nullif(pg_catalog.current_setting('role', true), 'none'), session_user::text);
    if old.org_id is not null then
      if is_exempt then
        return new;
      end if;
      raise exception 'warden: org_id of %.% cannot be changed (from % to %)',
          tg_table_schema, tg_table_name, old.org_id, new.org_id
        using errcode = 'check_violation',
              hint = 'Rows do not move between organisations: insert a new row in the other one.';
    end if;
    new.org_id := null;
  end if;$body$;
begin
  if parent is not null and warden.has_column(relation, r.parent_column) and warden.has_column(parent, parent_org) then
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
  body := body || pg_catalog.format($body$
  new.org_id := coalesce(new.org_id, %L::uuid);
  return new;
end
$body$, warden.default_organization());
  return body;
end
$fn$;

-- The role with whose rights the function of a table's fill triggers runs: the owner of the parent, because a role that
-- inserts children need not have the right to read parents.
create or replace function warden.fill_function_owner(relation regclass) returns name
language sql stable set search_path = '' as $$
  select pg_catalog.pg_get_userbyid(c.relowner) from pg_catalog.pg_class c
  where c.oid = coalesce((select p.oid from warden.registered(relation) r
                          join pg_catalog.pg_namespace n on n.nspname = r.parent_schema
                          join pg_catalog.pg_class p on p.relnamespace = n.oid and p.relname = r.parent_table), relation)
$$;

-- Creates the fill triggers of a table, or completes them:
--   warden_fill_org_id         sets org_id in new rows of an application that does not know the column
--   warden_fill_org_id_update  applies the rule if a statement sets org_id in a row that the backfill has not reached,
--                              and rejects any other change. Otherwise a request could choose the organisation of a
--                              row before the database isolates organisations. Roles that row-level security does not
--                              bind may change org_id, as they may once the table is enforced.
-- Partitions inherit the triggers. Inheritance children get their own, which call the same function.
-- Each table has a function of its own, as for watches, so its statements are planned once.
create or replace function warden.fill_org_id(relation regclass) returns void
language plpgsql set search_path = '' as $fn$
declare
  r warden.tenant_tables := warden.registered(relation);
  -- A member has the function of its whole.
  whole constant regclass := warden.whole(relation);
  inserts constant regclass[] := warden.without_trigger(whole, 'warden_fill_org_id');
  updates constant regclass[] := warden.without_trigger(whole, 'warden_fill_org_id_update');
  fn constant text := pg_catalog.format('warden.%I', warden.fill_function_name(whole));
  owner constant name := warden.fill_function_owner(relation);
begin
  if r.scope <> 'org' or r.is_read_only then
    raise exception 'warden.fill_org_id: org_id of % is never filled', relation
      using hint = 'Only tables with scope ''org'' that are not read-only have a fill trigger.';
  end if;
  if inserts = '{}' and updates = '{}' and warden.is_fill_function_current(whole) then
    return;
  end if;
  execute pg_catalog.format(
    'create or replace function %s() returns trigger language plpgsql security definer set search_path = '''' as %L',
    fn, warden.fill_function_text(relation));
  perform warden.close_function((fn || '()')::regprocedure);
  execute pg_catalog.format('grant usage on schema warden to %I', owner);
  execute pg_catalog.format('grant execute on function warden.default_org_for(uuid) to %I', owner);
  -- The migrating role may be a superuser, with more rights than the function needs.
  if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
    execute pg_catalog.format('alter function %s() owner to %I', fn, owner);
  end if;
  perform warden.create_row_trigger(inserts, 'warden_fill_org_id', 'insert', 'new.org_id is null', fn);
  perform warden.create_row_trigger(updates, 'warden_fill_org_id_update', 'update',
                                    'old.org_id is distinct from new.org_id', fn);
end
$fn$;

-- Renews the functions of fill triggers that do not follow the present rule: those of an earlier version, and those of
-- tables that since reference another table of organisations. It locks no table. Functions that this role does not own
-- stay as they are. Returns the tables.
create or replace function warden.renew_filling() returns setof regclass
language plpgsql set search_path = '' as $$
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
language plpgsql set search_path = '' as $$
declare
  whole regclass := coalesce(warden.whole(relation), relation);
begin
  perform warden.drop_trigger(whole, 'warden_fill_org_id');
  perform warden.drop_trigger(whole, 'warden_fill_org_id_update');
  execute pg_catalog.format('drop function if exists warden.%I()', warden.fill_function_name(whole));
end
$$;

-- Drops the trigger of this name from a table and its members. (PostgreSQL drops those that partitions inherited.)
create or replace function warden.drop_trigger(relation regclass, trigger_name name) returns void
language plpgsql set search_path = '' as $$
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
language sql set search_path = '' as $$
  select warden.create_row_trigger(
    array(
      -- A partition inherits the trigger from the root of its tree.
      select m.oid
      from warden.tree(coalesce(pg_catalog.pg_partition_root(relation), relation)) with ordinality m (oid, n)
      where not exists (select from pg_catalog.pg_trigger g where g.tgrelid = m.oid
                          and g.tgname = 'warden_org_id_immutable' and warden.is_guard(g.oid))
      order by m.n),
    'warden_org_id_immutable', 'update', 'old.org_id is distinct from new.org_id',
    warden.callee('prevent_org_id_change'))
$$;

-- Drops that trigger.
create or replace function warden.unguard_org_id(relation regclass) returns void
language sql set search_path = '' as $$
  select warden.drop_trigger(relation, 'warden_org_id_immutable')
$$;

-- Explains a row without an organisation. (NOT NULL would reject it too, with PostgreSQL's message.)
create or replace function warden.reject_missing_org_id() returns trigger
language plpgsql set search_path = '' as $$
begin
  raise exception 'warden: the new row of %.% has no org_id, and the claims of the transaction name no organisation',
      pg_catalog.quote_ident(tg_table_schema), pg_catalog.quote_ident(tg_table_name)
    using errcode = 'not_null_violation', schema = tg_table_schema, table = tg_table_name, column = 'org_id',
          hint = 'Set org_id, or set the claims first, in the same transaction: '
                 'select set_config(''request.jwt.claims'', ''{"app_metadata": {"org_id": "<uuid>"}}'', true);';
end
$$;
revoke execute on function warden.reject_missing_org_id() from public;

-- Gives org_id the organisation of the claims as its default, so that an application need not name the column, and
-- creates the trigger that explains a row without an organisation, on a table and its members. A default of the
-- application remains. (Partitions inherit both, inheritance children the default.)
create or replace function warden.require_org_id(relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  tree constant regclass[] := array(
    select c.oid from warden.tree(coalesce(pg_catalog.pg_partition_root(relation), relation)) with ordinality m (oid, n)
    join pg_catalog.pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
    order by m.n);
  part regclass;
begin
  foreach part in array tree loop
    -- Only now, because members inherit the default of the whole.
    if not exists (select from pg_catalog.pg_attribute a
                   join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                   cross join lateral (select pg_catalog.pg_get_expr(d.adbin, d.adrelid)) e (expression)
                   where a.attrelid = part and a.attname = 'org_id' and not a.attisdropped
                     and (e.expression = warden.org_id_default() or not warden.is_own_default(e.expression))) then
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
end
$$;

-- Removes that default and that trigger from a table and its members.
create or replace function warden.release_org_id(relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  part regclass;
begin
  perform warden.drop_trigger(relation, 'warden_require_org_id');
  for part in
    select d.adrelid from warden.tree(relation) m (oid)
    join pg_catalog.pg_attrdef d on d.adrelid = m.oid
    join pg_catalog.pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum and a.attname = 'org_id'
    where warden.is_own_default(pg_catalog.pg_get_expr(d.adbin, d.adrelid))
  loop
    execute pg_catalog.format('alter table %s alter column org_id drop default', part);
  end loop;
end
$$;

-- Revokes the rights that no policy limits, and returns them as JSON, added to those that were revoked earlier.
create or replace function warden.revoke_unlimited_rights(relation regclass, earlier jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  a record;
  revoked jsonb := coalesce(earlier, '[]');
begin
  -- Rights on the whole table come first: to revoke one of them also revokes it on each column.
  for a in
    select u.*, case u.grantee when 0 then 'public' else u.grantee::regrole::text end as role_name,
      coalesce(' (' || pg_catalog.quote_ident(u.column_name) || ')', '') as columns
    from warden.unlimited_rights(relation) u order by u.column_name desc, u.privilege, u.grantee
  loop
    execute pg_catalog.format('revoke %s%s on %s from %s cascade', a.privilege, a.columns, relation, a.role_name);
    revoked := revoked || pg_catalog.jsonb_build_array(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
      'right', a.privilege, 'column', a.column_name, 'role', a.role_name,
      'grantable', case when a.is_grantable then true end)));
  end loop;
  return revoked;
end
$$;

-- Grants the rights that warden.revoke_unlimited_rights() revoked, to the roles that still exist.
create or replace function warden.restore_rights(relation regclass, revoked jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  a record;
begin
  for a in
    select x ->> 'right' as privilege, x ->> 'column' as column_name, x ->> 'role' as role_name,
      coalesce((x ->> 'grantable')::boolean, false) as is_grantable
    from pg_catalog.jsonb_array_elements(revoked) x
    where x ->> 'right' in ('TRUNCATE', 'REFERENCES', 'TRIGGER')
      and (x ->> 'role' = 'public' or pg_catalog.to_regrole(x ->> 'role') is not null)
      and (x ->> 'column' is null or warden.has_column(relation, (x ->> 'column')::name))
  loop
    execute pg_catalog.format('grant %s%s on %s to %s%s', a.privilege,
      coalesce(' (' || pg_catalog.quote_ident(a.column_name) || ')', ''), relation,
      case a.role_name when 'public' then 'public' else pg_catalog.to_regrole(a.role_name)::text end,
      case when a.is_grantable then ' with grant option' else '' end);
  end loop;
end
$$;

-- Enables and forces row-level security on a table, creates its policies, and revokes the rights that no policy limits.
-- The former state is recorded in the comment of the policy warden_org, so it disappears with that policy.
create or replace function warden.protect(relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  r warden.tenant_tables := warden.registered(relation);
  former record;
  state record;
  revoked jsonb;
  note text;
  former_note text;
  commands constant jsonb := '{"r": "select", "a": "insert", "w": "update", "d": "delete", "*": "all"}';
  p record;
begin
  for p in select q.* from warden.access_questions(relation) q loop
    raise exception '% %', relation, p.problem using hint = p.remedy;
  end loop;
  select f.* into former from warden.former_row_security(relation) f;
  select pg_catalog.obj_description(pol.oid, 'pg_policy') into note
  from pg_catalog.pg_policy pol where pol.polrelid = relation and pol.polname = 'warden_org';
  for p in
    select coalesce(t.name, pol.polname) as policy_name, t.*, pol.oid as present
    from warden.tenant_policies(relation, r.scope, r.user_column, r.is_read_only) t
    full join (select x.oid, x.polname from pg_catalog.pg_policy x
               where x.polrelid = relation and warden.is_own_policy(x.oid)) pol on pol.polname = t.name
    where not coalesce(warden.is_policy(pol.oid, t.command, t.is_permissive, t.roles, t.using_condition,
                                        t.checking_condition), false)
  loop
    if p.present is not null then
      execute pg_catalog.format('drop policy %I on %s', p.policy_name, relation);
    end if;
    continue when p.name is null;
    execute pg_catalog.format('create policy %I on %s as %s for %s to %s%s%s', p.name, relation,
      case when p.is_permissive then 'permissive' else 'restrictive' end, commands ->> p.command::text,
      (select pg_catalog.string_agg(case u.role when 0 then 'public' else u.role::regrole::text end, ', ')
       from unnest(p.roles) u (role)),
      ' using (' || p.using_condition || ')', ' with check (' || p.checking_condition || ')');
    execute pg_catalog.format('comment on policy %I on %s is %L', p.name, relation, 'By warden.protect().');
  end loop;
  revoked := warden.revoke_unlimited_rights(
    relation, (pg_catalog.regexp_match(note, 'Revoked rights: (\[.*\])'))[1]::jsonb);
  former_note := pg_catalog.format('By warden.protect(). Before it row-level security was %s, %s.%s',
    case when former.was_enabled then 'on' else 'off' end, case when former.was_forced then 'forced' else 'not forced' end,
    case when revoked <> '[]' then ' Revoked rights: ' || revoked::text else '' end);
  if not exists (select from pg_catalog.pg_policy pol where pol.polrelid = relation and pol.polname = 'warden_org'
                   and pg_catalog.obj_description(pol.oid, 'pg_policy') = former_note) then
    execute pg_catalog.format('comment on policy warden_org on %s is %L', relation, former_note);
  end if;
  select c.relrowsecurity as is_enabled, c.relforcerowsecurity as is_forced into state
  from pg_catalog.pg_class c where c.oid = relation;
  if not state.is_enabled then
    execute pg_catalog.format('alter table %s enable row level security', relation);
  end if;
  if not state.is_forced then
    execute pg_catalog.format('alter table %s force row level security', relation);
  end if;
end
$$;

-- Drops Warden's policies, and restores the former state of row-level security and the revoked rights.
create or replace function warden.unprotect(relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  former record;
  note text := (select pg_catalog.obj_description(pol.oid, 'pg_policy') from pg_catalog.pg_policy pol
                where pol.polrelid = relation and pol.polname = 'warden_org');
  dropped int := 0;
  p record;
begin
  select f.* into former from warden.former_row_security(relation) f;
  for p in
    select pol.polname from pg_catalog.pg_policy pol where pol.polrelid = relation and warden.is_own_policy(pol.oid)
  loop
    execute pg_catalog.format('drop policy %I on %s', p.polname, relation);
    dropped := dropped + 1;
  end loop;
  -- The table has none of Warden's policies, so its state is the application's.
  if dropped = 0 then
    return;
  end if;
  perform warden.restore_rights(
    relation, coalesce((pg_catalog.regexp_match(note, 'Revoked rights: (\[.*\])'))[1]::jsonb, '[]'));
  -- If warden_org, with the record, was dropped: leave it enabled, but not forced.
  if not former.was_forced or note is null then
    execute pg_catalog.format('alter table %s no force row level security', relation);
  end if;
  if not former.was_enabled then
    execute pg_catalog.format('alter table %s disable row level security', relation);
  end if;
end
$$;

-- Lets the application's policies decide which rows of the organisation a role sees, if so far the grants alone do:
-- enables row-level security for good, also after `warden migrate --relax`.
create or replace function warden.use_policies(relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  note text := (select pg_catalog.obj_description(pol.oid, 'pg_policy') from pg_catalog.pg_policy pol
                where pol.polrelid = relation and pol.polname = 'warden_org' and warden.is_own_policy(pol.oid));
begin
  if warden.access_mode(relation) <> 'grants' then
    return;
  end if;
  if exists (select from pg_catalog.pg_policy pol
             where pol.polrelid = relation and pol.polname = 'warden_org' and warden.is_own_policy(pol.oid)) then
    execute pg_catalog.format('comment on policy warden_org on %s is %L', relation,
      coalesce(pg_catalog.replace(note, 'security was off', 'security was on'),
               'By warden.protect(). Before it row-level security was on, not forced.'));
    perform warden.protect(relation);
  else
    execute pg_catalog.format('alter table %s enable row level security', relation);
  end if;
end
$$;

-- Views and functions through which ordinary roles reach rows of every organisation once these tables are enforced,
-- because they read the tables as a role that is exempt from row-level security. A function is recognised by a table's
-- name in its body. `object` is the name for warden.accept_finding().
create or replace function warden.bypasses(relations regclass[])
returns table (rule text, object text, kind text, owner text, readers text[], tables text)
language sql stable set search_path = '' set jit = off as $$
  with recursive tables as (
    select m.oid, c.relname, whole.name
    from unnest(relations) t (oid)
    cross join lateral (select pg_catalog.format('%I.%I', n.nspname, c.relname) as name from pg_catalog.pg_class c
                        join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = t.oid) whole
    cross join lateral warden.tree(t.oid) m (oid)
    join pg_catalog.pg_class c on c.oid = m.oid
  ), exempt as (
    select r.oid from pg_catalog.pg_roles r where r.rolsuper or r.rolbypassrls
  ), ordinary as (
    -- A role that may become an exempt one bypasses row-level security anyway.
    select r.oid, r.rolname from pg_catalog.pg_roles r
    where not r.rolsuper and not r.rolbypassrls and r.rolname !~ '^(pg_|warden_)'
      and not exists (select from exempt e where pg_catalog.pg_has_role(r.oid, e.oid, 'member'))
  ), reads as (
    select distinct w.ev_class as view, d.refobjid as relation
    from pg_catalog.pg_rewrite w
    join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_catalog.pg_class'::regclass
    where d.refobjid <> w.ev_class
  ), views as (
    select c.oid, c.relkind, c.relowner, pg_catalog.format('%I.%I', n.nspname, c.relname) as name,
      exists (select from pg_catalog.pg_options_to_table(c.reloptions) o
              where o.option_name = 'security_invoker' and o.option_value in ('true', 'on', '1', 'yes')) as is_invoker
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('v', 'm') and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
  ), leaking (view, source, target) as (
    -- PostgreSQL checks a table as the owner of the view that names it. A materialized view is a copy.
    select v.oid, v.oid, t.name
    from views v join reads r on r.view = v.oid join tables t on t.oid = r.relation
    where v.relkind = 'm' or not v.is_invoker and v.relowner in (select e.oid from exempt e)
    union
    select v.oid, l.source, l.target from leaking l join reads r on r.relation = l.view join views v on v.oid = r.view
  ), readable as (
    select s.name, s.relkind, s.relowner::regrole::text as owner, l.target, pg_catalog.array_agg(distinct o.rolname::text order by o.rolname::text) as readers
    from leaking l
    join views s on s.oid = l.source
    join views v on v.oid = l.view
    join ordinary o on o.oid <> v.relowner and pg_catalog.has_any_column_privilege(o.oid, v.oid, 'select')
    group by s.oid, s.name, s.relkind, s.relowner, l.target
  ), passing (relation, target) as (
    -- Through a view with security_invoker, a function reads the table as the function's owner.
    select t.oid, t.name from tables t
    union
    select v.oid, p.target from passing p join reads r on r.relation = p.relation join views v on v.oid = r.view and v.is_invoker
  ), named as (
    select c.relname, pg_catalog.lower(c.relname) as lower_name, p.target
    from (select p.relation, p.target from passing p union select l.view, l.target from leaking l) p
    join pg_catalog.pg_class c on c.oid = p.relation
  ), functions as (
    select p.oid, p.oid::regprocedure::text as name, p.proowner::regrole::text as owner, t.target,
      array(select o.rolname::text from ordinary o
            where o.oid <> p.proowner and pg_catalog.has_function_privilege(o.oid, p.oid, 'execute') order by 1) as readers
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
    cross join lateral (
      select pg_catalog.lower(coalesce(p.prosrc, '') || coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), '')) as text) body
    join named t on case when pg_catalog.strpos(body.text, t.lower_name) > 0 then
        body.text ~ ('(^|[^a-z0-9_])' || pg_catalog.regexp_replace(t.lower_name, '([^a-z0-9_ ])', '\\\1', 'g') || '($|[^a-z0-9_])')
      else false end
    where p.prosecdef and p.proowner in (select e.oid from exempt e)
      and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
      and not (n.nspname = 'public' and warden.is_own(p.oid))
      and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
  )
  select 'bypassing-view', r.name, r.relkind::text, r.owner, r.readers, pg_catalog.string_agg(r.target, ', ' order by r.target)
  from readable r group by r.name, r.relkind, r.owner, r.readers
  union all
  select 'definer-function', f.name, 'f', f.owner, f.readers, pg_catalog.string_agg(distinct f.target, ', ')
  from functions f where f.readers <> '{}' group by f.name, f.owner, f.readers
  order by 1, 2
$$;

-- Creates all missing objects of tables without rows, parents before their children. Partitions inherit most objects of
-- the whole, so objects that members still lack are created in a second pass. on_parent_delete is the action of
-- composite keys if the table has no simple key whose action they could take.
create or replace function warden.create_tenant_objects(relations regclass[], on_parent_delete text default '') returns void
language plpgsql set search_path = '' as $$
declare
  members constant regclass[] := array(
    select m from unnest(relations) w (relation) cross join lateral warden.tree(w.relation) m
    where m <> all (pg_catalog.array_remove(relations, null)));
  o record;
begin
  for o in
    select t.*, pg_catalog.format('%I.%I', t.schema_name, t.table_name) as target
    from warden.tenant_object_rows() t
    where t.relation = any (relations) and t.applies and not t.is_valid and t.phase <> 'fill'
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
        perform warden.protect(o.relation);
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
language sql stable set search_path = '' as $$
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
language plpgsql set search_path = '' as $$
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
-- Call it again to change an argument.
create or replace function warden.register_table(
  relation regclass, user_column name default null, parent regclass default null,
  parent_column name default null, parent_key name default 'id', is_immutable boolean default true
) returns void
language plpgsql set search_path = '' as $$
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
  insert into warden.tenant_tables
    (schema_name, table_name, user_column, parent_schema, parent_table, parent_column, parent_key, is_immutable)
  values (c.nspname, c.relname, register_table.user_column, p.schema_name, p.table_name, register_table.parent_column,
          register_table.parent_key, register_table.is_immutable)
  on conflict on constraint tenant_tables_pkey do update
    set (scope, user_column, parent_schema, parent_table, parent_column, parent_key, is_immutable)
      = ('org', excluded.user_column, excluded.parent_schema, excluded.parent_table, excluded.parent_column,
         excluded.parent_key, excluded.is_immutable);
end
$$;
revoke execute on function warden.register_table(regclass, name, regclass, name, name, boolean) from public;

-- Registers a table, and creates all its objects at once if it has no rows.
create or replace function warden.adopt_table(
  relation regclass, user_column name default null, parent regclass default null,
  parent_column name default null, parent_key name default 'id', is_immutable boolean default true
) returns void
language plpgsql set search_path = '' as $$
declare
  has_rows boolean;
begin
  perform warden.register_table(relation, user_column, parent, parent_column, parent_key, is_immutable);
  -- organizations needs none of a parent's objects.
  parent := nullif(parent, 'public.organizations'::regclass);
  execute pg_catalog.format('select exists (select from %s)', relation) into has_rows;
  if not has_rows and parent is not null then
    -- The parent needs a unique (org_id, key), and an organisation in each row.
    execute pg_catalog.format('select exists (select from %s)', parent) into has_rows;
    has_rows := has_rows and exists (select from warden.tenant_object_rows() o where o.relation = parent
                                       and o.applies and o.phase <> 'fill' and not o.is_valid);
  end if;
  if has_rows then
    raise notice '% is registered. It, or its parent, has rows: run "warden migrate", then "warden migrate --enforce"',
      relation;
  else
    perform warden.create_tenant_objects(array[parent, relation]);
  end if;
end
$$;
revoke execute on function warden.adopt_table(regclass, name, regclass, name, name, boolean) from public;

-- Registers a table as a table of users. The table itself is not changed.
create or replace function warden.leave_to_user(relation regclass, user_column name default 'user_id') returns void
language plpgsql set search_path = '' as $$
begin
  if not warden.has_column(relation, user_column) then
    raise exception 'warden.leave_to_user: % has no column "%"', relation, user_column using errcode = '22023';
  end if;
  insert into warden.tenant_tables (schema_name, table_name, scope, user_column)
  select n.nspname, c.relname, 'user', leave_to_user.user_column
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid = relation
  on conflict on constraint tenant_tables_pkey do update
    set (scope, user_column, parent_schema, parent_table, parent_column)
      = ('user', excluded.user_column, null, null, null);
end
$$;
reset role;
