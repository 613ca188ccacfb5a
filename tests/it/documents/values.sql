-- Values of every type in pg_type, and types of an application that uses PostgreSQL's features to the full.
do $$
declare
  extension text;
begin
  -- Those that are not installed completely are left out, such as languages without their interpreter.
  for extension in select name from pg_available_extensions order by name like 'postgis%' desc, name loop
    begin
      execute format('create extension if not exists %I cascade', extension);
    exception when others then
      raise notice 'extension % is left out: %', extension, sqlerrm;
    end;
  end loop;
  -- Some extensions of PostGIS set it, and names of types would depend on when a connection was opened.
  execute format('alter database %I reset search_path', current_database());
end
$$;
reset search_path;
create schema hidden;
create type hidden.shade as enum ('light', 'dark "x"');
create domain hidden.payload as json;
create domain hidden.moment as timestamptz;
create type hidden.place as (spot point, at timestamptz, shade hidden.shade, payload json, price money);
create domain hidden.places as hidden.place[];
create type hidden.span as range (subtype = timestamptz);
create type hidden.trip as (places hidden.place[], lengths float8[], during hidden.span);
create type hidden.opaque;
create function hidden.opaque_in(cstring) returns hidden.opaque language internal immutable strict as 'textin';
create function hidden.opaque_out(hidden.opaque) returns cstring language internal immutable strict as 'textout';
create type hidden.opaque (input = hidden.opaque_in, output = hidden.opaque_out, like = text, delimiter = ':');
create function hidden.fails(hidden.opaque) returns json language plpgsql as 'begin raise exception ''cast''; end';
create cast (hidden.opaque as json) with function hidden.fails(hidden.opaque);
create function hidden.fails(hidden.shade) returns json language plpgsql as 'begin raise exception ''cast''; end';
create cast (hidden.shade as json) with function hidden.fails(hidden.shade);
-- The functions are those of a library in C, if there is one.
do $$
begin
  create type hidden.native;
  create function hidden.native_in(cstring) returns hidden.native language c immutable strict as '$libdir/hstore', 'hstore_in';
  create function hidden.native_out(hidden.native) returns cstring language c immutable strict as '$libdir/hstore', 'hstore_out';
  create type hidden.native (input = hidden.native_in, output = hidden.native_out, storage = extended);
exception when undefined_file then
  raise notice 'no library of hstore';
end
$$;
create type hidden.level_0 as (n numeric, j jsonb, t text, nothing int);
do $$
begin
  for n in 1..2 loop
    execute format('create type hidden.level_%s as (below hidden.level_%s, more %s)', n, n - 1,
                   case n when 1 then 'hidden.level_0[]' else 'int' end);
  end loop;
