-- Personnel records with triggers: old and new row as JSON in an audit table, updated_at, and a normalised name.
--! tables: public.employees user_column=created_by,
--!   public.absences parent=public.employees parent_column=employee_id, public.audit_trail user_column=changed_by
--! watch: 'public.employees', 'employees', 'employee', omit_columns => '{salary}'
--! watch: 'public.absences', 'absences', 'absence'
--! write: insert into employees (name, created_by, salary) values ('  Employee {n} ', '{user}', {n})
--! write: insert into absences (employee_id, day)
--!   select id, date '2026-01-01' + {n} from employees order by name limit 1
--! write: update employees set salary = salary + 1 where number % 4 = {n} % 4
--! write: update employees set name = 'Renamed {n}' where number % 5 = {n} % 5
--! write: delete from absences where number % 3 = {n} % 3
--! write: delete from employees where number % 19 = {n} % 19
--! check: select * from absences a join employees e on e.id = a.employee_id where a.org_id <> e.org_id
--! setup: select warden.register_table('public.employees', user_column => 'created_by')
--! setup: select warden.register_table('public.absences', parent => 'public.employees', parent_column => 'employee_id')
--! setup: update warden.tenant_tables set pauses_triggers = true where table_name in ('employees', 'absences')
create table employees (
  id uuid primary key default gen_random_uuid(),
  number bigint generated always as identity,
  name text not null,
  created_by uuid not null,
  salary numeric,
  updated_at timestamptz not null default now()
);
create table absences (
  id uuid primary key default gen_random_uuid(),
  number bigint generated always as identity,
  employee_id uuid not null references employees on delete cascade,
  day date not null
);
create table audit_trail (
  id bigint generated always as identity primary key,
  changed_by uuid default auth.uid(),
  table_name text not null,
  old_row jsonb,
  new_row jsonb,
  changed_at timestamptz not null default now()
);
create function write_audit_trail() returns trigger language plpgsql as $$
begin
  insert into public.audit_trail (table_name, old_row, new_row)
  values (tg_table_name, case when tg_op <> 'INSERT' then to_jsonb(old) end,
          case when tg_op <> 'DELETE' then to_jsonb(new) end);
  return null;
end
$$;
create function set_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at := clock_timestamp();
  return new;
end
$$;
create function trim_name() returns trigger language plpgsql as $$
begin
  new.name := trim(new.name);
  return new;
end
$$;
create trigger audit_employees after insert or update or delete on employees
  for each row execute function write_audit_trail();
create trigger audit_absences after insert or update or delete on absences
  for each row execute function write_audit_trail();
create trigger set_updated_at before update on employees for each row execute function set_updated_at();
create trigger a_trim_name before insert or update of name on employees for each row execute function trim_name();
insert into employees (name, created_by, salary)
select ' Employee ' || n, case when n % 2 = 0 then '1a000000-0000-4000-8000-00000000000a'::uuid
                               else '1b000000-0000-4000-8000-00000000000b' end, n from generate_series(1, 30) n;
insert into absences (employee_id, day) select id, date '2025-05-01' from employees;
