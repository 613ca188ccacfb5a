-- A company suite with a schema for each department. The departments use the same table names, one extends a table of
-- another, and the search_path differs.
--! tables: sales.accounts, sales.tickets, support.accounts, support.tickets
--! watch: 'sales.tickets', 'sales_tickets', 'sales_ticket'
--! watch: 'support.tickets', 'support_tickets', 'support_ticket'
--! write: insert into sales.accounts (name, created_by) values ('account {n}', '{user}')
--! write: insert into support.accounts (name, created_by) values ('account {n}', '{user}')
--! write: insert into sales.tickets (account_id, title)
--!   select id, 'ticket {n}' from sales.accounts order by name limit 1
--! write: insert into support.tickets (account_id, title, sales_ticket_id)
--!   select a.id, 'ticket {n}', (select min(id) from sales.tickets) from support.accounts a order by name limit 1
--! write: update sales.tickets set title = 'changed {n}' where id % 3 = {n} % 3
--! write: update support.tickets set title = 'changed {n}' where id % 3 = {n} % 3
--! write: delete from support.tickets where id % 6 = {n} % 6
--! write: delete from sales.tickets where id % 8 = {n} % 8
--! check: select * from sales.tickets t join sales.accounts a on a.id = t.account_id where t.org_id <> a.org_id
--! check: select * from support.tickets t join support.accounts a on a.id = t.account_id where t.org_id <> a.org_id
create schema sales;
create schema support;
grant usage on schema sales, support to authenticated, service_role;
create table sales.accounts (id uuid primary key default gen_random_uuid(), name text not null, created_by uuid);
create table sales.tickets (
  id bigint generated always as identity primary key,
  account_id uuid not null references sales.accounts on delete cascade,
  title text not null
);
create table support.accounts (id uuid primary key default gen_random_uuid(), name text not null, created_by uuid);
create table support.tickets (
  id bigint generated always as identity primary key,
  account_id uuid not null references support.accounts on delete cascade,
  sales_ticket_id bigint references sales.tickets on delete set null,
  title text not null
);
create view support.open_tickets as
  select t.id, t.title, a.name from support.tickets t join support.accounts a on a.id = t.account_id;
grant select, insert, update, delete on all tables in schema sales, support to authenticated, service_role;
revoke all on support.open_tickets from authenticated;
insert into sales.accounts (name, created_by)
select 'account ' || n, case when n % 2 = 0 then '1a000000-0000-4000-8000-00000000000a'::uuid
                             else '1b000000-0000-4000-8000-00000000000b' end from generate_series(1, 10) n;
insert into support.accounts (name, created_by) select name, created_by from sales.accounts;
insert into sales.tickets (account_id, title) select id, 'ticket' from sales.accounts, generate_series(1, 3);
insert into support.tickets (account_id, title) select id, 'ticket' from support.accounts, generate_series(1, 3);
