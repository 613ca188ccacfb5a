-- The triggers of a watched table: which ones it needs, and their creation.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- PL/pgSQL plans these queries once per session, SQL functions would at each call.

-- Whether a function is immutable and was written in C, so by a superuser.
create or replace function warden.is_immutable_in_c(f pg_catalog.pg_proc) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select f.provolatile = 'i'
     and exists (select from pg_catalog.pg_language l where l.oid = f.prolang and l.lanname in ('internal', 'c'))
$$;

-- Whether the body of a trigger function in PL/pgSQL only assigns to columns of its row. It proves this from the body's
-- words alone: one that it does not know may be a statement, a variable, or a call of a function that writes. Functions
-- and operators of these names must not exist outside of pg_catalog, unless they are immutable and written in C.
create or replace function warden.only_assigns(body text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
begin
  return (
    with words as (
        select case when t.word[1] ~ '^''' then '''' when t.word[1] ~ '^[0-9]' then '0' else lower(t.word[1]) end
                 as word, t.n
        from pg_catalog.regexp_matches(
          body, '--[^' || pg_catalog.chr(10) || ']*|''(?:[^'']|'''')*''|[A-Za-z_][A-Za-z0-9_]*|[0-9]+(?:[.][0-9]+)?'
                -- Not [[:space:]]: other characters may be spaces in this locale, but belong to names.
                || '|:=|<>|!=|<=|>=|[|][|]|[^ ' || pg_catalog.chr(9) || pg_catalog.chr(10) || pg_catalog.chr(13) || ']',
          'g') with ordinality t (word, n)
        where t.word[1] !~ '^--'
      ), places as (
        select w.word, lag(w.word, 1, '') over o as before, lag(w.word, 2, '') over o as before_that,
               lead(w.word, 1, '') over o as after
        from words w window o as (order by w.n)
      ), kinds as (
        select p.*,
          case
            when p.before = '.' and p.before_that in ('new', 'old') then 'column'
            when p.word in ('begin', 'end', 'if', 'then', 'elsif', 'else', 'case', 'when', 'return', 'new', 'old',
                            'null',
                            'true', 'false', 'and', 'or', 'not', 'is', 'distinct', 'from', 'row', 'at', 'time', 'zone',
                            'tg_op', 'current_timestamp', 'current_date', 'current_time', 'localtimestamp',
                            'current_user', 'session_user', ';', ':=', '(', ')', ',', '.', '''', '0') then 'word'
            when p.word in ('=', '<>', '!=', '<', '>', '<=', '>=', '+', '-', '*', '/', '||') then 'operator'
            when p.word in ('now', 'clock_timestamp', 'statement_timestamp', 'transaction_timestamp', 'timezone',
                            'gen_random_uuid', 'coalesce', 'nullif', 'greatest', 'least', 'lower', 'upper', 'btrim',
                            'ltrim', 'rtrim', 'initcap', 'replace', 'length', 'md5', 'round', 'floor', 'ceil', 'abs',
                            'date_trunc', 'nextval', 'pg_trigger_depth', 'to_tsvector', 'setweight')
                 and p.after = '(' and (p.before <> '.' or p.before_that = 'pg_catalog') then 'function'
            when p.word = 'pg_catalog' and p.after = '.' and p.before <> '.' then 'word'
          end as kind
        from places p
      )
      select body !~ '["$]|/[*]' and pg_catalog.strpos(body, pg_catalog.chr(92)) = 0 and coalesce(bool_and(
        case k.kind
          when 'column' then k.word ~ '^([a-z_]|[*]$)' and k.after not in ('(', '.', '''')
          -- A dot belongs to a column or to pg_catalog.
          when 'word' then k.word <> '.' or k.before in ('new', 'old', 'pg_catalog')
          when 'operator' then not exists (
            select from pg_catalog.pg_operator o join pg_catalog.pg_proc f on f.oid = o.oprcode
            where o.oprname = case k.word when '!=' then '<>' else k.word end
              and o.oprnamespace <> 'pg_catalog'::pg_catalog.regnamespace and not warden.is_immutable_in_c(f))
          when 'function' then not exists (
            select from pg_catalog.pg_proc f
            where f.proname = k.word and f.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
              and not warden.is_immutable_in_c(f))
          else false end), false)
      from kinds k);
