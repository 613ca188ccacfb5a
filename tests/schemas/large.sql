-- A planning system of 60 tables: ten areas with a root and chains of children, and a few tables without organisations.
--! tables: public.area_1_root, public.area_1_part_1, public.area_1_part_2, public.area_1_part_3,
--!   public.area_1_part_4, public.area_2_root, public.area_2_part_1, public.area_2_part_2, public.area_2_part_3,
--!   public.area_2_part_4, public.area_3_root, public.area_3_part_1, public.area_3_part_2, public.area_3_part_3,
--!   public.area_3_part_4, public.area_4_root, public.area_4_part_1, public.area_4_part_2, public.area_4_part_3,
--!   public.area_4_part_4, public.area_5_root, public.area_5_part_1, public.area_5_part_2, public.area_5_part_3,
--!   public.area_5_part_4, public.area_6_root, public.area_6_part_1, public.area_6_part_2, public.area_6_part_3,
--!   public.area_6_part_4, public.area_7_root, public.area_7_part_1, public.area_7_part_2, public.area_7_part_3,
--!   public.area_7_part_4, public.area_8_root, public.area_8_part_1, public.area_8_part_2, public.area_8_part_3,
--!   public.area_8_part_4, public.area_9_root, public.area_9_part_1, public.area_9_part_2, public.area_9_part_3,
--!   public.area_9_part_4, public.area_10_root, public.area_10_part_1, public.area_10_part_2, public.area_10_part_3,
--!   public.area_10_part_4
--! watch: 'public.area_3_root', 'area_3', 'root'
--! watch: 'public.area_3_part_2', 'area_3_part_2', 'part'
--! write: insert into area_3_root (name, created_by) values ('root {n}', '{user}')
--! write: insert into area_3_part_1 (root_id, name) select id, 'one {n}' from area_3_root order by name limit 1
--! write: insert into area_3_part_2 (part_1_id, name) select id, 'two {n}' from area_3_part_1 order by name limit 1
--! write: insert into area_7_root (name, created_by) values ('root {n}', '{user}')
--! write: insert into area_7_part_4 (root_id, name) select id, 'four {n}' from area_7_root order by name limit 1
--! write: update area_3_part_2 set name = name || '.' where name like '%{n}%'
--! write: delete from area_3_part_1 where name like '%{n}'
--! check: select * from area_3_part_2 c join area_3_part_1 p on p.id = c.part_1_id where c.org_id <> p.org_id
--! check: select * from area_9_part_1 c join area_9_root p on p.id = c.root_id where c.org_id <> p.org_id
do $$
begin
  for area in 1..10 loop
    execute format('create table area_%s_root (id uuid primary key default gen_random_uuid(), name text not null, '
                   'created_by uuid not null)', area);
    for part in 1..4 loop
      execute format('create table area_%1$s_part_%2$s (id uuid primary key default gen_random_uuid(), '
                     '%3$s uuid not null references area_%1$s_%4$s on delete cascade, name text not null, '
                     'quantity int not null default 0)', area, part,
                     case when part in (1, 4) then 'root_id' else 'part_' || part - 1 || '_id' end,
                     case when part in (1, 4) then 'root' else 'part_' || part - 1 end);
    end loop;
    execute format('create table kinds_%s (code text primary key, label text not null)', area);
    execute format($sql$
      insert into area_%1$s_root (name, created_by)
        select 'root ' || n, case when n %% 2 = 0 then '1a000000-0000-4000-8000-00000000000a'::uuid
                                  else '1b000000-0000-4000-8000-00000000000b' end from generate_series(1, 6) n;
      insert into area_%1$s_part_1 (root_id, name) select id, 'part' from area_%1$s_root;
      insert into area_%1$s_part_2 (part_1_id, name) select id, 'part' from area_%1$s_part_1;
      insert into area_%1$s_part_3 (part_2_id, name) select id, 'part' from area_%1$s_part_2;
      insert into area_%1$s_part_4 (root_id, name) select id, 'part' from area_%1$s_root;
      insert into kinds_%1$s values ('a', 'A'), ('b', 'B');
    $sql$, area);
  end loop;
end
$$;
