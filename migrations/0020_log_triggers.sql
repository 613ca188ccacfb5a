-- The triggers of a watched table: which ones it needs, and their creation.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- Whether other statements may change a watched table within one statement on it: the application's triggers, or
-- actions of foreign keys between tables with triggers. Most tables have none, and then one trigger is enough.
create or replace function warden.has_nested_statements(relation regclass) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return (
    with recursive up as (
      select relation::oid as oid
      union
      select i.inhparent from pg_catalog.pg_inherits i join up on i.inhrelid = up.oid
    ), tree as (
      select oid from up
      union
      select i.inhrelid from pg_catalog.pg_inherits i join tree t on i.inhparent = t.oid
    ), triggers as (
      select g.tgrelid from pg_catalog.pg_trigger g
      where not g.tgisinternal and g.tgname !~ '^[~!]?warden_'
    )
    select exists (select from triggers g where g.tgrelid in (select t.oid from tree t))
        or exists (select from pg_catalog.pg_constraint f
                   where f.contype = 'f' and f.conrelid in (select t.oid from tree t)
                     and (f.confdeltype in ('c', 'n', 'd') or f.confupdtype in ('c', 'n', 'd'))
                     and (f.confrelid in (select t.oid from tree t)
                          or f.confrelid in (select g.tgrelid from triggers g)
                          -- The parent's rows may in turn be changed by an action.
                          or exists (select from pg_catalog.pg_constraint p
                                     where p.contype = 'f' and p.conrelid = f.confrelid
                                       and p.confrelid in (select g.tgrelid from triggers g)))));
end
$$;

-- Creates the triggers of a watched table, or of one of its members, which call this function.
create or replace function warden.create_log_triggers(relation regclass, fn text) returns void
language plpgsql set search_path = '' as $$
declare
  operation text;
  mark text;
  is_nested constant boolean := warden.has_nested_statements(relation);
  is_table constant boolean := is_nested and (select c.relkind = 'r' from pg_catalog.pg_class c where c.oid = relation);
begin
  execute pg_catalog.format('create or replace trigger warden_log_truncate after truncate on %s '
    'for each statement execute function warden.%I()', relation, fn);
  foreach operation in array array['insert', 'update', 'delete'] loop
    -- Name of a setting, the same one for all members.
    mark := 'warden.' || pg_catalog.replace(fn, ' ', '_') || '_' || operation;
    if is_nested then
      execute pg_catalog.format('create or replace trigger warden_begin_%1$s before %1$s on %2$s '
      'for each statement execute function warden.begin_statement(%3$L)', operation, relation, mark);
    end if;
    execute pg_catalog.format('create or replace trigger warden_log_%1$s after %1$s on %2$s referencing%3$s%4$s '
      'for each statement execute function warden.%5$I(%6$s)', operation, relation,
      case when operation <> 'insert' then ' old table as old_rows' end,
      case when operation <> 'delete' then ' new table as new_rows' end, fn,
      case when is_nested then pg_catalog.quote_literal(mark) else '' end);
    -- The last of the BEFORE ROW triggers, so that what the application's triggers do comes before the row. It is
    -- called only if something happened since the statement began.
    if is_table then
      execute pg_catalog.format('create or replace trigger "~warden_note_%1$s" before %1$s on %2$s for each row '
        'when ((pg_catalog.current_setting(''warden.clock'', true) || ''/'' || pg_catalog.pg_trigger_depth()::text) '
        'is distinct from pg_catalog.current_setting(%3$L, true)) '
        'execute function warden.note_row(%3$L)', operation, relation, mark);
    end if;
  end loop;
  -- Its condition notes that the latest insert met no conflict. It is always false, so the function is never called.
  if is_table then
    mark := 'warden.' || pg_catalog.replace(fn, ' ', '_') || '_insert';
    execute pg_catalog.format('create or replace trigger warden_note_inserted after insert on %1$s for each row '
      'when (pg_catalog.starts_with(pg_catalog.current_setting(%2$L, true), ''noted,'') and '
      'pg_catalog.set_config(%2$L, pg_catalog.replace(pg_catalog.current_setting(%2$L, true), '','', ''+''), true) '
      'is null) '
      'execute function warden.note_row(%2$L)', relation, mark);
  end if;