end
$fn$;

-- Whether a trigger is proven to change no row but its own, such as one that sets updated_at.
create or replace function warden.is_harmless_trigger(trig oid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
begin
  return (
      select
        case l.lanname
          when 'plpgsql' then warden.only_assigns(f.prosrc)
          when 'internal' then f.prosrc in ('suppress_redundant_updates_trigger', 'tsvector_update_trigger_byid',
                                            'tsvector_update_trigger_bycolumn')
          when 'c' then f.prosrc in ('moddatetime', 'autoinc', 'insert_username') and f.probin = '$libdir/' || f.prosrc
          else false end
        -- A condition may call functions.
        and (g.tgqual is null or (
          (select bool_and(m.node[1] in ('OPEXPR', 'BOOLEXPR', 'DISTINCTEXPR', 'NULLIFEXPR', 'SCALARARRAYOPEXPR',
                                         'FUNCEXPR', 'VAR', 'CONST', 'NULLTEST', 'BOOLEANTEST', 'RELABELTYPE', 'ARRAY',
                                         'ARRAYEXPR', 'COALESCE', 'COALESCEEXPR'))
           from pg_catalog.regexp_matches(g.tgqual::text, '[{]([A-Z_]+)', 'g') m (node))
          and not exists (
            select from pg_catalog.regexp_matches(g.tgqual::text, ':(?:funcid|opfuncid) ([0-9]+)', 'g') m (id)
            where not exists (
              select from pg_catalog.pg_proc c
              where c.oid = m.id[1]::oid and c.pronamespace = 'pg_catalog'::pg_catalog.regnamespace and c.oid < 16384
                and (c.provolatile = 'i' or c.proname in ('now', 'pg_trigger_depth', 'current_setting'))))))
        -- An assignment may cast, with a function of the application or to a domain with a constraint.
        and not exists (select from pg_catalog.pg_cast c join pg_catalog.pg_proc p on p.oid = c.castfunc
                        where c.oid >= 16384 and not warden.is_immutable_in_c(p))
        and not exists (select from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
                        where a.attrelid = g.tgrelid and a.attnum > 0 and not a.attisdropped and t.typtype = 'd')
      from pg_catalog.pg_trigger g join pg_catalog.pg_proc f on f.oid = g.tgfoid
      join pg_catalog.pg_language l on l.oid = f.prolang
      where g.oid = trig);
end
$fn$;

-- The words from which triggers that may write make their statements: those of their functions, and of the functions,
-- views and rules that these name. A trigger of any table writes only to tables whose names are among them, unless it
-- executes text, or is in another language: then '*' is among them. If a trigger may write to a watched table, or
-- publish, '+' is among them. This does not depend on the number of functions.
create or replace function warden.trigger_words() returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp set jit = off as $fn$
begin
  return (
    with recursive called as materialized (
      -- A name of several words, such as "Count it", is found by its first one.
      select p.oid, 'f' as kind, (pg_catalog.regexp_match(lower(p.proname), '[[:alnum:]_]+'))[1] as word
      from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
      where l.lanname in ('plpgsql', 'sql') and p.oid >= 16384 and p.pronamespace <> 'warden'::pg_catalog.regnamespace
      union all
      select case when r.ev_type = '1' then c.oid else r.oid end, case when r.ev_type = '1' then 'v' else 'r' end,
             (pg_catalog.regexp_match(lower(c.relname), '[[:alnum:]_]+'))[1]
      from pg_catalog.pg_class c join pg_catalog.pg_rewrite r on r.ev_class = c.oid
      where c.relkind in ('v', 'r', 'p') and c.oid >= 16384 and c.relnamespace <> 'warden'::pg_catalog.regnamespace
    ), writers as materialized (
      select distinct t.oid, t.lanname, true as is_trigger
      from (
        select g.oid as trig, p.oid, l.lanname
        from pg_catalog.pg_trigger g join pg_catalog.pg_proc p on p.oid = g.tgfoid
        join pg_catalog.pg_language l on l.oid = p.prolang
        where not g.tgisinternal and g.tgname !~ E'^[~!\U0010FFFF]?warden_' and p.pronamespace <> 'warden'::pg_catalog.regnamespace
        -- Without OFFSET, the functions of Warden's own triggers would be parsed too.
        offset 0) t
      where not warden.is_harmless_trigger(t.trig)
    ), unnamed as (
      -- A statement also calls functions that it does not name: of operators, casts, defaults, constraints and so on.
      select distinct p.oid, l.lanname, false
      from pg_catalog.pg_depend d join pg_catalog.pg_proc p on p.oid = d.refobjid
      join pg_catalog.pg_language l on l.oid = p.prolang
      where d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid >= 16384
        and d.classid <> 'pg_catalog.pg_event_trigger'::regclass
        and not exists (select from pg_catalog.pg_trigger g
                        where d.classid = 'pg_catalog.pg_trigger'::regclass and g.oid = d.objid and g.tgfoid = p.oid)
        and p.pronamespace <> 'warden'::pg_catalog.regnamespace
    ), words (word, is_trigger) as (
      select w.word, f.is_trigger
      from (table writers union all table unnamed) f join pg_catalog.pg_proc p on p.oid = f.oid,
      pg_catalog.regexp_split_to_table(case f.lanname
        -- A name that is written with Unicode escapes may be any.
        when 'plpgsql' then pg_catalog.regexp_replace(lower(p.prosrc), 'u&"', ' execute ', 'g')
        when 'sql' then lower(coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc))
        else 'execute' end, '[^[:alnum:]_]+') w (word)
      where f.lanname not in ('c', 'internal')
      union
      select b.word, w.is_trigger
      from words w join called c on c.word = w.word, pg_catalog.regexp_split_to_table(lower(case c.kind
        when 'v' then pg_catalog.pg_get_viewdef(c.oid) when 'r' then pg_catalog.pg_get_ruledef(c.oid)
        else (select coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc)
              from pg_catalog.pg_proc p where p.oid = c.oid) end), '[^[:alnum:]_]+') b (word)
    ), changing (oid) as (
      -- Relations whose statements may change a watched table.
      select w.relation::oid from warden.watches w
      union
      select n.oid
      from changing c cross join lateral (
        select i.inhparent from pg_catalog.pg_inherits i where i.inhrelid = c.oid
        union all
        select i.inhrelid from pg_catalog.pg_inherits i where i.inhparent = c.oid
        union all
        select f.confrelid from pg_catalog.pg_constraint f
        where f.conrelid = c.oid and f.contype = 'f'
          and (f.confdeltype in ('c', 'n', 'd') or f.confupdtype in ('c', 'n', 'd'))) n (oid)
    )
    select coalesce(array_agg(case w.word when 'execute' then '*' else w.word end) filter (where w.is_trigger), '{}')
           || case when bool_or(w.word in ('execute', 'notify', 'publish', 'publish_all'))
                     or exists (select from writers f where f.lanname in ('c', 'internal'))
                     -- Without OFFSET, the names of all relations would be split.
                     or exists (select from (select r.relname from changing c
                                             join pg_catalog.pg_class r on r.oid = c.oid offset 0) r
                                where warden.name_words(r.relname) <@ array_agg(w.word))
                   then '{+}'::text[] else '{}' end
    from words w);
