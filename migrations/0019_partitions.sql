-- New partitions and inheritance children. PostgreSQL gives a new partition the columns, NOT NULL, indexes, foreign
-- keys and row triggers of the whole, but neither its policies nor its statement triggers. Statements that name a
-- partition are subject to the partition's own policies only. So Warden protects a new member in the transaction that
-- creates it.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The members of a table that have no trigger of this name: parents before children.
create or replace function warden.members_without_trigger(relation regclass, trigger_name name) returns setof regclass
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select m.oid::regclass from warden.tree(relation) with ordinality m (oid, n)
    join pg_catalog.pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
    where not exists (select from pg_catalog.pg_trigger g where g.tgrelid = m.oid and g.tgname = trigger_name)
    order by m.n;
end
$$;

-- The watch that logs the rows of a table: of the table itself, or of one that it is a partition or child of. If there
-- are several, it is that of the outermost table, and of these the oldest one, because a table has the log triggers of
-- one watch only. warden.watch() prevents that, but a watched table may become a partition or child later.
create or replace function warden.watch_of(relation regclass) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    with recursive above as (
      select watch_of.relation::oid as oid
      union
      select i.inhparent from pg_catalog.pg_inherits i join above a on i.inhrelid = a.oid
    ), watched as materialized (
      select w.id, w.relation from above a join warden.watches w on w.relation = a.oid
    )
    select w.id from watched w
    where not exists (select from watched o where o.id <> w.id and w.relation in (select warden.tree(o.relation)))
    order by w.id limit 1);
end
$$;

-- The table at the top of the tree that a table is part of.
create or replace function warden.topmost(relation regclass) returns regclass
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive above as (
    select topmost.relation::oid as oid, 0 as depth
    union
    select i.inhparent, a.depth + 1 from pg_catalog.pg_inherits i join above a on i.inhrelid = a.oid
  )
  select a.oid::regclass from above a order by a.depth desc, a.oid limit 1
$$;

-- The watched table that a table is part of. Null if there is none.
create or replace function warden.watched_whole(relation regclass) returns regclass
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select w.relation from warden.watches w where w.id = warden.watch_of(watched_whole.relation));
end
$$;

-- Members that lack a trigger or the policies of their registered or watched table: they were created while no event
-- trigger protected them. A registered table is its own member here if it lacks what keeps its new partitions empty.
create or replace function warden.incomplete_members() returns table (whole regclass, member regclass)
language sql stable set search_path = pg_catalog, pg_temp as $$
  with wholes as (
    select c.oid from warden.tenant_tables t
    join pg_catalog.pg_namespace n on n.nspname = t.schema_name
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
    union
    select c.oid from warden.watches w join pg_catalog.pg_class c on c.oid = w.relation
  )
  select w.oid, m.oid
  from wholes w
  cross join lateral warden.tree(w.oid) m (oid)
  join pg_catalog.pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
  where m.oid <> w.oid and (
    exists (select from pg_catalog.pg_trigger g
            where g.tgrelid = w.oid and not g.tgisinternal and g.tgname ~ '^warden_'
              and not (g.tgname = 'warden_require_org_id' and warden.has_later_trigger(m.oid))
              and not exists (select from pg_catalog.pg_trigger x
                              where x.tgrelid = m.oid and x.tgname = g.tgname))
    or exists (select from pg_catalog.pg_policy p where p.polrelid = w.oid and p.polname = 'warden_org')
       and not exists (select from pg_catalog.pg_policy p where p.polrelid = m.oid and p.polname = 'warden_org'))
  union all
  select w.oid, w.oid from wholes w where warden.accepts_unprotected_rows(w.oid)
$$;

-- Gives the members of a table what they lack: the triggers on org_id, policies if the table is enforced, log
-- triggers if it is watched. Their owners get the right to add more of them. It does nothing if nothing is missing, and
-- it does not enable what somebody disabled: the audit reports that. `relation` is the table or one of its members.
-- The caller must own the tables and be a member of warden_owner.
create or replace function warden.protect_members(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  whole constant regclass := warden.whole(relation);
  watched constant regclass := warden.watched_whole(relation);
  missing text;
  part regclass;
begin
  if coalesce(whole, watched) is null then
    raise exception '% is neither registered nor watched', relation
      using errcode = '22023', hint = pg_catalog.format('select warden.adopt_table(%L);', relation);
  end if;
  for missing in
    select g.tgname from pg_catalog.pg_trigger g
    where g.tgrelid = whole and exists (select from warden.members_without_trigger(whole, g.tgname))
  loop
    if missing in ('warden_fill_org_id', 'warden_fill_org_id_update', 'warden_fill_org_id_parent') then
      perform warden.fill_org_id(whole);
    elsif missing = 'warden_org_id_immutable' then
      perform warden.guard_org_id(whole);
    elsif missing = 'warden_require_org_id' then
      perform warden.require_org_id(whole);
    end if;
  end loop;
  perform warden.let_owners_add_partitions(coalesce(whole, watched));
  if exists (select from pg_catalog.pg_policy p where p.polrelid = whole and p.polname = 'warden_org') then
    perform warden.require_protected_members(whole);
    for part in
      select c.oid from warden.tree(whole) m (oid)
      join pg_catalog.pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
      where not exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid and p.polname = 'warden_org')
    loop
      perform warden.protect(part);
    end loop;
  end if;
  if watched is not null then
    perform warden.add_watched_members(watched);
  end if;
