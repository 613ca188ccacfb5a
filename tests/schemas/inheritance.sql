-- Content of a publisher: articles and pages inherit the columns of entries, and articles are specialised again.
--! tables: public.entries user_column=author_id, public.remarks user_column=author_id
--! watch: 'public.entries', 'entries', 'entry'
--! watch: 'public.remarks', 'remarks', 'remark'
--! write: insert into entries (author_id, title) values ('{user}', 'entry {n}')
--! write: insert into articles (author_id, title, body) values ('{user}', 'article {n}', 'text')
--! write: insert into reviews (author_id, title, body, stars) values ('{user}', 'review {n}', 'text', 1 + {n} % 5)
--! write: insert into pages (author_id, title, path) values ('{user}', 'page {n}', '/{n}')
--! write: update entries set title = title || '.' where number % 3 = {n} % 3
--! write: update articles set body = 'changed {n}' where number % 4 = {n} % 4
--! write: delete from only pages where number % 5 = {n} % 5
--! write: delete from entries where number % 17 = {n} % 17
--! write: insert into remarks (author_id, text) values ('{user}', 'remark {n}')
--! check: select * from entries where author_id = '1b000000-0000-4000-8000-00000000000b'
--!   and org_id <> '0b000000-0000-4000-8000-00000000000b'
create sequence entry_numbers;
create table entries (
  id uuid primary key default gen_random_uuid(),
  number bigint not null default nextval('entry_numbers'),
  author_id uuid not null,
  title text not null
);
create table articles (body text, primary key (id)) inherits (entries);
create table reviews (stars int check (stars between 1 and 5), primary key (id)) inherits (articles);
create table pages (path text unique, primary key (id)) inherits (entries);
create table remarks (
  id bigint generated always as identity primary key,
  author_id uuid not null,
  text text not null
);
insert into articles (author_id, title, body)
select id, 'article ' || n, 'text' from auth.users, generate_series(1, 8) n;
insert into reviews (author_id, title, stars) select id, 'review ' || n, 3 from auth.users, generate_series(1, 5) n;
insert into pages (author_id, title, path)
select id, 'page ' || n, '/' || email || n from auth.users, generate_series(1, 5) n;
insert into entries (author_id, title) select id, 'plain' from auth.users;
insert into remarks (author_id, text) select id, 'first' from auth.users;