end
$fn$;

-- The words of a table's name, as warden.trigger_words() has them.
create or replace function warden.name_words(name text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select pg_catalog.regexp_split_to_array(
    pg_catalog.btrim(pg_catalog.regexp_replace(lower(name), '[^[:alnum:]_]+', ' ', 'g')), ' ')
$$;

-- Whether other statements may change a watched table within one statement on it, or within a query that also changes
-- another table: triggers of the application, or actions of foreign keys. Most tables have none, and then one trigger
-- is enough.
-- The former version had no argument `trigger_words`. Only functions of this schema and the audit call it.
-- squawk-ignore ban-drop-function
drop function if exists warden.has_nested_statements(regclass);
create or replace function warden.has_nested_statements(
  relation regclass, trigger_words text[] default warden.trigger_words()
) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
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
      ), keys as (
        select f.conrelid, f.confrelid, f.conparentid,
               f.confdeltype in ('n', 'd') or f.confupdtype in ('c', 'n', 'd') as updates
        from pg_catalog.pg_constraint f
        where f.contype = 'f' and (f.confdeltype in ('c', 'n', 'd') or f.confupdtype in ('c', 'n', 'd'))
      ), parents as (
        -- A statement on one of these may change the table through actions.
        select k.confrelid as oid from keys k join tree t on k.conrelid = t.oid
        union
        select k.confrelid from keys k join parents p on k.conrelid = p.oid
      ), affected as (
        -- It may change these as well, whose triggers may in turn change the table.
        select p.oid from parents p
        union
        select k.conrelid from keys k join affected a on k.confrelid = a.oid
      )
      -- If triggers write to other tables only, nothing is logged within their statements.
      select '+' = any (trigger_words)
             and exists (select from pg_catalog.pg_trigger g
                     where (g.tgrelid in (select t.oid from tree t) or g.tgrelid in (select a.oid from affected a))
                       and not g.tgisinternal and g.tgname !~ E'^[~!\U0010FFFF]?warden_' and not warden.is_harmless_trigger(g.oid))
          or exists (select from parents p where p.oid in (select t.oid from tree t))
          -- Several actions of one statement may change the same row.
          or (select count(*) from keys k
              where k.updates and k.conparentid = 0 and k.conrelid in (select t.oid from tree t)) > 1
          -- A trigger of another table may write to it.
          or '*' = any (trigger_words)
          -- Without OFFSET, the names of all relations would be split.
          or exists (select from (
                       select c.relname from (select t.oid from tree t union select p.oid from parents p) x
                       join pg_catalog.pg_class c on c.oid = x.oid offset 0) c
                     where warden.name_words(c.relname) <@ trigger_words));
