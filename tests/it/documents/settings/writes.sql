insert into {place}.parents values ('{org}', 1, 'one'), ('{org}', 2, 'two');
insert into {place}.notes select * from public.sources;
update {place}.notes set touched = 2, code = null where id operator(pg_catalog.=) 1::bigint;
insert into {place}.notes (id, org_id) values (1, '{org}') on conflict (id) do update set touched = 3;
with gone as (delete from {place}.notes where id operator(pg_catalog.=) 2::bigint returning id)
  insert into {place}.notes (id, org_id, parent) select 3, '{org}', 2 from gone;
insert into {place}.logs values (1, '{org}', '2026-05-06');
update {place}.logs set day = '2026-05-07';
delete from {place}.parents where id operator(pg_catalog.=) 1::bigint;
delete from {place}.parents;
delete from {place}.logs;
