-- Delivery areas and stops of couriers, with PostGIS in a schema of its own.
--! needs: postgis
--! tables: public.areas, public.stops
--! watch: 'public.stops', 'stops', 'stop', omit_columns => '{place}'
--! write: insert into areas (name, owner_id, shape) values ('area {n}', '{user}',
--!   extensions.st_makeenvelope({n} % 90, 0, {n} % 90 + 1, 1, 4326))
--! write: insert into stops (area_id, place)
--!   select id, extensions.st_setsrid(extensions.st_makepoint({n} % 90, 0.5), 4326) from areas order by id limit 1
--! write: update stops set note = 'seen {n}' where number % 3 = {n} % 3
--! write: delete from stops where number % 5 = {n} % 5
--! check: select * from stops s join areas a on a.id = s.area_id where s.org_id <> a.org_id
create table areas (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  owner_id uuid not null,
  shape extensions.geometry(polygon, 4326) not null
);
create index on areas using gist (shape);
create table stops (
  id uuid primary key default gen_random_uuid(),
  number bigint generated always as identity,
  area_id uuid not null references areas on delete cascade,
  place extensions.geography(point, 4326) not null,
  note text
);
create index on stops using gist (place);
insert into areas (name, owner_id, shape)
select 'area ' || n, case when n % 2 = 0 then '1a000000-0000-4000-8000-00000000000a'::uuid
                          else '1b000000-0000-4000-8000-00000000000b' end,
       extensions.st_makeenvelope(n, 0, n + 1, 1, 4326)
from generate_series(1, 10) n;
insert into stops (area_id, place)
select id, extensions.st_setsrid(extensions.st_makepoint(n, 0.5), 4326) from areas, generate_series(1, 5) n;