end
$fn$;

-- The name of one operation of a log function in the settings that keep the order, such as insert_7. The members of a
-- table share it.
create or replace function warden.order_mark(fn text, operation text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select operation || pg_catalog.replace(fn, 'log ', '_')
$$;

-- An SQL condition for a trigger of updates: the row may move to another partition, because its partition key changes.
-- PostgreSQL requires columns as the partition key of a table with a key. Values that are equal belong to the same
-- partition, if their type is one of PostgreSQL's own.
create or replace function warden.may_move_condition(relation regclass) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when bool_and(warden.is_key_type(a.atttypid)) then
    '(' || string_agg(pg_catalog.format(case when t.typcollation <> 0 then 'old.%1$I collate pg_catalog."C" is distinct from new.%1$I'
                                     else 'old.%1$I is distinct from new.%1$I' end, a.attname), ' or ' order by a.attnum) || ')'
    else 'true' end
  from pg_catalog.unnest(warden.partition_key_columns(relation)) k (name)
  join pg_catalog.pg_attribute a on a.attrelid = relation and a.attname = k.name
  join pg_catalog.pg_type t on t.oid = a.atttypid
$$;

-- The partitioned table that a log function watches. Null if it watches another kind of table.
create or replace function warden.partitioned_whole(fn text) returns regclass
language sql stable set search_path = pg_catalog, pg_temp as $$
  select c.oid from warden.watches w join pg_catalog.pg_class c on c.oid = w.relation
  where 'log ' || w.id = fn and c.relkind = 'p'
$$;

-- The first character of the names of the triggers that must be the last BEFORE ROW triggers of a table: PostgreSQL
-- sorts triggers by the bytes of their names. That is ~, unless a trigger of the application sorts after it, as every
-- name does that begins with a character beyond ASCII. Then it is U+10FFFF, the last character of Unicode. (Not for all
-- tables, because a client with another encoding cannot read such a name: pg_dump --encoding=LATIN1 would fail.)
create or replace function warden.last_prefix(relation regclass) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return case when exists (
      select from pg_catalog.pg_trigger g
      -- 1 is for a row trigger, 2 for one BEFORE.
      where g.tgrelid = relation and g.tgtype & 3 = 3 and g.tgname > '~warden_note_' and g.tgname !~ '^~warden_note_')
    then E'\U0010FFFF' else '~' end;
end
$$;

-- Whether a trigger of the application has become the last BEFORE ROW trigger of a watched table.
create or replace function warden.has_late_trigger(relation regclass) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from pg_catalog.pg_trigger g where g.tgrelid = relation and g.tgname ~ '^~warden_note_')
     and warden.last_prefix(relation) <> '~';
