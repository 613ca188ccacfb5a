-- New partitions and inheritance children. PostgreSQL gives a new partition the columns, NOT NULL, indexes, foreign
-- keys and row triggers of the whole, but neither its policies nor its statement triggers. Statements that name a
-- partition are subject to the partition's own policies only. So Warden protects a new member in the transaction that
-- creates it.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The members of a table that have no trigger of this name: parents before children.
create or replace function warden.members_without_trigger(relation regclass, trigger_name name) returns setof regclass
language sql stable set search_path = '' as $$
  select m.oid from warden.tree(relation) with ordinality m (oid, n)
  join pg_catalog.pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
  where not exists (select from pg_catalog.pg_trigger g where g.tgrelid = m.oid and g.tgname = trigger_name)
  order by m.n
$$;

-- Gives the members of a table what they lack: the triggers on org_id, policies if the table is enforced, log
-- triggers if it is watched. It does nothing if nothing is missing, and it does not enable what somebody disabled: the
-- audit reports that. `relation` is the table or one of its members.
-- The caller must own the tables and be a member of warden_owner.
create or replace function warden.protect_members(relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  whole constant regclass := warden.whole(relation);
  log_function text := (select f.proname from pg_catalog.pg_trigger g join pg_catalog.pg_proc f on f.oid = g.tgfoid
                        where g.tgrelid = warden.whole(relation) and g.tgname = 'warden_log_insert');
  created text;
  member regclass;
begin
  if whole is null then
    raise exception '% is not registered', relation
      using errcode = '22023', hint = pg_catalog.format('select warden.adopt_table(%L);', relation);
  end if;
  for created in
    select g.tgname::text from pg_catalog.pg_trigger g
    where g.tgrelid = whole and g.tgname like 'warden\_%org\_id%'
      and exists (select from warden.members_without_trigger(whole, g.tgname))
  loop
    if created in ('warden_fill_org_id', 'warden_fill_org_id_update') then
      perform warden.fill_org_id(whole);
    elsif created = 'warden_org_id_immutable' then
      perform warden.guard_org_id(whole);
    elsif created = 'warden_require_org_id' then
      perform warden.require_org_id(whole);
    end if;
  end loop;
  if exists (select from pg_catalog.pg_policy p where p.polrelid = whole and p.polname = 'warden_org') then
    for member in
      select c.oid from warden.tree(whole) m (oid)
      join pg_catalog.pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
      where not exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid and p.polname = 'warden_org')
    loop
      perform warden.protect(member);
    end loop;
  end if;
  if log_function is not null then
    for member in select m from warden.members_without_trigger(whole, 'warden_log_insert') m loop
      perform warden.create_log_triggers(member, log_function);
    end loop;
  end if;
end
$$;
revoke execute on function warden.protect_members(regclass) from public;

reset role;

-- The event trigger calls warden.protect_members() after a statement that may have created a member. A superuser may
-- create event triggers; so may the owner of a managed database, if the provider allows it. The function belongs to the
-- migrating role, whose rights it needs. It never makes a statement fail: the audit finds what is missing.
do $do$
begin
  execute $fn$
    create or replace function warden.protect_new_members() returns event_trigger
    language plpgsql security definer set search_path = '' as $body$
    declare
      whole regclass;
    begin
      -- The statements of this function call it again.
      if coalesce(pg_catalog.current_setting('warden.is_protecting', true), '') = 'on' then
        return;
      end if;
      for whole in
        select distinct warden.whole(c.objid::regclass) from pg_catalog.pg_event_trigger_ddl_commands() c
        where c.classid = 'pg_catalog.pg_class'::regclass and c.object_type = 'table'
          and exists (select from pg_catalog.pg_inherits i where c.objid in (i.inhrelid, i.inhparent))
      loop
        continue when whole is null;
        perform pg_catalog.set_config('warden.is_protecting', 'on', true);
        perform warden.protect_members(whole);
        perform pg_catalog.set_config('warden.is_protecting', '', true);
      end loop;
    exception when others then
      raise warning 'Warden could not protect the members of %: %', coalesce(whole::text, 'a table'), sqlerrm
        using hint = 'Run "warden migrate", or: select warden.protect_members(''<table>'');';
    end
    $body$
  $fn$;
  perform warden.close_function('warden.protect_new_members()');
  if not exists (select from pg_event_trigger where evtname = 'warden_protect_members') then
    create event trigger warden_protect_members on ddl_command_end
      when tag in ('CREATE TABLE', 'ALTER TABLE')
      execute function warden.protect_new_members();
  end if;
exception when insufficient_privilege then
  raise notice 'this role may not create event triggers: after you create a partition of a registered table, run '
               'select warden.protect_members(''<table>''), or "warden migrate"';
end
$do$;
