-- The books of an accountant's clients: keys of several columns, and numbers that begin at 1 in each ledger.
--! tables: public.ledgers user_column=kept_by,
--!   public.entries parent=public.ledgers parent_column=ledger parent_key=code,
--!   public.postings parent=public.ledgers parent_column=ledger parent_key=code
--! watch: 'public.ledgers', 'ledgers', 'ledger'
--! watch: 'public.postings', 'postings', 'posting'
--! write: insert into ledgers (code, kept_by) values ('L{n}', '{user}')
--! write: insert into entries (ledger, year, number, memo)
--!   select code, 2026, {n}, 'entry {n}' from ledgers order by code limit 1 offset {n} % 2
--! write: insert into postings (ledger, year, number, line, amount)
--!   select ledger, year, number, {n}, {n} from entries order by number desc limit 1
--! write: update postings set amount = amount + 1 where line % 3 = {n} % 3
--! write: update entries set memo = memo || '.' where number % 3 = {n} % 3
--! write: delete from postings where line % 4 = {n} % 4
--! write: delete from entries where number % 17 = {n} % 17
--! check: select * from entries e join ledgers l on l.code = e.ledger where e.org_id <> l.org_id
--! check: select * from postings p join entries e using (ledger, year, number) where p.org_id <> e.org_id
create table ledgers (
  code text primary key,
  kept_by uuid not null
);
create table entries (
  ledger text not null references ledgers on delete cascade,
  year int not null,
  number int not null,
  memo text,
  primary key (ledger, year, number)
);
create table postings (
  id uuid not null default gen_random_uuid() unique,
  ledger text not null,
  year int not null,
  number int not null,
  line int not null,
  amount numeric(12, 2) not null,
  primary key (ledger, year, number, line),
  foreign key (ledger, year, number) references entries on update cascade on delete cascade
);
insert into ledgers values
  ('sales', '1a000000-0000-4000-8000-00000000000a'), ('wages', '2a000000-0000-4000-8000-00000000000a'),
  ('rent', '1b000000-0000-4000-8000-00000000000b');
insert into entries select code, 2025, n, 'entry' from ledgers, generate_series(1, 20) n;
insert into postings (ledger, year, number, line, amount)
select ledger, year, number, line, 10 from entries, generate_series(1, 2) line;