end
$$;
revoke execute on function warden.protect_members(regclass) from public;

-- Follows a statement that altered a registered table, or a parent of one: if it renamed the column of this number and
-- the registry names that column, the registry gets the new name. The functions of fill triggers that name the column,
-- or run as the former owner, are renewed. Otherwise every INSERT would fail.
create or replace function warden.follow_alteration(relation regclass, renamed int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  altered pg_catalog.pg_class := (select c from pg_catalog.pg_class c where c.oid = relation);
  altered_schema constant name := (select n.nspname from pg_catalog.pg_namespace n where n.oid = altered.relnamespace);
  new_name constant name := (select a.attname from pg_catalog.pg_attribute a
                             where a.attrelid = relation and a.attnum = renamed);
  entry warden.tenant_tables;
  child regclass;
begin
  for entry in
    select t.* from warden.tenant_tables t
    where (altered_schema, altered.relname) in ((t.schema_name, t.table_name), (t.parent_schema, t.parent_table))
    order by t.schema_name, t.table_name
  loop
    if renamed > 0 and (entry.schema_name, entry.table_name) = (altered_schema, altered.relname) then
      update warden.tenant_tables t set
        user_column = case when t.column_numbers[1] = renamed then new_name else t.user_column end,
        parent_column = case when t.column_numbers[2] = renamed then new_name else t.parent_column end
      where (t.schema_name, t.table_name) = (entry.schema_name, entry.table_name)
        and (t.column_numbers[1] = renamed and t.user_column <> new_name
             or t.column_numbers[2] = renamed and t.parent_column <> new_name);
    end if;
    if renamed > 0 and (entry.parent_schema, entry.parent_table) = (altered_schema, altered.relname) then
      update warden.tenant_tables t set parent_key = new_name
      where (t.schema_name, t.table_name) = (entry.schema_name, entry.table_name)
        and t.column_numbers[3] = renamed and t.parent_key <> new_name;
    end if;
    child := pg_catalog.to_regclass(pg_catalog.format('%I.%I', entry.schema_name, entry.table_name));
    if child is not null and warden.without_trigger(child, 'warden_fill_org_id') = '{}'
       and not warden.is_fill_function_current(child) then
      perform warden.fill_org_id(child);
    end if;
  end loop;
end
$$;
revoke execute on function warden.follow_alteration(regclass, int) from public;

reset role;

-- The event trigger calls warden.protect_members() after a statement that may have created a member, and
-- warden.complete_log_triggers() (0027_log_triggers.sql) after one that may have created a trigger or a foreign key, or
-- changed what a trigger calls. A superuser may create event triggers; so may the owner of a managed database, if the
-- provider allows it. The function belongs to the migrating role, whose rights it needs. It never makes a statement
-- fail: the audit finds what is missing.
do $do$
begin
  execute $fn$
    create or replace function warden.protect_new_members() returns event_trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off as $body$
    declare
      whole regclass;
      altered record;
    begin
      -- The statements of this function call it again.
      if coalesce(pg_catalog.current_setting('warden.is_protecting', true), '') = 'on' then
        return;
      end if;
      for whole in
        select distinct coalesce(warden.whole(c.objid::regclass), warden.watched_whole(c.objid::regclass))
        from pg_catalog.pg_event_trigger_ddl_commands() c
        where c.classid = 'pg_catalog.pg_class'::regclass and c.object_type = 'table'
          and (exists (select from pg_catalog.pg_inherits i where c.objid in (i.inhrelid, i.inhparent))
               -- Its owner may have changed.
               or exists (select from pg_catalog.pg_class r where r.oid = c.objid and r.relkind = 'p'))
      loop
        continue when whole is null;
        perform pg_catalog.set_config('warden.is_protecting', 'on', true);
        perform warden.protect_members(whole);
        perform pg_catalog.set_config('warden.is_protecting', '', true);
      end loop;
      for altered in
        select distinct c.objid, c.objsubid from pg_catalog.pg_event_trigger_ddl_commands() c
        where tg_tag = 'ALTER TABLE' and c.classid = 'pg_catalog.pg_class'::regclass
          and c.object_type in ('table', 'table column')
          and exists (select from pg_catalog.pg_class r join pg_catalog.pg_namespace n on n.oid = r.relnamespace
                      join warden.tenant_tables t
                        on (n.nspname, r.relname) in ((t.schema_name, t.table_name), (t.parent_schema, t.parent_table))
                      where r.oid = c.objid)
      loop
        perform pg_catalog.set_config('warden.is_protecting', 'on', true);
        whole := altered.objid;
        perform warden.follow_alteration(altered.objid, altered.objsubid);
        perform pg_catalog.set_config('warden.is_protecting', '', true);
      end loop;
      -- A watched table needs more log triggers once other statements may change it within a statement: after a trigger
      -- of the application or what it calls, a foreign key, or a new place in a tree. (0027_log_triggers.sql may not
      -- have been applied yet.)
      if pg_catalog.to_regprocedure('warden.complete_log_triggers()') is not null and exists (
        select from pg_catalog.pg_event_trigger_ddl_commands() c
        -- An extension is seen as a whole. It may have a thousand functions.
        where not c.in_extension and (
              c.object_type = 'extension'
           or c.object_type = 'trigger' and exists (select from pg_catalog.pg_trigger g
                                                    where g.oid = c.objid and g.tgname !~ E'^[~!\U0010FFFF]?warden_')
           -- An expression of an index, and whatever else calls a function.
           or c.object_type <> 'trigger' and c.schema_name is distinct from 'warden' and exists (
                select from pg_catalog.pg_depend d
                where d.classid = c.classid and d.objid = c.objid
                  and d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid >= 16384)
           or c.object_type in ('table', 'table column', 'foreign table') and (
                exists (select from pg_catalog.pg_constraint f
                        where c.objid in (f.conrelid, f.confrelid) and f.contype = 'f'
                          and c.schema_name is distinct from 'warden')
                or c.schema_name is distinct from 'warden' and exists (
                           select from pg_catalog.pg_depend d
                           where d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid >= 16384
                             and (d.classid = 'pg_catalog.pg_attrdef'::regclass and d.objid in (
                                    select a.oid from pg_catalog.pg_attrdef a where a.adrelid = c.objid)
                                  or d.classid = 'pg_catalog.pg_constraint'::regclass and d.objid in (
                                    select k.oid from pg_catalog.pg_constraint k where k.conrelid = c.objid)))
                or exists (select from pg_catalog.pg_trigger g where g.tgrelid = c.objid and not g.tgisinternal
                           and g.tgname !~ E'^[~!\U0010FFFF]?warden_')
                or exists (select from pg_catalog.pg_inherits i where c.objid in (i.inhrelid, i.inhparent))
                -- A table with rules may get the name that a trigger writes to.
                or exists (select from pg_catalog.pg_rewrite r where r.ev_class = c.objid))
           or c.object_type in ('function', 'procedure', 'view', 'materialized view', 'operator', 'operator class',
                                'operator family', 'cast', 'rule', 'aggregate')
              and c.schema_name is distinct from 'warden'
           or c.object_type = 'policy' and c.object_identity !~ '^warden_| on warden[.]'
           or tg_tag in ('CREATE DOMAIN', 'ALTER DOMAIN')))
      then
        perform pg_catalog.set_config('warden.is_protecting', 'on', true);
        perform warden.complete_log_triggers();
        perform pg_catalog.set_config('warden.is_protecting', '', true);
      end if;
    exception when others then
      raise warning 'Warden could not protect the members of %: %', coalesce(whole::text, 'a table'), sqlerrm
        using hint = 'Run "warden migrate", or: select warden.protect_members(''<table>'');';
    end
    $body$
  $fn$;
  perform warden.close_function('warden.protect_new_members()');
  if exists (select from pg_event_trigger where evtname = 'warden_protect_members'
             and not 'CREATE PROCEDURE' = any (evttags)) then
    drop event trigger warden_protect_members;
  end if;
  if not exists (select from pg_event_trigger where evtname = 'warden_protect_members') then
    create event trigger warden_protect_members on ddl_command_end
      -- CREATE SCHEMA may create tables and triggers.
      when tag in ('CREATE TABLE', 'ALTER TABLE', 'CREATE SCHEMA', 'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE FUNCTION',
                   'ALTER FUNCTION', 'CREATE PROCEDURE', 'ALTER PROCEDURE', 'ALTER ROUTINE', 'CREATE OPERATOR',
                   'CREATE OPERATOR CLASS', 'ALTER OPERATOR FAMILY', 'CREATE CAST', 'CREATE VIEW', 'ALTER VIEW',
                   'CREATE MATERIALIZED VIEW', 'CREATE RULE', 'CREATE AGGREGATE', 'CREATE POLICY', 'ALTER POLICY',
                   'CREATE DOMAIN', 'ALTER DOMAIN', 'CREATE TYPE', 'CREATE INDEX', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE',
                   'CREATE EXTENSION', 'ALTER EXTENSION')
      execute function warden.protect_new_members();
  end if;
exception when insufficient_privilege then
  raise notice 'this role may not create event triggers: after you create a partition of a registered table, run '
               'select warden.protect_members(''<table>''), or "warden migrate"';
end
$do$;