end
$$;

-- The triggers that a partition has because its rows may move. Only MERGE needs some of them.
-- The former version had no argument `relation`. Only functions of this schema and the audit call it.
-- squawk-ignore ban-drop-function
drop function if exists warden.move_triggers(text);
create or replace function warden.move_triggers(relation regclass, fn text) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select '{!warden_note_insert}'::text[] || case
    when pg_catalog.current_setting('server_version_num')::int >= 150000 and warden.partitioned_whole(fn) is not null
    then array[warden.last_prefix(relation) || 'warden_note_update', 'warden_note_moved_from', 'warden_note_moved_to']
    else '{}' end
$$;

-- Creates these triggers.
create or replace function warden.create_move_triggers(relation regclass, fn text, is_nested boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  setting constant text := 'pg_catalog.concat(''warden.row_'', pg_catalog.pg_trigger_depth())';
  state constant text := pg_catalog.format('pg_catalog.current_setting(%s, true)', setting);
begin
  -- The first of the BEFORE ROW triggers, so that it also notices that another one drops a row that moves. If it were
  -- missing, MERGE on a partitioned table would give the trigger of its updates a row that it has inserted before,
  -- instead of the new row (PostgreSQL 15 to 18).
  execute pg_catalog.format(
    'create or replace trigger "!warden_note_insert" before insert on %1$s for each row '
    'when (%2$s <> '''' and pg_catalog.set_config(%3$s, case %2$s when ''deleted'' then ''inserted'' end, true) is null) '
    'execute function warden.note_row(%4$L)', relation, state, setting, warden.order_mark(fn, 'insert'));
  if not 'warden_note_moved_to' = any (warden.move_triggers(relation, fn)) then
    return;
  end if;
  if not is_nested then
    execute pg_catalog.format(
      'create or replace trigger %I before update on %s for each row '
      'when (%s and pg_catalog.set_config(%s, pg_catalog.concat(old.tableoid, old.ctid), true) is null) '
      'execute function warden.note_row(%L)',
      warden.last_prefix(relation) || 'warden_note_update', relation, warden.may_move_condition(warden.partitioned_whole(fn)), setting, warden.order_mark(fn, 'update'));
  end if;
  execute pg_catalog.format(
    'create or replace trigger warden_note_moved_from after delete on %s for each row '
    'when (%s and pg_catalog.set_config(pg_catalog.concat(%L, pg_catalog.pg_trigger_depth()), ''on'', true) = ''on'') '
    'execute function warden.%I(''moved'')', relation,
    case when is_nested then state || ' = ''deleted'''
    else pg_catalog.format(
      '%1$s <> '''' and pg_catalog.set_config(%2$s, case %1$s when pg_catalog.concat(old.tableoid, old.ctid) '
      'then ''deleted'' end, true) = ''deleted''', state, setting) end,
    pg_catalog.format('warden.moved_%s_', pg_catalog.substr(fn, length('log ') + 1)), fn);
  execute pg_catalog.format(
    'create or replace trigger warden_note_moved_to after insert on %s for each row when (%s = ''inserted'') '
    'execute function warden.%I(''moved'')', relation, state, fn);
end
$$;

-- Whether a statement on this table may write to a foreign table, which is a partition or child of it. PostgreSQL does
-- not give the rows of that one to statement triggers, and the statement fails if a trigger wants them.
create or replace function warden.has_foreign_member(relation regclass) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select exists (select from warden.tree(relation) t join pg_catalog.pg_class c on c.oid = t where c.relkind = 'f'));
end
$$;