end
$$;
create domain hidden.levels as hidden.level_1[] check (cardinality(value) < 1000);
create type hidden.price_range as range (subtype = numeric);
create table hidden.target (id int);
create sequence hidden.seq;
create function hidden.target(int) returns int language sql as 'select 1';
create operator hidden.<<<< (leftarg = int, rightarg = int, function = pg_catalog.int4pl);
create text search configuration hidden.config (copy = simple);
create text search dictionary hidden.dictionary (template = simple);
create collation hidden.collation from "C";
create table hidden.statistic as select n % 7 as a, n % 5 as b, n as c from generate_series(1, 2000) n;
create statistics hidden.statistic_all (ndistinct, dependencies, mcv) on a, b from hidden.statistic;
analyze hidden.statistic;
create table hidden.defaults (a int default 1 + 2);
create table hostile (type regtype, value text);
-- Queries for types whose values cannot be written as literals.
create table sources (type regtype, query text);
insert into sources values
  ('pg_node_tree', 'select adbin from pg_attrdef where adrelid = ''hidden.defaults''::regclass'),
  ('pg_ndistinct', 'select stxdndistinct from pg_statistic_ext_data'),
  ('pg_dependencies', 'select stxddependencies from pg_statistic_ext_data'),
  ('pg_mcv_list', 'select stxdmcv from pg_statistic_ext_data'),
  ('text', 'select repeat(''x'', 3000000)'),
  ('text', 'select string_agg(md5(n::text), '''') from generate_series(1, 6000) n'),
  ('bytea', 'select decode(repeat(''00'', 3000000), ''hex'')'),
  ('jsonb', 'select jsonb_agg(round(1, 16000)) from generate_series(1, 300)'),
  ('jsonb', 'select jsonb_agg(1e131000) from generate_series(1, 50)'),
  ('jsonb', 'select jsonb_agg(null::int) from generate_series(1, 300000)'),
  ('jsonb', 'select (repeat(''{"a":['', 300) || repeat(''1]}'', 0) || repeat('']}'', 300))::jsonb'),
  ('numeric', 'select round(1, 16000)'),
  ('int4[]', 'select array_agg(n) from generate_series(1, 30000) n'),
  ('int4[]', 'select ''[-3:-2][7:8]={{1,NULL},{3,4}}''::int4[]'),
  ('numeric[]', 'select array_fill(1e131000::numeric, ''{300}'')'),
  ('hidden.level_2', $q$select row(row(row(1e400, '{"a": 1e-500}', 'x', null)::hidden.level_0, null)::hidden.level_1, null)::hidden.level_2$q$),
  ('hidden.level_1', $q$select row(row(1e300, '[1e300]', repeat('y', 300000), 1)::hidden.level_0, array[row(1, 'null', '"', null)::hidden.level_0, null])::hidden.level_1$q$),
  ('hidden.level_0', $q$select row(1, jsonb_build_array(repeat('z', 2000000)), null, 1)::hidden.level_0$q$),
  ('hidden.levels', $q$select array[null, row(null, array[row('NaN', '"\\\\u2028"', e'\\\\\\n', 1)::hidden.level_0])::hidden.level_1]::hidden.levels$q$);
-- Versions differ in what they accept.
create function is_accepted(type text, value text) returns boolean language plpgsql as $$
begin
  execute format('select %L::%s', value, type);
  return true;
exception when others then
  return false;
end
$$;
insert into hostile
select t::regtype, v from (values
  ('bool', '{t,f}'), ('int2', '{-32768}'), ('int4', '{-2147483648}'), ('int8', '{9223372036854775807}'),
  ('numeric', '{NaN,Infinity,-Infinity,1e100000,1e399,-1e400,1e-16000,1e-400,1.10,-0.000,123456789012345678901234567890.5}'),
  ('float4', '{NaN,-Infinity,1.1,-0,1e-45}'), ('float8', '{NaN,Infinity,0.1,-0,5e-324,1.7976931348623157e308,0.30000000000000004}'),
  ('text', E'{"","a\\\\b","\\"","\x01\x7f","\u2028\U0001F600"}'), ('bytea', E'{"\\\\\\\\x00ff","\\\\\\\\x5c27"}'),
  ('date', '{infinity,-infinity,4714-11-24 BC,10000-01-01,0044-03-15 BC,5874897-12-31,2026-02-03}'), ('timestamp', '{-infinity,4713-01-01 BC,2026-02-03 04:05:06.000007,294276-12-31}'),
  ('timestamptz', '{infinity,"0044-03-15 00:00:00+00 BC","2026-07-03 04:05:06.1+02","294276-12-31 23:59:59+00","0001-01-01 00:30:00+01"}'),
  ('timetz', '{"04:05:06.7-08:30","24:00:00+14"}'), ('time', '{"24:00:00","00:00:00.000001"}'),
  ('interval', '{"-1 year 2 mons -3 days 04:05:06.7","0","178000000 years",infinity,-infinity,"-0.000001"}'), ('money', '{-92233720368547758.08,1234.56}'),
  ('uuid', '{00000000-0000-0000-0000-000000000000}'), ('inet', '{::1/64,10.0.0.1}'), ('bit', '{1}'), ('varbit', '{10101,""}'),
  ('jsonb', E'{"{}","null","1e1000","{\\"a\\": 1.10}"}'),
  ('point', '{"(NaN,0.1)","(0.30000000000000004,-0)"}'), ('box', '{"(0.1,0.2),(1,2)"}'), ('circle', '{"<(0.1,0.2),Infinity>"}'),
  ('line', '{"{0.1,2,3}"}'), ('lseg', '{"[(0.1,0),(1,1)]"}'), ('path', '{"[(0.1,0),(1,1)]"}'), ('polygon', '{"((0.1,0),(1,1))"}'),
  ('int4range', '{empty,"[,]","(,5)","[2147483647,]"}'), ('int8multirange', '{"{}","{(,)}","{[1,2],[5,6]}"}'),
  ('nummultirange', '{"{[1,1e100000]}","{(,0.50),[1,2)}"}'), ('hidden.price_range', '{empty,"(,)","[1e-1000,1]","[0.10,1e131000)"}'),
  ('daterange', '{empty,"[,]","[2026-01-02,infinity)"}'), ('tsrange', '{"[2026-01-02 03:04,)"}'), ('tstzrange', '{"[2026-01-02 03:04+00,2026-07-01 00:00+02]"}'),
  ('numrange', '{empty,"(,)","[NaN,NaN]","(,Infinity)","[1.0,1e1000]","[0.10,1e300]"}'), ('tstzmultirange', '{"{[2026-01-02 03:04+00,2026-07-01 00:00+02]}"}'), ('datemultirange', '{"{[2026-01-02,)}"}'),
  ('tsvector', '{"a:1A ''b c'':2","","x:1A,2B,3C,4D,16383 ''a\\''''b'':5"}'), ('tsquery', '{"a & !b"}'), ('xml', '{"<a b=\"1\">x</a>","plain","","<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>\u00e9</a>","<!-- c --><a><![CDATA[<]]></a>"}'),
  ('"char"', '{a,""}'), ('name', '{"x y"}'), ('regclass', '{pg_class,hostile,hidden.target,4294967295}'),
  ('regtype', '{"timestamp with time zone",hidden.place,hidden.place[],4294967295}'),
  ('regproc', '{now,hidden.target,4294967295}'), ('regprocedure', '{hidden.target(int)}'), ('regoperator', '{"hidden.<<<<(int,int)"}'),
  ('regoper', '{"hidden.<<<<"}'), ('regconfig', '{hidden.config}'), ('regdictionary', '{hidden.dictionary}'),
  ('regcollation', '{hidden.collation}'), ('regrole', '{warden_owner,4294967294}'), ('refcursor', '{"<unnamed portal 1>",""}'),
  ('pg_snapshot', '{"10:20:10,14,15","1:1:"}'), ('txid_snapshot', '{"10:20:10,14,15"}'), ('xid8', '{18446744073709551615}'),
  ('xid', '{4294967295}'), ('tid', '{"(4294967295,65535)"}'), ('macaddr8', '{08:00:2b:01:02:03:04:05}'), ('bpchar', '{"a  "}'),
  ('aclitem', '{"=r/warden_owner"}'), ('regnamespace', '{hidden}'), ('oid', '{4294967295}'), ('jsonpath', E'{$.a,"strict $.** ? (@ like_regex \\"a\\" flag \\"i\\")","$[*] ? (@ > 1e400)"}'),
  ('pg_lsn', '{0/1,FFFFFFFF/FFFFFFFF}'), ('hstore', '{"","a=>NULL,\"b\"=>\"\\u0000\""}'), ('citext', '{ABC,""}'), ('isbn13', '{978-0-11-000222-4}'), ('ean13', '{"978-0-11-000222-4!"}'), ('issn', '{1436-4522}'),
  ('ltree', '{"",Top.Science_1.x}'), ('lquery', '{*.a|b.*}'), ('ltxtquery', '{a & !b}'), ('query_int', '{1&(2|3)}'),
  ('hidden.native', '{"a=>NULL"}'), ('hidden.levels', '{"{}","{NULL}"}'),
  ('geometry', '{"CIRCULARSTRING(0 0,1 1,2 0)","POINT(NaN 1)","POINT EMPTY","COMPOUNDCURVE(CIRCULARSTRING(0 0,1 1,1 0),(1 0,0 1))","CURVEPOLYGON(CIRCULARSTRING(0 0,4 0,4 4,0 4,0 0))",
    "POINT ZM(NaN NaN NaN NaN)","GEOMETRYCOLLECTION(POINT(1 2),GEOMETRYCOLLECTION EMPTY)","TIN(((0 0,0 1,1 1,0 0)))","POINT(1e308 -1e-308)","SRID=4326;POINT(0.1 2)"}'),
  -- On other texts, the input function of pg_sphere crashes the server.
  ('sellipse', '{"<{10d,5d},(200d,10d),45d>"}'),
  ('geography', '{"POINT(0.1 2)"}'), ('cube', '{"(0.1,2),(3,4)","()","(NaN,Infinity)"}'), ('seg', '{0.1 .. 2}'), ('ltree', '{a.b}'),
  ('hidden.shade', '{light,"dark \"x\""}'), ('hidden.moment', '{"2026-07-03 04:05:06.1+02"}'), ('hidden.opaque', '{x,NULL,":"}'),
  ('hidden.span', '{"[2026-01-02 03:04+00,2026-07-01 00:00+02]"}'),
  ('hidden.place', '{"(\"(0.1,2)\",2026-07-03 04:05:06+02,light,\"{}\",5.00)","(,,,,)"}')
) h (t, vs), unnest(vs::text[]) v where to_regtype(t) is not null and is_accepted(t, v);
insert into hostile select t.t::regtype, v.v
from (values ('json'), ('hidden.payload')) t (t), (values ('{"a": 1, "a": 2}'), ('"\ud83d\ude00"'), ('"\\ud83d"'), ('"\ud83d"'), ('"\ud83d\\\ude00"'), ('{"\u0000": 1}'), ('"\\u0000"'),
  ('1e400000'), ('1e131073'), ('-1.5E+2'), ('[1e5, "e99999"]'), (repeat('[', 5000) || repeat(']', 5000)), (repeat('{"a":[', 300) || repeat(']}', 300)),
  ('[' || repeat('{"a":[1,{"b":"]["}]},', 900) || '1]'), (repeat('9', 100000)), ('0.' || repeat('9', 20000)), ('"' || repeat('\\', 3000) || '"')) v (v);
