-- A laboratory's samples in the conventions of SQLAlchemy and Alembic: singular tables, naming conventions for every
-- constraint, joined-table inheritance, self-references, and a table of versions.
--! tables: public.experiment user_column=owner_id,
--!   public.sample parent=public.experiment parent_column=experiment_id,
--!   public.liquid_sample parent=public.sample parent_column=id
--! role: ordinary_login
--! watch: 'public.experiment', 'experiments', 'experiment'
--! watch: 'public.sample', 'samples', 'sample'
--! write: insert into experiment (title, owner_id) values ('Experiment {n}', '{user}')
--! write: insert into experiment (title, owner_id, parent_id)
--!   select 'Repetition {n}', '{user}', id from experiment order by id desc limit 1
--! write: insert into sample (experiment_id, kind) select id, 'solid' from experiment order by id desc limit 1
--! write: with s as (insert into sample (experiment_id, kind) select id, 'liquid' from experiment order by id limit 1
--!   returning id) insert into liquid_sample (id, volume) select id, {n} from s
--! write: update sample set kind = kind || '.' where id % 3 = {n} % 3
--! write: update experiment set title = title || '.' where id % 4 = {n} % 4
--! write: delete from sample where id % 7 = {n} % 7
--! check: select * from sample s join experiment e on e.id = s.experiment_id where s.org_id <> e.org_id
--! check: select * from liquid_sample l join sample s using (id) where l.org_id <> s.org_id
create table alembic_version (version_num varchar(32) constraint alembic_version_pkc primary key);
create table experiment (
  id serial constraint pk_experiment primary key,
  title varchar(200) not null,
  owner_id uuid,
  parent_id integer constraint fk_experiment_parent_id_experiment references experiment,
  results double precision[] not null default '{}',
  constraint ck_experiment_title_not_empty check (title <> '')
);
create index ix_experiment_owner_id on experiment (owner_id);
create table sample (
  id serial constraint pk_sample primary key,
  experiment_id integer not null constraint fk_sample_experiment_id_experiment references experiment on delete cascade,
  kind varchar(40) not null
);
create table liquid_sample (
  id integer constraint pk_liquid_sample primary key
    constraint fk_liquid_sample_id_sample references sample on delete cascade,
  volume numeric not null
);
grant select, insert, update, delete on experiment, sample, liquid_sample to ordinary_login;
grant usage on all sequences in schema public to ordinary_login;
insert into alembic_version values ('3f1c2a9d7b60');
insert into experiment (title, owner_id)
select 'Experiment ' || n, case when n % 2 = 0 then '1a000000-0000-4000-8000-00000000000a'::uuid
                                else '1b000000-0000-4000-8000-00000000000b' end from generate_series(1, 12) n;
insert into sample (experiment_id, kind) select id, 'liquid' from experiment, generate_series(1, 3);
insert into liquid_sample (id, volume) select id, 1 from sample;
