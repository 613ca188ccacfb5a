-- A help desk in the conventions of Rails: plural tables, created_at and updated_at without defaults, polymorphic
-- references, single-table inheritance by a type column, counters, and a table of migrations.
--! tables: public.tickets, public.comments
--! role: ordinary_login
--! watch: 'public.tickets', 'tickets', 'ticket'
--! watch: 'public.comments', 'comments', 'comment'
--! write: insert into tickets (type, subject, user_id, created_at, updated_at)
--!   values ('Bug', 'Ticket {n}', '{user}', now(), now())
--! write: insert into comments (ticket_id, author_type, author_id, body, created_at, updated_at)
--!   select id, 'User', {n}, 'Comment {n}', now(), now() from tickets order by id desc limit 1
--! write: update tickets set comments_count = comments_count + 1, updated_at = now() where id % 3 = {n} % 3
--! write: update comments set body = body || '.', updated_at = now() where id % 4 = {n} % 4
--! write: delete from comments where id % 5 = {n} % 5
--! write: delete from tickets where id % 17 = {n} % 17
--! check: select * from comments c join tickets t on t.id = c.ticket_id where c.org_id <> t.org_id
create table schema_migrations (version varchar primary key);
create table ar_internal_metadata (
  key varchar primary key,
  value varchar,
  created_at timestamp(6) not null,
  updated_at timestamp(6) not null
);
create table tickets (
  id bigserial primary key,
  type varchar not null,
  subject varchar not null,
  user_id uuid not null,
  comments_count integer not null default 0,
  metadata jsonb not null default '{}',
  created_at timestamp(6) not null,
  updated_at timestamp(6) not null
);
create index index_tickets_on_user_id on tickets (user_id);
create index index_tickets_on_metadata on tickets using gin (metadata);
create index index_tickets_on_lower_subject on tickets (lower(subject)) where type = 'Bug';
create table comments (
  id bigserial primary key,
  ticket_id bigint not null,
  author_type varchar,
  author_id bigint,
  body text,
  created_at timestamp(6) not null,
  updated_at timestamp(6) not null,
  constraint fk_rails_2cdb0bd6ac foreign key (ticket_id) references tickets (id) on delete cascade
);
create index index_comments_on_author on comments (author_type, author_id);
grant select, insert, update, delete on tickets, comments to ordinary_login;
grant usage on all sequences in schema public to ordinary_login;
insert into schema_migrations values ('20260101000000'), ('20260102000000');
insert into tickets (type, subject, user_id, created_at, updated_at)
select 'Bug', 'Ticket ' || n, case when n % 2 = 0 then '1a000000-0000-4000-8000-00000000000a'::uuid
                                   else '1b000000-0000-4000-8000-00000000000b' end, now(), now()
from generate_series(1, 30) n;
insert into comments (ticket_id, body, created_at, updated_at) select id, 'first', now(), now() from tickets;