insert into hostile
select 'hidden.trip'::regtype,
  row(array[value::hidden.place, null], '{0.1,NaN}'::float8[], '[2026-01-02 03:04+00,)')::hidden.trip::text
from hostile where type = 'hidden.place'::regtype;
do $$
declare
  t record; candidate text;
begin
  for t in select p.oid::regtype as type from pg_type p left join pg_class c on c.oid = p.typrelid
           where p.typtype <> 'p' and (p.typtype <> 'c' or c.relkind = 'c') and not exists (select from hostile h where h.type = p.oid)
             and not exists (select from sources s where s.type = p.oid)
             and p.typsubscript <> 'array_subscript_handler'::regproc
  loop
    foreach candidate in array array['1', 'a', '(1,2)', '1,2', '{}', '[1,2)', '{1}', '(1,1,1)', '2026-01-01', '1:1:', '08:00:2b:01:02:03', '10.0.0.0/8', 'pg_class', 'now', '(0,1)', '+', '=(int4,int4)', 'english', 'simple',
       'postgres=r/postgres', '1 2', 'POINT(1 2)', 'BOX(0 0,1 1)', 'BOX3D(0 0 0,1 1 1)', '0-0-0-0-0', '978-0-11-000222-4', '(,)', '(,,,)'] loop
      begin
        execute format('select %L::%s', candidate, t.type);
        insert into hostile values (t.type, candidate);
        exit;
      exception when others then null;
      end;
    end loop;
  end loop;