end
$$;

-- Creates the triggers for rows that logical replication applies, or drops them. An apply worker, and the initial copy,
-- fire only row triggers and those of TRUNCATE, and of these only the ones that are enabled for it. The name sorts
-- first, so the row comes before what the application's triggers do after it. The condition holds although
-- `pg_restore --disable-triggers` enables all triggers for ordinary sessions in the end: a row is never logged twice.
create or replace function warden.set_apply_triggers(relation regclass, fn text, replicated boolean) returns void
language plpgsql set search_path = '' as $$
declare
  trig record;
begin
  for trig in
    select t.name, x.what, g.oid is not null as is_there
    from (values ('!warden_apply_row', 'insert or update or delete', 'row', '{r}'::text[]),
                 ('warden_apply_truncate', 'truncate', 'statement', '{r,p}')) t (name, operation, level, kinds)
    cross join lateral (select pg_catalog.format('after %s on %s for each %s', t.operation, relation, t.level)) x (what)
    join pg_catalog.pg_class c on c.oid = relation and c.relkind::text = any (t.kinds)
    left join pg_catalog.pg_trigger g on g.tgrelid = relation and g.tgname = t.name
  loop
    if replicated then
      execute pg_catalog.format(
        'create or replace trigger %I %s when (pg_catalog.current_setting(''session_replication_role'') = ''replica'') '
        'execute function warden.%I()', trig.name, trig.what, fn);
      execute pg_catalog.format('alter table only %s enable replica trigger %I', relation, trig.name);
    elsif trig.is_there then
      execute pg_catalog.format('drop trigger %I on %s', trig.name, relation);
    end if;
  end loop;
end
$$;

-- Whether a subscription of logical replication writes to a table, its members, or a table that it is part of.
create or replace function warden.is_subscribed(relation regclass) returns boolean
language sql stable set search_path = '' as $$
  with recursive up as (
    select relation::oid as oid
    union
    select i.inhparent from pg_catalog.pg_inherits i join up on i.inhrelid = up.oid
  )
  select exists (select from pg_catalog.pg_subscription_rel s
                 where s.srrelid in (select u.oid from up u union select t from warden.tree(relation) t))
$$;

-- Gives watched tables the triggers that keep the order, if they need them by now. The caller must own the tables.
create or replace function warden.complete_log_triggers() returns void
language plpgsql set search_path = '' as $$
declare
  member record;
begin
  for member in
    select m.oid::regclass as relation, f.proname
    from pg_catalog.pg_trigger g join pg_catalog.pg_class m on m.oid = g.tgrelid
    join pg_catalog.pg_proc f on f.oid = g.tgfoid and f.pronamespace = 'warden'::regnamespace
    where g.tgname = 'warden_log_insert' and warden.has_nested_statements(m.oid)
      and not exists (select from pg_catalog.pg_trigger b
                      where b.tgrelid = m.oid and b.tgname = 'warden_begin_insert')
  loop
    perform warden.create_log_triggers(member.relation, member.proname);
  end loop;
end
$$;

-- Removes the triggers that keep the order from a table and its members.
create or replace function warden.drop_order_triggers(relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  trig record;
begin
  for trig in
    select g.tgname, g.tgrelid::regclass as relation
    from warden.tree(drop_order_triggers.relation) m (oid) join pg_catalog.pg_trigger g on g.tgrelid = m.oid
    where not g.tgisinternal and g.tgname ~ '^(warden_begin_|warden_note_|~warden_note_)'
  loop
    execute pg_catalog.format('drop trigger %I on %s', trig.tgname, trig.relation);
  end loop;
end
$$;

reset role;
