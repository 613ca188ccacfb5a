-- Two schemas with the same tables: those of `watched` are watched, those of `plain` are not.
create type mood as enum ('calm', 'Loud');
do $$
declare
  place text;
begin
  foreach place in array array['watched', 'plain'] loop
    execute replace($sql$
      create schema {place};
      create table {place}.parents (org_id uuid, id bigint, name text, primary key (org_id, id));
      create table {place}.notes (
        id bigint primary key, org_id uuid not null, parent bigint, touched int not null default 0,
        "Line""s" text, at timestamptz, day date, span interval, price float8, ratio float4, amount numeric, raw bytea,
        document json, binary_document jsonb, tags text[], mood public.mood, code char(4), net inet, xml xml,
        foreign key (org_id, parent) references {place}.parents on delete cascade);
      create table {place}.logs (id bigint, org_id uuid, day date, primary key (id, day)) partition by range (day);
      create table {place}.logs_2026 partition of {place}.logs for values from ('2026-01-01') to ('2027-01-01');
      -- Writes to its own row, so that the table needs the triggers that keep the order.
      create function {place}.touch() returns trigger language plpgsql set search_path = '' as $body$
        begin update {place}.notes set touched = 1 where id = new.id; return null; end $body$;
      create trigger touch after insert on {place}.notes for each row execute function {place}.touch();
      grant usage on schema {place} to authenticated;
      grant select, insert, update, delete on all tables in schema {place} to authenticated;
    $sql$, '{place}', place);
  end loop;
end
$$;
-- Rows whose literals no setting of a writer reads.
create table sources as table plain.notes;
insert into sources values
  (1, null, 1, 0, 'a\b''c', '2026-02-03 04:05:06.7+02', '2026-02-03', 'P1DT2S', 0.1, 0.1, 1.50, '\x00ff', '{"a": "\n"}',
   '{"b": 1e2}', '{a,NULL}', 'Loud', 'ab', '10.0.0.1', '<a/>'),
  (2, null, 2, 0, null, 'infinity', '-infinity', null, 'NaN', null, 'NaN', null, null, null, '{}', null, null, null, null);
grant select on sources to authenticated;
select warden.begin_epoch();
select warden.watch('watched.parents', 'probe_parents', 'parent', visibility => 'organisation'),
       warden.watch('watched.notes', 'probe_notes', 'note', visibility => 'organisation'),
       warden.watch('watched.logs', 'probe_logs', 'log', visibility => 'organisation');

-- Functions and operators that raise an error instead of those of PostgreSQL, and types and tables that hide its own:
-- who finds a name by the search path of the session finds these.
create schema hostile;
-- Warden's event trigger would look for triggers that call each of a thousand functions, and no trigger does.
set session_replication_role = replica;
do $$
declare
  each record;
begin
  for each in
    select p.proname, pg_get_function_identity_arguments(p.oid) as arguments, format_type(p.prorettype, null) as result
    from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and not p.proretset and p.provariadic = 0
      and array_append(p.proargtypes::regtype[], p.prorettype::regtype) <@
        '{text,text[],name,bool,int2,int4,int8,float8,numeric,uuid,json,jsonb,oid,timestamptz,bytea,xid8,regclass,xml}'
      and p.proallargtypes is null
  loop
    execute format('create function hostile.%I(%s) returns %s language plpgsql as '
                   '''begin raise exception ''''a function was found by the search path: %s''''; end''',
                   each.proname, each.arguments, each.result, each.proname);
  end loop;
  for each in
    select o.oprname, nullif(o.oprleft, 0)::regtype as left, o.oprright::regtype as right, p.proname
    from pg_operator o join pg_proc p on p.oid = o.oprcode
    where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprright <> 0
      and exists (select from pg_proc h where h.pronamespace = 'hostile'::regnamespace and h.proname = p.proname
                  and h.proargtypes = p.proargtypes)
  loop
    execute format('create operator hostile.%s (%s rightarg = %s, function = hostile.%I)', each.oprname,
                   'leftarg = ' || each.left || ',', each.right, each.proname);
  end loop;
end
$$;
reset session_replication_role;
create type hostile.text as (x int);
create type hostile.uuid as (x int);
create type hostile.jsonb as (x int);
create type hostile.int4 as (x int);
create type hostile.int8 as (x int);
create type hostile.regclass as (x int);
create table hostile.pg_class (x int);
create table hostile.pg_attribute (x int);
create table hostile.events (x int);
create table hostile.notes (x int);
grant usage on schema hostile to authenticated;
