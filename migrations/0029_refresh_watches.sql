-- Watches follow their tables: after DDL, warden.refresh_watches() brings them in line.
set local lock_timeout = '5s';
set local statement_timeout = '5min';

-- A superuser may create event triggers; so may the owner of a managed database, if the provider allows it. The
-- function belongs to the migrating role, whose rights it needs. It never makes a statement fail. Without it, the log
-- functions generate their statements each time after DDL, until `warden migrate` runs.
do $do$
begin
  execute $fn$
    create or replace function warden.refresh_watches_after_ddl() returns event_trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off as $body$
    begin
      -- Most statements concern no watched table, and a refresh takes milliseconds. (Each subquery is for one table.
      -- For EXISTS, all inheritance and all triggers would be read.)
      if (case
        when tg_tag in ('CREATE TABLE', 'ALTER TABLE', 'CREATE SCHEMA') then exists (
          select from pg_catalog.pg_event_trigger_ddl_commands() c
          -- Not the log's own partitions: a refresh may write to them, and then they cannot be altered further.
          where c.schema_name is distinct from 'warden'
            and (c.objid in (select w.relation::oid from warden.watches w)
                 or (select true from pg_catalog.pg_inherits i where i.inhrelid = c.objid limit 1)
                 or (select true from pg_catalog.pg_trigger g
                     where g.tgrelid = c.objid and g.tgname = 'warden_log_insert')))
        when tg_tag = 'DROP TABLE' then exists (
          select from warden.watches w
          where not exists (select from pg_catalog.pg_class c where c.oid = w.relation::oid))
        else true end)
      then
        perform warden.refresh_watches();
      end if;
    exception when others then
      raise warning 'Warden could not refresh the watches of changed tables: %', sqlerrm
        using hint = 'Run "warden migrate", or: select warden.refresh_watches();';
    end
    $body$
  $fn$;
  perform warden.close_function('warden.refresh_watches_after_ddl()');
  if exists (select from pg_event_trigger where evtname = 'warden_refresh_watches'
             and not 'CREATE SCHEMA' = any (evttags)) then
    drop event trigger warden_refresh_watches;
  end if;
  if not exists (select from pg_event_trigger where evtname = 'warden_refresh_watches') then
    create event trigger warden_refresh_watches on ddl_command_end
      -- CREATE SCHEMA may create partitions.
      when tag in ('CREATE TABLE', 'ALTER TABLE', 'CREATE SCHEMA', 'ALTER TYPE', 'DROP TABLE', 'DROP TYPE', 'DROP DOMAIN',
                   'DROP SCHEMA', 'DROP EXTENSION', 'DROP OWNED')
      execute function warden.refresh_watches_after_ddl();
  end if;
exception when insufficient_privilege then
  raise notice 'this role may not create event triggers: after you change the columns or partitions of a watched table, '
               'run "warden migrate", or: select warden.refresh_watches();';
end
$do$;
