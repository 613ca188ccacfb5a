-- Tasks that are never deleted: a rule turns DELETE into an update, a view shows the remaining rows, and writes to the
-- view reach the table through INSTEAD OF triggers and rules.
--! since: 15
--! tables: public.all_tasks parent=public.all_projects parent_column=project_id,
--!   public.all_projects user_column=created_by
--! ignores: rewrite-rule
--! watch: 'public.all_tasks', 'tasks', 'task'
--! write: insert into projects (name) values ('project {n}')
--! write: insert into tasks (project_id, title) select id, 'task {n}' from projects order by name limit 1
--! write: insert into all_tasks (project_id, title) select id, 'direct {n}' from projects order by name desc limit 1
--! write: update tasks set title = title || '.' where number % 3 = {n} % 3
--! write: delete from tasks where number % 5 = {n} % 5
--! write: delete from all_tasks where number % 7 = {n} % 7
--! write: delete from projects where name = 'project {n}'
--! check: select * from all_tasks t join all_projects p on p.id = t.project_id where t.org_id <> p.org_id
create table all_projects (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  created_by uuid default auth.uid(),
  deleted_at timestamptz
);
create table all_tasks (
  id uuid primary key default gen_random_uuid(),
  number bigint generated always as identity,
  project_id uuid not null references all_projects,
  title text not null,
  deleted_at timestamptz
);
create rule soft_delete as on delete to all_tasks where old.deleted_at is null do instead
  update public.all_tasks set deleted_at = now() where id = old.id;
create view tasks with (security_invoker = true) as
  select id, number, project_id, title from all_tasks where deleted_at is null with local check option;
create view projects with (security_invoker = true) as
  select id, name from all_projects where deleted_at is null;
create rule delete_task as on delete to tasks do instead delete from public.all_tasks where id = old.id;
create function insert_project() returns trigger language plpgsql as $$
begin
  insert into public.all_projects (name) values (new.name) returning id into new.id;
  return new;
end
$$;
create function delete_project() returns trigger language plpgsql as $$
begin
  update public.all_projects set deleted_at = now() where id = old.id;
  return old;
end
$$;
create trigger insert_project instead of insert on projects for each row execute function insert_project();
create trigger delete_project instead of delete on projects for each row execute function delete_project();
insert into all_projects (name, created_by)
select 'project ' || n, case when n % 2 = 0 then '1a000000-0000-4000-8000-00000000000a'::uuid
                             else '1b000000-0000-4000-8000-00000000000b' end from generate_series(1, 8) n;
insert into all_tasks (project_id, title) select id, 'task ' || n from all_projects, generate_series(1, 5) n;
