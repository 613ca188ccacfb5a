-- Values of every type in pg_type, and types of an application that uses PostgreSQL's features to the full.
do $$
declare
  extension text;
begin
  for extension in
    select name from pg_available_extensions
    where name in ('citext', 'hstore', 'ltree', 'cube', 'seg', 'isn', 'intarray', 'lo', 'postgis', 'vector')
  loop
    execute format('create extension if not exists %I cascade', extension);
  end loop;
end
$$;
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
create table hostile (type regtype, value text);
insert into hostile
select t::regtype, v from (values
  ('bool', '{t,f}'), ('int2', '{-32768}'), ('int4', '{-2147483648}'), ('int8', '{9223372036854775807}'),
  ('numeric', '{NaN,1e100000,1.10,-0.000,123456789012345678901234567890.5}'),
  ('float4', '{NaN,-Infinity,1.1,-0,1e-45}'), ('float8', '{NaN,Infinity,0.1,-0,5e-324,1.7976931348623157e308,0.30000000000000004}'),
  ('text', E'{"","a\\\\b","\\"","\x01\x7f","\u2028\U0001F600"}'), ('bytea', E'{"\\\\\\\\x00ff","\\\\\\\\x5c27"}'),
  ('date', '{infinity,0044-03-15 BC,5874897-12-31,2026-02-03}'), ('timestamp', '{-infinity,4713-01-01 BC,2026-02-03 04:05:06.000007,294276-12-31}'),
  ('timestamptz', '{infinity,"0044-03-15 00:00:00+00 BC","2026-07-03 04:05:06.1+02","294276-12-31 23:59:59+00","0001-01-01 00:30:00+01"}'),
  ('timetz', '{"04:05:06.7-08:30","24:00:00+14"}'), ('time', '{"24:00:00","00:00:00.000001"}'),
  ('interval', '{"-1 year 2 mons -3 days 04:05:06.7","0","178000000 years"}'), ('money', '{-92233720368547758.08,1234.56}'),
  ('uuid', '{00000000-0000-0000-0000-000000000000}'), ('inet', '{::1/64,10.0.0.1}'), ('bit', '{1}'), ('varbit', '{10101,""}'),
  ('jsonb', E'{"{}","null","1e1000","{\\"a\\": 1.10}"}'),
  ('point', '{"(NaN,0.1)","(0.30000000000000004,-0)"}'), ('box', '{"(0.1,0.2),(1,2)"}'), ('circle', '{"<(0.1,0.2),Infinity>"}'),
  ('line', '{"{0.1,2,3}"}'), ('lseg', '{"[(0.1,0),(1,1)]"}'), ('path', '{"[(0.1,0),(1,1)]"}'), ('polygon', '{"((0.1,0),(1,1))"}'),
  ('daterange', '{empty,"[2026-01-02,infinity)"}'), ('tsrange', '{"[2026-01-02 03:04,)"}'), ('tstzrange', '{"[2026-01-02 03:04+00,2026-07-01 00:00+02]"}'),
  ('numrange', '{"[1.0,1e1000]"}'), ('tstzmultirange', '{"{[2026-01-02 03:04+00,2026-07-01 00:00+02]}"}'), ('datemultirange', '{"{[2026-01-02,)}"}'),
  ('tsvector', '{"a:1A ''b c'':2"}'), ('tsquery', '{"a & !b"}'), ('xml', '{"<a b=\"1\">x</a>","plain"}'),
  ('"char"', '{a,""}'), ('name', '{"x y"}'), ('regclass', '{pg_class,hostile}'), ('regtype', '{"timestamp with time zone"}'),
  ('regproc', '{now}'), ('regnamespace', '{hidden}'), ('oid', '{4294967295}'), ('jsonpath', '{$.a}'),
  ('pg_lsn', '{0/1}'), ('hstore', '{"a=>NULL,\"b\"=>\"\\u0000\""}'), ('citext', '{ABC}'),
  ('geometry', '{"CIRCULARSTRING(0 0,1 1,2 0)","POINT(NaN 1)","POINT EMPTY","SRID=4326;POINT(0.1 2)"}'),
  ('geography', '{"POINT(0.1 2)"}'), ('cube', '{"(0.1,2),(3,4)"}'), ('seg', '{0.1 .. 2}'), ('ltree', '{a.b}'),
  ('hidden.shade', '{light,"dark \"x\""}'), ('hidden.moment', '{"2026-07-03 04:05:06.1+02"}'), ('hidden.opaque', '{x,NULL,":"}'),
  ('hidden.span', '{"[2026-01-02 03:04+00,2026-07-01 00:00+02]"}'),
  ('hidden.place', '{"(\"(0.1,2)\",2026-07-03 04:05:06+02,light,\"{}\",5.00)","(,,,,)"}')
) h (t, vs), unnest(vs::text[]) v where to_regtype(t) is not null;
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
-- Arrays of everything, with a null; two dimensions.
insert into hostile select p.typarray, format('{%s}', string_agg(quote_ident(h.value), p.typdelim))
  from hostile h join pg_type p on p.oid = h.type where false group by p.oid;
