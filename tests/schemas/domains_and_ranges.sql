-- Bookings of rooms: domains, enums, ranges, arrays, composite types, and an exclusion constraint against overlaps.
--! tables: public.rooms, public.bookings
--! watch: 'public.rooms', 'rooms', 'room'
--! watch: 'public.bookings', 'bookings', 'booking'
--! write: insert into rooms (name, created_by, tags) values ('Room {n}', '{user}', array['t{n}', 'x'])
--! write: insert into bookings (room_id, during, state, price)
--!   select id, tstzrange(timestamptz '2026-06-01' + {n} * interval '1 hour', timestamptz '2026-06-01' + ({n} + 1) *
--!   interval '1 hour'), 'requested', (5, 'EUR')::money_amount from rooms order by name desc limit 1
--! write: update bookings set state = 'confirmed' where number % 3 = {n} % 3
--! write: update rooms set tags = tags || 'y{n}'::text, seats = 1 + {n} % 9 where seats % 2 = {n} % 2
--! write: delete from bookings where number % 7 = {n} % 7
--! check: select * from bookings b join rooms r on r.id = b.room_id where b.org_id <> r.org_id
create domain room_name as text check (length(value) between 1 and 60);
create domain seats as int not null default 4 check (value > 0);
create type booking_state as enum ('requested', 'confirmed', 'cancelled');
create type money_amount as (amount numeric, currency char(3));
create type floor_range as range (subtype = int);
create table rooms (
  id uuid primary key default gen_random_uuid(),
  name room_name not null,
  seats seats,
  tags text[] not null default '{}',
  reach floor_range default '[0,3)',
  created_by uuid not null
);
create table bookings (
  id uuid primary key default gen_random_uuid(),
  number bigserial,
  room_id uuid not null references rooms on delete cascade,
  during tstzrange not null,
  state booking_state not null default 'requested',
  price money_amount,
  exclude using gist (room_id extensions.gist_uuid_ops with =, during with &&) where (state <> 'cancelled')
);
insert into rooms (name, created_by)
select 'Room ' || n, case when n % 2 = 0 then '1a000000-0000-4000-8000-00000000000a'::uuid
                          else '1b000000-0000-4000-8000-00000000000b' end
from generate_series(1, 8) n;
insert into bookings (room_id, during)
select id, tstzrange(timestamptz '2026-01-01' + n * interval '1 hour', timestamptz '2026-01-01' + (n + 1) * interval
  '1 hour') from rooms, generate_series(1, 10) n;
