-- Incarnations of organisations: an organisation that was deleted and created again with the same id is another tenant.
-- A cursor is bound to the incarnation, so the former members' cursors are not valid for the new one.
--
-- The application may be using organizations. Other sessions queue behind a lock request that waits, so it waits for a
-- short time only.
set local lock_timeout = '200ms';
set local statement_timeout = '5min';
set local role warden_owner;

do $do$
begin
  if (select a.atthasdef from pg_attribute a where a.attrelid = 'warden.events'::regclass and a.attname = 'watch') then
    alter table warden.events
      -- The log functions were replaced by those that say which watch has logged a row. That transaction may have
      -- written to the log, so it could not alter it.
      -- squawk-ignore ban-drop-default
      alter column watch drop default;
  end if;
end
$do$;

create sequence if not exists warden.incarnation_values;

-- One row per organisation that was ever deleted. An organisation without a row is in its first incarnation, 0. A
-- foreign key to organizations would make a TRUNCATE of the application fail.
create table if not exists warden.incarnations (
  -- The id of the deleted organisation. The nil UUID stands for all, after a TRUNCATE.
  org_id uuid   primary key,
  -- Number of the deletion. An organisation with this id that exists now is in the incarnation with this number.
  value  bigint not null,
  -- The transaction that deleted the organisation. What a snapshot after it shows of this id is of the new incarnation.
  xid    xid8   not null
);

-- Begins a new incarnation of every deleted id.
create or replace function warden.organization_deleted() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into warden.incarnations as i (org_id, value, xid)
  values (case when tg_op = 'TRUNCATE' then '00000000-0000-0000-0000-000000000000' else old.id end,
          pg_catalog.nextval('warden.incarnation_values'), pg_catalog.pg_current_xact_id())
  on conflict (org_id) do update set value = excluded.value, xid = excluded.xid;
  return null;
end
$$;

grant select on warden.incarnations to warden_gateway;

-- The triggers that are missing or changed, with the statements that create them. The audit calls it as well.
create or replace function warden.missing_incarnation_triggers() returns table (name text, statement text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select t.name, pg_catalog.format(
    'create or replace trigger %1$I after %2$s execute function warden.organization_deleted(); '
    'alter table public.organizations enable always trigger %1$I;', t.name, t.definition)
  from (values
    ('warden_incarnation_delete', 1 + 8, false, 'delete on public.organizations for each row'),
    ('warden_incarnation_update', 1 + 16, true,
     'update of id on public.organizations for each row when (old.id is distinct from new.id)'),
    ('warden_incarnation_truncate', 32, false, 'truncate on public.organizations for each statement')
  ) t (name, type, has_condition, definition)
  -- Always: also for rows that logical replication deletes.
  where not exists (
    select from pg_catalog.pg_trigger g
    where g.tgrelid = 'public.organizations'::pg_catalog.regclass and g.tgname = t.name and g.tgenabled = 'A'
      and g.tgtype = t.type and (g.tgqual is not null) = t.has_condition
      and g.tgfoid = 'warden.organization_deleted()'::pg_catalog.regprocedure)
$$;
reset role;

do $do$
declare
  missing record;
begin
  -- As every trigger function of Warden, it is closed to everybody. To create a trigger its creator needs the right.
  if not has_function_privilege('warden.organization_deleted()', 'execute') then
    execute format('grant execute on function warden.organization_deleted() to %I', current_user);
  end if;
  for missing in select * from warden.missing_incarnation_triggers() loop
    execute missing.statement;
  end loop;
end
$do$;