-- Creates the triggers of a watched table, or of one of its members, which call this function. `is_nested` is that of
-- warden.has_nested_statements(), which is the same for all members.
-- The former version had no argument `is_nested`. Only functions of this schema call it.
-- squawk-ignore ban-drop-function
drop function if exists warden.create_log_triggers(regclass, text);
create or replace function warden.create_log_triggers(relation regclass, fn text, is_nested boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  operation text;
  mark text;
  late name;
  is_table constant boolean := is_nested and (select c.relkind = 'r' from pg_catalog.pg_class c where c.oid = relation);
  is_partition constant boolean := (
    select c.relkind = 'r' and c.relispartition from pg_catalog.pg_class c where c.oid = relation);
begin
  if warden.has_late_trigger(relation) then
    for late in select g.tgname from pg_catalog.pg_trigger g where g.tgrelid = relation and g.tgname ~ '^~warden_note_' loop
      execute pg_catalog.format('drop trigger %I on %s', late, relation);
    end loop;
  end if;
  -- Such statements succeed, and make the topic resync.
  if warden.has_foreign_member(relation) then
    foreach operation in array array['insert', 'update', 'delete', 'truncate'] loop
      execute pg_catalog.format('create or replace trigger warden_log_%1$s after %1$s on %2$s '
        'for each statement execute function warden.%3$I(%4$s)', operation, relation, fn,
        case when operation <> 'truncate' then pg_catalog.quote_literal('without rows') else '' end);
    end loop;
    return;
  end if;
  execute pg_catalog.format('create or replace trigger warden_log_truncate after truncate on %s '
    'for each statement execute function warden.%I()', relation, fn);
  foreach operation in array array['insert', 'update', 'delete'] loop
    mark := warden.order_mark(fn, operation);
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
    -- called only if something happened since the statement began. Each statement parses its condition, so it is short.
    if is_table then
      execute pg_catalog.format('create or replace trigger %6$I before %1$s on %2$s for each row '
        'when (%5$spg_catalog.current_setting(''warden.order'', true) not like %4$s) '
        'execute function warden.note_row(%3$L)', operation, relation, mark,
        -- Actions of foreign keys update and delete deeper than the statement began whose triggers they share.
        case operation when 'insert' then pg_catalog.format('''%% %s/%%''', mark)
          else pg_catalog.format('pg_catalog.concat(''%% %s/'', pg_catalog.pg_trigger_depth(), ''/%%'')', mark) end,
        -- An update that moves a row to another partition also deletes and inserts it. The conditions are always true:
        -- they note which row an update changes, and that it is then deleted.
        case when is_partition and operation <> 'insert' then pg_catalog.format(
          'pg_catalog.set_config(pg_catalog.concat(''warden.row_'', pg_catalog.pg_trigger_depth()), %s, true) '
          'is not null and ',
          case operation when 'update' then 'pg_catalog.concat(old.tableoid, old.ctid)' else
            'case pg_catalog.current_setting(pg_catalog.concat(''warden.row_'', pg_catalog.pg_trigger_depth()), true) '
            'when pg_catalog.concat(old.tableoid, old.ctid) then ''deleted'' end' end) end,
        warden.last_prefix(relation) || 'warden_note_' || operation);
    end if;
  end loop;
  if is_partition then
    perform warden.create_move_triggers(relation, fn, is_nested);
  end if;
  -- Its condition notes that the latest insert met no conflict. It is always false, so the function is never called.
  if is_table then
    execute pg_catalog.format('create or replace trigger warden_note_inserted after insert on %1$s for each row '
      'when (pg_catalog.current_setting(''warden.order'', true) like ''%% %2$s,%%'' '
      'and pg_catalog.set_config(''warden.%2$s_done'', ''1'', true) is null) '
      'execute function warden.note_row(%2$L)', relation, warden.order_mark(fn, 'insert'));
  end if;
end
$$;

-- Creates the triggers for rows that logical replication applies, or drops them. An apply worker, and the initial copy,
-- fire only row triggers and those of TRUNCATE, and of these only the ones that are enabled for it. The name sorts
-- first, so the row comes before what the application's triggers do after it. The condition holds although
-- `pg_restore --disable-triggers` enables all triggers for ordinary sessions in the end: a row is never logged twice.
create or replace function warden.set_apply_triggers(relation regclass, fn text, replicated boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
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
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive up as (
    select relation::oid as oid
    union
    select i.inhparent from pg_catalog.pg_inherits i join up on i.inhrelid = up.oid
  )
  select exists (select from pg_catalog.pg_subscription_rel s
                 where s.srrelid in (select u.oid from up u union select t from warden.tree(relation) t))
$$;

-- Gives watched tables the triggers that keep the order, if they need them by now, and replaces those of a former
-- version. `trigger_words` is what warden.trigger_words() returns. The caller must own the tables.
create or replace function warden.add_order_triggers(trigger_words text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  member record;
begin
  for member in
    with watched as materialized (
      select 'log ' || w.id as fn, warden.has_nested_statements(w.relation, trigger_words) as is_nested
      from warden.watches w join pg_catalog.pg_class c on c.oid = w.relation
    )
    select m.oid::regclass as relation, w.fn, w.is_nested
    from pg_catalog.pg_trigger g join pg_catalog.pg_class m on m.oid = g.tgrelid
    join pg_catalog.pg_proc f on f.oid = g.tgfoid and f.pronamespace = 'warden'::regnamespace
    join watched w on w.fn = f.proname
    left join pg_catalog.pg_trigger b on b.tgrelid = m.oid and b.tgname = 'warden_begin_insert'
    -- Not if it asks for no rows, because a foreign table is a member.
    where g.tgname = 'warden_log_insert' and g.tgnewtable is not null
      and (case when b.oid is null then w.is_nested
                else pg_catalog.encode(b.tgargs, 'escape') not like warden.order_mark(w.fn, 'insert') || '%' end
           or m.relkind = 'r' and m.relispartition
              and exists (select from pg_catalog.unnest(warden.move_triggers(m.oid, w.fn)) t (name)
                          where not exists (select from pg_catalog.pg_trigger n
                                            where n.tgrelid = m.oid and n.tgname = t.name))
           or warden.has_late_trigger(m.oid))
  loop
    if not member.is_nested then
      perform warden.drop_order_triggers(member.relation);
    end if;
    perform warden.create_log_triggers(t, member.fn, member.is_nested)
    from warden.tree(member.relation) t join pg_catalog.pg_class c on c.oid = t and c.relkind in ('r', 'p')
    where t = member.relation or not member.is_nested;
  end loop;
end
$$;

-- Does that, if there are watches.
create or replace function warden.complete_log_triggers() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from warden.watches) then
    perform warden.add_order_triggers(warden.trigger_words());
  end if;
end
$$;

-- Removes the triggers that keep the order from a table and its members: all, or those of one watch, which name it in
-- their argument or call its log function.
-- The former version had no argument `only_watch`. Only functions of this schema call it.
-- squawk-ignore ban-drop-function
drop function if exists warden.drop_order_triggers(regclass);
create or replace function warden.drop_order_triggers(relation regclass, only_watch bigint default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  trig record;
begin
  for trig in
    select g.tgname, g.tgrelid::regclass as relation
    from warden.tree(drop_order_triggers.relation) m (oid) join pg_catalog.pg_trigger g on g.tgrelid = m.oid
    where not g.tgisinternal and g.tgname ~ E'^(warden_begin_|[~!\U0010FFFF]?warden_note_)'
      and (only_watch is null or g.tgfoid = pg_catalog.to_regproc(pg_catalog.format('warden.%I', 'log ' || only_watch))
           or pg_catalog.encode(g.tgargs, 'escape') ~ ('^(insert|update|delete)_' || only_watch || '[^0-9]'))
  loop
    execute pg_catalog.format('drop trigger %I on %s', trig.tgname, trig.relation);
  end loop;
end
$$;

reset role;
