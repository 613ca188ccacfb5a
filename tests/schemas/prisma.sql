-- A shop in the conventions of Prisma and Drizzle: quoted names in camel case, text keys that the application makes,
-- enums, implicit many-to-many tables with columns "A" and "B", and a table of migrations.
--! tables: public."Customer" user_column=userId, public."Order" parent=public."Customer" parent_column=customerId,
--!   public."_OrderTags" parent=public."Order" parent_column=A, public."Tag" user_column=userId
--! watch: 'public."Order"', 'orders', 'order'
--! watch: 'public."Customer"', 'customers', 'customer'
--! write: insert into "Customer" (id, email, "userId", "updatedAt")
--!   values ('c{n}', 'c{n}@example.com', '{user}', now())
--! write: insert into "Order" (id, "customerId", "updatedAt")
--!   select 'o{n}', id, now() from "Customer" order by "createdAt" desc limit 1
--! write: insert into "Tag" (id, "userId", label) values ('t{n}', '{user}', 'tag {n}')
--! write: insert into "_OrderTags" ("A", "B") select o.id, t.id from "Order" o, "Tag" t order by 1, 2 limit 1
--!   on conflict do nothing
--! write: update "Order" set status = 'PAID', "updatedAt" = now() where length(id) % 2 = {n} % 2
--! write: delete from "_OrderTags" where "B" = 't{n}'
--! write: delete from "Order" where id in (select id from "Order" order by id limit 1)
--! check: select * from "Order" o join "Customer" c on c.id = o."customerId" where o.org_id <> c.org_id
create type "OrderStatus" as enum ('OPEN', 'PAID', 'SHIPPED');
create table "_prisma_migrations" (
  id varchar(36) primary key,
  checksum varchar(64) not null,
  migration_name varchar(255) not null,
  finished_at timestamptz
);
create table "Customer" (
  id text not null,
  email text not null,
  "userId" uuid,
  "createdAt" timestamp(3) not null default current_timestamp,
  "updatedAt" timestamp(3) not null,
  constraint "Customer_pkey" primary key (id)
);
create unique index "Customer_email_key" on "Customer" (email);
create table "Order" (
  id text not null,
  status "OrderStatus" not null default 'OPEN',
  "customerId" text not null,
  "createdAt" timestamp(3) not null default current_timestamp,
  "updatedAt" timestamp(3) not null,
  constraint "Order_pkey" primary key (id)
);
create table "Tag" (
  id text not null,
  "userId" uuid,
  label text not null,
  constraint "Tag_pkey" primary key (id)
);
create table "_OrderTags" (
  "A" text not null,
  "B" text not null,
  constraint "_OrderTags_AB_pkey" primary key ("A", "B")
);
create index "_OrderTags_B_index" on "_OrderTags" ("B");
alter table "Order" add constraint "Order_customerId_fkey" foreign key ("customerId") references "Customer" (id)
  on delete cascade on update cascade;
alter table "_OrderTags" add constraint "_OrderTags_A_fkey" foreign key ("A") references "Order" (id)
  on delete cascade on update cascade;
alter table "_OrderTags" add constraint "_OrderTags_B_fkey" foreign key ("B") references "Tag" (id)
  on delete cascade on update cascade;
insert into "_prisma_migrations" values ('1', 'c', '20260101000000_init', now());
insert into "Customer" (id, email, "userId", "updatedAt")
select 'k' || n, 'k' || n || '@example.com', case when n % 2 = 0 then '1a000000-0000-4000-8000-00000000000a'::uuid
                                                  else '1b000000-0000-4000-8000-00000000000b' end, now()
from generate_series(1, 10) n;
insert into "Order" (id, "customerId", "updatedAt") select 'first-' || id, id, now() from "Customer";
insert into "Tag" (id, "userId", label) values ('sale', '1a000000-0000-4000-8000-00000000000a', 'sale');
insert into "_OrderTags" select o.id, 'sale' from "Order" o join "Customer" c on c.id = o."customerId"
where c."userId" = '1a000000-0000-4000-8000-00000000000a';