end $$;
-- Types that have no value that can be written.
insert into hostile
select p.oid, null from pg_type p left join pg_class c on c.oid = p.typrelid
where p.typtype <> 'p' and (p.typtype <> 'c' or c.relkind = 'c') and p.typsubscript <> 'array_subscript_handler'::regproc
  and p.oid not in (select type from hostile union select type from sources)
  and p.oid not in ('pg_brin_bloom_summary'::regtype, 'pg_brin_minmax_multi_summary'::regtype);
insert into sources
select t.type, 'select null::' || t.type from unnest('{pg_brin_bloom_summary,pg_brin_minmax_multi_summary}'::regtype[]) t (type);
-- Some views need a library that the server has not loaded, or a machine with NUMA.
create function hidden.can_be_read(relation regclass) returns boolean language plpgsql as $$
begin
  execute format('select from %s limit 1', relation);
  return true;
exception when object_not_in_prerequisite_state or internal_error then
  return false;
end
$$;
-- Row types of tables and views, twenty of them in one composite type. Those with pseudo-types can be no column.
do $$
declare
  g record;
begin
  for g in
    select n / 20 as number, string_agg(format('v%s %s', n, relation), ', ' order by n) as columns,
           string_agg(format('(select t from %s t limit 1)', relation), ', ' order by n) as values
    from (select row_number() over (order by c.oid) as n, c.oid::regclass as relation from pg_class c
          where c.relkind in ('r', 'v', 'm', 'p') and c.relname <> 'pg_statistic_ext_data'
            and hidden.can_be_read(c.oid) and not exists (
            select from pg_attribute a join pg_type t on t.oid = a.atttypid
            left join pg_type e on e.oid = t.typelem
            where a.attrelid = c.oid and 'p' in (t.typtype, e.typtype))) c
    group by 1
  loop
    execute format('create type hidden.rows_%s as (%s)', g.number, g.columns);
    insert into sources values (format('hidden.rows_%s', g.number)::regtype,
      format('select row(%s)::hidden.rows_%s union all select null', g.values, g.number));
  end loop;
end
$$;
